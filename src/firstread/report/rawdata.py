"""The page's part on raw data: sampling pattern, zero-filled image, reconstruction and, where known, the error."""

from __future__ import annotations

from typing import Any

import numpy as np

from firstread.core.case import Case
from firstread.core.records import Image, KSpace
from firstread.report.document import find
from firstread.report.pictures import coloured, magnitude, picture, sampling, sprites, to_grey, window

PANEL_BYTES = 400_000
ERROR_GAIN = 5
PICTURES = (("zero_filled", "Zero-filled"), ("image", "Reconstruction"), ("truth.image", "Truth"))


def raw_part(case: Case, errors: dict[str, float]) -> dict[str, Any] | None:
    """Pictures and figures of the reconstruction, or None for a case without k-space."""
    kspace = find(case, "kspace", KSpace)
    if kspace is None:
        return None
    mask = sampling(kspace)
    images = {name: find(case, name, Image) for name, _ in PICTURES}
    stacks = {name: _middle(image) for name, image in images.items() if image is not None}
    panels = []
    if stacks:
        grey_window = window(stacks.get("truth.image", stacks.get("image", next(iter(stacks.values())))))
        panels = [{"title": title, "note": None,
                   **vars(sprites(stacks[name], budget_bytes=PANEL_BYTES, grey_window=grey_window)[0])}
                  for name, title in PICTURES if name in stacks]
        if {"image", "truth.image"} <= stacks.keys() and stacks["image"].shape == stacks["truth.image"].shape:
            panels.append(_error_panel(stacks["image"], stacks["truth.image"], grey_window[1]))
    sampled = float(mask.mean())
    lines = mask.any(axis=2)
    return {
        "panels": panels, "coils": kspace.data.shape[2], "frames": mask.shape[0],
        "matrix": f"{mask.shape[2]} × {mask.shape[1]}",
        "sampled_percent": f"{100 * sampled:.1f}", "acceleration": f"{1 / sampled:.1f}" if sampled > 0 else None,
        "plane": picture(to_grey(mask[0].astype(np.float32), 0.0, 1.0)),
        "lines": picture(to_grey(lines.T.astype(np.float32), 0.0, 1.0)) if mask.shape[0] > 1 else None,
        "errors": {name: f"{value:.4g}" for name, value in errors.items()},
    }


def _middle(image: Image) -> np.ndarray:
    stack = magnitude(image)
    middle = stack.shape[1] // 2
    return stack[:, middle : middle + 1]


def _error_panel(image: np.ndarray, truth: np.ndarray, white: float) -> dict[str, Any]:
    """|reconstruction - truth|, the colour scale ending at a fifth of the image's white."""
    colours = coloured(np.abs(image - truth)[:, 0, 0], white / ERROR_GAIN)
    stack = np.moveaxis(colours, -1, 1).astype(np.float32)[:, None]
    sprite = sprites(stack, budget_bytes=PANEL_BYTES, grey_window=(0.0, 255.0))[0]
    return {"title": f"Error × {ERROR_GAIN}", "note": "magnitude of the difference from the truth", **vars(sprite)}
