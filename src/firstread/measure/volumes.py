"""Ventricular volumes, ejection fraction, output and mass as formulas of the volume curve.

Conventions of ukbb_cardiac (Bai 2018, Bai 2020): end-diastole is the first frame, end-systole the smallest LV volume,
both ventricles are read at these two frames, and muscle weighs 1.05 g/mL.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from firstread.core.errors import SettingError

MUSCLE_G_PER_ML = 1.05


def end_systole_weights(volume: Float[Tensor, "batch time"], *, softness: float = 0.0) -> Float[Tensor, "batch time"]:
    """How much each frame counts as end-systole; rows sum to one.

        softness = 0:  w_t = 1 at the first t of smallest volume, else 0
        softness > 0:  w_t = softmax_t(-V_t / tau),  tau = softness * mean_t(V_t)

    The soft end-systolic volume ``sum(w V)`` lies between ``min(V)`` and ``min(V) + tau log(T)``; softness has no unit,
    so the weights do not depend on millilitres or voxels.

    >>> end_systole_weights(torch.tensor([[120.0, 50.0, 90.0]])).tolist()
    [[0.0, 1.0, 0.0]]
    """
    return _extreme_weights(-volume, volume, softness)


def largest_volume_weights(volume: Float[Tensor, "batch time"], *,
                           softness: float = 0.0) -> Float[Tensor, "batch time"]:
    """How much each frame counts as that of largest volume; the mirror image of ``end_systole_weights``.

    >>> largest_volume_weights(torch.tensor([[110.0, 50.0, 120.0]])).tolist()
    [[0.0, 0.0, 1.0]]
    """
    return _extreme_weights(volume, volume, softness)


def _extreme_weights(score: Tensor, volume: Tensor, softness: float) -> Tensor:
    if softness < 0 or not math.isfinite(softness):
        raise SettingError(f"softness {softness}", expected="zero or more", remedy="use 0 for the hard choice")
    if softness == 0:
        return torch.nn.functional.one_hot(score.argmax(dim=1), score.shape[1]).to(score.dtype)
    scale = softness * volume.mean(dim=1, keepdim=True)
    tiny = torch.finfo(volume.dtype).tiny
    return torch.softmax(score / scale.clamp_min(tiny), dim=1)


def first_frame_weights(volume: Float[Tensor, "batch time"]) -> Float[Tensor, "batch time"]:
    """Weight one on the first frame, which is end-diastole where the sequence begins at the R wave.

    >>> first_frame_weights(torch.tensor([[110.0, 50.0, 120.0]])).tolist()
    [[1.0, 0.0, 0.0]]
    """
    weights = torch.zeros_like(volume)
    weights[:, 0] = 1
    return weights


def at_frame(curve: Float[Tensor, "batch time"], weights: Float[Tensor, "batch time"]) -> Float[Tensor, " batch"]:
    """The curve at the weighted frame, ``sum_t(w_t V_t)``.

    >>> at_frame(torch.tensor([[110.0, 50.0]]), torch.tensor([[0.0, 1.0]])).item()
    50.0
    """
    return (curve * weights).sum(dim=1)


def ejection_fraction(end_diastolic: Float[Tensor, " batch"],
                      end_systolic: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Ejection fraction in percent, ``100 (EDV - ESV) / EDV``; NaN where EDV is zero.

    >>> ejection_fraction(torch.tensor([120.0]), torch.tensor([48.0])).item()
    60.0
    """
    known = end_diastolic > 0
    divisor = torch.where(known, end_diastolic, torch.ones_like(end_diastolic))
    return torch.where(known, 100 * (end_diastolic - end_systolic) / divisor, torch.full_like(end_diastolic, math.nan))


def cardiac_output(stroke_volume_ml: Float[Tensor, " batch"],
                   rate_per_min: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Cardiac output in L/min, ``SV * HR / 1000``.

    >>> round(cardiac_output(torch.tensor([72.0]), torch.tensor([60.0])).item(), 2)
    4.32
    """
    return stroke_volume_ml * rate_per_min / 1000


def heart_rate(cycle_s: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Heart rate per minute, ``60 / cycle``.

    >>> heart_rate(torch.tensor([0.8])).item()
    75.0
    """
    return 60 / cycle_s


def muscle_mass(myocardium_ml: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Muscle mass in grams, ``1.05 g/mL * V``.

    >>> round(muscle_mass(torch.tensor([100.0])).item(), 2)
    105.0
    """
    return MUSCLE_G_PER_ML * myocardium_ml


def sum_over_parts(values: Num[Tensor, "batch ..."], owner: Int[Tensor, " batch"],
                   count: int) -> Num[Tensor, "{count} ..."]:
    """Sum the rows that belong together: ``out[k] = sum of values[b] with owner[b] = k``.

    >>> sum_over_parts(torch.tensor([[1.0], [2.0], [5.0]]), torch.tensor([0, 0, 1]), 2).tolist()
    [[3.0], [5.0]]
    """
    total = torch.zeros((count, *values.shape[1:]), dtype=values.dtype, device=values.device)
    return total.index_add(0, owner.to(values.device), values)
