"""Coil compression as a stage: fewer virtual coils, less work for every later stage."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from firstread.core.errors import SettingError
from firstread.core.records import KSpace, Note
from firstread.core.stage import Stage
from firstread.ops.coil_compression import align, principal_coils
from firstread.ops.fourier import fft, ifft
from firstread.reconstruct.problem import check

Method = Literal["svd", "geometric"]


class CompressCoils(Stage):
    """The ``count`` virtual coils of most energy, one set per batch row.

    method: ``svd``: one matrix for all of k-space (Buehrer et al. 2007); ``geometric``: one for every place along the
    fully sampled readout x, aligned from place to place (Zhang et al. 2013), which needs fewer coils.

    Maps and noise covariance are compressed too. The share of energy kept is in a note. Matrices are constant in
    backward passes.

    Reads a KSpace, writes KSpace "compressed". Raises SettingError for more virtual coils than coils, and from
    ``geometric`` where the readout has gaps or coils are still correlated (it takes no noise covariance).
    """

    result = "compressed"

    def __init__(self, *, count: int = 8, method: Method = "svd"):
        super().__init__()
        if count < 1 or method not in get_args(Method):
            raise SettingError(f"{count} virtual coils by {method!r}", remedy="correct the setting",
                               expected=f"one or more, by {' or '.join(get_args(Method))}")
        self.count, self.method = count, method

    def forward(self, kspace: KSpace) -> KSpace:
        check(kspace)
        if self.method == "svd":
            samples = kspace.data.detach().movedim(2, 1).flatten(2)
            matrix, energy = principal_coils(samples, self.count)
            data, maps = _apply(matrix[:, None], kspace.data), kspace.sensitivities
            maps = None if maps is None else _apply(matrix[:, None], maps)
            covariance = kspace.noise_covariance
            covariance = None if covariance is None else matrix @ covariance.to(matrix.dtype) @ matrix.mH
        else:
            data, maps, energy = self._along_readout(kspace)
            covariance = None
        kept = float((energy[:, : self.count].sum(dim=1) / energy.sum(dim=1)).min())
        made = replace(kspace, data=data, sensitivities=maps, noise_covariance=covariance)
        return made.noted(Note("coil_compression", f"{self.count} virtual coils of {kspace.data.shape[2]} hold "
                               f"{100 * kept:.1f} % of the energy", "info"))

    def _along_readout(self, kspace: KSpace) -> tuple[Tensor, Tensor | None, Tensor]:
        """Data and maps by the matrices of every place x, and the energies summed over places."""
        kspace.require_cartesian("geometric coil compression")
        if kspace.mask.shape[-1] > 1 and bool((kspace.mask != kspace.mask[..., :1]).any()):
            raise SettingError("a readout x with missing samples for geometric coil compression",
                               expected="whole lines along x", remedy="use method='svd'")
        if kspace.noise_covariance is not None:
            raise SettingError("a noise covariance for geometric coil compression", expected="decorrelated coils",
                               remedy="use method='svd', or decorrelate the coils and leave the covariance out")
        encoded = "x" in kspace.fourier_axes
        hybrid = ifft(kspace.data, ("x",)) if encoded else kspace.data
        samples = hybrid.detach().permute(0, 5, 2, 1, 3, 4).flatten(3)
        matrix, energy = principal_coils(samples, self.count)
        matrix = torch.stack([align(row) for row in matrix])
        data = _apply(matrix, hybrid)
        maps = kspace.sensitivities
        maps = None if maps is None else _apply(matrix, maps)
        return fft(data, ("x",)) if encoded else data, maps, energy.sum(dim=1)


def _apply(matrix: Tensor, data: Tensor) -> Tensor:
    """``Σ_c A[x, v, c] data[c, x]``; one matrix for all places, or one for each."""
    if matrix.shape[1] == 1:
        return torch.einsum("bvc,btczyx->btvzyx", matrix[:, 0], data)
    return torch.einsum("bxvc,btczyx->btvzyx", matrix, data)
