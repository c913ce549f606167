"""Which phase-encode lines are measured: binary masks with an exact number of lines per frame."""

from __future__ import annotations

import math
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor, nn

from firstread.acquire.lines import budgeted_density, straight_through, top_lines
from firstread.core.errors import SettingError


@runtime_checkable
class Sampling(Protocol):
    """Anything that draws the mask of ``frames`` frames of ``lines`` phase-encode lines."""

    def __call__(self, frames: int, lines: int, generator: torch.Generator) -> Float[Tensor, "frames lines"]: ...


def centre(lines: int, count: int) -> slice:
    """The ``count`` lines around the zero frequency, ``lines // 2``.

    >>> centre(8, 3), centre(8, 2)
    (slice(3, 6, None), slice(3, 5, None))
    """
    start = lines // 2 - count // 2
    return slice(start, start + count)


def line_probability(lines: int, acceleration: float | int) -> Float[Tensor, " lines"]:
    """Schlemper's density, ``p(k) = exp(-(k - N/2)² / (2 (N/10)²)) + 1 / (2R)``, zero frequency at ``N // 2``.

    >>> round(line_probability(100, 5.0)[50].item(), 3)
    1.1
    """
    k = torch.arange(lines, dtype=torch.float64) - lines // 2
    return torch.exp(-0.5 * (k / (lines / 10)) ** 2) + 0.5 / acceleration


def budget(lines: int, acceleration: float | int, centre_lines: int) -> int:
    """Lines per frame at an acceleration, ``int(N / R)``, the centre lines included; refuses what does not fit."""
    count = int(lines / acceleration) if acceleration >= 1 else 0  # not so for nan
    if not acceleration >= 1 or not 0 <= centre_lines <= count:
        raise SettingError(f"{acceleration}-fold acceleration with {centre_lines} centre lines of {lines}",
                           expected=f"acceleration ≥ 1 and at most int(lines / acceleration) = {count} centre lines",
                           remedy="lower the acceleration or the number of centre lines")
    if count < 1:
        raise SettingError(f"{acceleration}-fold acceleration of {lines} lines", expected="one line or more per frame",
                           remedy="lower the acceleration")
    return count


class VariableDensity:
    """Random lines per frame, dense in the centre (Schlemper et al. 2018): ``int(N / R)`` lines, the centre included.

    The centre lines are always on; the others are drawn without replacement with ``line_probability``.

    >>> mask = VariableDensity(acceleration=4, centre_lines=4)(2, 64, torch.Generator().manual_seed(0))
    >>> mask.sum(dim=1).tolist()
    [16.0, 16.0]
    """

    def __init__(self, *, acceleration: float | int = 6, centre_lines: int = 8):
        self.acceleration, self.centre_lines = acceleration, centre_lines

    def __call__(self, frames: int, lines: int, generator: torch.Generator) -> Float[Tensor, "frames lines"]:
        count = budget(lines, self.acceleration, self.centre_lines)
        probability = line_probability(lines, self.acceleration).expand(frames, lines).clone()
        probability[:, centre(lines, self.centre_lines)] = 0
        mask = torch.zeros(frames, lines)
        mask[:, centre(lines, self.centre_lines)] = 1
        if count > self.centre_lines:
            chosen = torch.multinomial(probability, count - self.centre_lines, generator=generator)
            mask.scatter_(1, chosen, 1.0)
        return mask


class UniformLines:
    """Every R-th line plus fully sampled centre lines (the autocalibration region), shifted by one line per frame.

    The number of lines is what the pattern gives, ``⌈(N - shift) / R⌉`` and the centre lines not among them.
    """

    def __init__(self, *, acceleration: int = 4, centre_lines: int = 16, shift_per_frame: int = 1):
        if acceleration < 1 or centre_lines < 0:
            raise SettingError(f"acceleration {acceleration} with {centre_lines} centre lines",
                               expected="1 or more, with no fewer than 0 centre lines", remedy="correct the numbers")
        self.acceleration, self.centre_lines, self.shift_per_frame = acceleration, centre_lines, shift_per_frame

    def __call__(self, frames: int, lines: int, generator: torch.Generator) -> Float[Tensor, "frames lines"]:
        if self.centre_lines > lines:
            raise SettingError(f"{self.centre_lines} centre lines of {lines}", expected="no more than there are lines",
                               remedy="lower the number of centre lines")
        first = int(torch.randint(self.acceleration, (1,), generator=generator))
        k = torch.arange(lines).expand(frames, lines)
        shift = first + self.shift_per_frame * torch.arange(frames)[:, None]
        mask = ((k - shift) % self.acceleration == 0).float()
        mask[:, centre(lines, self.centre_lines)] = 1
        return mask


class FullySampled:
    """Every line of every frame."""

    def __call__(self, frames: int, lines: int, generator: torch.Generator) -> Float[Tensor, "frames lines"]:
        return torch.ones(frames, lines)


class LearnedMask(nn.Module):
    """A mask that is trained: the ``count`` lines of highest logit in every frame, centre lines always among them.

    Forward is binary with exactly ``count`` lines per frame; backward is the gradient of a density (straight-through),
    so softness never lets an unmeasured sample leak.

    lines: phase-encode lines; frames: frames with lines of their own (a k-t pattern), or 1 for the same in every frame.
    relaxation: the density; "sigmoid" is ``σ(logit / temperature)``, line by line; "budget" is ``budgeted_density``, in
    which lines compete for the budget.
    start: a binary pattern ``[frames, lines]`` to begin at; None begins near the centre, by ``line_probability``.

    >>> mask = LearnedMask(lines=32, count=8, centre_lines=4)(3, 32, torch.Generator())
    >>> mask.shape, mask.sum(dim=1).tolist()
    (torch.Size([3, 32]), [8.0, 8.0, 8.0])
    """

    def __init__(self, *, lines: int, count: int, centre_lines: int = 4, frames: int = 1,
                 temperature: float | int = 1, relaxation: Literal["sigmoid", "budget"] = "sigmoid",
                 start: Float[Tensor, "frames lines"] | None = None):
        super().__init__()
        if not 0 <= centre_lines <= count <= lines or count < 1:
            raise SettingError(f"{count} of {lines} lines with {centre_lines} centre lines",
                               expected="centre lines ≤ count ≤ lines, count 1 or more", remedy="correct the numbers")
        if relaxation not in ("sigmoid", "budget"):
            raise SettingError(f"relaxation {relaxation!r}", expected="'sigmoid' or 'budget'", remedy="choose one")
        if not 0 < temperature < math.inf or frames < 1:
            raise SettingError(f"temperature {temperature}, {frames} frames", expected="a temperature above zero, one "
                               "frame or more", remedy="correct the numbers")
        self.lines, self.count, self.centre_lines, self.temperature = lines, count, centre_lines, temperature
        self.relaxation = relaxation
        near = line_probability(lines, lines / count).log().float()
        order = torch.Generator().manual_seed(0)
        first = near + 0.1 * torch.randn(frames, lines, generator=order)
        if start is not None:
            if start.shape != (frames, lines):
                raise SettingError(f"a start of {tuple(start.shape)}", expected=f"{(frames, lines)}, frames and lines",
                                   remedy="give a pattern for this mask")
            first = first + start.to(first) * (near.max() - near.min() + 1)
        self.logits = nn.Parameter(first)

    def forward(self, frames: int, lines: int, generator: torch.Generator) -> Float[Tensor, "frames lines"]:
        """The mask of ``frames`` frames; ``generator`` is not used, a learned mask draws nothing."""
        if lines != self.lines or self.logits.shape[0] not in (1, frames):
            raise SettingError(f"{frames} frames of {lines} lines", expected=f"{self.logits.shape[0]} of {self.lines}",
                               remedy="make the mask for this matrix")
        logits = self.logits.expand(frames, lines)
        kept = torch.zeros(lines, dtype=torch.bool, device=logits.device)
        kept[centre(lines, self.centre_lines)] = True
        hard = top_lines(logits, self.count, kept=kept)
        if self.relaxation == "sigmoid":
            return straight_through(hard, torch.sigmoid(logits / self.temperature))
        return straight_through(hard, budgeted_density(logits, self.count, kept=kept, temperature=self.temperature))


class StoredMask(nn.Module):
    """A mask that was made before (learned, planned, read from a file): the same lines in every slice and subject.

    mask: binary, one row per frame, or one row for all frames. Raises SettingError for anything else.

    >>> stored = StoredMask(mask=torch.tensor([[1.0, 0.0, 1.0]]))
    >>> stored(2, 3, torch.Generator()).tolist()
    [[1.0, 0.0, 1.0], [1.0, 0.0, 1.0]]
    """

    mask: Tensor

    def __init__(self, *, mask: Num[Tensor, "frames lines"] | Bool[Tensor, "frames lines"]):
        super().__init__()
        if not bool(((mask == 0) | (mask == 1)).all()) or not bool((mask != 0).any(dim=1).all()):
            raise SettingError("a stored mask with values other than 0 and 1, or a frame without lines",
                               expected="0 or 1, and one line or more in every frame",
                               remedy="store the lines that were chosen, not their scores")
        self.register_buffer("mask", mask.detach().float().clone())

    def forward(self, frames: int, lines: int, generator: torch.Generator) -> Float[Tensor, "frames lines"]:
        """The mask of ``frames`` frames; ``generator`` is not used."""
        if lines != self.mask.shape[1] or self.mask.shape[0] not in (1, frames):
            raise SettingError(f"{frames} frames of {lines} lines for a stored mask of {self.mask.shape[0]} frames of "
                               f"{self.mask.shape[1]} lines", expected="the same numbers",
                               remedy="scan with this matrix and number of frames, or store another mask")
        return self.mask.expand(frames, lines)
