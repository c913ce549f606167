"""Proximal maps ``prox_λg(v) = argmin_x ½‖x − v‖² + λ g(x)`` of the penalties of compressed sensing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Num
from torch import Tensor

from firstread.ops.variation import PLANE, minimize_total_variation


def soft_threshold(x: Num[Tensor, "*shape"], threshold: Float[Tensor, "..."]) -> Num[Tensor, "*shape"]:
    """Of ``Σ |x|``: ``x max(1 − λ / |x|, 0)``, phase kept.

    >>> soft_threshold(torch.tensor([3.0, 0.5]), torch.tensor(1.0)).round(decimals=4).tolist()
    [2.0, 0.0]
    """
    return x * _remaining((x * x.conj()).real, threshold)


def group_soft_threshold(x: Num[Tensor, "*shape"], threshold: Float[Tensor, "..."], dims: Sequence[int]
                         ) -> Num[Tensor, "*shape"]:
    """Of ``Σ sqrt(Σ_dims |x|²)``: each group of entries along ``dims`` shrinks as one (Yuan and Lin 2006).

    >>> group_soft_threshold(torch.tensor([[3.0, 4.0], [0.3, 0.4]]), torch.tensor(1.0), (1,)).tolist()
    [[2.4000..., 3.2000...], [0.0, 0.0]]
    """
    return x * _remaining((x * x.conj()).real.sum(dim=tuple(dims), keepdim=True), threshold)


def _remaining(square: Tensor, threshold: Tensor) -> Tensor:
    """``max(1 − λ / |x|, 0)`` from ``|x|²``, with a finite gradient at 0."""
    floor = threshold.to(square.dtype).square().clamp_min(torch.finfo(square.dtype).tiny)
    return (1 - threshold * torch.maximum(square, floor).rsqrt()).clamp_min(0)


def singular_value_threshold(x: Num[Tensor, "*batch rows columns"], threshold: Float[Tensor, "..."]
                             ) -> Num[Tensor, "*batch rows columns"]:
    """Of the nuclear norm ``Σ_i σ_i(X)``: ``U max(Σ − λ, 0) Vᴴ``, without the decomposition (Cai et al. 2010).

    ``X f(XᴴX)`` with ``f(g) = max(1 − λ / sqrt(g), 0)`` on the eigenvalues of the smaller Gram matrix. Singular values
    below ``sqrt(ε)`` of the largest are not resolved, so that λ should lie above that. threshold: λ, broadcast against
    ``*batch`` followed by two axes of length 1. The gradient stays finite where singular values are equal.

    >>> singular_value_threshold(torch.diag(torch.tensor([3.0, 0.5])), torch.tensor(1.0)).round(decimals=4).tolist()
    [[2.0, 0.0], [0.0, 0.0]]
    """
    if x.shape[-2] < x.shape[-1]:
        return _Shrinkage.apply(x @ x.mH, threshold) @ x
    return x @ _Shrinkage.apply(x.mH @ x, threshold)


def conjugate(proximal: Callable[[Tensor, float], Tensor]) -> Callable[[Tensor, float], Tensor]:
    """The proximal map of the conjugate h* from that of h: ``prox_{δh*}(v) = v − δ prox_{h/δ}(v / δ)`` (Moreau 1965).

    >>> clip = conjugate(lambda v, step: soft_threshold(v, torch.tensor(step)))
    >>> clip(torch.tensor([3.0, -0.5]), 2.0).round(decimals=4).tolist()
    [1.0, -0.5]
    """
    return lambda v, step: v - step * proximal(v / step, 1 / step)


def denoise_total_variation(x: Num[Tensor, "batch *shape"], weight: Float[Tensor, "..."], *,
                            dims: Sequence[int] = PLANE, iterations: int = 50) -> Num[Tensor, "batch *shape"]:
    """Of total variation along ``dims`` (Rudin, Osher and Fatemi 1992), as far as the iterations go.

    >>> denoise_total_variation(torch.ones(1, 4, 4), torch.tensor(1.0)).mean().item()
    1.0
    """
    return minimize_total_variation(lambda v: v, x, weight, bound=1.0, dims=dims, iterations=iterations)


class _Shrinkage(torch.autograd.Function):
    """``f(G) = V f(Λ) Vᴴ`` with ``f(g) = max(1 − λ / sqrt(g), 0)``; its gradient by divided differences of f."""

    @staticmethod
    def forward(ctx: Any, gram: Tensor, threshold: Tensor) -> Tensor:
        g, v = torch.linalg.eigh(gram)
        level = (threshold[..., 0] if threshold.ndim else threshold).to(g.dtype)
        root = g.clamp_min(0).sqrt()
        ctx.save_for_backward(root, v, level)
        ctx.shape = threshold.shape
        return (v * _shrunk(root, level)[..., None, :]) @ v.mH

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        root, v, level = ctx.saved_tensors
        inside = v.mH @ ((grad + grad.mH) / 2) @ v
        of_threshold = None
        if ctx.needs_input_grad[1]:
            each = torch.where(root > level, -inside.diagonal(dim1=-2, dim2=-1).real / root, torch.zeros_like(root))
            of_threshold = each.sum(dim=-1)[..., None, None].sum_to_size(ctx.shape)
        return v @ (_slopes(root, level) * inside) @ v.mH, of_threshold


def _shrunk(root: Tensor, level: Tensor) -> Tensor:
    """``max(1 − λ / s, 0)``, 0 at s = 0."""
    return ((root - level) / root.clamp_min(torch.finfo(root.dtype).tiny)).clamp_min(0)


def _slopes(root: Tensor, level: Tensor) -> Tensor:
    """``(f(a²) − f(b²)) / (a² − b²)``: ``λ / (a b (a + b))`` above λ, ``f(a²) / (a² − b²)`` across it, 0 below it."""
    large, small = (pick(root[..., :, None], root[..., None, :]) for pick in (torch.maximum, torch.minimum))
    level = level[..., None]
    tiny = torch.finfo(root.dtype).tiny
    across = _shrunk(large, level) / (large.square() - small.square()).clamp_min(tiny)
    above = level / (large * small * (large + small)).clamp_min(tiny)
    return torch.where(small > level, above, torch.where(large > level, across, torch.zeros_like(across)))
