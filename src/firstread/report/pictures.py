"""Pixels for the page: windowed 8-bit stacks and sprites (all frames of a slice in one WebP) within a byte budget."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Num, UInt8
from torch import Tensor

from firstread.core.errors import SettingError
from firstread.core.records import Image, KSpace, Labels

SLICES_SHOWN = 120
PIXELS_SHOWN = 60e6
SETTINGS = ((1.0, 86), (1.0, 72), (1.0, 50), (0.75, 60), (0.5, 72), (0.35, 60), (0.25, 50), (0.15, 40))


@dataclass(frozen=True)
class Sprite:
    """All frames of one slice, row by row in one picture; width and height are those of a frame."""

    uri: str
    width: int
    height: int
    columns: int
    frames: int


def slice_places(record: Image | Labels) -> list[tuple[int, int]]:
    """Batch row and z of every slice of the first subject's first draw, parts one after the other."""
    rows = record.rows
    same = (rows.subject == rows.subject[0]) & (rows.draw == rows.draw[0])
    parts = sorted(torch.nonzero(same).flatten().tolist(), key=lambda row: int(rows.part[row]))
    return [(row, z) for row in parts for z in range(record.data.shape[3])]


def planes(record: Image | Labels, places: list[tuple[int, int]]) -> Num[Tensor, "time slices channel y x"]:
    """The slices at ``places``, and no others, in memory."""
    return torch.stack([record.data[row, :, :, z] for row, z in places], dim=1).detach().cpu()


def magnitude(image: Image, places: list[tuple[int, int]]) -> Float[np.ndarray, "time slices channel y x"]:
    """Magnitudes of the slices at ``places``.

    Three real channels stay (colour); other channels are joined by the root of the sum of squares.
    """
    data = planes(image, places)
    values = data.abs() if data.is_complex() else data.float()
    if values.shape[2] not in (1, 3) or (values.shape[2] == 3 and data.is_complex()):
        values = values.square().sum(dim=2, keepdim=True).sqrt()
    return values.float().contiguous().numpy()


def window(values: Float[np.ndarray, "*shape"]) -> tuple[float, float]:
    """The grey window from the 1st to the 99.5th percentile of the finite values.

    >>> window(np.arange(1001, dtype=np.float32))
    (10.0, 995.0)
    """
    thin = values.reshape(-1)[:: max(1, values.size // 1_000_000)]
    thin = thin[np.isfinite(thin)]
    if thin.size == 0:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(thin, (1, 99.5)))
    return (low, high) if high > low else (low, low + 1.0)


def to_grey(values: Float[np.ndarray, "*shape"], low: float, high: float) -> UInt8[np.ndarray, "*shape"]:
    """8 bits, black at ``low`` and white at ``high``; what is not finite is black."""
    scaled = (np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low) * (255 / (high - low))
    return np.clip(scaled, 0, 255).round().astype(np.uint8)


def shown_slices(count: int) -> list[int]:
    """Which of ``count`` slices the page shows: all, or 120 evenly spaced ones.

    >>> shown_slices(3)
    [0, 1, 2]
    """
    if count <= SLICES_SHOWN:
        return list(range(count))
    return np.linspace(0, count - 1, SLICES_SHOWN).round().astype(int).tolist()


def sprites(stack: Float[np.ndarray, "time z channel y x"], *, budget_bytes: int,
            grey_window: tuple[float, float] | None = None) -> list[Sprite]:
    """One sprite per slice, as large and as fine as ``budget_bytes`` (of base64 text) allows.

    The middle slice is tried first; a setting is taken only when all slices together keep to the budget.
    """
    times, slices, _, height, width = stack.shape
    low, high = grey_window if grey_window is not None else window(stack)
    fit = min(1.0, math.sqrt(PIXELS_SHOWN / (times * slices * height * width)), 512 / max(height, width))
    grey = to_grey(stack, low, high)
    for scale, quality in SETTINGS:
        if slices > 1 and len(_sprite(grey[:, slices // 2], scale * fit, quality).uri) * slices > budget_bytes:
            continue
        made = [_sprite(grey[:, z], scale * fit, quality) for z in range(slices)]
        if sum(len(s.uri) for s in made) <= budget_bytes:
            return made
    return [_sprite(grey[:, z], 0.08 * fit, 20) for z in range(slices)]


def picture(grey: UInt8[np.ndarray, "y x"] | UInt8[np.ndarray, "y x 3"]) -> str:
    """A PNG data URI of an 8-bit picture."""
    from PIL import Image as Pillow

    buffer = io.BytesIO()
    Pillow.fromarray(grey).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def coloured(values: Float[np.ndarray, "*shape"], top: float) -> UInt8[np.ndarray, "*shape 3"]:
    """Values from 0 to ``top`` in the colours of ``inferno``."""
    from matplotlib import colormaps

    return (colormaps["inferno"](np.clip(values / top, 0, 1))[..., :3] * 255).round().astype(np.uint8)


def sampling(kspace: KSpace) -> Bool[np.ndarray, "time y x"]:
    """Which samples of the middle slice were measured, in every frame."""
    _, times, _, _, height, width = kspace.data.shape
    mask = kspace.mask[0, :, 0] != 0
    mask = mask[:, mask.shape[1] // 2].cpu()
    return mask.expand(times, height, width).numpy()


def places(kspace: KSpace) -> Bool[np.ndarray, "time y x"]:
    """Which cells of k-space (y, x), one cycle per field of view each, a trajectory passes, in every frame."""
    if kspace.trajectory is None:
        raise SettingError("Cartesian k-space", expected="k-space along a trajectory", remedy="show its mask")
    where = kspace.trajectory[0, :, -2:].detach().cpu()
    height, width = kspace.grid.shape[-2:]
    cells = torch.zeros(where.shape[0], height, width, dtype=torch.bool)
    y, x = (where[:, axis].flatten(1).round().long() + size // 2 for axis, size in enumerate((height, width)))
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    for frame in range(where.shape[0]):
        cells[frame, y[frame][inside[frame]], x[frame][inside[frame]]] = True
    return cells.numpy()


def _sprite(frames: UInt8[np.ndarray, "time channel y x"], scale: float, quality: int) -> Sprite:
    from PIL import Image as Pillow

    times, channels, height, width = frames.shape
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    columns = math.ceil(math.sqrt(times))
    sheet = Pillow.new("L" if channels == 1 else "RGB", (columns * size[0], math.ceil(times / columns) * size[1]))
    for index in range(times):
        pixels = frames[index, 0] if channels == 1 else np.ascontiguousarray(frames[index].transpose(1, 2, 0))
        frame = Pillow.fromarray(pixels)
        if frame.size != size:
            frame = frame.resize(size, Pillow.Resampling.LANCZOS)
        sheet.paste(frame, (index % columns * size[0], index // columns * size[1]))
    buffer = io.BytesIO()
    sheet.save(buffer, "WEBP", quality=quality, method=1)
    uri = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
    return Sprite(uri, size[0], size[1], columns, times)
