"""Losses of single results, one value per row: of images, contours and phenotypes.

The formulas are functions of tensors; below each is the function that takes it to records.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Num
from torch import Tensor

from firstread.core.errors import SettingError
from firstread.core.records import HardLabels, Image, Labels, Phenotypes, Record, Risk, SoftLabels

RowLoss = Callable[[Record, Record], Float[Tensor, " rows"]]
RowValue = Callable[[Record], Float[Tensor, " rows"]]


def relative_error(image: Num[Tensor, "rows *space"], truth: Num[Tensor, "rows *space"], *,
                   scaled: bool = True) -> Float[Tensor, " rows"]:
    """Squared error relative to the truth, ``min_a ‖a x - t‖² / ‖t‖² = 1 - |⟨x, t⟩|² / (‖x‖² ‖t‖²)``, per row.

    scaled: False takes ``a = 1``. Complex images are compared as such, so ``a`` takes up one global phase too.

    >>> relative_error(torch.tensor([[2.0, 2.0]]), torch.tensor([[1.0, 1.0]])).item()
    0.0
    """
    x, t = image.flatten(1), truth.flatten(1)
    energy = t.abs().square().sum(1)
    if not scaled:
        return (x - t).abs().square().sum(1) / energy
    a = (x.conj() * t).sum(1) / x.abs().square().sum(1).clamp_min(torch.finfo(energy.dtype).tiny)
    return (a[:, None] * x - t).abs().square().sum(1) / energy


def image_error(*, magnitude: bool = True, scaled: bool = True) -> RowLoss:
    """:func:`relative_error` of an Image to another on the same grid; of magnitudes, or of complex values."""
    def loss(image: Record, truth: Record) -> Tensor:
        x, t = _data(image, Image), _data(truth, Image)
        _same(x, t)
        if magnitude:
            x, t = x.abs(), t.abs()
        return relative_error(x, t, scaled=scaled)
    return loss


def contour_loss(probability: Float[Tensor, "rows time classes z y x"], truth: Int[Tensor, "rows time z y x"], *,
                 smooth: float = 16.0) -> Float[Tensor, " rows"]:
    """Cross entropy and soft Dice of the foreground, ``-mean log p_t + 1 - mean_c (2 Σ p t + s) / (Σ p + Σ t + s)``.

    Sums of a class run over time and space of each row; ``smooth`` pixels keep an absent class at one. Unlike
    :func:`~firstread.learn.losses.dice_cross_entropy`, of probabilities, and of each row by itself.

    >>> labels = torch.zeros(1, 1, 1, 2, 2, dtype=torch.int64)
    >>> contour_loss(F.one_hot(labels, 2).movedim(-1, 2).double(), labels).item()
    0.0
    """
    hot = F.one_hot(truth.long(), probability.shape[2]).movedim(-1, 2).to(probability.dtype)
    inside = (probability * hot).sum(2).clamp_min(1e-6)
    entropy = -inside.log().flatten(1).mean(1)
    across = (1, 3, 4, 5)
    dice = (2 * (probability * hot).sum(across) + smooth) / ((probability + hot).sum(across) + smooth)
    return entropy + 1 - dice[:, 1:].mean(1)


def contour_error(*, smooth: float = 16.0) -> RowLoss:
    """:func:`contour_loss` of SoftLabels to the true HardLabels on the same grid."""
    def loss(labels: Record, truth: Record) -> Tensor:
        p, t = _data(labels, SoftLabels), _data(truth, HardLabels)
        _same(p[:, :, :1], t)
        return contour_loss(p, t[:, :, 0].long(), smooth=smooth)
    return loss


def phenotype_error(name: str, *, scale: float | int = 1, beta: float | int = 1) -> RowLoss:
    """Smooth L1 of one phenotype: with ``e = |v - t| / scale``, ``e² / (2 beta)`` below beta, ``e - beta / 2`` above.

    scale: in the phenotype's unit; 1 counts an ejection fraction in points.
    """
    def loss(found: Record, truth: Record) -> Tensor:
        v, t = value_of(name)(found), value_of(name)(truth)
        return F.smooth_l1_loss(v / scale, t.to(v) / scale, beta=beta, reduction="none")
    return loss


def value_of(name: str | None = None) -> RowValue:
    """The number per row of a record: the phenotype ``name``, or without a name the value of a Risk.

    Raises SettingError for a phenotype that is absent, with the reason.
    """
    def pick(record: Record) -> Tensor:
        if name is None:
            return _is(record, Risk).value
        values = _is(record, Phenotypes).values
        if name not in values or values[name].value is None:
            reason = values[name].reason if name in values else "it was not measured"
            raise SettingError(f"no {name} ({reason})", expected=f"one of {sorted(values)} with a value",
                               remedy="train on another phenotype, or on images that it can be measured from")
        return values[name].value
    return pick


def _is(record: Record, kind: type) -> Record:
    if not isinstance(record, kind):
        raise SettingError(f"a {type(record).__name__}", expected=f"{kind.__name__} for this loss",
                           remedy="name another result or another truth in the term")
    return record


def _data(record: Record, kind: type[Image] | type[Labels]) -> Tensor:
    return _is(record, kind).data  # type: ignore[attr-defined]


def _same(made: Tensor, truth: Tensor) -> None:
    if made.shape != truth.shape:
        raise SettingError(f"a result of shape {tuple(made.shape)} beside a truth of {tuple(truth.shape)}",
                           expected="the same grid", remedy="resample the truth first")
