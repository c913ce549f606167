"""DescribeImage: a few numbers that tell images of one scanner, protocol or quality from those of another."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.records import Features, Image
from firstread.core.stage import Stage

NAMES = ("log_noise", "low_intensity", "middle_intensity", "high_intensity", "edges", "motion", "log_pixel_mm",
         "log_slice_mm")


def image_features(magnitude: Float[Tensor, "time z y x"], spacing_mm: Float[Tensor, " 3"]) -> Float[Tensor, " 8"]:
    """The numbers of ``NAMES`` for one stack or cine, none of which changes with the image's scale.

        log_noise = log10 median |a - b - c + d| / (2 · 0.6745 P99)   over blocks of 2 × 2 pixels (Donoho 1995)

    low, middle, high intensity: the 25th, 50th and 75th percentile over P99, the 99th; edges: mean in-plane difference
    of neighbours over P99; motion: mean standard deviation over time over P99 (0 for a single frame); log_pixel_mm,
    log_slice_mm: log10 of the spacing in and through the plane. spacing_mm: (z, y, x), NaN where unknown.

    >>> found = image_features(torch.rand(2, 1, 16, 16), torch.tensor([8.0, 1.0, 1.0]))
    >>> [round(x, 3) for x in found[-2:].tolist()]
    [0.0, 0.903]
    """
    data = magnitude.double()
    few = data.flatten()[:: max(1, data.numel() // 1_000_000)]  # quantiles of a million voxels are enough
    low, middle, high, top = torch.quantile(few, torch.tensor([0.25, 0.5, 0.75, 0.99], dtype=torch.float64,
                                                              device=data.device))
    top = top.clamp_min(torch.finfo(torch.float64).tiny)
    y, x = (size // 2 * 2 for size in data.shape[-2:])
    even = data[..., :y, :x]
    detail = (even[..., ::2, ::2] - even[..., ::2, 1::2] - even[..., 1::2, ::2] + even[..., 1::2, 1::2]) / 2
    noise = detail.abs().median() / 0.6745 / top if detail.numel() else top.new_tensor(torch.nan)
    edges = (data.diff(dim=-1).abs().mean() + data.diff(dim=-2).abs().mean()) / 2 / top
    motion = data.std(dim=0).mean() / top if len(data) > 1 else top.new_zeros(())
    through, down, across = spacing_mm.double().to(data.device)
    return torch.stack((noise.clamp_min(1e-6).log10(), low / top, middle / top, high / top, edges, motion,
                        (down * across).sqrt().log10(), through.log10()))


class DescribeImage(Stage):
    """Features of an image that need no truth: noise, intensities, edges, motion, spacing; one row per subject.

    For the shift guard, for weighted intervals, for tables by noise. Complex images are taken by magnitude; rows of one
    subject (slices, draws) are averaged. The numbers: :func:`image_features`. No gradient.
    """

    result: ClassVar[str] = "features"
    differentiable = False

    def forward(self, image: Image) -> Features:
        spacing = image.grid.spacing_mm if image.grid.has_mm else torch.full_like(image.grid.spacing_mm, torch.nan)
        magnitude = image.data.detach().abs()
        magnitude = (magnitude if magnitude.is_floating_point() else magnitude.float()).mean(dim=2)
        table = torch.stack([image_features(row, mm) for row, mm in zip(magnitude, spacing, strict=True)])
        subjects, owner = torch.unique(image.rows.subject, return_inverse=True)
        mean = torch.stack([table[owner == number].mean(dim=0) for number in range(len(subjects))])
        first = torch.stack([(owner == number).nonzero()[0, 0] for number in range(len(subjects))])
        rows = image.rows.select(first)
        zero = torch.zeros_like(rows.draw)
        return Features(type(rows)(rows.subject, zero, zero.clone()), mean, NAMES)
