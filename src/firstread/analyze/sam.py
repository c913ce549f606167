"""Segment Anything and MedSAM as methods of promptable segmentation: how they see an image, what they are told."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from firstread.analyze.prompting import PlanePrompt, Promptable, box_of, deepest
from firstread.nets.sam import Sam

MEAN, DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of the pictures that SAM was trained on, 0 … 255
WIDER = 0.05  # of the box of a carried mask, on each side
Preparation = Literal["sam", "medsam"]


class PromptedSam(Promptable):
    """SAM, or what was trained on from it, in each plane.

    prepared: ``sam``: intensities without the outermost half percent to 0 … 255, the longer side to the network's size,
    the rest zeros, the mean and deviation of its pictures; clicks and boxes. ``medsam``: intensities likewise to 0 … 1,
    both sides to the network's size; boxes alone. Colour (three channels, 0 … 255) is taken as it is by ``sam``.

    A mask carried on from the plane before prompts by its box, 5 % wider, and for ``sam`` by its deepest pixel. For one
    click alone the mask of the highest predicted overlap among three is taken. Differentiable in the image.
    Sources: Kirillov et al. 2023; Ma et al. 2024 (MedSAM).
    """

    channels = (1, 3)

    def __init__(self, *, network: Sam, prepared: Preparation = "sam") -> None:
        super().__init__()
        self.network, self.prepared = network, prepared
        self.points = prepared == "sam"

    def forward(self, image: Float[Tensor, "channel y x"], prompt: PlanePrompt) -> Float[Tensor, "y x"]:
        size, (height, width) = self.network.shape.size, image.shape[1:]
        longer = max(height, width)
        seen = (size, size) if self.prepared == "medsam" else \
            (int(height * size / longer + 0.5), int(width * size / longer + 0.5))
        scale = torch.tensor([seen[1] / width, seen[0] / height], device=image.device)
        points, positive, box = self._told(prompt)
        logits, overlap = self.network.masks(
            self.network.embed(self._picture(image, seen)), points=points.flip(-1).to(image.device) * scale,
            positive=positive.to(image.device),
            box=None if box is None else box[[1, 0, 3, 2]].to(image.device) * scale.repeat(2))
        alone = len(points) == 1 and box is None
        chosen = logits[1 + int(overlap[1:].argmax())] if alone else logits[0]
        whole = F.interpolate(chosen[None, None], (size, size), mode="bilinear", align_corners=False)
        whole = F.interpolate(whole[..., :seen[0], :seen[1]], (height, width), mode="bilinear", align_corners=False)
        return whole[0, 0].sigmoid()

    def _told(self, prompt: PlanePrompt) -> tuple[Tensor, Tensor, Tensor | None]:
        """Points, signs and box (y, x) of the user, or of the mask before."""
        points, positive, box = prompt.points, prompt.positive, prompt.box
        if prompt.before is not None and box is None:
            mask = prompt.before[1]
            found = box_of(mask)
            wider = WIDER * (found[2:] - found[:2] + 1)
            limit = torch.tensor(mask.shape, dtype=torch.float32) - 1
            box = torch.cat(((found[:2] - wider).clamp_min(0), torch.minimum(found[2:] + wider, limit)))
            if self.points and not bool(positive.any()):
                points = torch.cat((points, deepest(mask, prompt.spacing_mm)[None]))
                positive = torch.cat((positive, torch.ones(1, dtype=torch.bool)))
        return points, positive, box

    def _picture(self, image: Float[Tensor, "channel y x"], seen: tuple[int, int]) -> Float[Tensor, "1 3 size size"]:
        """The plane as the network knows pictures."""
        colour = len(image) == 3
        if not (colour and self.prepared == "sam"):
            thin = image.detach().flatten()[:: max(1, image.numel() // 2**22)]
            low, high = (float(torch.quantile(thin, q)) for q in (0.005, 0.995))
            image = ((image - low) / (high - low if high > low else 1.0)).clamp(0, 1)
            image = image if self.prepared == "medsam" else 255 * image
        mode = "bicubic" if self.prepared == "medsam" else "bilinear"
        picture = F.interpolate(image.expand(3, -1, -1)[None], seen, mode=mode, align_corners=False, antialias=True)
        if self.prepared == "medsam":
            return picture.clamp(0, 1)
        mean, deviation = (torch.tensor(v, dtype=picture.dtype, device=picture.device)[:, None, None]
                           for v in (MEAN, DEVIATION))
        size = self.network.shape.size
        return F.pad((picture - mean) / deviation, (0, size - seen[1], 0, size - seen[0]))
