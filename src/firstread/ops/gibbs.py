"""Gibbs ringing of images whose k-space was cut off, removed by local subvoxel shifts (Kellner et al. 2016)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Num
from torch import Tensor

from firstread.core.errors import SettingError


def remove_ringing(image: Num[Tensor, "*lead y x"], *, shifts: int = 20, window: tuple[int, int] = (1, 3)
                   ) -> Num[Tensor, "*lead y x"]:
    """Every pixel read off the shifted image that oscillates least beside it, along x and y.

    The image is split in k-space by ``G_x = (1 + cos k_y) / (2 + cos k_x + cos k_y)`` and ``G_y = 1 - G_x``, each part
    corrected along its axis: of the shifts ``s / (2 shifts)``, s = -shifts … shifts, the one with the least total
    variation from ``window[0]`` to ``window[1]`` pixels away, on the better side, then interpolated back.

    Differentiable (the choice of shifts is taken as constant). Raises SettingError for a window or shifts that are not
    positive, or images smaller than the window.

    >>> remove_ringing(torch.ones(12, 12)).std().item() < 1e-6
    True
    """
    first, last = window
    if shifts < 1 or not 1 <= first <= last or min(image.shape[-2:]) < 2 * last + 2:
        raise SettingError(f"{shifts} shifts, window {window}, planes of {tuple(image.shape[-2:])}",
                           expected=f"one shift or more, 1 ≤ first ≤ last, planes of {2 * last + 2} pixels or more",
                           remedy="correct the window")
    part_x = share_along_x(image)
    made = []
    for plane in image.reshape(-1, *image.shape[-2:]):
        spectrum = torch.fft.fft2(plane)
        along_x = _along(torch.fft.ifft2(spectrum * part_x), shifts, first, last)
        along_y = _along(torch.fft.ifft2(spectrum * (1 - part_x)).mT, shifts, first, last).mT
        made.append(along_x + along_y)
    whole = torch.stack(made).reshape(image.shape)
    return whole if image.is_complex() else whole.real


def share_along_x(image: Num[Tensor, "*lead y x"]) -> Num[Tensor, "y x"]:
    """``G_x``: 1 along the k_x axis, where the edges are that ring along x; 0 along k_y; uncentred."""
    cos_y, cos_x = (1 + torch.cos(2 * math.pi * torch.fft.fftfreq(n, dtype=image.real.dtype, device=image.device))
                    for n in image.shape[-2:])
    total = cos_y[:, None] + cos_x
    corner = total < 1e-6  # both at the highest frequency
    return torch.where(corner, torch.full_like(total, 0.5), cos_y[:, None] / total.clamp(min=1e-6))


def _along(line: Tensor, shifts: int, first: int, last: int) -> Tensor:
    """The correction along the last axis of complex images."""
    size, dtype, device = line.shape[-1], line.real.dtype, line.device
    k = torch.fft.fftfreq(size, d=1 / size, dtype=dtype, device=device)
    k = torch.where(k == -size / 2, torch.zeros_like(k), k)
    steps = torch.arange(-shifts, shifts + 1, dtype=dtype, device=device) / (2 * shifts)
    phase = torch.exp(2j * math.pi * steps[:, None] * k / size)
    moved = torch.fft.ifft(torch.fft.fft(line)[..., None, :] * phase)  # value at n + s
    with torch.no_grad():
        jump = torch.view_as_real(moved - moved.roll(1, -1)).abs().sum(dim=-1)  # between n - 1 and n
        left = torch.stack([jump.roll(j, -1) for j in range(first, last + 1)]).sum(dim=0)
        right = torch.stack([jump.roll(-j - 1, -1) for j in range(first, last + 1)]).sum(dim=0)
        score = torch.minimum(left, right)
        order = torch.argsort(steps.abs(), stable=True)  # of equal ones the smallest shift
        best = order[score[..., order, :].argmin(dim=-2)]
    value, before, after = (m.gather(-2, best[..., None, :])[..., 0, :]
                            for m in (moved, moved.roll(1, -1), moved.roll(-1, -1)))
    s = steps[best]
    return torch.where(s > 0, value * (1 - s) + before * s, value * (1 + s) - after * s)
