"""Do we need images at all? Contours and ejection fraction from few lines of k-space, with an image between or not.

    python -m firstread.recipes.study_direct -o docs/evidence --work FOLDER --subjects 64 --test 100 --steps 4000

Trains every arm of ``direct_from_kspace`` under every seed, reads test subjects (another shape family, other coils) at
every number of lines, and writes ``direct.md`` and ``direct.json``. Beside the arms stands the default chain as it is
shipped. What is done is stored in the work folder: kill it, run it again, and it goes on.
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
from typing import Any

import torch

from firstread.acquire.coils import LoopCoils
from firstread.analyze.segment import NAMES, Segment
from firstread.chains.direct import direct_endpoint
from firstread.chains.heart import SEGMENTATION
from firstread.chains.trained import networks_of
from firstread.core.case import Case
from firstread.core.errors import FirstreadError, SettingError
from firstread.measure.cardiac import CardiacFunction
from firstread.ops.regions import dice
from firstread.recipes.direct_from_kspace import ARMS, Segmenter, Setting, reconstruction_of, scanned, train_arm
from firstread.recipes.endpoint_pool import Stack, case_of, store_all
from firstread.recipes.files import write_text
from firstread.trust.agreement import Estimate
from firstread.trust.bootstrap import paired_difference
from firstread.zoo.store import load

RECONSTRUCTED, SHIPPED = "reconstructed", "as shipped"
Numbers = dict[str, float]


@dataclass(frozen=True)
class Study:
    """How large the study is.

    setting: of all arms; lines: numbers of lines per frame that are tested; skip: the first test subjects, which were
    looked at before; baseline: what all are compared with.
    """

    setting: Setting
    arms: tuple[str, ...]
    lines: tuple[int, ...]
    seeds: int
    steps: int
    test: int
    skip: int = 0
    baseline: str = RECONSTRUCTED

    def __post_init__(self):
        if self.baseline not in (*self.arms, SHIPPED) or self.test < 3 or self.seeds < 1 or self.skip < 0:
            raise SettingError(f"baseline {self.baseline!r}, arms {self.arms}, {self.test} test subjects, {self.seeds} "
                               "seeds", expected="a baseline among the arms, three subjects or more, one seed or more",
                               remedy="correct --baseline, --arms, --test or --seeds")
        if not self.lines or not 1 <= min(self.lines) <= max(self.lines) <= self.setting.stack.lines:
            raise SettingError(f"{self.lines} lines of {self.setting.stack.lines}", expected="1 to all lines",
                               remedy="correct --lines")

    def label(self) -> str:
        """Short text that differs where anything does that a stored number depends on (not the test set's size)."""
        about = asdict(self) | {"test": 0, "skip": 0, "lines": 0, "baseline": ""}
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:8]


def run(study: Study, work: Path, *, device: str) -> list[list[dict[str, Any]]]:
    """Train what is not trained and read what is not read; by test subject and number of lines."""
    pool = store_all(work / "subjects", study.setting.stack, "train", study.setting.subjects)
    tested = store_all(work / "subjects", study.setting.stack, "test", study.skip + study.test)
    folder = work / study.label()
    trained = {(arm, seed): train_arm(folder / f"seed{seed}", arm=arm, setting=study.setting, pool=pool,
                                      steps=study.steps, seed=seed, device=device)
               for seed in range(study.seeds) for arm in study.arms}
    return [[_stored(folder / f"{number:04d}-{lines:03d}.json", path, number, lines, study, trained, device)
             for lines in study.lines] for number, path in enumerate(tested) if number >= study.skip]


def _stored(file: Path, path: Path, number: int, lines: int, study: Study,
            trained: Mapping[tuple[str, int], Segmenter], device: str) -> dict[str, Any]:
    if not file.is_file():
        case = case_of(path, seed=number).to(device)
        write_text(file, json.dumps(read(case, lines, study, trained, device)))
    return json.loads(file.read_text(encoding="utf-8"))


@torch.no_grad()
def read(case: Case, lines: int, study: Study, trained: Mapping[tuple[str, int], Segmenter],
         device: str) -> dict[str, Any]:
    """One subject scanned with ``lines`` per frame and read by every arm: a list over seeds each."""
    kspace = scanned(case, study.setting, lines, coils=LoopCoils(count=study.setting.coils))
    image = reconstruction_of(study.setting).to(device)(kspace)
    default = Segment(networks=networks_of(load(SEGMENTATION))[:1], patch=96, search=96).to(device).eval()
    found: dict[str, list[Numbers]] = {arm: [] for arm in study.arms}
    for (arm, _), segmenter in trained.items():
        record = image if ARMS[arm].reads == "image" else kspace
        found[arm].append(numbers_of(direct_endpoint(segmenter.eval())(record), case))
    labels = default(image)
    shipped = numbers_of(Case({"labels.members": labels, "phenotypes": CardiacFunction(warn=False)(labels)}), case)
    return {"truth": case["truth.phenotypes"]["LVEF"].value.item(), "lines": lines,
            "found": found | {SHIPPED: [shipped] * study.seeds}}


def numbers_of(done: Case, case: Case) -> Numbers:
    """Dice by class, mean over all frames of the stack, and the ejection fraction of summed probabilities."""
    found, true = done["labels.members"].harden().data[0, :, 0], case["truth.labels"].data[0, :, 0]
    overlap = {name: dice(found == i, true == i).mean().item() for i, name in enumerate(NAMES) if i > 0}
    return overlap | {"LVEF": done["phenotypes"]["LVEF"].value.item()}


@dataclass(frozen=True)
class Row:
    """One arm at one number of lines; overlap: mean Dice of the three classes in per cent; error: of EF in points.

    The last two: this arm minus the baseline, paired by subject and seed (95 %, over both).
    """

    lines: int
    arm: str
    by_class: tuple[float, ...]
    overlap: float
    error: float
    overlap_difference: Estimate
    error_difference: Estimate


def tabulate(study: Study, made: Sequence[Sequence[Mapping[str, Any]]]) -> list[Row]:
    """All rows; a subject whose ejection fraction some arm could not measure is left out of all (at these lines)."""
    rows = []
    for column, lines in enumerate(study.lines):
        cases = [subject[column] for subject in made]
        table = {arm: torch.tensor([[[run[key] for key in (*NAMES[1:], "LVEF")] for run in case["found"][arm]]
                                    for case in cases], dtype=torch.float64) for arm in (*study.arms, SHIPPED)}
        measured = torch.stack([torch.isfinite(values).all(dim=2).all(dim=1) for values in table.values()]).all(dim=0)
        truth = torch.tensor([case["truth"] for case in cases], dtype=torch.float64)[measured, None]
        kept = {arm: values[measured] for arm, values in table.items()}
        overlap = {arm: 100 * values[..., :-1].mean(dim=2) for arm, values in kept.items()}
        error = {arm: (values[..., -1] - truth).abs() for arm, values in kept.items()}
        rows += [Row(lines, arm, tuple((100 * kept[arm][..., :-1].mean(dim=(0, 1))).tolist()),
                     overlap[arm].mean().item(), error[arm].mean().item(),
                     paired_difference(overlap[arm], overlap[study.baseline]),
                     paired_difference(error[arm], error[study.baseline])) for arm in kept]
    return rows


def verdict(rows: Sequence[Row]) -> str:
    """A sentence where the arms were trained too little to answer: at most lines, far behind the default chain."""
    most = max(row.lines for row in rows)
    errors = {row.arm: row.error for row in rows if row.lines == most}
    shipped = errors.pop(SHIPPED)
    if min(errors.values()) < max(10.0, 3 * shipped):
        return ""
    return (f"**Trained too little to answer the question.** From {most} lines per frame the default chain errs by "
            f"{shipped:.1f} points, the arms by {min(errors.values()):.1f} to {max(errors.values()):.1f}: they have "
            "found the heart, and not yet its beat. The table compares beginnings of trainings.")


def report(study: Study, rows: Sequence[Row], command: str) -> str:
    """The page."""
    stack, setting = study.setting.stack, study.setting
    unseen = f" after {study.skip} that were looked at before" if study.skip else ""
    begun = ", begun from the default segmentation's layers" if setting.warm else ""
    text = ["# Contours without images", "",
            f"{study.test} simulated test subjects{unseen} (their own shape family, {setting.coils} loop coils, SNR "
            f"{setting.snr:g}), {stack.slices} slices of {stack.lines} lines by {stack.columns} samples, "
            f"{stack.frames} frames. Each arm: {setting.subjects} training subjects, {study.steps} steps, seeds 0 to "
            f"{study.seeds - 1}, learning rate {setting.learning_rate:g}; one network for all numbers of lines{begun}. "
            "No centre lines are set apart; coils come from the time average of the lines counted. Dice: mean over "
            "frames, in per cent. EF error: mean absolute, in points, against the true masks of the same slices. "
            f"Differences: to `{study.baseline}`, paired by subject, 95 % bootstrap interval over subjects and seeds, "
            "not corrected for their number.", "",
            *([said, ""] if (said := verdict(rows)) else []),
            "| lines per frame | acceleration | arm | Dice LV | muscle | RV | EF error | Dice − | EF error − |",
            "|---|---|---|---|---|---|---|---|---|"]
    for row in rows:
        same = row.arm == study.baseline
        text.append(f"| {row.lines} | {stack.lines / row.lines:.1f} | {row.arm} | "
                    + " | ".join(f"{value:.1f}" for value in row.by_class) + f" | {row.error:.1f} | "
                    + ("| |" if same else f"{row.overlap_difference.text()} | {row.error_difference.text()} |"))
    return "\n".join([*text, "", "```", command, "```", ""])


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m firstread.recipes.study_direct", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the page and the numbers")
    parser.add_argument("--work", type=Path, required=True, help="folder of subjects, checkpoints and readings")
    parser.add_argument("--subjects", type=int, default=64, help="training subjects")
    parser.add_argument("--test", type=int, default=100, help="test subjects")
    parser.add_argument("--skip", type=int, default=0, help="first test subjects to leave out: looked at before")
    parser.add_argument("--steps", type=int, default=4000, help="training steps of each arm, a subject each")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lines", type=int, nargs="+", default=[2, 4, 8, 16, 40, 160], help="lines per frame")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--baseline", default=RECONSTRUCTED, choices=[*ARMS, SHIPPED])
    parser.add_argument("--matrix", type=int, nargs=2, default=[160, 64], metavar=("LINES", "SAMPLES"))
    parser.add_argument("--spacing", type=float, default=2.0, help="pixel size in mm")
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--slices", type=int, default=3)
    parser.add_argument("--widths", type=int, nargs="+", default=list(Setting.widths), help="channels at each scale")
    parser.add_argument("--cold", action="store_true", help="begin at random, not with the default segmentation")
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args(argv)
    try:
        stack = Stack(lines=asked.matrix[0], columns=asked.matrix[1], frames=asked.frames, slices=asked.slices,
                      spacing_mm=asked.spacing)
        setting = Setting(stack=stack, subjects=asked.subjects, lines=tuple(asked.lines), widths=tuple(asked.widths),
                          warm=not asked.cold)
        study = Study(setting, tuple(asked.arms), tuple(asked.lines), asked.seeds, asked.steps, asked.test,
                      asked.skip, asked.baseline)
        rows = tabulate(study, run(study, asked.work, device=asked.device))
        words = [word for name, value in vars(asked).items() if name not in ("output", "work", "device", "cold")
                 for word in (f"--{name}", *map(str, value if isinstance(value, list) else [value]))]
        words += ["--cold"] * asked.cold
        command = f"python -m firstread.recipes.study_direct -o docs/evidence --work FOLDER {shlex.join(words)}"
        asked.output.mkdir(parents=True, exist_ok=True)
        write_text(asked.output / "direct.md", report(study, rows, command))
        write_text(asked.output / "direct.json", json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    except FirstreadError as error:
        print(f"study_direct: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
