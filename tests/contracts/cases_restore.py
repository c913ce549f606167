"""One small case for each stage of the room ``restore``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from samples import Contract, blob

from firstread.core.geometry import Grid
from firstread.core.records import HardLabels, Image, Rows


def thick_stack() -> Image:
    """Six slices of 8 mm of a tilted edge, in two frames."""
    grid = Grid.from_spacing((6, 12, 12), (10.0, 2.0, 2.0))
    grid = replace(grid, thickness_mm=torch.full((1,), 8.0, dtype=torch.float64))
    x, y, z = grid.points_mm().unbind(-1)
    edge = torch.stack([torch.sigmoid((x + 0.2 * z + shift) / 2) for shift in (0.0, 2.0)], dim=1)
    return Image(Rows.subjects(1), (0.2 + edge + 0.01 * y[:, None])[:, :, None].float(), grid)


def upsample() -> Contract:
    from firstread.restore.superres import Upsample

    return Contract(Upsample(factor=2), {"image": thick_stack()}, "image")


def model_super_resolution() -> Contract:
    from firstread.restore.superres import ModelSuperResolution

    return Contract(ModelSuperResolution(factor=2), {"image": thick_stack()}, "image")


def learned_super_resolution() -> Contract:
    from firstread.nets.superres import SuperResolution
    from firstread.restore.superres import LearnedSuperResolution

    torch.manual_seed(0)
    network = SuperResolution(factor=2, width=4, depth=2, blocks=1).eval()
    return Contract(LearnedSuperResolution(network=network), {"image": thick_stack()}, "image")


def slice_to_volume() -> Contract:
    from firstread.acquire.head import head_phantom
    from firstread.acquire.head_stacks import MILD, Protocol, acquire_stacks, mask_on
    from firstread.restore.slices import SliceToVolume
    from firstread.restore.slices_input import join_stacks

    head, brain = head_phantom(seed=0, spacing_mm=4.0)
    protocol = Protocol(stacks=2, thickness_mm=8.0, gap_mm=0.0, pixel_mm=6.0, drop_outs=0.0, outliers=0.0)
    made = acquire_stacks(head, 4.0, motion=MILD, protocol=protocol)
    grid = made.images[0].grid
    inside = mask_on(brain, 4.0, grid, made.poses[:1])[None, None, None].to(torch.uint8)
    mask = HardLabels(Rows.subjects(1), inside, grid, ("background", "brain"))
    return Contract(SliceToVolume(resolution_mm=6.0, iterations=1),
                    {"stacks": join_stacks(made.images), "mask": mask}, "stacks")


def denoise_tv() -> Contract:
    from firstread.restore.denoise import DenoiseTV

    return Contract(DenoiseTV(iterations=4), {"image": blob()}, "image")


def denoise_pca() -> Contract:
    from firstread.restore.denoise import DenoisePCA

    return Contract(DenoisePCA(), {"image": blob(frames=4)})


def correct_rician() -> Contract:
    from firstread.restore.denoise import CorrectRician

    magnitude = replace(blob(), data=blob().data.abs())
    stage = CorrectRician(noise=0.1).using(reads={"image": "image", "denoised": "denoised"})
    return Contract(stage, {"image": magnitude, "denoised": magnitude}, "denoised")


def noise2self() -> Contract:
    from firstread.restore.noise2self import Noise2Self

    return Contract(Noise2Self(steps=2, width=4, depth=2), {"image": blob(frames=2)})


def denoise() -> Contract:
    from firstread.nets.denoise import ScaledDenoiser
    from firstread.restore.denoise import Denoise

    torch.manual_seed(0)
    network = ScaledDenoiser(width=4, depth=2)
    torch.nn.init.normal_(network.layers[-1].weight)
    return Contract(Denoise(network=network.eval()), {"image": blob()}, "image")


def remove_ringing() -> Contract:
    from firstread.restore.gibbs import RemoveRinging

    return Contract(RemoveRinging(shifts=3), {"image": blob()}, "image")


def correct_bias() -> Contract:
    from firstread.restore.bias import CorrectBias

    return Contract(CorrectBias(levels=2, iterations=3), {"image": blob()}, "image")


CASES: dict[str, Callable[[], Contract]] = {
    "DenoiseTV": denoise_tv,
    "DenoisePCA": denoise_pca,
    "CorrectRician": correct_rician,
    "Noise2Self": noise2self,
    "Denoise": denoise,
    "RemoveRinging": remove_ringing,
    "CorrectBias": correct_bias,
    "Upsample": upsample,
    "ModelSuperResolution": model_super_resolution,
    "LearnedSuperResolution": learned_super_resolution,
    "SliceToVolume": slice_to_volume,
}
