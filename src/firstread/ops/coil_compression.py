"""Coil compression: a few virtual coils that hold nearly all of the signal."""

from __future__ import annotations

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from firstread.core.errors import SettingError


def principal_coils(samples: Complex[Tensor, "*batch coil n"], count: int
                    ) -> tuple[Complex[Tensor, "*batch virtual coil"], Float[Tensor, "*batch coil"]]:
    """Rows of the matrix onto the ``count`` virtual coils of most energy, and the energy of all (Buehrer et al. 2007).

    They are the first left singular vectors of the samples, ``A = U_countᴴ``: orthonormal, so white noise stays white.

    >>> matrix, energy = principal_coils(torch.tensor([[3.0, 3.0], [0.0, 0.0]]) + 0j, 1)
    >>> matrix.abs().round().tolist(), [round(e) for e in energy.tolist()]
    ([[1.0, 0.0]], [18, 0])
    """
    coils = samples.shape[-2]
    if not 1 <= count <= coils:
        raise SettingError(f"{count} virtual coils of {coils}", expected="one to as many as there are",
                           remedy="correct `count`")
    values, vectors = torch.linalg.eigh(samples @ samples.mH)
    return vectors[..., -count:].flip(-1).mH, values.flip(-1).clamp_min(0)


def align(matrices: Complex[Tensor, "place virtual coil"]) -> Complex[Tensor, "place virtual coil"]:
    """Matrices turned so that virtual coils vary as little as can be from place to place (Zhang et al. 2013).

    ``A_x ← U Vᴴ A_x`` with the singular vectors of ``A_{x-1} A_xᴴ = U Σ Vᴴ``: the nearest unitary matrix, place after
    place outwards from the middle. The spaces stay the same.
    """
    middle = matrices.shape[0] // 2
    made = list(matrices.unbind(0))
    for places in (range(middle + 1, len(made)), range(middle - 1, -1, -1)):
        for x in places:
            before = made[x - 1] if x > middle else made[x + 1]
            u, _, vh = torch.linalg.svd(before @ made[x].mH)
            made[x] = u @ vh @ made[x]
    return torch.stack(made)
