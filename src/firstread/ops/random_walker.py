"""Random walker with priors: a mask that follows edges, from how likely each pixel is, as one linear system."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from firstread.core.errors import SettingError
from firstread.ops.solve import solve


def edge_weights(image: Float[Tensor, "y x"], *, edge: float, spacing_mm: tuple[float, float]
                 ) -> tuple[Float[Tensor, "y1 x"], Float[Tensor, "y x1"]]:
    """How easily a walker steps to the neighbour along y and along x.

        w_ij = (d / d_ij)² exp(-(I_i - I_j)² / (2 s²)),   not below 1e-4

    edge: s, the step of intensity that is an edge; d_ij: the distance of the two pixels, d that of the nearest.
    """
    least = min(spacing_mm)
    return tuple((least / step)**2 * torch.exp(-image.diff(dim=axis).square() / (2 * edge**2)).clamp_min(1e-4)
                 for axis, step in enumerate(spacing_mm))


def _laplacian(p: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """``(L p)_i = Σ_j w_ij (p_i - p_j)`` over the four neighbours."""
    flow_y, flow_x = down * p.diff(dim=0), right * p.diff(dim=1)
    pad = torch.nn.functional.pad
    return (pad(flow_y, (0, 0, 1, 0)) - pad(flow_y, (0, 0, 0, 1))
            + pad(flow_x, (1, 0, 0, 0)) - pad(flow_x, (0, 1, 0, 0)))


def random_walker(image: Float[Tensor, "y x"], prior: Float[Tensor, "y x"], *, inside: Bool[Tensor, "y x"],
                  outside: Bool[Tensor, "y x"], weight: float = 0.05, edge: float = 0.1,
                  spacing_mm: tuple[float, float] = (1.0, 1.0), iterations: int = 400, tolerance: float = 1e-3
                  ) -> Float[Tensor, "y x"]:
    """Probability that a walker from each pixel ends on the object: smooth within regions, steep at edges.

        p = argmin Σ_ij w_ij (p_i - p_j)² + γ Σ_i (p_i - q_i)²,   p = 1 on the inside seeds, 0 on the outside ones

    that is ``(L + γ) p = γ q`` where p is free. prior: q, how likely each pixel is by itself; weight: γ; edge and
    spacing_mm: of :func:`edge_weights`. Differentiable with respect to image and prior; solved by conjugate gradients
    after scaling by the diagonal. Raises SettingError where neither seeds nor a weight hold the solution. Sources:
    Grady 2006 (random walks); Grady 2005 (prior models).

    >>> image = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    >>> seeds = torch.tensor([[1, 0, 0, 0]]).bool()
    >>> p = random_walker(image, torch.zeros(1, 4), inside=seeds, outside=seeds.flip(1), weight=0.0)
    >>> (p > 0.5).int().tolist()
    [[1, 1, 0, 0]]
    """
    if weight < 0 or edge <= 0 or (weight == 0 and not bool((inside | outside).any())):
        raise SettingError(f"a weight of {weight}, an edge of {edge}, {int((inside | outside).sum())} seeds",
                           expected="a weight of zero or more, an edge above zero, seeds or a weight",
                           remedy="correct them")
    down, right = edge_weights(image, edge=edge, spacing_mm=spacing_mm)
    free = (~(inside | outside)).to(image.dtype)
    fixed = inside.to(image.dtype)
    pad = torch.nn.functional.pad
    diagonal = (pad(down, (0, 0, 1, 0)) + pad(down, (0, 0, 0, 1)) + pad(right, (1, 0, 0, 0)) + pad(right, (0, 1, 0, 0))
                + weight)
    scale = free * diagonal.clamp_min(1e-12).rsqrt()

    def normal(v: Tensor) -> Tensor:
        return scale * (_laplacian(scale * v, down, right) + weight * scale * v)

    rhs = scale * (weight * prior - _laplacian(fixed, down, right))
    return scale * solve(normal, rhs, iterations=iterations, tolerance=tolerance) + fixed
