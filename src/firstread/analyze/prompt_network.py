"""Promptable segmentation by a small network that was trained on simulated scenes and simulated users."""

from __future__ import annotations

from math import inf

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from firstread.analyze.prompt_channels import Window, about_mask, decode, encode, prompt_window
from firstread.analyze.prompting import PlanePrompt, Promptable
from firstread.analyze.random_walk import connected
from firstread.core.errors import SettingError
from firstread.ops.regions import largest_component

NEARER = 0.8  # of a window's side: below it a second look is worth it


class PromptedNetwork(Promptable):
    """A network on the window about what was pointed at (:mod:`firstread.analyze.prompt_channels`).

    network: ``[batch, channel, y, x]`` to two logits, background and object. reach_mm: how far from clicks alone the
    object may reach. Of clicks alone the size of the object is not known: the network looks once as far as the reach,
    and again about what it found. Where all it sees is one value there is nothing. Only what is connected with a click
    or the mask before is kept, in a box the largest piece. Differentiable with respect to the image, the window and
    what is kept being constants.

    After ScribblePrompt (Wong 2024); raises SettingError for a reach of zero or without end.
    """

    def __init__(self, *, network: nn.Module, reach_mm: float = 50.0) -> None:
        super().__init__()
        if not 0 < reach_mm < inf:
            raise SettingError(f"a reach of {reach_mm} mm", expected="a finite one above zero", remedy="correct it")
        self.network, self.reach_mm = network, reach_mm

    def forward(self, image: Float[Tensor, "channel y x"], prompt: PlanePrompt) -> Float[Tensor, "y x"]:
        height, width = image.shape[1:]
        plane = max(height * prompt.spacing_mm[0], width * prompt.spacing_mm[1])
        window = prompt_window(prompt, min(self.reach_mm, plane))  # farther there is nothing, and memory ends
        top, left, bottom, right = window
        seen = image[0, max(top, 0):max(bottom, 1), max(left, 0):max(right, 1)].detach()
        if not bool(seen.amax() > seen.amin()):
            return image[0] * 0.0
        p = self._seen(image[0], prompt, window)
        if prompt.box is None and prompt.before is None:
            mask = _kept(p.detach() > 0.5, prompt)
            if bool(mask.any()):
                clicks = prompt.points[prompt.positive][:, None].expand(-1, 2, -1)
                nearer = about_mask(mask, clicks, prompt.spacing_mm)
                if nearer[2] - nearer[0] < NEARER * (window[2] - window[0]):
                    p = self._seen(image[0], prompt, nearer)
        mask = p.detach() > 0.5
        return p * (~mask | _kept(mask, prompt))

    def _seen(self, image: Float[Tensor, "y x"], prompt: PlanePrompt, window: Window) -> Float[Tensor, "y x"]:
        kind = next((p.dtype for p in self.network.parameters()), image.dtype)
        logits = self.network(encode(image, prompt, window)[None].to(kind))[0].to(image.dtype)
        return decode(logits[1] - logits[0], window, (image.shape[0], image.shape[1]))


def _kept(mask: Bool[Tensor, "y x"], prompt: PlanePrompt) -> Bool[Tensor, "y x"]:
    """The pieces that were pointed at; of a box the largest."""
    if prompt.box is not None:
        return largest_component(mask, axes=2)
    seeds = torch.zeros_like(mask) if prompt.before is None else prompt.before[1].to(mask.device).clone()
    for y, x in prompt.points[prompt.positive].round().long().tolist():
        seeds[max(y - 1, 0):y + 2, max(x - 1, 0):x + 2] = True
    return connected(mask, seeds)
