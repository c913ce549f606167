"""Inner and outer contours at a stated risk, by conformal risk control of the distance between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from firstread.core.errors import GeometryError, SettingError
from firstread.core.records import HardLabels, Note
from firstread.core.stage import Stage
from firstread.ops.regions import signed_distance_mm
from firstread.trust.risk_control import band_dice_loss, claimed_share, controlled_setting, missed_share

BandLoss = Literal["shares", "dice"]


@dataclass(frozen=True)
class Band:
    """How far the inner and the outer contour of a structure lie from the predicted one.

    classes: those whose union is the structure; loss: ``shares`` (at most ``risk`` of the truth lies beyond the outer
    contour, and the inner one claims wrongly at most ``risk`` of the prediction, both on average over cases) or
    ``dice`` (a reader who corrects between the contours alone loses at most ``risk`` of Dice on average).
    """

    classes: tuple[str, ...]
    inner_mm: float
    outer_mm: float
    loss: BandLoss
    risk: float
    count: int
    calibrated_on: str


def band_losses(predicted: HardLabels, truth: HardLabels, classes: tuple[str, ...],
                margins_mm: Float[Tensor, " setting"]) -> Mapping[str, Float[Tensor, "batch setting"]]:
    """The losses ``missed``, ``claimed`` and ``dice`` of each row at each margin, over all its frames and slices.

    A row is a case: give frames that are read (end-diastole, say) alone. Margins within the plane. Raises GeometryError
    for labels on different grids or without millimetres.
    """
    predicted.grid.require_mm("contour bands")
    if predicted.data.shape != truth.data.shape or not predicted.grid.same_as(truth.grid):
        raise GeometryError(f"labels of shape {tuple(predicted.data.shape)} and {tuple(truth.data.shape)}",
                            expected="prediction and truth on one grid", remedy="resample the one onto the other")
    rows: dict[str, list[Tensor]] = {"missed": [], "claimed": [], "dice": []}
    for row in range(predicted.batch):
        mask, true = structure(predicted, classes)[row], structure(truth, classes)[row]
        distance = signed_distance_mm(mask, _spacing(predicted, row))
        found = []
        for margin in margins_mm.tolist():  # one at a time: a mask for each would be large
            inner, outer = (distance < -margin)[None], (distance <= margin)[None]
            found.append((missed_share(true, outer), claimed_share(true, inner, mask),
                          band_dice_loss(true, inner, outer)))
        for name, column in zip(rows, zip(*found, strict=True), strict=True):
            rows[name].append(torch.cat(column))
    return {name: torch.stack(losses) for name, losses in rows.items()}


def calibrate_band(losses: Mapping[str, Float[Tensor, "case setting"]], margins_mm: Float[Tensor, " setting"], *,
                   classes: tuple[str, ...], risk: float, calibrated_on: str, loss: BandLoss = "shares") -> Band:
    """The narrowest band whose expected loss on a new case is at most ``risk``.

    losses: of :func:`band_losses`, cases of all calls below one another. Raises SettingError for too few cases (says
    the smallest number), and where the widest margin is not enough.
    """
    if loss == "dice":
        inner = outer = controlled_setting(losses["dice"], margins_mm, risk)
    elif loss == "shares":
        inner = controlled_setting(losses["claimed"], margins_mm, risk)
        outer = controlled_setting(losses["missed"], margins_mm, risk)
    else:
        raise SettingError(f"loss {loss!r}", expected="'shares' or 'dice'", remedy="choose one of the two")
    return Band(classes, inner, outer, loss, risk, len(losses["dice"]), calibrated_on)


class ContourBand(Stage):
    """Where the contour of a structure may lie: certain inside the inner contour, possible up to the outer one.

    Makes labels of three classes: outside, ``possible …``, ``certain …``. band: calibrated on labels of the same
    segmentation; a note says at which risk it holds. In a slice without any prediction the band is empty: what was
    missed altogether is not found by moving contours, but counts in the calibrated risk. Not differentiable. Errors:
    SettingError for labels without the classes, GeometryError for a grid without millimetres.
    """

    result: ClassVar[str] = "labels.band"
    differentiable = False

    def __init__(self, *, band: Band) -> None:
        super().__init__()
        self.band = band

    def settings(self) -> str:
        return f"{self.band}"

    def forward(self, labels: HardLabels) -> HardLabels:
        labels.grid.require_mm("contour bands")
        mask = structure(labels, self.band.classes)
        distance = torch.stack([signed_distance_mm(mask[row], _spacing(labels, row)) for row in range(labels.batch)])
        level = (distance <= self.band.outer_mm).to(torch.uint8) + (distance < -self.band.inner_mm).to(torch.uint8)
        what = " and ".join(self.band.classes)
        note = Note("contour_band", f"The band about the contour of {what} ({self.band.inner_mm:g} mm inwards, "
                    f"{self.band.outer_mm:g} mm outwards) holds at a mean loss ({self.band.loss}) of "
                    f"{self.band.risk:g}, calibrated on {self.band.count} cases: {self.band.calibrated_on}.", "info")
        return HardLabels(labels.rows, level[:, :, None], labels.grid, ("outside", f"possible {what}",
                                                                        f"certain {what}"),
                          labels.times_s, labels.cycle_s, labels.source, notes=labels.notes).noted(note)


def structure(labels: HardLabels, classes: tuple[str, ...]) -> Bool[Tensor, "batch time z y x"]:
    """Where labels have any of the named classes."""
    missing = [name for name in classes if name not in labels.names]
    if missing or not classes:
        raise SettingError(f"no class {', '.join(missing) or 'at all'}", expected=f"some of {', '.join(labels.names)}",
                           remedy="name classes of the segmentation")
    index = torch.tensor([labels.names.index(name) for name in classes], device=labels.data.device)
    return torch.isin(labels.data[:, :, 0].long(), index)


def _spacing(labels: HardLabels, row: int) -> tuple[float, float]:
    _, y, x = labels.grid.spacing_mm[row].tolist()
    return y, x
