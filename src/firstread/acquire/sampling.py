"""Which phase-encode lines are measured: binary masks with an exact number of lines per frame."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

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
    count = int(lines / acceleration)
    if acceleration < 1 or not 0 <= centre_lines <= count:
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
        if acceleration < 1:
            raise SettingError(f"acceleration {acceleration}", expected="1 or more", remedy="raise `acceleration`")
        self.acceleration, self.centre_lines, self.shift_per_frame = acceleration, centre_lines, shift_per_frame

    def __call__(self, frames: int, lines: int, generator: torch.Generator) -> Float[Tensor, "frames lines"]:
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

    Forward is binary with exactly ``count`` lines per frame; backward is the gradient of ``count · softmax``-like
    densities ``σ(logit / temperature)`` (straight-through), so softness never lets an unmeasured sample leak.

    lines: phase-encode lines; frames: frames with logits of their own, or 1 for the same lines in every frame.

    >>> mask = LearnedMask(lines=32, count=8, centre_lines=4)(3, 32, torch.Generator())
    >>> mask.shape, mask.sum(dim=1).tolist()
    (torch.Size([3, 32]), [8.0, 8.0, 8.0])
    """

    def __init__(self, *, lines: int, count: int, centre_lines: int = 4, frames: int = 1,
                 temperature: float | int = 1):
        super().__init__()
        if not 0 <= centre_lines <= count <= lines or count < 1:
            raise SettingError(f"{count} of {lines} lines with {centre_lines} centre lines",
                               expected="centre lines ≤ count ≤ lines, count 1 or more", remedy="correct the numbers")
        self.lines, self.count, self.centre_lines, self.temperature = lines, count, centre_lines, temperature
        start = line_probability(lines, lines / count).log().float()
        order = torch.Generator().manual_seed(0)
        self.logits = nn.Parameter(start + 0.1 * torch.randn(frames, lines, generator=order))

    def forward(self, frames: int, lines: int, generator: torch.Generator) -> Float[Tensor, "frames lines"]:
        """The mask of ``frames`` frames; ``generator`` is not used, a learned mask draws nothing."""
        if lines != self.lines or self.logits.shape[0] not in (1, frames):
            raise SettingError(f"{frames} frames of {lines} lines", expected=f"{self.logits.shape[0]} of {self.lines}",
                               remedy="make the mask for this matrix")
        logits = self.logits.expand(frames, lines)
        ranked = logits.detach().clone()
        ranked[:, centre(lines, self.centre_lines)] = torch.inf
        hard = torch.zeros_like(ranked).scatter_(1, ranked.topk(self.count, dim=1).indices, 1.0)
        return _StraightThrough.apply(hard, torch.sigmoid(logits / self.temperature))


class _StraightThrough(torch.autograd.Function):
    """The hard values; the gradient goes to the soft ones (adding and subtracting would round the hard ones)."""

    @staticmethod
    def forward(ctx: Any, hard: Tensor, soft: Tensor) -> Tensor:
        return hard.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        return None, grad
