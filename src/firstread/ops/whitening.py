"""Decorrelation of coils by their noise covariance."""

from __future__ import annotations

import torch
from jaxtyping import Complex
from torch import Tensor

from firstread.core.errors import SignalError


def whitening_matrix(covariance: Complex[Tensor, "batch coil coil"]) -> Complex[Tensor, "batch coil coil"]:
    """``W`` with ``W Ψ Wᴴ = ψ I``, ψ the mean variance: the inverse Cholesky factor of ``Ψ / ψ`` (units kept).

    Raises SignalError where the covariance is not positive definite (a dead coil).

    >>> covariance = torch.diag(torch.tensor([1.0, 3.0])).to(torch.complex64)[None]
    >>> w = whitening_matrix(covariance)
    >>> torch.allclose(w @ covariance @ w.mH, 2 * torch.eye(2, dtype=torch.complex64), atol=1e-5)
    True
    """
    mean = covariance.diagonal(dim1=1, dim2=2).real.mean(dim=1)
    factor, failed = torch.linalg.cholesky_ex(covariance / mean[:, None, None])
    if bool(failed.any()) or not bool(torch.isfinite(torch.view_as_real(factor)).all()) or bool((mean <= 0).any()):
        raise SignalError("a noise covariance that is not positive definite", expected="noise in every coil",
                          remedy="leave out coils without noise, or read the file without its noise scan")
    identity = torch.eye(covariance.shape[1], dtype=covariance.dtype, device=covariance.device)
    return torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=False)


def combine_coils(matrix: Complex[Tensor, "batch out coil"], data: Complex[Tensor, "batch time coil z y x"]
                  ) -> Complex[Tensor, "batch time out z y x"]:
    """``Σ_c matrix[o, c] data[c]`` on the coil axis."""
    return torch.einsum("boc,btczyx->btozyx", matrix, data)
