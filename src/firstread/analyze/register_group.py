"""Several subjects brought to the middle of them all: a template of no one in particular."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.analyze.register_deformable import Effort, displacement, find_velocity
from firstread.core.errors import SettingError, SignalError
from firstread.core.records import Image
from firstread.core.stage import Stage
from firstread.ops.intensity import scale_percentiles
from firstread.ops.velocity import sample_at

ROUGH = Effort(shrink=(4, 2), iterations=(30, 20), discrete=False)


class ToTemplate(Stage):
    """Every row's image as it lies in the template of all rows; ``.data.mean(0)`` is that template.

    rounds: how often the template is made anew; effort: of each registration, which goes on from the round before.

    The template begins as the mean image. In each round every image is registered to it, and the mean of the velocities
    is taken off all of them, so that the template keeps the middle of the shapes (Joshi et al. 2004; Hernandez et al.
    2009 for stationary velocities). Images lie on one grid, aligned before (:class:`Register`). No gradient passes.
    Raises SettingError for several frames, channels or grids, SignalError for NaN.
    """

    result = "in_template"
    differentiable = False

    def __init__(self, *, rounds: int = 3, effort: Effort = ROUGH,
                 progress: Callable[[str], None] = lambda text: None) -> None:
        super().__init__()
        if rounds < 1:
            raise SettingError(f"{rounds} rounds", expected="one or more", remedy="correct the number")
        self.rounds, self.effort, self._progress = rounds, effort, progress

    @torch.no_grad()
    def forward(self, image: Image) -> Image:
        if image.data.shape[1:3] != (1, 1):
            raise SettingError(f"images of {image.data.shape[1]} frames and {image.data.shape[2]} channels",
                               expected="one of each", remedy="give one frame alone")
        if (image.grid.affine - image.grid.affine[:1]).abs().max() > 1e-3:
            raise SettingError("images on different grids", expected="one grid for all",
                               remedy="register them to one of them first, and warp them onto its grid")
        data = (image.data.abs() if image.data.is_complex() else image.data).float()[:, 0, 0]
        if not torch.isfinite(data).all():
            raise SignalError("images with values that are no numbers", expected="finite values", remedy="repair them")
        spacing = image.grid.spacing_mm[0].tolist()
        unit = scale_percentiles(data, low=0.001, high=0.999, most=1 << 18).clamp(-0.1, 1.1)
        velocity = self.velocities(unit, (spacing[0], spacing[1], spacing[2]))
        field = displacement(velocity, image.grid.shape)
        return replace(image, data=sample_at(data[:, None], field)[:, None])

    def velocities(self, images: Float[Tensor, "row z y x"], spacing_mm: tuple[float, float, float]
                   ) -> Float[Tensor, "row 3 hz hy hx"]:
        """From the template to every image, their mean zero."""
        size = (images.shape[1], images.shape[2], images.shape[3])
        velocity: Tensor | None = None
        seen = images
        for number in range(self.rounds):
            self._progress(f"template, round {number + 1} of {self.rounds}")
            template = seen.mean(dim=0, keepdim=True)
            found = [find_velocity(template, one[None], spacing_mm=spacing_mm, effort=self.effort,
                                   start=None if velocity is None else velocity[row:row + 1])
                     for row, one in enumerate(images)]
            velocity = torch.cat(found)
            velocity = velocity - velocity.mean(dim=0, keepdim=True)
            seen = sample_at(images[:, None], displacement(velocity, size))[:, 0]
        assert velocity is not None
        return velocity
