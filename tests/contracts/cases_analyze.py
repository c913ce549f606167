"""One small case for each stage of the room ``analyze``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from samples import NAMES, Contract, blob, kspace, network, soft_heart

from firstread.core.geometry import Grid
from firstread.core.records import Findings, HardLabels, Image, Rows


def register() -> Contract:
    from firstread.analyze.register import Register
    from firstread.analyze.register_deformable import Effort

    def ball(shift: float) -> Image:
        grid = Grid.from_spacing((8, 10, 12), (2.0, 2.0, 2.0))
        x, y, z = grid.points_mm().unbind(-1)
        distance = ((x - shift) ** 2 + y**2 / 1.5 + z**2).sqrt()
        data = torch.sigmoid(5 - distance) + 0.2 * torch.sigmoid((x + 0.5 * y) / 3)
        return Image(Rows.subjects(1), data[:, None, None].float(), grid)

    stage = Register(first="rigid", effort=Effort(shrink=(1,), iterations=(4,)))
    return Contract(stage, {"fixed": ball(0.0), "moving": ball(1.5)})


def track_motion() -> Contract:
    from firstread.analyze.register_deformable import Effort
    from firstread.analyze.register_motion import TrackMotion

    effort = Effort(shrink=(2, 1), iterations=(4, 4), discrete=False)
    image = replace(blob(frames=3), data=blob(frames=3).data.abs())
    return Contract(TrackMotion(effort=effort), {"image": image})


def to_template() -> Contract:
    from firstread.analyze.register_deformable import Effort
    from firstread.analyze.register_group import ToTemplate

    image = replace(blob(frames=1), data=blob(frames=1).data.abs(), times_s=None)
    effort = Effort(shrink=(2, 1), iterations=(4, 4), discrete=False)
    return Contract(ToTemplate(rounds=1, effort=effort), {"image": image}, batches=False)


def learned_register() -> Contract:
    from firstread.analyze.register_learned import LearnedRegister
    from firstread.nets.velocity import VelocityNet

    torch.manual_seed(0)
    network = VelocityNet(widths=(4, 4), dims=2, spacing_mm=2.0).eval()
    torch.nn.init.normal_(network.unet.logits.weight, std=0.02)
    grid = Grid.from_spacing((4, 8, 10), (6.0, 2.0, 2.0))
    x, y, z = grid.points_mm().unbind(-1)
    fixed, moving = (Image(Rows.subjects(1), torch.sigmoid(6 - ((x - shift)**2 + y**2 + z**2).sqrt())[:, None, None]
                           .float(), grid) for shift in (0.0, 2.0))
    return Contract(LearnedRegister(network=network), {"fixed": fixed, "moving": moving}, "moving")


def segment() -> Contract:
    from firstread.analyze.segment import Segment

    return Contract(Segment(networks=[network()], patch=32, search=32), {"image": blob(frames=2)}, "image")


def segment_by_plan() -> Contract:
    from firstread.analyze.trained import SegmentByPlan
    from firstread.nets.build import build_network
    from firstread.nets.plan import ClassPlan, NetworkPlan, Plan

    torch.manual_seed(0)
    plan = Plan(classes=(ClassPlan("background", 0), ClassPlan("disc", 1)), mode="2.5d", spacing_mm=(None, 2.0, 2.0),
                patch=(16, 16), network=NetworkPlan(widths=(4, 8), strides=((2, 2), (2, 2)), blocks=(1, 1)))
    return Contract(SegmentByPlan(networks=[build_network(plan).eval()], plan=plan), {"image": blob(frames=2)}, "image")


def segment_from_kspace() -> Contract:
    from firstread.analyze.direct import SegmentFromKSpace
    from firstread.nets.cine import CineUNet

    torch.manual_seed(0)
    network = CineUNet(channels_in=4, channels_out=4, widths=(4, 8)).eval()
    stage = SegmentFromKSpace(networks=[network], distances=(1,), spacing_mm=1.8, field=(20, 16))
    return Contract(stage, {"kspace": kspace()}, "kspace")


def segment_cine() -> Contract:
    from firstread.analyze.direct import SegmentCine
    from firstread.nets.latent import LatentInterpolation, MaskAutoencoder

    torch.manual_seed(0)
    masks = MaskAutoencoder(classes=4, size=(20, 16), code=5, widths=(4, 8))
    network = LatentInterpolation(autoencoder=masks, channels_in=2, widths=(4, 8)).eval()
    return Contract(SegmentCine(networks=[network], spacing_mm=1.8, field=(20, 16)), {"image": blob()}, "image")


def consensus() -> Contract:
    from firstread.analyze.consensus import Consensus

    return Contract(Consensus(), {"labels": soft_heart()})


def bright_disc() -> Image:
    """A real disc in two frames."""
    return replace(blob(frames=2), data=blob(frames=2).data.abs())


def clicks() -> Findings:
    """One on the disc, one beside it."""
    return Findings(Rows.subjects(1), torch.tensor([[[0.0, 0.0, 0.0], [-15.0, -15.0, 0.0]]], dtype=torch.float64),
                    torch.ones(1, 2), ("disc", "background"))


def otsu() -> Contract:
    from firstread.analyze.classical import Otsu

    return Contract(Otsu(), {"image": bright_disc()})


def adaptive_threshold() -> Contract:
    from firstread.analyze.classical import AdaptiveThreshold

    return Contract(AdaptiveThreshold(window=11), {"image": bright_disc()})


def edges() -> Contract:
    from firstread.analyze.classical import Edges

    return Contract(Edges(), {"image": bright_disc()})


def tubeness() -> Contract:
    from firstread.analyze.vessels import Tubeness

    return Contract(Tubeness(method="lines", scales_px=(1.0,)), {"image": bright_disc()})


def texture() -> Contract:
    from firstread.analyze.texture import Texture

    disc = bright_disc()
    labels = HardLabels(disc.rows, (disc.data > 0.5).to(torch.uint8), disc.grid, ("background", "disc"))
    return Contract(Texture(levels=8), {"image": disc, "labels": labels})


def grow_region() -> Contract:
    from firstread.analyze.seeded import GrowRegion

    return Contract(GrowRegion(), {"image": bright_disc(), "points": clicks()})


def random_walk() -> Contract:
    from firstread.analyze.seeded import RandomWalk

    return Contract(RandomWalk(), {"image": bright_disc(), "points": clicks()})


def watershed() -> Contract:
    from firstread.analyze.seeded import Watershed

    return Contract(Watershed(), {"image": bright_disc(), "points": clicks()})


def harden() -> Contract:
    from firstread.analyze.consensus import Harden

    return Contract(Harden(), {"labels": soft_heart()})


def foreign_segment() -> Contract:
    from firstread.analyze.foreign import ForeignSegment
    from firstread.core.preparation import Intensity, Preparation

    plan = Preparation(channels=(Intensity(scheme="zscore"),), window=(16, 16), spacing_mm=(1.8, 1.8), mirror=(0,))
    torch.manual_seed(0)
    networks = [torch.nn.Conv2d(1, 4, 3, padding=1) for _ in range(2)]
    stage = ForeignSegment(networks=networks, names=NAMES, preparation=plan, members=True)
    return Contract(stage, {"image": blob()}, "image")


def map_classes() -> Contract:
    from firstread.analyze.classes import MapClasses

    return Contract(MapClasses(sources=((3,), (2,), (1,))), {"labels": soft_heart(slices=2)}, "labels")


def segment_prompted() -> Contract:
    from firstread.analyze.prompted import SegmentPrompted
    from firstread.analyze.random_walk import RandomWalker
    from firstread.core.prompts import Prompts

    prompts = Prompts.on_grid(blob().grid, points=[(12, 12, 0), (1, 1, 0)], positive=[True, False], frame=1)
    return Contract(SegmentPrompted(method=RandomWalker(reach_mm=20.0)), {"image": blob(), "prompts": prompts}, "image")


CASES: dict[str, Callable[[], Contract]] = {
    "Register": register,
    "LearnedRegister": learned_register,
    "TrackMotion": track_motion,
    "ToTemplate": to_template,
    "Segment": segment,
    "SegmentByPlan": segment_by_plan,
    "SegmentFromKSpace": segment_from_kspace,
    "SegmentCine": segment_cine,
    "ForeignSegment": foreign_segment,
    "SegmentPrompted": segment_prompted,
    "MapClasses": map_classes,
    "Consensus": consensus,
    "Harden": harden,
    "Otsu": otsu,
    "AdaptiveThreshold": adaptive_threshold,
    "Edges": edges,
    "Tubeness": tubeness,
    "Texture": texture,
    "GrowRegion": grow_region,
    "RandomWalk": random_walk,
    "Watershed": watershed,
}
