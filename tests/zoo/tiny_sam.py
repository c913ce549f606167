"""A network of Segment Anything's kind too small to be of use, with parameters that nobody trained."""

from __future__ import annotations

import numpy as np
import torch

SIZE, WIDTH, DEPTH, HEADS, WINDOW, WHOLE, CHANNELS, HIDDEN = 128, 16, 2, 2, 3, (1,), 32, 48


def filled(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Parameters that depend on their place among the sorted names and on their shape alone."""
    made = {}
    for place, name in enumerate(sorted(shapes)):
        count = int(np.prod(shapes[name]))
        values = 0.25 * np.cos(0.7 * np.arange(count) ** 1.1 + place)
        if "norm" in name and name.endswith("weight"):
            values = values + 1
        made[name] = torch.from_numpy(values.astype(np.float32)).reshape(shapes[name])
    return made


def picture() -> torch.Tensor:
    y, x = np.meshgrid(np.arange(SIZE), np.arange(SIZE), indexing="ij")
    planes = [np.sin(0.05 * x + 0.3 * c) * np.cos(0.09 * y - 0.2 * c) for c in range(3)]
    return torch.from_numpy(np.stack(planes).astype(np.float32))[None]


POINTS, SIGNS, BOX = torch.tensor([[40.0, 70.5], [90.0, 20.0]]), torch.tensor([True, False]), \
    torch.tensor([10.0, 30.0, 100.0, 120.0])


def before() -> torch.Tensor:
    return torch.nn.functional.interpolate(picture()[:, :1], SIZE // 4) * 5
