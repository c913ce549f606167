"""A small study on phantom hearts: image and ejection-fraction error against lines per frame, by way of choosing them.

    python -m firstread.recipes.study_lines -o docs/evidence --cache FOLDER

Random, learned fixed, active and oracle lines, the same subjects, noise and reconstruction. Every subject and policy is
stored in the cache: kill it, run it again, and it goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from firstread.acquire.active import lines_of
from firstread.analyze.segment import Segment
from firstread.chains.heart import SEGMENTATION, networks_of
from firstread.core.errors import FirstreadError, InputError
from firstread.core.provenance import weights_hash
from firstread.core.records import Image, KSpace
from firstread.measure.cardiac import CardiacFunction
from firstread.nets.lines import LineScorer
from firstread.recipes.files import write_text
from firstread.recipes.heart_tables import mean_of
from firstread.recipes.lines_scans import FIXED, POLICIES, Study, Subject, draw, learn, reconstruction, scans
from firstread.zoo.store import load

TEMPLATE = "study_lines.md.jinja"


@cache
def reader() -> tuple[Segment, CardiacFunction]:
    """One member of the default segmentation, and the measurement."""
    return Segment(networks=networks_of(load(SEGMENTATION))[:1], patch=96, search=128), CardiacFunction(warn=False)


def ejection_fraction(image: Image) -> float:
    """LVEF in percent of a reconstructed stack."""
    segment, measure = reader()
    value = measure(segment(image).harden())["LVEF"].value
    return float("nan") if value is None else float(value[0])


@torch.no_grad()
def errors(study: Study, subject: Subject, kspaces: Sequence[KSpace]) -> list[dict[str, float]]:
    """Image and ejection-fraction errors at every budget."""
    truth = CardiacFunction(warn=False)(subject.labels)["LVEF"].value
    rows = []
    for count, kspace in zip(study.budgets, kspaces, strict=True):
        counts = lines_of(kspace).sum(dim=-1)
        if not bool((counts == count).all()):
            raise InputError(f"{counts.unique().tolist()} lines per frame", expected=f"{count} in every frame",
                             remedy="remove the cache and the patterns and run the study again")
        image = reconstruction()(kspace)
        missed = (image.data.abs() - subject.magnitude).norm() / subject.magnitude.norm()
        rows.append({"lines": count, "NRMSE": float(missed),
                     "LVEF": abs(ejection_fraction(image) - float(truth[0])) if truth is not None else float("nan")})
    return rows


def scorer(folder: Path) -> LineScorer:
    """The network that was learned."""
    network = LineScorer()
    network.load_state_dict(torch.load(folder / "network.pt", weights_only=True))
    return network.eval()


def measure_all(study: Study, folder: Path, patterns: Path, subjects: int, minutes: float) -> dict[str, list]:
    """Rows of errors by policy, one per subject for whom all policies are done."""
    network = scorer(folder)
    found: dict[str, list] = {name: [] for name in POLICIES}
    begun = time.monotonic()
    for index in range(subjects):
        files = {name: folder / f"{index:03d}-{name.replace(' ', '-').replace(':', '')}.json" for name in POLICIES}
        missing = [name for name, file in files.items() if not file.is_file()]
        if missing and time.monotonic() - begun > 60 * minutes:
            break
        subject = draw(study, "test", index) if missing else None
        for name in missing:
            rows = errors(study, subject, scans(study, name, subject, network, patterns))
            write_text(files[name], json.dumps(rows))
        for name, file in files.items():
            found[name].append(json.loads(file.read_text(encoding="utf-8")))
        print(f"\r{index + 1} of {subjects} subjects, {time.monotonic() - begun:.0f} s", end="", file=sys.stderr)
    print(file=sys.stderr)
    return found


def table(study: Study, found: dict[str, list], key: str, digits: int, against: str | None = None) -> str:
    """Markdown: policies down, budgets across; means with 95 % bootstrap intervals over subjects.

    against: paired differences from this policy, subject by subject.
    """
    def column(name: str, place: int) -> Tensor:
        values = [rows[place][key] for rows in found[name]]
        return torch.tensor([float("nan") if v is None else v for v in values], dtype=torch.float64)

    head = "| lines | " + " | ".join(f"{c} ({study.lines / c:.1f}×)" for c in study.budgets) + " |"
    rows = [head, "|" + "---|" * (len(study.budgets) + 1)]
    for name in POLICIES:
        if name != against:
            cells = [mean_of(column(name, p) - (column(against, p) if against else 0))
                     for p in range(len(study.budgets))]
            rows.append(f"| {name} | " + " | ".join(cell.text(digits) for cell in cells) + " |")
    return "\n".join(rows)


def page(study: Study, found: dict[str, list], asked: int, status: str = "") -> str:
    """The page of the study; status: a sentence put on top."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    tables = {"nrmse": table(study, found, "NRMSE", 3), "lvef": table(study, found, "LVEF", 1),
              "nrmse_random": table(study, found, "NRMSE", 3, "random"),
              "nrmse_fixed": table(study, found, "NRMSE", 3, FIXED[0]),
              "lvef_random": table(study, found, "LVEF", 1, "random")}
    template = Environment(loader=PackageLoader("firstread.recipes", "."), undefined=StrictUndefined,
                           autoescape=False, keep_trailing_newline=True).get_template(TEMPLATE)  # Markdown, not HTML
    return template.render(**asdict(study), **tables, subjects=len(found["random"]), asked=asked,
                           status=status, segmentation=weights_hash(reader()[0]),
                           weights=sum(p.numel() for p in LineScorer().parameters()))


def picture(study: Study, network: nn.Module, patterns: Path, path: Path) -> None:
    """The lines of every policy at the middle budget, in the middle slice of the first subject: frames across."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    subject, place = draw(study, "test", 0), len(study.budgets) // 2
    figure = Figure(figsize=(8, 2.9), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(POLICIES), sharey=True)
    for axis, name in zip(axes, POLICIES, strict=True):
        mask = lines_of(scans(study, name, subject, network, patterns)[place])[0, :, study.slices // 2]
        axis.imshow(mask.T, cmap="gray", aspect="auto", interpolation="nearest")
        axis.set_title(name.replace(": ", ":\n").replace(" on", "\non"), fontsize=8)
        axis.set_xlabel("frame", fontsize=8)
        axis.tick_params(labelsize=7)
    axes[0].set_ylabel(f"line ({study.budgets[place]} of {study.lines})", fontsize=8)
    figure.savefig(path, dpi=130)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m firstread.recipes.study_lines", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the page and the pattern files")
    parser.add_argument("--cache", type=Path, required=True, help="folder of what is stored per subject and policy")
    parser.add_argument("--subjects", type=int, default=12, help="of the test family")
    parser.add_argument("--training", type=int, default=Study.training, help="subjects to learn from")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no subject after that, and report")
    asked = parser.parse_args(argv)
    torch.set_num_threads(1)
    study = replace(Study(), training=asked.training)
    folder = asked.cache / study.label()
    try:
        if not asked.cache.is_dir():
            raise InputError(f"no folder {asked.cache.name}", expected="a folder for --cache", remedy="make it first")
        folder.mkdir(exist_ok=True)
        asked.output.mkdir(parents=True, exist_ok=True)
        if not (folder / "network.pt").is_file():
            learn(study, folder, asked.output)
        found = measure_all(study, folder, asked.output, asked.subjects, asked.minutes)
        picture(study, scorer(folder), asked.output, asked.output / "lines.png")
        write_text(asked.output / "lines.md", page(study, found, asked.subjects))
        write_text(asked.output / "lines.json", json.dumps({"study": asdict(study), "errors": found}) + "\n")
    except FirstreadError as error:
        print(f"study_lines: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
