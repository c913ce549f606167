"""What became of every slice, in words and numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from firstread.core.records import Image, Note
from firstread.core.slices import OUTSIDE
from firstread.restore.slices_input import SliceSet
from firstread.restore.slices_loop import Fit
from firstread.restore.slices_register import FEW
from firstread.restore.slices_robust import SCALE_RANGE
from firstread.restore.slices_volume import Frame

NO_MASK = Note("no_mask", "No mask was given: everything bright was taken as one body. Where a fetus moves within its "
               "mother, give a mask of the part of interest.")
KEPT = 0.5


def describe(stacks: Image, slices: SliceSet, fit: Fit, still: Tensor, frame: Frame, template: int, reason: str
             ) -> dict[str, Any]:
    """The tables of a SliceVolume: of all slices of all stacks, those never looked at too."""
    depth = [int(torch.isfinite(stacks.data[row, 0, 0]).any(dim=(1, 2)).sum()) for row in range(stacks.batch)]
    place = [(row, z) for row in range(stacks.batch) for z in range(depth[row])]
    known = {(int(s), int(n)): i for i, (s, n) in enumerate(zip(slices.stack, slices.number, strict=True))}
    back = torch.linalg.inv(frame.to_frame)
    poses = still[torch.tensor([row for row, _ in place])].clone()
    weights, ncc, scales = (torch.zeros(len(place)) for _ in range(3))
    reasons = []
    pixels = fit.pixel_weights.sum(dim=(1, 2))
    for index, key in enumerate(place):
        i = known.get(key)
        if i is None or (float(pixels[i]) <= FEW and float(fit.weights[i]) < KEPT and float(fit.ncc[i]) == 0):
            reasons.append(OUTSIDE)
            if i is not None:
                poses[index] = fit.poses[i]
            continue
        poses[index], weights[index] = fit.poses[i], fit.weights[i]
        ncc[index], scales[index] = fit.ncc[i], fit.scales[i]
        reasons.append(_reason(float(fit.weights[i]), float(fit.ncc[i]), float(fit.scales[i])))
    return {"poses": (back @ poses @ frame.to_frame)[None], "weights": weights[None], "ncc": ncc[None],
            "scales": scales[None], "stack": tuple(row for row, _ in place), "number": tuple(z for _, z in place),
            "reasons": tuple(reasons), "template": template, "template_reason": reason}


def _reason(weight: float, ncc: float, scale: float) -> str:
    """Why a slice is excluded, or nothing where it is used."""
    if weight >= KEPT:
        return ""
    if scale <= SCALE_RANGE[0] or scale >= SCALE_RANGE[1]:
        return f"signal {'lost' if scale >= SCALE_RANGE[1] else 'far too high'} (to be multiplied by {scale:.2g})"
    return f"does not fit the volume (cross-correlation {ncc:.2f}, weight {weight:.2f})"
