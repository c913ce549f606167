"""What of a scan decides the numbers: the columns about the heart, and the frames about end-diastole and end-systole.

    k-space ─▶ mean over time ─▶ heart's columns ─▶ their k-space ─▶ one reconstruction ─▶ frames that decide

Columns of a fully sampled readout do not meet in the encoding: those about the heart are reconstructed alone, and stand
in the image of the mean over time. The others, and all other frames, are then the same in every draw.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from firstread.acquire.repeat import NO_SCAN, edge_covariance
from firstread.analyze.consensus import Harden
from firstread.analyze.segment import Segment
from firstread.core.records import Image, KSpace, Labels, Note
from firstread.core.stage import Stage
from firstread.measure.cardiac import CLASSES
from firstread.reconstruct.columns import columns, mean_over_time

MARGIN_MM, SYSTOLE = 24.0, 0.15  # beside the heart; share of the stroke volume above the smallest volume


@dataclass(frozen=True, eq=False)
class Scope:
    """A scan and where its reconstructions belong.

    scan: k-space of the columns from ``first`` on; noise_covariance: of the whole scan, measured or estimated (which
    ``notes`` say); around: the whole image they are put into; frames: those that are
    measured in every draw; image: the scan's reconstruction as it was measured, put into the whole; volumes_ml: of its
    LV cavity.
    """

    scan: KSpace
    noise_covariance: Complex[Tensor, "batch coil coil"]
    around: Image
    first: int
    frames: tuple[int, ...]
    image: Image
    volumes_ml: Float[Tensor, "time z"]
    notes: tuple[Note, ...] = ()

    def place(self, part: Image) -> Image:
        """The whole image with this reconstruction of the scan's columns in its place."""
        return _placed(self.around, part, self.first)

    def few(self, image: Image) -> Image:
        """The frames that are measured in every draw."""
        times = image.times_s
        if times is not None and times.shape[1] > 1:
            times = times[:, list(self.frames)]
        return replace(image, data=image.data[:, list(self.frames)], times_s=times)


def whole(kspace: KSpace, method: Stage, segment: Segment) -> Scope:
    """All of a scan: every column and every frame."""
    image = method(kspace)
    covariance, notes = _noise(kspace)
    frames = tuple(range(image.data.shape[1]))
    return Scope(kspace, covariance, image, 0, frames, image, cavity_ml(image, segment), notes)


def about_heart(kspace: KSpace, method: Stage, segment: Segment) -> Scope:
    """The columns within 24 mm of the heart and the frames near end-diastole and end-systole.

    method: reconstructs the scan once, to see how the volume changes over time. All of the scan where its columns are
    coupled (a mask that varies along x, a readout that is not Fourier-encoded or not Cartesian) or no heart is seen.
    """
    if kspace.trajectory is not None or kspace.mask.shape[-1] != 1 or "y" not in kspace.fourier_axes:
        return whole(kspace, method, segment)
    still = mean_over_time(kspace)
    frames = kspace.data.shape[1]
    start = tuple(n // 2 - m // 2 for n, m in zip(kspace.grid.shape, still.shape[-3:], strict=True))
    grid = kspace.grid.crop(start, tuple(still.shape[-3:]))
    around = Image(kspace.rows, still.expand(-1, frames, *[-1] * 4), grid, kspace.times_s, kspace.cycle_s,
                   kspace.source)
    seen = segment(replace(around, data=still, times_s=None))
    heart = (seen.data[:, 0, 1:].sum(dim=1).mean(dim=0) > 0.5).flatten(0, 1).any(dim=0).nonzero().flatten()
    if len(heart) == 0:
        return whole(kspace, method, segment)
    margin = round(MARGIN_MM / float(grid.spacing_mm[0, 2])) if grid.has_mm else len(heart) // 3
    first = max(0, int(heart[0]) - margin)
    count = min(still.shape[-1], int(heart[-1]) + margin + 1) - first
    scan = columns(kspace, first, count)
    image = _placed(around, method(scan), first)
    volumes = cavity_ml(image, segment)
    covariance, notes = _noise(kspace)
    return Scope(scan, covariance, around, first, deciding_frames(volumes.sum(dim=1)), image, volumes, notes)


def deciding_frames(curve: Float[Tensor, " time"]) -> tuple[int, ...]:
    """End-diastole (the first frame), all frames of volume near the smallest, and their neighbours in time.

    >>> deciding_frames(torch.tensor([100.0, 80.0, 60.0, 50.0, 50.5, 70.0, 90.0, 95.0]))
    (0, 2, 3, 4, 5)
    """
    low = curve <= curve.min() + SYSTOLE * (curve.max() - curve.min())
    near = low | low.roll(1) | low.roll(-1)
    near[0] = True
    return tuple(near.nonzero().flatten().tolist())


def cavity_ml(image: Image, segment: Segment) -> Float[Tensor, "time z"]:
    """Volume of the LV cavity by slice, by the ensemble's first member alone."""
    first = Segment(networks=[segment.networks[0]], names=segment.names, spacing_mm=segment.spacing_mm,
                    patch=segment.patch, search=segment.search, rows_at_once=segment.rows_at_once)
    hard = Harden()(first(image))
    cavity = (hard.data[0, :, 0] == hard.names.index(CLASSES[0])).sum(dim=(-2, -1), dtype=torch.float64)
    return cavity * voxel_ml(hard)[0].double()


def voxel_ml(labels: Labels) -> Float[Tensor, " batch"]:
    """Millilitres of a voxel, or 1 where the grid has no millimetres."""
    return labels.grid.voxel_ml if labels.grid.has_mm else torch.ones_like(labels.grid.voxel_ml)


def _noise(kspace: KSpace) -> tuple[Tensor, tuple[Note, ...]]:
    if kspace.noise_covariance is not None:
        return kspace.noise_covariance, ()
    return edge_covariance(kspace), (NO_SCAN,)


def _placed(around: Image, part: Image, first: int) -> Image:
    data = around.data.clone(memory_format=torch.contiguous_format)
    data[..., first:first + part.data.shape[-1]] = part.data
    return replace(around, data=data)
