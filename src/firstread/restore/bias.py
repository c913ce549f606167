"""Bias field correction, as a stage."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.errors import GeometryError, SettingError
from firstread.core.records import Image, Labels
from firstread.core.stage import Stage
from firstread.ops.bias import bias_field, otsu
from firstread.restore.denoise import check_finite


class CorrectBias(Stage):
    """An image divided by its slow shading (N4; :func:`~firstread.ops.bias.bias_field`), one field for all frames.

    The field is found on the mean magnitude of the frames inside ``mask`` (any class but the first of Labels), or where
    it is above Otsu's threshold. Reads an Image and, where there are some, Labels; writes the Image "unshaded".
    Differentiable; the field is taken as constant.
    """

    result = "unshaded"

    def __init__(self, *, levels: int = 4, iterations: int = 50, tolerance: float | int = 1e-3, points: int = 64):
        super().__init__()
        if min(levels, iterations) < 1 or tolerance < 0 or points < 8:
            raise SettingError(f"{levels} levels, {iterations} iterations, tolerance {tolerance}, {points} points",
                               expected="one or more, tolerance ≥ 0, 8 points or more", remedy="correct the setting")
        self.levels, self.iterations, self.tolerance, self.points = levels, iterations, tolerance, points

    def forward(self, image: Image, mask: Labels | None = None) -> Image:
        return replace(image, data=image.data / self.field(image, mask)[:, None, None])

    @torch.no_grad()
    def field(self, image: Image, mask: Labels | None = None) -> Float[Tensor, "batch z y x"]:
        """The field by which ``forward`` divides."""
        check_finite(image)
        if mask is not None and not mask.grid.same_as(image.grid):
            raise GeometryError(f"a mask of {mask.grid.shape} for an image of {image.grid.shape}", expected="the same "
                                "grid", remedy="draw the mask on this image")
        made = []
        for row, data in enumerate(image.data.detach().abs().mean(dim=(1, 2))):
            inside = data > otsu(data.flatten()) if mask is None else _inside(mask, row)
            made.append(bias_field(data, inside, levels=self.levels, iterations=self.iterations,
                                   tolerance=self.tolerance, points=self.points))
        return torch.stack(made)


def _inside(mask: Labels, row: int) -> Tensor:
    data = mask.data[row].detach()
    return data.argmax(dim=1).amax(dim=0) > 0 if data.is_floating_point() else data.amax(dim=(0, 1)) > 0
