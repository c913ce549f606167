"""Which lines: errors of image and ejection fraction against lines per frame, by the way of choosing them.

    python -m firstread.recipes.study_lines -o docs/evidence --work FOLDER

Random, learned fixed, active and oracle lines; the same subjects, noise and readers. Lines are chosen with temporal
total variation. What was measured is read by the *fine-tuned* arm of ``study_endpoint`` (cascade and segmentation) of
the same seed and acceleration, which is trained unless the work folder has it. Every subject and policy is stored in
the work folder: kill it, run it again, and it goes on.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.acquire.active import lines_of
from firstread.analyze.segment import Segment
from firstread.core.errors import FirstreadError, InputError, SettingError
from firstread.core.records import KSpace
from firstread.measure.cardiac import CardiacFunction
from firstread.nets.lines import LineScorer
from firstread.recipes.endpoint import Parts, Setting, train_arm
from firstread.recipes.endpoint_pool import store_all
from firstread.recipes.files import write_text
from firstread.recipes.lines_scans import FIXED, POLICIES, Study, Subject, draw, learn, scans
from firstread.recipes.study_endpoint import folder_of, setting_at
from firstread.reconstruct.cascade import Cascade
from firstread.trust.bootstrap import paired_difference

TEMPLATE, READER = "study_lines.md.jinja", "fine-tuned"
Numbers = dict[str, float]
Found = Mapping[str, Sequence[Sequence[Sequence[Numbers]]]]  # policy, seed, subject, budget


@dataclass(frozen=True)
class Readers:
    """What reads a scan: the fine-tuned arm of ``study_endpoint``, trained for ``steps`` with ``setting``."""

    setting: Setting
    steps: int

    def trained(self, work: Path, acceleration: float, seed: int) -> Parts:
        """The networks of one acceleration and seed; trained now where they are not in the work folder."""
        pool = store_all(work / "subjects", self.setting.stack, "train", self.setting.subjects)
        folder = folder_of(work, self.setting, self.steps, acceleration, seed)
        return train_arm(folder, arm=READER, setting=setting_at(self.setting, acceleration), pool=pool,
                         steps=self.steps, seed=seed)


@torch.no_grad()
def numbers_of(kspace: KSpace, subject: Subject, parts: Parts, patch: int) -> Numbers:
    """Image error and absolute error of the ejection fraction (points) of one scan."""
    image = Cascade(network=parts.cascade).eval()(kspace)
    labels = Segment(networks=[parts.segmenter], patch=patch, search=max(patch, 96)).eval()(image)
    value = CardiacFunction(softness=0.0, warn=False)(labels)["LVEF"].value
    missed = (image.data.abs() - subject.magnitude).norm() / subject.magnitude.norm()
    return {"NRMSE": float(missed),
            "LVEF": float("nan") if value is None else abs(float(value[0]) - subject.fraction)}


def scorer(folder: Path) -> LineScorer:
    """The network that was learned."""
    network = LineScorer()
    network.load_state_dict(torch.load(folder / "network.pt", weights_only=True))
    return network.eval()


def run(study: Study, readers: Readers, work: Path, masks: Path, test: int) -> dict[str, list[list[Numbers]]]:
    """Learn, scan and read what is not there yet, under the study's seed; by policy the numbers of each subject."""
    folder = work / f"lines-{study.label()}"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "network.pt").is_file():
        learn(study, work, folder, masks)
    network, found = scorer(folder), dict[str, list[list[Numbers]]]({name: [] for name in POLICIES})
    parts: list[Parts] = []
    for number in range(test):
        files = {name: folder / f"{number:03d}-{name.replace(' ', '-').replace(':', '')}.json" for name in POLICIES}
        missing = [name for name, file in files.items() if not file.is_file()]
        if missing and not parts:
            parts = [readers.trained(work, study.stack.lines / count, study.seed) for count in study.budgets]
        for name in missing:
            subject = draw(study, work, "test", number)
            made = scans(study, name, subject, network, masks)
            rows = [numbers_of(_spent(kspace, count), subject, each, readers.setting.patch)
                    for count, kspace, each in zip(study.budgets, made, parts, strict=True)]
            write_text(files[name], json.dumps(rows))
        for name, file in files.items():
            found[name].append(json.loads(file.read_text(encoding="utf-8")))
        print(f"\rseed {study.seed}: {number + 1} of {test} subjects", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return found


def _spent(kspace: KSpace, count: int) -> KSpace:
    counts = lines_of(kspace).sum(dim=-1)
    if not bool((counts == count).all()):
        raise InputError(f"{counts.unique().tolist()} lines per frame", expected=f"{count} in every frame",
                         remedy="remove the patterns and the work folder's lines-* and run the study again")
    return kspace


def column(found: Found, name: str, place: int, key: str) -> Float[Tensor, "subject seed"]:
    """One number of one policy at one budget."""
    return torch.tensor([[rows[place][key] for rows in seed] for seed in found[name]], dtype=torch.float64).T


def table(study: Study, found: Found, key: str, digits: int, against: str | None = None) -> str:
    """Markdown: policies down, budgets across; means with 95 % bootstrap intervals over subjects and seeds.

    against: differences from this policy, paired by subject and seed. Subjects whose number is missing under some
    policy or seed are left out of the whole column.
    """
    head = "| lines | " + " | ".join(f"{c} ({study.stack.lines / c:.0f}×)" for c in study.budgets) + " |"
    cells: dict[str, list[str]] = {name: [] for name in POLICIES if name != against}
    for place in range(len(study.budgets)):
        columns = {name: column(found, name, place, key) for name in POLICIES}
        kept = torch.stack([torch.isfinite(values).all(dim=1) for values in columns.values()]).all(dim=0)
        base = columns[against] if against else torch.zeros_like(columns[POLICIES[0]])
        for name, row in cells.items():
            row.append(paired_difference(columns[name][kept], base[kept]).text(digits))
    return "\n".join([head, "|" + "---|" * (len(study.budgets) + 1),
                      *(f"| {name} | " + " | ".join(row) + " |" for name, row in cells.items())])


def dropped(study: Study, found: Found) -> list[int]:
    """At each budget the subjects whose ejection fraction is missing under some policy or seed."""
    return [int((~torch.stack([torch.isfinite(column(found, name, place, "LVEF")).all(dim=1) for name in POLICIES])
                 .all(dim=0)).sum()) for place in range(len(study.budgets))]


def page(study: Study, readers: Readers, found: Found, command: str) -> str:
    """The page of the study."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    tables = {f"{key.lower()}{suffix}": table(study, found, key, digits, against)
              for key, digits in (("NRMSE", 3), ("LVEF", 1))
              for suffix, against in (("", None), ("_random", "random"), ("_fixed", FIXED[0]))}
    template = Environment(loader=PackageLoader("firstread.recipes", "."), undefined=StrictUndefined,
                           autoescape=False, keep_trailing_newline=True).get_template(TEMPLATE)  # Markdown, not HTML
    return template.render(study=study, stack=study.stack, readers=readers, **tables, subjects=len(found["random"][0]),
                           seeds=len(found["random"]), dropped=dropped(study, found), command=command,
                           weights=sum(p.numel() for p in LineScorer().parameters()))


def picture(study: Study, work: Path, masks: Path, path: Path) -> None:
    """The lines of every policy at the middle budget, in the middle slice of the first subject: frames across."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    network = scorer(work / f"lines-{study.label()}")
    subject, place = draw(study, work, "test", 0), len(study.budgets) // 2
    figure = Figure(figsize=(8, 2.9), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(POLICIES), sharey=True)
    for axis, name in zip(axes, POLICIES, strict=True):
        mask = lines_of(scans(study, name, subject, network, masks)[place])[0, :, study.stack.slices // 2]
        axis.imshow(mask.T, cmap="gray", aspect="auto", interpolation="nearest")
        axis.set_title(name.replace(": ", ":\n").replace(" on", "\non"), fontsize=8)
        axis.set_xlabel("frame", fontsize=8)
        axis.tick_params(labelsize=7)
    axes[0].set_ylabel(f"line ({study.budgets[place]} of {study.stack.lines})", fontsize=8)
    figure.savefig(path, dpi=130)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m firstread.recipes.study_lines", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of page, picture and patterns")
    parser.add_argument("--work", type=Path, required=True, help="folder of subjects, readers and readings; "
                        "study_endpoint's, if its readers are to be used")
    parser.add_argument("--test", type=int, default=12, help="test subjects")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--training", type=int, default=Study.training, help="subjects that patterns are learned from")
    parser.add_argument("--subjects", type=int, default=48, help="subjects that the readers are trained on")
    parser.add_argument("--steps", type=int, default=48, help="training steps of the readers, a subject each")
    parser.add_argument("--patch", type=int, default=80, help="of the readers' segmentation, pixels of 1.5 mm")
    asked = parser.parse_args(argv)
    torch.set_num_threads(1)
    try:
        if asked.test < 3 or min(asked.seeds, asked.training, asked.subjects, asked.steps) < 1:
            raise SettingError(f"{asked.test} test subjects, {asked.seeds} seeds, {asked.training} and "
                               f"{asked.subjects} training subjects, {asked.steps} steps", expected="three test "
                               "subjects or more, one or more of the rest", remedy="raise what is too small")
        study = replace(Study(), training=asked.training)
        readers = Readers(Setting(stack=study.stack, subjects=asked.subjects, centre_lines=2, patch=asked.patch),
                          asked.steps)
        masks = asked.output / "lines-masks"
        masks.mkdir(parents=True, exist_ok=True)
        words = [word for name, value in vars(asked).items() if name not in ("output", "work")
                 for word in (f"--{name}", str(value))]
        command = f"python -m firstread.recipes.study_lines -o docs/evidence --work FOLDER {shlex.join(words)}"
        each = [run(replace(study, seed=seed), readers, asked.work, masks, asked.test) for seed in range(asked.seeds)]
        found = {name: [made[name] for made in each] for name in POLICIES}
        picture(study, asked.work, masks, asked.output / "lines.png")
        write_text(asked.output / "lines.md", page(study, readers, found, command))
        write_text(asked.output / "lines.json", json.dumps({"study": asdict(study), "errors": found}) + "\n")
    except FirstreadError as error:
        print(f"study_lines: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
