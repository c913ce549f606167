"""Self-supervised training of reconstructions without fully sampled data (SSDU; Yaman et al. 2020).

The measured lines Ω of a scan are split at random into Θ, which the reconstruction gets, and Λ, which its image must
predict::

    Ω = Θ ∪ Λ, Θ ∩ Λ = ∅          loss = ℓ(y_Λ, M_Λ F S x(y_Θ)),   ℓ(u, v) = ‖u - v‖₂ / ‖u‖₂ + ‖u - v‖₁ / ‖u‖₁

A reconstruction that only repeats what it was given predicts nothing of Λ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from firstread.core.errors import SettingError, SignalError
from firstread.core.records import KSpace

Lines = Bool[Tensor, "batch mt 1 mz my 1"]


@dataclass(frozen=True)
class Split:
    """Θ, the lines that are given, and Λ, the lines of the loss: of the shape of the mask, one readout line each."""

    given: Lines
    wanted: Lines


def split_lines(kspace: KSpace, generator: torch.Generator, *, share: float = 0.4, centre: int = 8, width: float = 0.25
                ) -> Split:
    """A random split of the measured lines along y, frame by frame.

    share: of the lines outside the centre that become Λ, rounded, one or more; centre: lines around ``N // 2`` that
    are always given, for the coils' sensitivities. width: standard deviation, over the number of lines, of the
    Gaussian density that Λ is drawn with, as in the paper.

    Raises SettingError for settings out of range, SignalError where a frame has fewer than two lines to split.
    """
    if not 0 < share < 1 or centre < 0 or not width > 0:
        raise SettingError(f"share {share}, centre {centre}, width {width}", expected="0 < share < 1, centre ≥ 0, "
                           "width > 0", remedy="correct the setting")
    measured = (kspace.mask != 0).any(dim=-1, keepdim=True)
    lines = measured.shape[-2]
    place = torch.arange(lines, dtype=torch.float64) - lines // 2
    density = torch.exp(-0.5 * (place / (width * lines)) ** 2)
    outside = (place + 0.5).abs() > centre / 2
    wanted = torch.zeros(measured.shape, dtype=torch.bool)
    flat, free = wanted.view(-1, lines), (measured.cpu() & outside[:, None]).reshape(-1, lines)
    for row, choice in zip(flat, free, strict=True):
        count = int(choice.sum())
        if count < 2:
            raise SignalError(f"{count} measured lines outside {centre} centre lines", expected="two or more per frame",
                              remedy="lower `centre`, or train on scans with more lines")
        take = min(max(1, round(share * count)), count - 1)
        row[torch.multinomial(density * choice, take, generator=generator)] = True
    wanted = wanted.to(measured.device)
    return Split(measured & ~wanted, wanted)


def keep_lines(kspace: KSpace, lines: Lines) -> KSpace:
    """The scan as if only these lines had been measured: all others are zero in mask and data."""
    mask = kspace.mask * lines
    return replace(kspace, data=kspace.data * (mask != 0), mask=mask)


def prediction_error(predicted: Complex[Tensor, "batch time coil z y x"],
                     measured: Complex[Tensor, "batch time coil z y x"], lines: Lines) -> Float[Tensor, ""]:
    """``‖u - v‖₂ / ‖u‖₂ + ‖u - v‖₁ / ‖u‖₁`` over the samples u of these lines.

    >>> y = torch.ones(1, 1, 1, 1, 2, 4, dtype=torch.complex64)
    >>> round(prediction_error(0 * y, y, torch.ones(1, 1, 1, 1, 2, 1, dtype=torch.bool)).item(), 4)
    2.0
    """
    away, true = lines * (predicted - measured), lines * measured
    square = [torch.view_as_real(k).square().sum(dim=-1) for k in (away, true)]
    if not bool(square[1].sum() > 0):
        raise SignalError("loss lines of zero energy", expected="signal", remedy="check mask and data")
    tiny = 1e-12 * float(square[1].detach().mean())
    one = [(s + tiny).sqrt().sum() for s in square]
    return ((square[0].sum() + tiny) / square[1].sum()).sqrt() + one[0] / one[1]


def self_supervised_loss(predict: Callable[[KSpace], Tensor], kspace: KSpace, generator: torch.Generator, *,
                         share: float = 0.4, centre: int = 8, width: float = 0.25) -> Float[Tensor, ""]:
    """The loss of one split: ``predict`` is called with the given lines alone, and returns k-space of all coils.

    predict: from a KSpace to ``F S x`` on every line, ``[batch, time, coil, z, y, x]``; whatever it estimates on the
    way (coil sensitivities, brightness) comes from the lines it is given.
    """
    split = split_lines(kspace, generator, share=share, centre=centre, width=width)
    return prediction_error(predict(keep_lines(kspace, split.given)), kspace.data, split.wanted)
