"""One small case per stage for the contract tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from firstread.core.emission import Emission
from firstread.core.geometry import Grid
from firstread.core.keys import Key
from firstread.core.records import (
    Features,
    Findings,
    HardLabels,
    Image,
    KSpace,
    Phenotype,
    Phenotypes,
    Record,
    Rows,
    SoftLabels,
)
from firstread.core.sinogram import FanBeam, ParallelBeam, Sinogram
from firstread.core.stage import Stage

if TYPE_CHECKING:
    from firstread.measure.pet_header import PetHeader
    from firstread.trust.scores import Scores

NAMES = ("background", "LV cavity", "LV myocardium", "RV cavity")


@dataclass(frozen=True)
class Contract:
    """stage and its records; gradient: the input that a gradient must reach; batches: takes several subjects."""

    stage: Stage
    records: dict[str, Record]
    gradient: str | None = None
    batches: bool = True


def blob(frames: int = 3, size: int = 24) -> Image:
    """A smooth complex disc that shrinks over time."""
    y, x = torch.meshgrid(torch.arange(size) - size / 2, torch.arange(size) - size / 2, indexing="ij")
    radius = torch.linspace(size / 3, size / 4, frames)[:, None, None]
    disc = torch.sigmoid(radius - (x**2 + y**2).sqrt())
    data = (0.1 + disc) * torch.exp(0.02j * x)
    grid = Grid.from_spacing((1, size, size), (8.0, 1.5, 1.5))
    times = torch.arange(frames, dtype=torch.float64)[None, :, None] * 0.05
    return Image(Rows.subjects(1), data[None, :, None, None].to(torch.complex64), grid, times)


def kspace(frames: int = 3) -> KSpace:
    from firstread.acquire.coils import GaussianCoils
    from firstread.acquire.mri import Encode
    from firstread.acquire.sampling import VariableDensity

    sampling = VariableDensity(acceleration=2, centre_lines=6)
    return Encode(sampling=sampling, coils=GaussianCoils(count=3), snr=50.0)(blob(frames), Key(1, "encode"))


def soft_heart(slices: int = 7, size: int = 48) -> SoftLabels:
    """Rings of muscle around a cavity that contracts, an RV beside it; soft edges."""
    y, x = torch.meshgrid(torch.arange(size) - 26.0, torch.arange(size) - 22.0, indexing="ij")
    r = (x**2 + y**2).sqrt()
    frames = []
    for inner in (9.0, 7.0, 6.0, 8.0):
        cavity, outer = torch.sigmoid(2 * (inner - r)), torch.sigmoid(2 * (14.0 - r))
        right = torch.sigmoid(2 * (10.0 - ((x - 16) ** 2 + y**2).sqrt())) * (1 - outer)
        classes = torch.stack(((1 - outer) * (1 - right), cavity, outer - cavity * outer, right))
        frames.append(classes / classes.sum(dim=0))
    data = torch.stack(frames)[:, :, None].expand(-1, -1, slices, -1, -1)[None].clone()
    grid = Grid.from_spacing((slices, size, size), (10.0, 1.8, 1.8))
    times = torch.arange(4, dtype=torch.float64)[None, :, None] * 0.2
    return SoftLabels(Rows.subjects(1), data, grid, NAMES, times, torch.full((1, 1), 0.8, dtype=torch.float64))


def network() -> torch.nn.Module:
    """An untrained segmentation network; what it says is not the question here."""
    from firstread.nets.unet import UNet

    torch.manual_seed(0)
    return UNet(channels_in=3, channels_out=4, widths=(4, 8)).eval()


def numbers(*values: float) -> Phenotypes:
    """Ejection fractions of one subject, a row each."""
    found = Phenotype(torch.tensor(values, dtype=torch.float64), "%")
    rows = Rows(torch.zeros(len(values), dtype=torch.int64), torch.zeros(len(values), dtype=torch.int64),
                torch.arange(len(values)))
    return Phenotypes(rows, {"LVEF": found})


def described(*values: float) -> Features:
    """The SNR of one subject."""
    return Features(Rows.subjects(1), torch.tensor([values], dtype=torch.float64), ("SNR",))


def scores() -> Scores:
    """Errors of 80 calibration cases at SNR 0 to 40."""
    from firstread.trust.scores import Scores

    errors = torch.randn(80, generator=torch.Generator().manual_seed(0)).double()
    snr = torch.linspace(0, 40, 80).double()
    return Scores({"LVEF": errors}, {"LVEF": 50 + errors}, {"LVEF": 1.5}, {"LVEF": "%"}, 3, "numbers", {"SNR": snr})


def encode() -> Contract:
    from firstread.acquire.mri import Encode
    from firstread.acquire.sampling import VariableDensity

    return Contract(Encode(sampling=VariableDensity(acceleration=2, centre_lines=4)), {"image": blob()}, "image")


def repeat_noise() -> Contract:
    from firstread.acquire.repeat import RepeatNoise

    return Contract(RepeatNoise(), {"kspace": kspace()}, "kspace")


def encode_trajectory() -> Contract:
    from firstread.acquire.mri_trajectory import EncodeTrajectory
    from firstread.acquire.trajectories import Radial

    return Contract(EncodeTrajectory(trajectory=Radial(shots=7)), {"image": blob()}, "image")


def gridding() -> Contract:
    from firstread.acquire.coils import GaussianCoils
    from firstread.acquire.mri_trajectory import EncodeTrajectory
    from firstread.acquire.trajectories import Radial
    from firstread.reconstruct.noncartesian import Gridding

    stage = EncodeTrajectory(trajectory=Radial(shots=9), coils=GaussianCoils(count=3), snr=50.0)
    return Contract(Gridding(), {"kspace": stage(blob(), Key(1, "encode"))}, "kspace")


def zero_filled() -> Contract:
    from firstread.reconstruct.direct import ZeroFilled

    return Contract(ZeroFilled(), {"kspace": kspace()}, "kspace")


def cg_sense() -> Contract:
    from firstread.reconstruct.iterative import CGSense

    return Contract(CGSense(iterations=4), {"kspace": kspace()}, "kspace")


def temporal_tv() -> Contract:
    from firstread.reconstruct.iterative import TemporalTV

    return Contract(TemporalTV(iterations=4), {"kspace": kspace()}, "kspace")


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
    network = VelocityNet(widths=(4, 4)).eval()
    torch.nn.init.normal_(network.unet.logits.weight, std=0.02)
    grid = Grid.from_spacing((8, 8, 10), (2.0, 2.0, 2.0))
    x, y, z = grid.points_mm().unbind(-1)
    fixed, moving = (Image(Rows.subjects(1), torch.sigmoid(6 - ((x - shift)**2 + y**2 + z**2).sqrt())[:, None, None]
                           .float(), grid) for shift in (0.0, 2.0))
    return Contract(LearnedRegister(network=network), {"fixed": fixed, "moving": moving}, "moving")


def spatial_tv() -> Contract:
    from firstread.reconstruct.iterative import SpatialTV

    return Contract(SpatialTV(iterations=4), {"kspace": kspace()}, "kspace")


def wavelet() -> Contract:
    from firstread.reconstruct.sparse import Wavelet

    return Contract(Wavelet(iterations=4), {"kspace": kspace()}, "kspace")


def locally_low_rank() -> Contract:
    from firstread.reconstruct.sparse import LocallyLowRank

    return Contract(LocallyLowRank(iterations=4, block=5), {"kspace": kspace()}, "kspace")


def low_rank_plus_sparse() -> Contract:
    from firstread.reconstruct.sparse import LowRankPlusSparse

    return Contract(LowRankPlusSparse(iterations=4), {"kspace": kspace()}, "kspace")


def espirit() -> Contract:
    from firstread.reconstruct.espirit import Espirit

    return Contract(Espirit(sets=2, kernel=3), {"kspace": kspace()}, "kspace")


def grappa() -> Contract:
    from firstread.reconstruct.grappa import Grappa

    return Contract(Grappa(lines=2, readout=3), {"kspace": kspace()}, "kspace")


def combine_coils() -> Contract:
    from firstread.reconstruct.direct import CombineCoils

    return Contract(CombineCoils(), {"kspace": kspace()}, "kspace")


def compress_coils() -> Contract:
    from firstread.reconstruct.coil_compression import CompressCoils

    return Contract(CompressCoils(count=2), {"kspace": kspace()}, "kspace")


def partial_kspace() -> KSpace:
    """The first two thirds of the lines."""
    full = kspace()
    mask = torch.zeros(1, 1, 1, 1, full.data.shape[-2], 1)
    mask[..., : 2 * full.data.shape[-2] // 3, :] = 1
    return replace(full, data=(full.data + 0.1) * mask, mask=mask)


def homodyne() -> Contract:
    from firstread.reconstruct.partial_fourier import Homodyne

    return Contract(Homodyne(), {"kspace": partial_kspace()}, "kspace")


def pocs() -> Contract:
    from firstread.reconstruct.partial_fourier import POCS

    return Contract(POCS(iterations=3), {"kspace": partial_kspace()}, "kspace")


def cascade() -> Contract:
    from firstread.nets.cascade import DeepCascade
    from firstread.reconstruct.cascade import Cascade

    torch.manual_seed(0)
    network = DeepCascade(cascades=2, depth=2, width=4, consistency=0.1, steps=3).eval()
    return Contract(Cascade(network=network), {"kspace": kspace()}, "kspace")


def adapted_cascade() -> Contract:
    from firstread.nets.cascade import DeepCascade
    from firstread.reconstruct.adapt import AdaptedCascade

    torch.manual_seed(0)
    network = DeepCascade(cascades=1, depth=2, width=4, consistency=0.1, steps=3).eval()
    stage = AdaptedCascade(network=network, steps=4, check_every=2, held=0.25, learning_rate=1e-2)
    return Contract(stage, {"kspace": kspace(frames=8)}, "kspace")


def denoiser() -> torch.nn.Module:
    """An untrained denoiser whose last layer is not zero."""
    from firstread.nets.score import CineDenoiser

    torch.manual_seed(0)
    net = CineDenoiser(widths=(4, 4))
    torch.nn.init.normal_(net.tail.weight, std=0.02)
    return net.eval()


def plug_and_play() -> Contract:
    from firstread.reconstruct.plug_and_play import PlugAndPlay

    return Contract(PlugAndPlay(network=denoiser(), levels=2, iterations=2, steps=3), {"kspace": kspace()}, "kspace")


def posterior() -> Contract:
    from firstread.reconstruct.iterative import TemporalTV
    from firstread.reconstruct.posterior import Posterior

    stage = Posterior(network=denoiser(), start=TemporalTV(iterations=3), levels=2, steps=3)
    return Contract(stage, {"kspace": kspace()}, "kspace")


def varnet() -> Contract:
    from firstread.nets.varnet import VariationalNetwork
    from firstread.reconstruct.varnet import VarNet

    torch.manual_seed(0)
    network = VariationalNetwork(cascades=2, widths=(4, 4), map_widths=(4, 4)).eval()
    return Contract(VarNet(network=network), {"kspace": kspace()}, "kspace")


def recurrent() -> Contract:
    from firstread.nets.crnn import RecurrentNetwork
    from firstread.reconstruct.recurrent import Recurrent

    torch.manual_seed(0)
    network = RecurrentNetwork(iterations=2, depth=3, width=4, consistency=0.1, steps=3).eval()
    return Contract(Recurrent(network=network), {"kspace": kspace()}, "kspace")


def modl() -> Contract:
    from firstread.nets.modl import ModelBased
    from firstread.reconstruct.modl import MoDL

    torch.manual_seed(0)
    network = ModelBased(iterations=2, depth=2, width=4, consistency=0.3, steps=20).eval()
    return Contract(MoDL(network=network), {"kspace": kspace()}, "kspace")


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


def cardiac_function() -> Contract:
    from firstread.measure.cardiac import CardiacFunction

    return Contract(CardiacFunction(softness=0.1), {"labels": soft_heart()}, "labels")


def conformal_intervals() -> Contract:
    from firstread.trust.intervals import Calibration, ConformalIntervals, Quantity

    calibration = Calibration(0.9, 3, "three numbers", {"LVEF": Quantity(-2.0, 2.0, 1.5, 99, "%")})
    return Contract(ConformalIntervals(calibration=calibration),
                    {"point": numbers(60.0), "members": numbers(58.0, 60.0, 63.0)})


def plain_intervals() -> Contract:
    from firstread.trust.intervals import Calibration, PlainIntervals, Quantity

    calibration = Calibration(0.9, 0, "numbers", {"LVEF": Quantity(-2.0, 2.0, 1.5, 99, "%")})
    return Contract(PlainIntervals(calibration=calibration), {"point": numbers(60.0)})


def group_intervals() -> Contract:
    from firstread.trust.mondrian import GroupIntervals, Groups, group_calibration

    calibration = group_calibration(scores(), Groups("SNR", (20.0,), ("low", "high")), level=0.9)
    return Contract(GroupIntervals(calibration=calibration), {"point": numbers(60.0), "features": described(12.0),
                                                              "members": numbers(58.0, 60.0, 63.0)})


def weighted_intervals() -> Contract:
    from firstread.trust.weighted import WeightedIntervals, fit_ratio

    made = scores()
    ratio = fit_ratio(made.number("SNR")[:, None], made.number("SNR")[20:, None], ("SNR",))
    return Contract(WeightedIntervals(scores=made, ratio=ratio, level=0.9),
                    {"point": numbers(60.0), "members": numbers(58.0, 60.0, 63.0), "features": described(12.0)})


def contour_band() -> Contract:
    from firstread.trust.bands import Band, ContourBand

    band = Band(("LV cavity",), 2.0, 3.0, "dice", 0.05, 99, "an example")
    return Contract(ContourBand(band=band), {"labels": soft_heart().harden()})


def dropout_draws() -> Contract:
    from firstread.core.wrap import wrap
    from firstread.trust.draws import DropoutDraws

    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.Dropout(0.3), torch.nn.Conv2d(4, 1, 1))
    image = replace(blob(frames=2), data=blob(frames=2).data.abs())
    stage = wrap(network.eval(), reads=Image, writes=Image, axes="yx", name="denoise")
    return Contract(DropoutDraws(stage=stage, draws=3), {"image": image}, "image")


def mean_over_draws() -> Contract:
    from firstread.trust.draws import MeanOverDraws

    return Contract(MeanOverDraws(), {"members": numbers(58.0, 60.0, 63.0)})


def evidential_head() -> Contract:
    from firstread.trust.evidential import EvidentialHead

    torch.manual_seed(0)
    head = EvidentialHead(head=torch.nn.Linear(1, 4).double(), units={"LVEF": "%"}, centre=(55.0,), scale=(10.0,),
                          draws=3)
    return Contract(head, {"features": described(12.0)})


def laplace_head() -> Contract:
    from firstread.trust.laplace import LaplaceHead, design, fit_posterior

    x = torch.linspace(0, 40, 30).double()[:, None]
    mean, sd = x.mean(0), x.std(0)
    posterior = fit_posterior(design(x, mean, sd), 50 + x[:, 0] / 4 + torch.sin(x[:, 0]))
    head = LaplaceHead(posteriors={"LVEF": posterior}, units={"LVEF": "%"}, mean=mean, sd=sd, draws=3)
    return Contract(head, {"features": described(12.0)}, "features")


def shift_guard() -> Contract:
    from firstread.trust.shift import ShiftGuard, fit_novelty

    x = torch.linspace(0, 40, 300).double()[:, None]
    novelty = fit_novelty(x[::2], x[1::2], ("SNR",), calibrated_on="numbers")
    return Contract(ShiftGuard(novelty=novelty), {"phenotypes": numbers(60.0), "features": described(12.0)})


def describe_image() -> Contract:
    from firstread.trust.describe import DescribeImage

    return Contract(DescribeImage(), {"image": blob()})


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
    from firstread.core.records import HardLabels
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


def body() -> Image:
    """A CT of a disc of water with an insert."""
    grid = Grid.from_spacing((2, 16, 16), (5.0, 12.0, 12.0))
    x, y, _ = grid.points_mm()[0].unbind(-1)
    inside, insert = torch.sigmoid((80 - (x**2 + y**2).sqrt()) / 4), torch.sigmoid((20 - (x - 30).abs() - y.abs()) / 4)
    return Image(Rows.subjects(1), (1000 * inside - 1000 + 200 * insert)[None, None, None].float(), grid)


def rays() -> Sinogram:
    from firstread.acquire.ct import ScanCT

    beam = ParallelBeam.uniform(views=18, bins=24, bin_mm=9.0)
    return ScanCT(beam=beam, photons=1e5)(body(), Key(1, "scan_ct"))


def scan_ct() -> Contract:
    from firstread.acquire.ct import ScanCT

    beam = FanBeam.uniform(views=12, bins=24, bin_mm=18.0, source_mm=500.0, detector_mm=1000.0)
    return Contract(ScanCT(beam=beam, photons=1e5), {"image": body()}, "image")


def filtered_backprojection() -> Contract:
    from firstread.reconstruct.ct import FilteredBackprojection

    return Contract(FilteredBackprojection(), {"sinogram": rays()}, "sinogram")


def remove_ringing() -> Contract:
    from firstread.restore.gibbs import RemoveRinging

    return Contract(RemoveRinging(shifts=3), {"image": blob()}, "image")


def sart() -> Contract:
    from firstread.reconstruct.ct import SART

    return Contract(SART(subsets=3, iterations=2), {"sinogram": rays()}, "sinogram")


def sinogram_tv() -> Contract:
    from firstread.reconstruct.ct import SinogramTV

    return Contract(SinogramTV(iterations=4), {"sinogram": rays()}, "sinogram")


def primal_dual() -> Contract:
    from firstread.nets.primal_dual import PrimalDualNetwork
    from firstread.reconstruct.primal_dual import PrimalDual

    torch.manual_seed(0)
    network = PrimalDualNetwork(iterations=2, memory=2, width=4)
    for update in (*network.dual, *network.primal):
        torch.nn.init.normal_(update[-1].weight, std=0.02)
    return Contract(PrimalDual(network=network.eval()), {"sinogram": rays()}, "sinogram")


def tracer() -> Image:
    """Activity of a warm disc with a hot spot, in Bq/mL."""
    ct = body()
    x, y, _ = ct.grid.points_mm()[0].unbind(-1)
    hot = torch.sigmoid((25 - ((x + 20) ** 2 + y**2).sqrt()) / 4)
    return replace(ct, data=(5 * (ct.data + 1000).clamp_min(0) + 20000 * hot.float()))


def scan_pet() -> Contract:
    from firstread.acquire.pet import ScanPET

    beam = ParallelBeam.uniform(views=12, bins=24, bin_mm=9.0)
    return Contract(ScanPET(beam=beam, counts=2e4), {"activity": tracer(), "ct": body()}, "activity")


def coincidences() -> Emission:
    from firstread.acquire.pet import ScanPET

    beam = ParallelBeam.uniform(views=12, bins=24, bin_mm=9.0)
    return ScanPET(beam=beam, counts=2e4)(tracer(), Key(1, "scan_pet"), body())


def mlem() -> Contract:
    from firstread.reconstruct.pet import MLEM

    return Contract(MLEM(iterations=3), {"emission": coincidences()}, "emission")


def osem() -> Contract:
    from firstread.reconstruct.pet import OSEM

    return Contract(OSEM(subsets=3, iterations=2), {"emission": coincidences()}, "emission")


def encode_moving() -> Contract:
    from firstread.acquire.moving import EncodeMoving

    return Contract(EncodeMoving(shots=3), {"image": blob(frames=1)}, "image")


def motion_corrected() -> Contract:
    from firstread.acquire.coils import GaussianCoils
    from firstread.acquire.moving import EncodeMoving
    from firstread.reconstruct.motion import MotionCorrected

    scan = EncodeMoving(shots=3, coils=GaussianCoils(count=3), snr=50.0)
    return Contract(MotionCorrected(steps=2), {"kspace": scan(blob(frames=1), Key(1, "encode"))}, "kspace")


def pet_header() -> PetHeader:
    from firstread.measure.pet_header import PetHeader

    return PetHeader(unit="BQML", dose_bq=370e6, half_life_s=6586.2, decay_s=3600.0, weight_kg=70.0)


def standardized_uptake() -> Contract:
    from firstread.measure.suv import StandardizedUptake

    return Contract(StandardizedUptake(header=pet_header()), {"image": tracer()}, "image")


def uptake_in_regions() -> Contract:
    from firstread.measure.suv import UptakeInRegions

    image = tracer()
    labels = HardLabels(image.rows, (image.data > 15000).to(torch.uint8), image.grid, ("background", "hot spot"))
    return Contract(UptakeInRegions(), {"image": image, "labels": labels})


def correct_bias() -> Contract:
    from firstread.restore.bias import CorrectBias

    return Contract(CorrectBias(levels=2, iterations=3), {"image": blob()}, "image")


def self_gate() -> Contract:
    from firstread.acquire.coils import GaussianCoils
    from firstread.acquire.mri_trajectory import EncodeTrajectory
    from firstread.acquire.trajectories import Radial
    from firstread.reconstruct.self_gating import SelfGate

    scan = EncodeTrajectory(trajectory=Radial(shots=13), coils=GaussianCoils(count=3), snr=50.0)
    return Contract(SelfGate(shot_s=0.3, count=3), {"kspace": scan(blob(frames=6), Key(1, "encode"))}, "kspace")


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
    "ScanCT": scan_ct,
    "FilteredBackprojection": filtered_backprojection,
    "SART": sart,
    "SinogramTV": sinogram_tv,
    "PrimalDual": primal_dual,
    "ScanPET": scan_pet,
    "MLEM": mlem,
    "OSEM": osem,
    "StandardizedUptake": standardized_uptake,
    "UptakeInRegions": uptake_in_regions,
    "Encode": encode,
    "RepeatNoise": repeat_noise,
    "EncodeTrajectory": encode_trajectory,
    "Gridding": gridding,
    "ZeroFilled": zero_filled,
    "CGSense": cg_sense,
    "TemporalTV": temporal_tv,
    "SpatialTV": spatial_tv,
    "Register": register,
    "LearnedRegister": learned_register,
    "TrackMotion": track_motion,
    "ToTemplate": to_template,
    "Wavelet": wavelet,
    "LocallyLowRank": locally_low_rank,
    "LowRankPlusSparse": low_rank_plus_sparse,
    "Espirit": espirit,
    "CombineCoils": combine_coils,
    "CompressCoils": compress_coils,
    "Grappa": grappa,
    "Homodyne": homodyne,
    "POCS": pocs,
    "Cascade": cascade,
    "AdaptedCascade": adapted_cascade,
    "PlugAndPlay": plug_and_play,
    "Posterior": posterior,
    "VarNet": varnet,
    "Recurrent": recurrent,
    "MoDL": modl,
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
    "CardiacFunction": cardiac_function,
    "ConformalIntervals": conformal_intervals,
    "PlainIntervals": plain_intervals,
    "GroupIntervals": group_intervals,
    "WeightedIntervals": weighted_intervals,
    "ContourBand": contour_band,
    "DropoutDraws": dropout_draws,
    "MeanOverDraws": mean_over_draws,
    "EvidentialHead": evidential_head,
    "LaplaceHead": laplace_head,
    "ShiftGuard": shift_guard,
    "DescribeImage": describe_image,
    "DenoiseTV": denoise_tv,
    "DenoisePCA": denoise_pca,
    "CorrectRician": correct_rician,
    "Noise2Self": noise2self,
    "Denoise": denoise,
    "RemoveRinging": remove_ringing,
    "EncodeMoving": encode_moving,
    "MotionCorrected": motion_corrected,
    "CorrectBias": correct_bias,
    "SelfGate": self_gate,
    "Upsample": upsample,
    "ModelSuperResolution": model_super_resolution,
    "LearnedSuperResolution": learned_super_resolution,
    "SliceToVolume": slice_to_volume,
}
