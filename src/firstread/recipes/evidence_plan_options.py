"""What the options of a plan are worth, loss terms and networks one at a time, on real short-axis scans (ACDC):

    python -m firstread.recipes.evidence_plan_options FOLDER -o docs/evidence --work FOLDER

FOLDER holds one ``patientNNN.npz`` each. Folds, patches, augmentation and steps are those of ``evidence_segment``.
Every fold is kept in the work folder: stop the command, run it again, and it goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Integer
from scipy import ndimage
from torch import Tensor

from firstread.core.geometry import Grid
from firstread.jobs.segment_prepare import fingerprint_of
from firstread.nets.plan import LossPlan, NetworkPlan, Plan
from firstread.recipes.evidence_segment import STEPS, base_plan, write_data
from firstread.recipes.plan_trials import Row, Say, Trials, command, difference_text, mean_text
from firstread.trust.segmentation import score_labels

METRICS = {"Dice": 3, "HD95, mm": 1, "pieces too many": 2}  # and digits of each
TERMS = {
    "focal": ("`focal` 2 in the cross entropy", LossPlan(focal=2.0)),
    "boundary": ("`boundary` 1", LossPlan(boundary=1.0)),
    "topology": ("`topology` 0.5", LossPlan(topology=0.5)),
    "anatomy": ("`anatomy` 0.1", LossPlan(anatomy=0.1)),
    "shape": ("`shape` 0.05", LossPlan(shape=0.05))}
NETWORKS = {
    "unet": ("`unet`, widths 16 to 128", NetworkPlan(kind="unet", widths=(16, 32, 64, 128), deep_supervision=False)),
    "attention": ("`attention`, the same widths", NetworkPlan(kind="attention", widths=(16, 32, 64, 128),
                                                              deep_supervision=False)),
    "fcn": ("`fcn`, widths 16 to 256 (Bai 2018)", NetworkPlan(kind="fcn", widths=(16, 32, 64, 128, 256),
                                                              deep_supervision=False))}
BASE = "base"
TITLES = {BASE: "the default plan", **{name: title for name, (title, _) in (TERMS | NETWORKS).items()}}


def plans(base: Plan) -> dict[str, Plan]:
    """The default plan, and it with one change each."""
    return {BASE: base, **{name: replace(base, loss=loss) for name, (_, loss) in TERMS.items()},
            **{name: replace(base, network=network) for name, (_, network) in NETWORKS.items()}}


def measured(probability: Float[Tensor, "classes z y x"], truth: Integer[Tensor, "z y x"], grid: Grid
             ) -> dict[str, float]:
    """Means over classes: Dice, HD95 (mm of the assumed spacing), connected pieces of a slice beyond the truth's."""
    found = probability.argmax(dim=0)
    classes = range(1, len(probability))
    spacing = grid.spacing_mm[0].tolist()
    scores = score_labels(truth, found.to(truth.dtype), classes, spacing_mm=(spacing[0], spacing[1], spacing[2]))
    pieces = [max(0, _pieces(one == c) - _pieces(two == c)) for one, two in zip(found, truth, strict=True)
              for c in classes]
    return {"Dice": sum(s["dice"] for s in scores.values()) / len(scores),
            "HD95, mm": sum(s["hd95_mm"] for s in scores.values()) / len(scores),
            "pieces too many": sum(pieces) / len(pieces)}


def _pieces(plane: Bool[Tensor, "y x"]) -> int:
    """Connected pieces; pixels that touch by a corner are one."""
    return ndimage.label(plane.numpy(), np.ones((3, 3)))[1]


def page(trials: Trials, found: dict[str, list[Row]], again: list[Row], seeds: Sequence[int]) -> str:
    """plan-options.md. again: the default plan's rows of one more seed."""
    t = trials.plans[BASE].training
    count = len({row["patient"] for row in found[BASE]})
    head = "| plan | parameters | " + " | ".join(METRICS) + " | CPU min, all folds |"
    lines = [
        "# What the options of a plan are worth (ACDC)", "",
        f"{count} patients, end-diastole and end-systole; {t.folds} folds by patient; {t.steps} steps of {t.batch} "
        f"patches, {'one training' if len(seeds) == 1 else f'{len(seeds)} trainings'} of each fold: the plan, the "
        "budget and the folds of [the comparison with MONAI](segment.md), with one change each. Weights of the terms "
        "were fixed before the first result, by the size of their gradients and their papers; none was tuned, so that "
        "a null result here says little of another weight or a longer training. Mean over patients (each the mean of "
        "phases, trainings and the three classes), 95 % bootstrap interval over patients. `pieces too many`: connected "
        "pieces of a class in a slice beyond those of the truth. The spacing is assumed (1.5 x 1.5 x 9 mm). HD95 of a "
        "class that the network "
        "left out is the image's diagonal.", "", head, f"|---|---|{'---|' * len(METRICS)}---|"]
    for name, rows in found.items():
        size, minutes = trials.cost(name)
        lines.append(f"| {TITLES[name]} | {size:.2f} M | "
                     + " | ".join(mean_text(rows, m, d) for m, d in METRICS.items()) + f" | {minutes:.1f} |")
    lines += ["", "Each minus the default plan, paired by patient:", "", f"| plan | {' | '.join(METRICS)} |",
              f"|---|{'---|' * len(METRICS)}"]
    lines += [f"| {TITLES[name]} | " + " | ".join(difference_text(rows, found[BASE], m, d) for m, d in METRICS.items())
              + " |" for name, rows in found.items() if name != BASE]
    lines += ["| the default plan, trained with another seed | "
              + " | ".join(difference_text(again, found[BASE], m, d) for m, d in METRICS.items()) + " |", "",
              "The last row shows what a training differs by when nothing is changed.", "",
              f"Command: `python -m firstread.recipes.evidence_plan_options FOLDER -o docs/evidence --work FOLDER "
              f"--seeds {len(seeds)}`. CPU times of a shared machine: read ratios only.", ""]
    return "\n".join(lines)


def evidence(folder: Path, work: Path, steps: int, seeds: Sequence[int], say: Say) -> str:
    """All runs, and the page."""
    data = write_data(folder, work / "data")
    trials = Trials(data, plans(base_plan(fingerprint_of(data, progress=say), steps=steps)), measured, work)
    return page(trials, trials.run(seeds, say=say), trials.one(BASE, len(seeds), say=say), seeds)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    return command("plan-options.md", (__doc__ or "").splitlines()[0], evidence, steps=STEPS, seeds=1,
                   arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())
