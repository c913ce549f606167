"""One small case for each stage of the room ``acquire``."""

from __future__ import annotations

from collections.abc import Callable

from samples import Contract, blob, body, kspace, tracer

from firstread.core.sinogram import FanBeam, ParallelBeam


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


def scan_ct() -> Contract:
    from firstread.acquire.ct import ScanCT

    beam = FanBeam.uniform(views=12, bins=24, bin_mm=18.0, source_mm=500.0, detector_mm=1000.0)
    return Contract(ScanCT(beam=beam, photons=1e5), {"image": body()}, "image")


def scan_pet() -> Contract:
    from firstread.acquire.pet import ScanPET

    beam = ParallelBeam.uniform(views=12, bins=24, bin_mm=9.0)
    return Contract(ScanPET(beam=beam, counts=2e4), {"activity": tracer(), "ct": body()}, "activity")


def encode_moving() -> Contract:
    from firstread.acquire.moving import EncodeMoving

    return Contract(EncodeMoving(shots=3), {"image": blob(frames=1)}, "image")


CASES: dict[str, Callable[[], Contract]] = {
    "ScanCT": scan_ct,
    "ScanPET": scan_pet,
    "Encode": encode,
    "RepeatNoise": repeat_noise,
    "EncodeTrajectory": encode_trajectory,
    "EncodeMoving": encode_moving,
}
