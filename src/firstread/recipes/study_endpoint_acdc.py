"""Trained apart or together on real images: ACDC's patients, scanned by a simulated scanner.

    python -m firstread.recipes.study_endpoint_acdc FOLDER -o docs/evidence --work WORK

The arms of ``endpoint``, each trained on the patients of the other folds and read on those of its own: every patient is
read once under every seed. Semi-simulated and optimistic: the phase, coils and noise are made up, and the magnitude
images are what a scanner had made of its k-space. Writes ``endpoint-acdc.md`` and ``endpoint-acdc.json``. What is done
is stored in the work folder: kill it, run it again, and it goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.acquire.coils import LoopCoils
from firstread.acquire.sampling import StoredMask
from firstread.analyze.segment import NAMES
from firstread.core.errors import FirstreadError, SettingError
from firstread.io import pattern
from firstread.recipes.acdc_pool import store_patients
from firstread.recipes.endpoint import ARMS, Setting, numbers_of, train_arm
from firstread.recipes.endpoint_pool import Stack, case_of
from firstread.recipes.files import write_text
from firstread.trust.agreement import Estimate
from firstread.trust.bootstrap import paired_difference

Numbers = dict[str, float]
Made = Mapping[str, Sequence[Sequence[Numbers]]]


@dataclass(frozen=True)
class Study:
    """How large the study is; folds: of patients, each read by what the others trained."""

    setting: Setting
    arms: tuple[str, ...]
    folds: int
    seeds: int
    steps: int

    def __post_init__(self):
        if len(self.arms) < 2 or self.folds < 2 or min(self.seeds, self.steps) < 1:
            raise SettingError(f"arms {self.arms}, {self.folds} folds, {self.seeds} seeds, {self.steps} steps",
                               expected="two arms and folds or more, one seed and step or more",
                               remedy="correct --arms, --folds, --seeds or --steps")

    def label(self) -> str:
        """Short text that differs where anything does that a trained arm depends on."""
        about = asdict(self.setting) | {"steps": self.steps, "folds": self.folds}
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:8]


def run(study: Study, source: Path, work: Path, *, device: str) -> dict[str, list[list[Numbers]]]:
    """Train and read what is not there yet; by arm the numbers of each seed and patient, in the order of the patients.

    Raises SettingError for fewer patients than folds.
    """
    patients = store_patients(work / "subjects", source, study.setting.stack)
    if len(patients) < max(3, study.folds):
        raise SettingError(f"{len(patients)} patients in {study.folds} folds", expected="three patients, one per fold, "
                           "or more", remedy="give more patients or fewer folds")
    made: dict[str, list[list[Numbers]]] = {arm: [[{} for _ in patients] for _ in range(study.seeds)]
                                            for arm in study.arms}
    for seed in range(study.seeds):
        for fold in range(study.folds):
            pool = [path for number, path in enumerate(patients) if number % study.folds != fold]
            for arm in study.arms:
                print(f"seed {seed}, fold {fold}, {arm}", file=sys.stderr, flush=True)
                folder = work / study.label() / f"seed{seed}-fold{fold}"
                parts = train_arm(folder, arm=arm, setting=study.setting, pool=pool, steps=study.steps, seed=seed,
                                  device=device)
                exported = folder / f"{arm}-lines.json"
                pattern.write(exported, parts.pattern())
                sampling = StoredMask(mask=pattern.read(exported).mask).to(device)
                for number in range(fold, len(patients), study.folds):
                    place = folder / f"{arm}-{number:03d}.json"
                    if not place.is_file():
                        found = numbers_of(parts, study.setting, case_of(patients[number], seed=number).to(device),
                                           coils=LoopCoils(count=study.setting.coils), sampling=sampling)
                        write_text(place, json.dumps(found))
                    made[arm][seed][number] = json.loads(place.read_text(encoding="utf-8"))
    return made


def column(made: Made, arm: str, *names: str) -> Float[Tensor, "patient seed"]:
    """The mean of some numbers of an arm."""
    return torch.tensor([[sum(numbers[name] for name in names) / len(names) for numbers in seed] for seed in made[arm]],
                        dtype=torch.float64).T


@dataclass(frozen=True)
class Row:
    """One arm, means over patients and seeds: Dice in per cent (by class, and of all), EF in points."""

    arm: str
    nrmse: float
    by_class: tuple[float, ...]
    overlap: float
    error: float
    bias: float


@dataclass(frozen=True)
class Difference:
    """``arm`` minus ``base``, paired by patient and seed (95 %, over both)."""

    arm: str
    base: str
    nrmse: Estimate
    overlap: Estimate
    error: Estimate


def tabulate(study: Study, made: Made) -> tuple[list[Row], list[Difference], int]:
    """All arms, each less the first and the second arm, and the patients whose EF some arm could not measure."""
    classes = [f"Dice {name}" for name in NAMES[1:]]
    nrmse = {arm: column(made, arm, "NRMSE") for arm in study.arms}
    overlap = {arm: 100 * column(made, arm, *classes) for arm in study.arms}
    error = {arm: column(made, arm, "LVEF") - column(made, arm, "LVEF true") for arm in study.arms}
    kept = torch.stack([torch.isfinite(values).all(dim=1) for values in error.values()]).all(dim=0)
    error = {arm: values[kept] for arm, values in error.items()}
    rows = [Row(arm, nrmse[arm].mean().item(), tuple(100 * column(made, arm, name).mean().item() for name in classes),
                overlap[arm].mean().item(), error[arm].abs().mean().item(), error[arm].mean().item())
            for arm in study.arms]
    pairs = [(arm, base) for number, base in enumerate(study.arms[:2]) for arm in study.arms[number + 1:]]
    return rows, [Difference(arm, base, paired_difference(nrmse[arm], nrmse[base]),
                             paired_difference(overlap[arm], overlap[base]),
                             paired_difference(error[arm].abs(), error[base].abs()))
                  for arm, base in pairs], int((~kept).sum())


def report(study: Study, made: Made, *, command: str) -> str:
    """The page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    page = Environment(loader=PackageLoader("firstread.recipes", "."), undefined=StrictUndefined, autoescape=False,
                       trim_blocks=True, keep_trailing_newline=True).get_template("study_endpoint_acdc.md.jinja")
    rows, differences, dropped = tabulate(study, made)
    return page.render(study=study, setting=study.setting, stack=study.setting.stack, command=command, rows=rows,
                       patients=len(made[study.arms[0]][0]), differences=differences, dropped=dropped)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m firstread.recipes.study_endpoint_acdc", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="ACDC's patients, patientNNN.npz")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the page and the numbers")
    parser.add_argument("--work", type=Path, required=True, help="folder of subjects, checkpoints and readings")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--acceleration", type=float, default=8.0)
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=60, help="training steps of each arm, a patient each")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lines", type=int, default=160)
    parser.add_argument("--columns", type=int, default=64)
    parser.add_argument("--slices", type=int, default=3)
    parser.add_argument("--patch", type=int, default=96, help="of the segmentation, pixels of 1.5 mm")
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args(argv)
    try:
        stack = Stack(lines=asked.lines, columns=asked.columns, frames=2, slices=asked.slices)
        setting = Setting(stack=stack, acceleration=asked.acceleration, patch=asked.patch)
        study = Study(setting, tuple(asked.arms), asked.folds, asked.seeds, asked.steps)
        made = run(study, asked.folder, asked.work, device=asked.device)
    except FirstreadError as error:
        print(f"study_endpoint_acdc: {error}", file=sys.stderr)
        return 2
    words = [word for name, value in vars(asked).items() if name not in ("folder", "output", "work", "device")
             for word in (f"--{name}", *map(str, value if isinstance(value, list) else [value]))]
    command = f"python -m firstread.recipes.study_endpoint_acdc FOLDER -o docs/evidence --work WORK {shlex.join(words)}"
    asked.output.mkdir(parents=True, exist_ok=True)
    write_text(asked.output / "endpoint-acdc.md", report(study, made, command=command))
    write_text(asked.output / "endpoint-acdc.json", json.dumps(made, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
