"""The page's part on raw data: sampling pattern, zero-filled image, reconstruction and, where known, the error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from firstread.core.case import Case
from firstread.core.emission import Emission
from firstread.core.records import Image, KSpace
from firstread.core.sinogram import Sinogram
from firstread.report.document import find
from firstread.report.pictures import (
    coloured,
    magnitude,
    picture,
    places,
    sampling,
    slice_places,
    sprites,
    to_grey,
    window,
)

PANEL_BYTES = 400_000
ERROR_GAIN = 5
PICTURES = (("zero_filled", "Zero-filled"), ("image", "Reconstruction"), ("truth.image", "Truth"))


def raw_part(case: Case) -> dict[str, Any] | None:
    """Pictures of sampling and reconstruction, or None for a case without k-space.

    Where the truth is known, every picture is scaled to it by one factor (least squares), as for the errors.
    """
    kspace = find(case, "kspace", KSpace)
    if kspace is None:
        return None
    along = kspace.trajectory is not None
    mask = places(kspace) if along else sampling(kspace)
    images = {name: find(case, name, Image) for name, _ in PICTURES}
    stacks = {name: _middle(image) for name, image in images.items() if image is not None}
    truth = stacks.get("truth.image")
    if truth is not None:
        stacks = {name: scaled_to(stack, truth) for name, stack in stacks.items()}
    panels = []
    titles = dict(PICTURES) | ({"zero_filled": "Gridded"} if along else {})
    if stacks:
        grey_window = window(truth if truth is not None else stacks.get("image", next(iter(stacks.values()))))
        panels = [{"title": title, "note": None,
                   **vars(sprites(stacks[name], budget_bytes=PANEL_BYTES, grey_window=grey_window)[0])}
                  for name, title in titles.items() if name in stacks]
        panels += [_error_panel(stacks[name], truth, grey_window[1], title)
                   for name, title in (("zero_filled", "zero-filled"), ("image", "reconstruction"))
                   if truth is not None and name in stacks and stacks[name].shape == truth.shape]
    sampled = float(mask.mean())
    lines = np.asarray(np.any(mask, axis=2))
    return {
        "panels": panels, "coils": kspace.data.shape[2], "frames": kspace.data.shape[1],
        "matrix": f"{mask.shape[2]} × {mask.shape[1]}",
        "samples": f"{kspace.data.shape[-2]} × {kspace.data.shape[-1]}" if along else None,
        "sampled_percent": f"{100 * sampled:.1f}", "acceleration": f"{1 / sampled:.1f}" if sampled > 0 else None,
        "plane": picture(to_grey(mask[0].astype(np.float32), 0.0, 1.0)),
        "lines": picture(to_grey(np.float32(1) * lines.T, 0.0, 1.0)) if mask.shape[0] > 1 and not along else None,
    }


def rays_part(case: Case) -> dict[str, Any] | None:
    """The rays of the middle slice as a picture, views downwards, and the beam; None for a case without rays."""
    rays = find(case, "sinogram", Sinogram) or find(case, "emission", Emission)
    if rays is None:
        return None
    plane = rays.data[0, 0, 0, rays.data.shape[3] // 2].float().cpu().numpy()
    return {"title": "Line integrals" if isinstance(rays, Sinogram) else "Prompt coincidences",
            "views": plane.shape[0], "bins": plane.shape[1], "beam": rays.beam.summary.split("(")[0],
            "picture": picture(to_grey(plane, *window(plane)))}


def scaled_to(stack: Float[np.ndarray, "*shape"], truth: Float[np.ndarray, "*other"]) -> Float[np.ndarray, "*shape"]:
    """``a stack`` with the ``a`` that minimizes ``|a stack - truth|²``; unchanged where the shapes differ.

    >>> scaled_to(np.array([1.0, 2.0]), np.array([3.0, 6.0])).tolist()
    [3.0, 6.0]
    """
    energy = float(np.square(stack).sum())
    if stack.shape != truth.shape or energy == 0:
        return stack
    return (stack * (float((stack * truth).sum()) / energy)).astype(stack.dtype)


def error_tables(errors: Mapping[str, float]) -> tuple[list[tuple[str, str, str]], list[tuple[str, str]]]:
    """Errors against the truth as text: image measures (name, zero-filled, reconstruction), and all others.

    >>> error_tables({"zero-filled SSIM": 0.61, "reconstruction SSIM": 0.9512, "Dice LV cavity": 0.93})
    ([('SSIM', '0.61', '0.9512')], [('Dice LV cavity', '0.93')])
    """
    text = {name: f"{value:.4g}" for name, value in errors.items()}
    measures = [name.removeprefix("reconstruction ") for name in text if name.startswith("reconstruction ")]
    pairs = [(m, text.get(f"zero-filled {m}", "–"), text[f"reconstruction {m}"]) for m in measures]
    used = {f"{kind} {m}" for m in measures for kind in ("zero-filled", "reconstruction")}
    return pairs, [(name, value) for name, value in text.items() if name not in used]


def _middle(image: Image) -> np.ndarray:
    places = slice_places(image)
    middle = len(places) // 2
    return magnitude(image, places[middle : middle + 1])


def _error_panel(image: np.ndarray, truth: np.ndarray, white: float, title: str) -> dict[str, Any]:
    """|image - truth|, the colour scale ending at a fifth of the image's white."""
    colours = coloured(np.abs(image - truth)[:, 0, 0], white / ERROR_GAIN)
    stack = np.moveaxis(colours, -1, 1).astype(np.float32)[:, None]
    sprite = sprites(stack, budget_bytes=PANEL_BYTES, grey_window=(0.0, 255.0))[0]
    return {"title": f"Error of {title}", "note": f"difference from the truth, × {ERROR_GAIN}", **vars(sprite)}
