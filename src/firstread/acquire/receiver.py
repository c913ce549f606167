"""What all MR scanners share: the object they see, coils drawn for each subject, and correlated receiver noise."""

from __future__ import annotations

import torch
from jaxtyping import Complex
from torch import Tensor

from firstread.acquire.coils import Coils
from firstread.acquire.noise import correlated_noise, covariance_of, random_covariance, signal_level
from firstread.core.errors import SettingError, SignalError
from firstread.core.geometry import Grid
from firstread.core.keys import Key
from firstread.core.records import Image, Rows

COILS, NOISE = 0, 2  # streams of randomness of one row; what is between and behind belongs to the scanners
Table = list[tuple[int, ...]]


def check_noise(snr: float | int | None, correlation: float | int) -> None:
    """Refuse an SNR of zero or less and a correlation of neighbouring coils outside ``[0, 1)``."""
    if snr is not None and not snr > 0:
        raise SettingError(f"SNR {snr}", expected="above zero", remedy="use None for no noise")
    if not 0 <= correlation < 1:
        raise SettingError(f"noise correlation {correlation}", expected="0 to below 1", remedy="correct it")


def object_of(image: Image, matrix: tuple[int, int] | None, *, frames: int | None = None
              ) -> tuple[Complex[Tensor, "batch time 1 z y x"], tuple[int, int]]:
    """The complex object, and the (y, x) matrix to acquire it with: its own pixels where none is stated.

    Raises SignalError for more than one channel, NaN, or other than ``frames`` frames where these are stated;
    SettingError for a matrix finer than the image.
    """
    data = image.data if image.data.is_complex() else image.data.to(torch.complex64)
    channels, (y, x) = data.shape[2], data.shape[-2:]
    wrong = frames is not None and data.shape[1] != frames
    if wrong or channels != 1 or not torch.isfinite(torch.view_as_real(data.detach())).all():
        raise SignalError(f"an image of {data.shape[1]} frames, {channels} channels or with NaN",
                          expected=f"{'' if frames is None else f'{frames} frame and '}one channel of finite values",
                          remedy="give the scanner a plain complex or real image")
    ny, nx = matrix if matrix is not None else (y, x)
    if ny > y or nx > x:
        raise SettingError(f"a matrix of {(ny, nx)} for an image of {(y, x)}", expected="an image at least as fine",
                           remedy="render the image finer")
    return data, (ny, nx)


def table_of(rows: Rows) -> Table:
    """(subject, part, draw) of every row: what its randomness depends on."""
    return [tuple(row) for row in torch.stack((rows.subject, rows.part, rows.draw), dim=1).tolist()]


def coil_maps(coils: Coils, grid: Grid, table: Table, key: Key) -> Complex[Tensor, "batch coil z y x"]:
    """The maps of every row, the same for all rows of a subject."""
    return torch.stack([coils(grid, key.generator(row[0], COILS)) for row in table])


def settings_of(*parts: object) -> list[str]:
    """``Name(setting=value, …)`` of what a scanner is made of, for the trail; None is left out."""
    return [f"{type(part).__name__}({', '.join(f'{k}={v!r}' for k, v in vars(part).items() if k[0] != '_')})"
            for part in parts if part is not None]


def receiver_noise(data: Complex[Tensor, "batch time 1 z y x"], table: Table, shape: torch.Size,
                   key: Key, snr: float | int, correlation: float | int
                   ) -> tuple[Complex[Tensor, "batch time coil _ _ _"], Complex[Tensor, "batch coil coil"]]:
    """Correlated noise of ``shape`` (coil, …) for every frame, and the covariance that a scan of 4096 samples gives.

    data: the images that the SNR refers to; table: (subject, part, draw) of every row, which the noise depends on.
    """
    noise, scans = [], []
    for row, values in zip(table, data, strict=True):
        generator = key.generator(*row, NOISE)
        variance = (signal_level(values.abs()) / snr) ** 2
        covariance = variance * random_covariance(shape[0], correlation, generator)
        scans.append(covariance_of(correlated_noise(covariance, (4096,), generator)))
        frames = [correlated_noise(covariance, tuple(shape[1:]), generator) for _ in range(data.shape[1])]
        noise.append(torch.stack(frames))
    return torch.stack(noise).to(data), torch.stack(scans).to(data)


def lower_maps(maps: Complex[Tensor, "batch coil z y x"], coarse: Grid) -> Complex[Tensor, "batch 1 coil _ _ _"]:
    """True coil maps at the voxels of the grid that is acquired."""
    if maps.shape[2:] != coarse.shape:
        parts = torch.view_as_real(maps).movedim(-1, 2).flatten(1, 2)
        parts = torch.nn.functional.interpolate(parts, size=coarse.shape, mode="trilinear", align_corners=False)
        parts = parts.unflatten(1, (maps.shape[1], 2)).movedim(2, -1)
        maps = torch.view_as_complex(parts.contiguous())
    return maps[:, None]
