"""What the page needs to play the images: sprites, contours as text, the region of the heart, the pace."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from firstread.core.case import Case
from firstread.core.records import HardLabels, Image, Labels, SoftLabels
from firstread.report.contours import contour_names, encode, outlines, region_of_interest
from firstread.report.document import find
from firstread.report.pictures import magnitude, planes, shown_slices, slice_places, sprites

IMAGE_BYTES = 9_000_000
CONTOUR_BYTES = 1_500_000


def cine(case: Case) -> dict[str, Any] | None:
    """The images of a case for the page's player, or None where it has no image."""
    image = find(case, "image", Image)
    if image is None:
        return None
    places = slice_places(image)
    slices = shown_slices(len(places))
    stack = magnitude(image, [places[i] for i in slices])
    labels = hard_labels(case)
    shown = None
    if labels is not None and labels.data.shape[1] == image.data.shape[1] and labels.grid.shape == image.grid.shape:
        found = slice_places(labels)
        if len(found) == len(places):
            shown = planes(labels, [found[i] for i in slices])[:, :, 0].numpy()
    contours = _contours(shown, labels) if shown is not None and labels is not None and (shown > 0).any() else []
    spacing = image.grid.spacing_mm[0].tolist()
    return {
        "width": stack.shape[-1], "height": stack.shape[-2], "aspect": round(spacing[1] / spacing[2], 5),
        "frames": stack.shape[0], "slices": [z + 1 for z in slices], "total": len(places),
        "sprites": [vars(s) for s in sprites(stack, budget_bytes=IMAGE_BYTES)],
        "contours": contours,
        "no_contours": None if contours else "there is no label map that fits these images" if shown is None
        else "the outlines would take more room than the page has" if (shown > 0).any() else "nothing was labelled",
        "region": region_of_interest(shown) if shown is not None else None,
        "start": _most_labelled(shown) if shown is not None else len(slices) // 2,
        "cycle_ms": _cycle_ms(image),
    }


def hard_labels(case: Case) -> HardLabels | None:
    """The record ``labels`` with one class a voxel, or None where a case has none."""
    labels = find(case, "labels", Labels)
    return labels.harden() if isinstance(labels, SoftLabels) else find(case, "labels", HardLabels)


def _contours(shown: np.ndarray, labels: Labels) -> list[dict[str, Any]]:
    """Every outline, with fewer vertices where all would take more than their share of the page."""
    found = {name: [[outlines(plane) for plane in frame] for frame in np.isin(shown, classes)]
             for name, classes in contour_names(labels.names)}
    for step in (1, 2, 4, 8, 16):
        made = [{"name": name, "paths": [[encode(lines, step=step) for lines in frame] for frame in frames]}
                for name, frames in found.items()]
        if sum(len(text) for c in made for frame in c["paths"] for text in frame) <= CONTOUR_BYTES:
            return made
    return []


def _most_labelled(labels: np.ndarray) -> int:
    """The position of the slice to show first: the middle one of those with labels."""
    found = np.nonzero((labels > 0).any(axis=(0, 2, 3)))[0]
    return int(found[len(found) // 2]) if len(found) else labels.shape[1] // 2


def _cycle_ms(image: Image) -> float | None:
    """The length of the heart cycle, averaged over slices; None where it is not known."""
    if image.cycle_s is None:
        return None
    known = image.cycle_s[0][torch.isfinite(image.cycle_s[0])]
    return round(1000 * known.double().mean().item(), 1) if known.numel() else None
