"""From the losses of all subjects to tables: settings found on some, risks measured on others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from firstread.core.provenance import versions
from firstread.recipes.heart_subjects import Scanner
from firstread.trust.agreement import Estimate
from firstread.trust.bootstrap import paired_difference
from firstread.trust.risk_control import controlled_setting

RISK, SPLITS, SEEDS = 0.1, 200, 3
MARGINS = tuple(map(float, range(-6, 25)))
WHAT = {"missed": "truth beyond the outer contour", "claimed": "wrongly inside the inner contour",
        "distant": "truth's border farther from the predicted one"}
VOLUME = {"missed": "outer", "claimed": "inner"}


@dataclass(frozen=True, eq=False)
class Losses:
    """Losses of subjects: rows as ``evidence_risk_control`` stores them, by structure and loss at every margin."""

    rows: Sequence[Mapping[str, Any]]

    def table(self, structure: str, what: str) -> Float[Tensor, "subject margin"]:
        """One loss of every subject at every margin (at most 1), or a volume over the predicted one."""
        found = torch.tensor([row[structure][what] for row in self.rows], dtype=torch.float64)
        return found.clamp_max(1) if what in WHAT else found  # a grown contour can claim more than the predicted one

    def select(self, index: Int[Tensor, " chosen"]) -> Losses:
        """Some of the subjects."""
        return Losses([self.rows[i] for i in index.tolist()])


@dataclass(frozen=True)
class Controlled:
    """A margin found on calibration subjects, and what it does on others.

    risk: mean loss of the test subjects, with a 95 % bootstrap interval over them; plain: the same at margin 0; volume:
    mean volume of the contour over the predicted one, NaN for a distance.
    """

    margin_mm: float
    risk: Estimate
    plain: float
    volume: float


def controlled(calibration: Losses, test: Losses, structure: str, what: str, *, risk: float = RISK) -> Controlled:
    """The margin that controls a loss at ``risk``, and the risk on test subjects; raises as ``controlled_setting``."""
    margins = torch.tensor(MARGINS, dtype=torch.float64)
    margin = controlled_setting(calibration.table(structure, what), margins, risk)
    at, none = MARGINS.index(margin), MARGINS.index(0.0)
    found = test.table(structure, what)
    volume = test.table(structure, VOLUME[what])[:, at].mean() if what in VOLUME else torch.tensor(torch.nan)
    return Controlled(margin, paired_difference(found[:, at, None], torch.zeros(len(found), 1)),
                      float(found[:, none].mean()), float(volume))


def halves(count: int, seed: int) -> tuple[Int[Tensor, " first"], Int[Tensor, " second"]]:
    """A random half of the subjects, and the others.

    >>> [len(half) for half in halves(5, 0)]
    [2, 3]
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order[: count // 2], order[count // 2:]


def over_splits(losses: Losses, structure: str, what: str, *, splits: int = SPLITS, risk: float = RISK) -> list[float]:
    """The test risk of each of many random splits into halves; its mean is what the theorem bounds."""
    margins, table = torch.tensor(MARGINS, dtype=torch.float64), losses.table(structure, what)
    found = []
    for seed in range(splits):
        first, second = halves(len(table), seed)
        margin = controlled_setting(table[first], margins, risk)
        found.append(float(table[second][:, MARGINS.index(margin)].mean()))
    return found


def _row(first: str, structure: str, what: str, count: tuple[int, int], found: Controlled) -> str:
    low, high = 100 * found.risk.lower, 100 * found.risk.upper
    volume = f"{found.volume:.2f}" if what in VOLUME else "–"
    return (f"| {first} | {structure} | {WHAT[what]} | {count[0]}, {count[1]} | {found.margin_mm:g} mm | "
            f"{100 * found.risk.value:.1f} [{low:.1f}, {high:.1f}] % | {100 * found.plain:.1f} % | {volume} |")


def table(called: str, pairs: Mapping[str, tuple[Losses, Losses]], structures: Sequence[str]) -> str:
    """A Markdown row for each pair of calibration and test subjects, structure and loss."""
    lines = [f"| {called} | structure | share | calibration, test subjects | margin | mean on test subjects | without "
             "margin | volume / predicted |", "|---|---|---|---|---|---|---|---|"]
    for name, (calibration, test) in pairs.items():
        lines += [_row(name, structure, what, (len(calibration.rows), len(test.rows)),
                       controlled(calibration, test, structure, what)) for structure in structures for what in WHAT]
    return "\n".join(lines) + "\n"


def page(calibration: Losses, test: Losses, shifted: Mapping[str, Losses], *, command: str) -> str:
    """The evidence as Markdown."""
    structures, scanner = list(test.rows[0]), Scanner()
    half = {f"split {seed}": halves(len(test.rows), seed) for seed in range(SEEDS)}
    split = {name: (test.select(first), test.select(second)) for name, (first, second) in half.items()}
    lines = [f"| structure | share | mean of {SPLITS} splits | 95 % of the splits | splits above {100 * RISK:.0f} % |",
             "|---|---|---|---|---|"]
    for structure in structures:
        for what in WHAT:
            risks = torch.tensor(over_splits(test, structure, what), dtype=torch.float64)
            low, high = (100 * torch.quantile(risks, torch.tensor([0.025, 0.975], dtype=torch.float64))).tolist()
            lines.append(f"| {structure} | {WHAT[what]} | {100 * float(risks.mean()):.2f} % | {low:.1f} … "
                         f"{high:.1f} % | {100 * float((risks > RISK).double().mean()):.0f} % |")
    others = {"the other family": (calibration, test)} | {name: (calibration, one) for name, one in shifted.items()}
    return "\n".join([
        "# Risk control for contours and distances, on simulated subjects\n",
        f"    {command}\n",
        f"{len(test.rows)} subjects of the test family, {len(calibration.rows)} of the calibration family (other "
        f"shapes); simulated: {scanner.matrix}² pixels of {scanner.spacing_mm:g} mm, {scanner.frames} frames, "
        f"{scanner.coils} coils, {scanner.acceleration:g}-fold, SNR {scanner.snr:g}; reconstructed and segmented by "
        "the default chain at the true end-diastole and end-systole. A subject is a case: its loss is over both frames "
        f"and all slices. Margins from {MARGINS[0]:g} to {MARGINS[-1]:g} mm by {MARGINS[1] - MARGINS[0]:g}; below zero "
        f"the contour is moved the other way. Each share is to be at most {100 * RISK:.0f} % on average (conformal "
        "risk control, Angelopoulos 2024).\n",
        "## Exchangeable subjects\n",
        "The margin from a random half of the test family, the mean loss of the other half with a 95 % bootstrap "
        "interval over its subjects. *Without margin*: of the predicted contour itself.\n",
        table("split", split, structures),
        "What is guaranteed is the mean over draws of calibration and test subjects; a single split may lie above. "
        "That the mean lies well below comes of the pixels: a contour moves by one of them or not at all.\n",
        "\n".join(lines) + "\n",
        "## Subjects that are not exchangeable\n",
        "The margin from the calibration family; test subjects of the test family (the same scanner), and its first "
        "subjects on scanners that the calibration has not seen.\n",
        table("test subjects", others, structures),
        "## What this does not say\n",
        "The risk is a mean over subjects and slices: one subject, one slice (the base above all) or one kind of "
        "patient can lose far more. Nothing is said of frames other than the two, which are taken from the truth. A "
        "slice in which nothing was predicted has no contour to move; its truth counts as missed at every margin. The "
        "truth is the phantom's mask, not a reader's contour. One training of the segmentation; distances are between "
        f"pixels of {scanner.spacing_mm:g} mm, within the plane.\n",
        "Versions: " + ", ".join(f"{name} {number}" for name, number in versions().items()) + ".\n"])
