"""One small case for each stage of the room ``reconstruct``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from samples import Contract, blob, body, denoiser, kspace, tracer

from firstread.core.emission import Emission
from firstread.core.keys import Key
from firstread.core.records import KSpace
from firstread.core.sinogram import ParallelBeam, Sinogram


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


def rays() -> Sinogram:
    from firstread.acquire.ct import ScanCT

    beam = ParallelBeam.uniform(views=18, bins=24, bin_mm=9.0)
    return ScanCT(beam=beam, photons=1e5)(body(), Key(1, "scan_ct"))


def filtered_backprojection() -> Contract:
    from firstread.reconstruct.ct import FilteredBackprojection

    return Contract(FilteredBackprojection(), {"sinogram": rays()}, "sinogram")


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


def motion_corrected() -> Contract:
    from firstread.acquire.coils import GaussianCoils
    from firstread.acquire.moving import EncodeMoving
    from firstread.reconstruct.motion import MotionCorrected

    scan = EncodeMoving(shots=3, coils=GaussianCoils(count=3), snr=50.0)
    return Contract(MotionCorrected(steps=2), {"kspace": scan(blob(frames=1), Key(1, "encode"))}, "kspace")


def self_gate() -> Contract:
    from firstread.acquire.coils import GaussianCoils
    from firstread.acquire.mri_trajectory import EncodeTrajectory
    from firstread.acquire.trajectories import Radial
    from firstread.reconstruct.self_gating import SelfGate

    scan = EncodeTrajectory(trajectory=Radial(shots=13), coils=GaussianCoils(count=3), snr=50.0)
    return Contract(SelfGate(shot_s=0.3, count=3), {"kspace": scan(blob(frames=6), Key(1, "encode"))}, "kspace")


CASES: dict[str, Callable[[], Contract]] = {
    "FilteredBackprojection": filtered_backprojection,
    "SART": sart,
    "SinogramTV": sinogram_tv,
    "PrimalDual": primal_dual,
    "MLEM": mlem,
    "OSEM": osem,
    "Gridding": gridding,
    "ZeroFilled": zero_filled,
    "CGSense": cg_sense,
    "TemporalTV": temporal_tv,
    "SpatialTV": spatial_tv,
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
    "MotionCorrected": motion_corrected,
    "SelfGate": self_gate,
}
