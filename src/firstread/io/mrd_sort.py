"""From acquisitions in the order of measurement to k-space in the order of records."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from firstread.core.errors import FormatError, GeometryError, SignalError, UnsupportedError
from firstread.core.geometry import Grid
from firstread.core.records import KSpace, Note, Rows
from firstread.io import mrd_layout as layout
from firstread.io.arrays import require_finite
from firstread.io.fourier import remove_oversampling
from firstread.io.limits import require_plausible
from firstread.io.stacking import Stack, stack_slices

_REPEATED = ("phase", "repetition", "contrast", "set")


@dataclass(frozen=True)
class _Plan:
    """Sizes of the k-space to fill; ``time`` names the counter that runs over frames."""

    frames: int
    coils: int
    slices: int
    size: tuple[int, int, int]  # encoded z, y, x
    time: str


def sort_into_kspace(header: layout.Header, heads: np.ndarray, lines: list[np.ndarray], file_bytes: int) -> KSpace:
    """K-space of all imaging lines, the noise covariance of the noise lines."""
    notes: list[Note] = []
    flags = heads["flags"]
    noise = (flags & layout.NOISE) > 0
    only_calibration = ((flags & layout.CALIBRATION) > 0) & ((flags & layout.CALIBRATION_AND_IMAGE) == 0)
    wanted = ~noise & ((flags & layout.OTHER) == 0)
    image = np.flatnonzero(wanted & ~only_calibration)
    if not len(image):
        raise SignalError("an ISMRMRD file without imaging lines", expected="one line of k-space or more",
                          remedy="check the acquisition flags")
    if only_calibration.any() and header.separate_calibration:
        notes.append(Note("calibration_skipped", f"{int(only_calibration.sum())} separate calibration lines were not "
                          "used.", "info"))
    plan = _plan(header, heads[image])
    shape = (plan.slices, plan.frames, plan.coils, *plan.size)
    require_plausible(shape, 8, file_bytes, ratio=64.0, what="ISMRMRD file")
    data = np.zeros(shape, dtype=np.complex64)
    count = np.zeros((plan.slices, plan.frames, 1, *plan.size), dtype=np.uint16)
    for index in image:
        _place(heads[index], lines[index], header, plan, data, count)
    embedded = np.flatnonzero(wanted & only_calibration & (not header.separate_calibration))
    if len(embedded):
        _fill(embedded, heads, lines, header, plan, data, count)
    tensor = torch.from_numpy(np.divide(data, np.maximum(count, 1), out=data))
    require_finite(tensor, "k-space")
    stack = _stack(header, heads[image], plan, notes)
    return _kspace(header, plan, stack, tensor, count, _noise(heads, lines, noise, plan, heads[image], count), notes,
                   heads[image])


def _plan(header: layout.Header, heads: np.ndarray) -> _Plan:
    counts = {name: int(heads["idx"][name].max()) + 1 for name in (*_REPEATED, "slice")}
    repeated = [name for name in _REPEATED if counts[name] > 1]
    if len(repeated) > 1:
        raise UnsupportedError(f"ISMRMRD raw data repeated over {' and '.join(repeated)}", expected="one repeated axis",
                               remedy="split the file, one of them in each")
    if (heads["encoding_space_ref"] != heads["encoding_space_ref"][0]).any():
        raise UnsupportedError("ISMRMRD raw data of several encodings", expected="one encoding",
                               remedy="split the file by encoding")
    coils = np.unique(heads["active_channels"])
    if len(coils) != 1 or coils[0] < 1:
        raise FormatError(f"ISMRMRD lines of {coils.tolist()[:8]} channels", expected="the same coils in every line",
                          remedy="convert the raw data again")
    name = repeated[0] if repeated else "phase"
    x, y, z = header.encoded
    if counts["slice"] > 1 and z > 1:
        raise UnsupportedError("ISMRMRD raw data of several slabs encoded in 3D", expected="one slab, or 2D slices",
                               remedy="split the file by slab")
    return _Plan(counts[name], int(coils[0]), counts["slice"], (z, y, x), name)


def _place(head: np.void, line: np.ndarray, header: layout.Header, plan: _Plan, data: np.ndarray, count: np.ndarray
           ) -> None:
    """Add one readout to its place; samples before ``discard_pre`` and in ``discard_post`` are left out."""
    samples, coils = int(head["number_of_samples"]), plan.coils
    if line.dtype != np.float32 or line.size != 2 * samples * coils or samples == 0:
        raise FormatError(f"an ISMRMRD line of {line.size} numbers", expected=f"2 x {samples} samples x {coils} coils",
                          remedy="the file is damaged: convert the raw data again")
    values = line.view(np.complex64).reshape(coils, samples)
    centre = int(head["center_sample"])
    if int(head["flags"]) & layout.REVERSED:
        values, centre = values[:, ::-1], samples - 1 - centre
    first, last = int(head["discard_pre"]), samples - int(head["discard_post"])
    z, y, x = plan.size
    start = first - centre + x // 2
    row = _line(int(head["idx"]["kspace_encode_step_1"]), header.centre[0], y)
    partition = _line(int(head["idx"]["kspace_encode_step_2"]), header.centre[1], z) if z > 1 else 0
    if not (0 <= row < y and 0 <= partition < z and start >= 0 and start + last - first <= x and first < last):
        raise FormatError(f"an ISMRMRD line at ({partition}, {row}) with {samples} samples", expected=f"a place inside "
                          f"the encoded matrix {z} x {y} x {x}", remedy="correct the header's matrix or centre")
    where = (int(head["idx"]["slice"]), int(head["idx"][plan.time]), slice(None), partition, row,
             slice(start, start + last - first))
    data[where] += values[:, first:last]
    count[where] += 1


def _fill(extra: np.ndarray, heads: np.ndarray, lines: list[np.ndarray], header: layout.Header, plan: _Plan,
          data: np.ndarray, count: np.ndarray) -> None:
    """Add calibration lines embedded in the scan where no imaging line was measured."""
    calibration, times = np.zeros_like(data), np.zeros_like(count)
    for index in extra:
        _place(heads[index], lines[index], header, plan, calibration, times)
    missing = (count == 0) & (times > 0)
    np.copyto(data, calibration, where=missing)
    np.copyto(count, times, where=missing)


def _line(step: int, centre: int | None, size: int) -> int:
    return step - (size // 2 if centre is None else centre) + size // 2


def _noise(heads, lines, noise, plan: _Plan, image_heads, count) -> torch.Tensor | None:
    """``Ψ = n nᴴ / N``, scaled by the dwell times of noise and imaging lines and by the number of averages."""
    scans = [lines[i].view(np.complex64).reshape(plan.coils, -1) for i in np.flatnonzero(noise)
             if lines[i].dtype == np.float32 and lines[i].size and lines[i].size % (2 * plan.coils) == 0]
    if not scans or sum(scan.shape[1] for scan in scans) <= plan.coils:
        return None
    samples = np.concatenate(scans, axis=1).astype(np.complex128)
    if not np.isfinite(samples).all():
        raise SignalError("NaN or infinite values in the noise scan", expected="finite values only",
                          remedy="convert the raw data again")
    covariance = samples @ samples.conj().T / samples.shape[1]
    dwell, scan_dwell = (float(np.median(h["sample_time_us"])) for h in (image_heads, heads[noise]))
    if dwell > 0 and scan_dwell > 0:
        covariance *= scan_dwell / dwell
    covariance /= count[count > 0].mean()
    return torch.from_numpy(covariance.astype(np.complex64))


def _stack(header: layout.Header, heads: np.ndarray, plan: _Plan, notes: list[Note]) -> Stack:
    """Where the pixels of the image lie once oversampling is removed."""
    z, y, x = plan.size
    kept = _kept(header.encoded[0], header.encoded_mm[0], header.reconstructed_mm[0])
    step = (header.encoded_mm[0] / x, header.encoded_mm[1] / y, header.encoded_mm[2] / z)
    affines = np.zeros((plan.slices, 4, 4))
    affines[:, 3, 3] = 1
    unplaced = False
    for index in range(plan.slices):
        own = heads[heads["idx"]["slice"] == index]
        if not len(own):
            raise SignalError(f"no lines of slice {index}", expected="measured lines in every slice",
                              remedy="check the conversion")
        directions = np.stack([own[0][name].astype(float) for name in ("read_dir", "phase_dir", "slice_dir")], axis=1)
        position = own[0]["position"].astype(float)
        if not np.isfinite(directions).all() or abs(np.linalg.det(directions)) < 0.5:
            directions, unplaced = np.eye(3), True
            position = np.array([0.0, 0.0, index * step[2]])
        if not np.isfinite(position).all():
            raise GeometryError("a slice position that is not a number", expected="millimetres", remedy="correct it")
        directions = directions / np.linalg.norm(directions, axis=0)
        affines[index, :3, :3] = directions * np.array(step)
        affines[index, :3, 3] = position - affines[index, :3, :3] @ np.array([kept // 2, y // 2, z // 2])
    if unplaced:
        notes.append(Note("orientation_unknown", "The raw data state no slice orientation: slices are taken as stacked "
                          "side by side."))
    thickness = header.reconstructed_mm[2] / (z if z > 1 else 1)
    if z > 1:
        grid = Grid(torch.from_numpy(affines), (z, y, kept), torch.tensor([thickness], dtype=torch.float64))
        return Stack(grid, np.zeros(1, dtype=int)[None])
    return stack_slices(affines, (y, kept), thickness, notes, frame="detector" if unplaced else "patient")


def _kept(size: int, field_mm: float, kept_mm: float) -> int:
    """Pixels that remain of ``size`` when the field of view is cut to ``kept_mm``."""
    return min(size, max(1, round(size * kept_mm / field_mm)))


def _kspace(header, plan: _Plan, stack: Stack, data: torch.Tensor, count: np.ndarray, noise, notes: list[Note], heads
            ) -> KSpace:
    """Oversampling removed, slices in the order of the stack, times and cycle beside."""
    z, y, x = plan.size
    kept = stack.grid.shape[2]
    sampled = torch.from_numpy(count > 0)
    whole = bool((sampled.any(dim=-1) == sampled.all(dim=-1)).all())
    data = remove_oversampling(data, kept, axis=-1)
    if whole:
        sampled = sampled[..., :1]
    else:
        nearest = np.round(x // 2 + (np.arange(kept) - kept // 2) * x / kept).astype(int).clip(0, x - 1)
        sampled = sampled[..., torch.from_numpy(nearest)]
        data = data * sampled
        notes.append(Note("partial_echo", "Lines were measured in part (partial echo): what is missing is zero.",
                          "info"))
    shape_y = _kept(y, header.encoded_mm[1], header.reconstructed_mm[1])
    times, cycle = _times(header, heads, plan, notes)
    if z > 1:
        joined, mask = data, sampled
        times, cycle = (None if t is None else t[:1] for t in (times, cycle))
    else:
        joined, mask, times, cycle = (stack.arrange(t) for t in (data, sampled, times, cycle))
    batch = joined.shape[0]
    return KSpace(Rows.parts(batch), joined, stack.grid, mask, None,
                  None if noise is None else noise.expand(batch, -1, -1).clone(),
                  ("z", "y", "x") if z > 1 else ("y", "x"),
                  None if shape_y == y else (stack.grid.shape[0], shape_y, kept), times, cycle, header.scan,
                  notes=tuple(notes))


def _times(header, heads, plan: _Plan, notes: list[Note]):
    """Time of every frame after the R wave ``[slice, time, 1]`` and cycle ``[slice, 1]``, from physiology stamps."""
    cycle = None
    if len(header.cycles_ms) == plan.slices and min(header.cycles_ms, default=0) > 0:
        cycle = torch.tensor(header.cycles_ms, dtype=torch.float64)[:, None] / 1000
    if plan.frames == 1:
        return None, cycle
    stamps = heads["physiology_time_stamp"][:, 0].astype(float) * layout.TICK_MS / 1000
    total, seen = np.zeros((plan.slices, plan.frames)), np.zeros((plan.slices, plan.frames))
    where = (heads["idx"]["slice"], heads["idx"][plan.time])
    np.add.at(total, where, stamps)
    np.add.at(seen, where, 1)
    means = total / np.maximum(seen, 1)
    if (seen == 0).any() or (np.diff(means, axis=1) <= 0).any():
        notes.append(Note("times_unknown", "The raw data state no usable time of their frames."))
        return None, cycle
    times = torch.from_numpy(means)[..., None]
    if cycle is None:
        cycle = (times[:, -1] - times[:, 0]) * plan.frames / (plan.frames - 1)
        notes.append(Note("cycle_assumed", "The length of the heart cycle is taken as frames times frame duration."))
    return times, cycle
