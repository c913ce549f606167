"""Signal of the tissues in balanced steady-state free precession (bSSFP), the sequence of cardiac cine.

With ``E1 = exp(-TR/T1)``, ``E2 = exp(-TR/T2)``, flip angle a and precession per repetition ``b = 2 pi df TR + pi``
(pulses of alternating sign), right after a pulse (Freeman and Hill 1971; Zur 1988)

    |M| = (1 - E1) sin a sqrt(1 - 2 E2 cos b + E2^2) / [(1 - E1 cos a)(1 - E2 cos b) - E2 (E1 - cos a)(E2 - cos b)]

and at TE = TR / 2 the phase is refocused up to a sign that changes from pass band to pass band (Scheffler and Hennig
2003): fat, some 220 Hz (1.5 T) or 440 Hz (3 T) from water, is opposed to water, and voxels at their border are dark.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Complex, Float
from torch import Tensor

FieldStrength = Literal["1.5T", "3T"]


@dataclass(frozen=True)
class Tissue:
    """Relaxation times in ms, proton density (water is 1) and chemical shift in ppm."""

    t1_ms: float
    t2_ms: float
    density: float = 0.9
    shift_ppm: float = 0.0


NAMES = ("air", "lung", "blood", "venous blood", "myocardium", "trabeculae", "fat", "muscle", "liver", "spleen",
         "stomach", "marrow", "skin", "vessel wall", "fluid")
"""Names of the tissue codes, in order."""
CODE = {name: code for code, name in enumerate(NAMES)}

TISSUES: dict[FieldStrength, dict[str, Tissue]] = {
    "1.5T": {
        "lung": Tissue(1200.0, 35.0, 0.12), "blood": Tissue(1441.0, 290.0, 0.95),
        "venous blood": Tissue(1441.0, 230.0, 0.95),
        "myocardium": Tissue(1030.0, 45.0, 0.85),
        "fat": Tissue(288.0, 85.0, 0.9, -3.45),
        "muscle": Tissue(1008.0, 38.0, 0.85),
        "liver": Tissue(586.0, 46.0, 0.8), "spleen": Tissue(1057.0, 79.0, 0.85), "stomach": Tissue(900.0, 70.0, 0.6),
        "marrow": Tissue(549.0, 49.0, 0.55), "skin": Tissue(950.0, 40.0, 0.6), "vessel wall": Tissue(1000.0, 40.0, 0.6),
        "fluid": Tissue(3000.0, 800.0, 1.0),
    },
    "3T": {
        "lung": Tissue(1300.0, 30.0, 0.12), "blood": Tissue(1932.0, 275.0, 0.95),
        "venous blood": Tissue(1932.0, 200.0, 0.95),
        "myocardium": Tissue(1300.0, 45.0, 0.85),
        "fat": Tissue(371.0, 80.0, 0.9, -3.45),
        "muscle": Tissue(1412.0, 36.0, 0.85),
        "liver": Tissue(812.0, 40.0, 0.8), "spleen": Tissue(1328.0, 61.0, 0.85), "stomach": Tissue(1100.0, 60.0, 0.6),
        "marrow": Tissue(586.0, 49.0, 0.55), "skin": Tissue(1200.0, 38.0, 0.6),
        "vessel wall": Tissue(1300.0, 40.0, 0.6),
        "fluid": Tissue(3500.0, 700.0, 1.0),
    },
}
"""Close to literature values: Stanisz et al., Magn Reson Med 2005;54:507 (blood, heart, liver, muscle), de Bazelaire
et al., Radiology 2004;230:652 (spleen, marrow), Gold et al., AJR 2004;183:343 (fat). Densities of lung, stomach, marrow
and skin are effective ones, chosen for the look. ``heart_scene.draw_look`` draws around all of them."""

LARMOR_MHZ: dict[FieldStrength, float] = {"1.5T": 63.87, "3T": 127.74}


def bssfp_signal(t1_ms: Float[Tensor, "*s"], t2_ms: Float[Tensor, "*s"], off_resonance_hz: Float[Tensor, "*s"], *,
                 flip_deg: float, tr_ms: float) -> Complex[Tensor, "*s"]:
    """bSSFP signal of unit density at TE = TR / 2 (formula at the top of the file).

    On resonance ``(1 - E1) sin a / (1 - (E1 - E2) cos a - E1 E2) exp(-TE / T2)``.

    >>> one = torch.ones(1)
    >>> round(bssfp_signal(1000 * one, 50 * one, 0 * one, flip_deg=50.0, tr_ms=3.0).real.item(), 3)
    0.087
    """
    e1, e2 = torch.exp(-tr_ms / t1_ms), torch.exp(-tr_ms / t2_ms)
    flip = math.radians(flip_deg)
    turn = 2 * math.pi * off_resonance_hz * tr_ms / 1000
    cos_b = -torch.cos(turn)
    below = (1 - e1 * math.cos(flip)) * (1 - e2 * cos_b) - e2 * (e1 - math.cos(flip)) * (e2 - cos_b)
    size = (1 - e1) * math.sin(flip) * torch.sqrt(1 - 2 * e2 * cos_b + e2**2) / below * torch.exp(-tr_ms / 2 / t2_ms)
    angle = turn / 2 - torch.atan2(e2 * torch.sin(turn), 1 + e2 * torch.cos(turn))
    return torch.polar(size, angle)


@dataclass(frozen=True)
class Sequence:
    """Field strength, flip angle and repetition time of the cine."""

    field: FieldStrength = "1.5T"
    flip_deg: float = 55.0
    tr_ms: float = 3.0


BINS, BIN_HZ = 241, 4.0
"""Off-resonance is tabulated from ``-(BINS // 2) * BIN_HZ`` to the same above zero."""


def signal_table(sequence: Sequence, tissues: dict[str, Tissue], *, inflow: float,
                 trabecular_muscle: float) -> Float[Tensor, "tissues bins"]:
    """Signed signal of each tissue code at each off-resonance, scaled so that flowing blood on resonance is 1.

    inflow: how much brighter blood is than in the steady state, since fresh spins flow in; trabecular_muscle: share
    of muscle in what is drawn as trabeculae.
    """
    hz = (torch.arange(BINS) - BINS // 2) * BIN_HZ
    rows = [torch.zeros(BINS)]
    for name in NAMES[1:]:
        if name == "trabeculae":
            rows.append(torch.zeros(BINS))
            continue
        t = tissues[name]
        shifted = hz + t.shift_ppm * LARMOR_MHZ[sequence.field]
        full = torch.ones(BINS)
        row = bssfp_signal(t.t1_ms * full, t.t2_ms * full, shifted, flip_deg=sequence.flip_deg, tr_ms=sequence.tr_ms)
        rows.append(row.real * t.density * (inflow if "blood" in name else 1.0))
    table = torch.stack(rows)
    share = trabecular_muscle
    table[CODE["trabeculae"]] = share * table[CODE["myocardium"]] + (1 - share) * table[CODE["blood"]]
    return table / table[CODE["blood"], BINS // 2]


def bins_of(off_resonance_hz: Float[Tensor, "*s"]) -> Tensor:
    """The column of ``signal_table`` for each value."""
    return (off_resonance_hz / BIN_HZ + BINS // 2).round().clamp(0, BINS - 1).long()


def varied(tissues: dict[str, Tissue], factors: dict[str, tuple[float, float, float]]) -> dict[str, Tissue]:
    """Tissues with T1, T2 and density multiplied by the ``factors`` of each name."""
    return {name: replace(t, t1_ms=t.t1_ms * factors[name][0], t2_ms=t.t2_ms * factors[name][1],
                          density=t.density * factors[name][2]) for name, t in tissues.items()}
