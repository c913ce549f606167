"""From k-space records to ISMRMRD acquisitions."""

from __future__ import annotations

import numpy as np
import torch

from firstread.core.errors import OutputError
from firstread.core.reading import Person
from firstread.core.records import KSpace
from firstread.io import mrd_layout as layout

_NOISE_SAMPLES = 256


def acquisitions_of(kspace: KSpace) -> tuple[layout.Header, np.ndarray, list[np.ndarray]]:
    """Header, acquisition headers and lines (float32, real and imaginary in turn) of one subject's k-space."""
    kspace.require_cartesian("an ISMRMRD file")
    batch, frames, coils, depth, height, width = kspace.data.shape
    volume = "z" in kspace.fourier_axes
    if not {"y", "x"} <= set(kspace.fourier_axes) or (volume and batch > 1):
        raise OutputError(f"k-space over {kspace.fourier_axes} in {batch} rows", expected="2D-encoded slices, or one "
                          "3D volume", remedy="write one volume at a time")
    data = kspace.data.detach().cpu().numpy().astype(np.complex64)
    mask = kspace.mask.detach().cpu().expand(batch, frames, 1, depth, height, width).bool().numpy()[:, :, 0]
    heads, lines = _noise_scan(kspace, coils)
    for b, t, z, y in np.argwhere(mask.any(axis=-1)):
        first, last = _run(mask[b, t, z, y])
        line = np.ascontiguousarray(data[b, t, :, z, y, first:last])
        head = _head(coils, last - first, width // 2 - first, len(lines))
        head["idx"]["kspace_encode_step_1"] = y
        head["idx"]["kspace_encode_step_2"] = z if volume else 0
        head["idx"]["slice"] = 0 if volume else b * depth + z
        head["idx"]["phase"] = t
        _place(head, kspace, int(b), int(z), volume)
        if kspace.times_s is not None:
            column = min(int(z), kspace.times_s.shape[2] - 1)
            seconds = float(kspace.times_s[b, t, column])
            head["physiology_time_stamp"][0] = max(0, round(seconds * 1000 / layout.TICK_MS))
        heads.append(head)
        lines.append(line.view(np.float32).reshape(-1))
    if len(lines) == (kspace.noise_covariance is not None):
        raise OutputError("k-space of which nothing was measured", expected="one measured line or more",
                          remedy="check the mask")
    table = np.stack(heads)
    _flag_ends(table)
    return _header(kspace, volume), table, lines


def _run(sampled: np.ndarray) -> tuple[int, int]:
    """First and one past the last measured sample of a line."""
    where = np.flatnonzero(sampled)
    if where[-1] - where[0] + 1 != len(where):
        raise OutputError("a line with gaps between its measured samples", expected="one run of samples in each line",
                          remedy="undersample along y, not along the readout x")
    return int(where[0]), int(where[-1]) + 1


def _head(coils: int, samples: int, centre: int, counter: int) -> np.ndarray:
    head = np.zeros((), dtype=layout.HEAD)
    head["version"], head["scan_counter"], head["sample_time_us"] = 1, counter, 5.0
    head["number_of_samples"], head["center_sample"] = samples, centre
    head["available_channels"] = head["active_channels"] = coils
    return head


def _noise_scan(kspace: KSpace, coils: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """A noise line whose sample covariance is exactly the measured one: ``n = L Q`` with orthonormal rows Q."""
    if kspace.noise_covariance is None:
        return [], []
    values, vectors = torch.linalg.eigh(kspace.noise_covariance[0].detach().cpu().to(torch.complex128))
    root = (vectors * values.clamp_min(0).sqrt()).numpy()
    samples = max(_NOISE_SAMPLES, 2 * coils)
    rows = np.exp(2j * np.pi * np.outer(np.arange(1, coils + 1), np.arange(samples)) / samples)
    head = _head(coils, samples, samples // 2, 0)
    head["flags"] = layout.NOISE
    return [head], [np.ascontiguousarray((root @ rows).astype(np.complex64)).view(np.float32).reshape(-1)]


def _place(head: np.ndarray, kspace: KSpace, row: int, z: int, volume: bool) -> None:
    """Directions, and the position of pixel ``N // 2``."""
    if kspace.grid.frame != "patient":
        return
    depth, height, width = kspace.grid.shape
    affine = kspace.grid.affine[row].cpu().numpy()
    unit = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    head["read_dir"], head["phase_dir"], head["slice_dir"] = unit[:, 0], unit[:, 1], unit[:, 2]
    middle = np.array([width // 2, height // 2, depth // 2 if volume else z, 1.0])
    head["position"] = (affine @ middle)[:3]


def _flag_ends(table: np.ndarray) -> None:
    image = np.flatnonzero((table["flags"] & layout.NOISE) == 0)
    key = np.stack([table["idx"]["slice"][image], table["idx"]["phase"][image]], axis=1)
    change = np.flatnonzero((np.diff(key.astype(int), axis=0) != 0).any(axis=1))
    table["flags"][image[np.concatenate(([0], change + 1))]] |= layout.FIRST_IN_SLICE
    table["flags"][image[np.concatenate((change, [len(image) - 1]))]] |= layout.LAST_IN_SLICE
    table["flags"][image[-1]] |= layout.LAST_IN_MEASUREMENT


def _header(kspace: KSpace, volume: bool) -> layout.Header:
    batch, _, _, depth, height, width = kspace.data.shape
    spacing = kspace.grid.spacing_mm[0].tolist()[::-1]
    thick = spacing[2] if kspace.grid.thickness_mm is None else float(kspace.grid.thickness_mm[0])
    size = (width, height, depth if volume else 1)
    view = (width * spacing[0], height * spacing[1], depth * spacing[2] if volume else spacing[2])
    _, kept_y, kept_x = kspace.image_shape or (depth, height, width)
    cut = (kept_x * spacing[0], kept_y * spacing[1], view[2] if volume else thick)
    cycles: tuple[float, ...] = ()
    if kspace.cycle_s is not None and bool(torch.isfinite(kspace.cycle_s).all()):
        cycles = tuple((kspace.cycle_s.expand(batch, 1 if volume else depth).reshape(-1) * 1000).tolist())
    return layout.Header(size, view, (kept_x, kept_y, size[2]), cut, (height // 2, size[2] // 2),
                         Person(), cycles)

