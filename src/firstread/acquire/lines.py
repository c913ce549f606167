"""Choosing phase-encode lines by score: exactly so many, and the relaxation that a gradient is taken of."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from firstread.core.errors import SettingError


def top_lines(scores: Float[Tensor, "*frames lines"], count: int, *, kept: Bool[Tensor, "*#frames lines"] | None = None
              ) -> Float[Tensor, "*frames lines"]:
    """The binary mask of the ``count`` lines of highest score in every frame; ``kept`` lines come first.

    Raises SettingError where more lines are kept than asked for.

    >>> top_lines(torch.tensor([[0.1, 0.9, 0.3, 0.2]]), 2, kept=torch.tensor([True, False, False, False])).tolist()
    [[1.0, 1.0, 0.0, 0.0]]
    """
    lines = scores.shape[-1]
    first = torch.zeros_like(scores, dtype=torch.bool) if kept is None else kept.expand_as(scores)
    most = int(first.sum(dim=-1).max())
    if not max(1, most) <= count <= lines:
        raise SettingError(f"a budget of {count} of {lines} lines",
                           expected=f"{max(1, most)} to {lines}: the lines that are always measured count too",
                           remedy="raise the budget or keep fewer lines")
    ranked = scores.detach().masked_fill(first, torch.inf)
    return torch.zeros_like(ranked).scatter_(-1, ranked.topk(count, dim=-1).indices, 1.0)


def budgeted_density(logits: Float[Tensor, "*frames lines"], count: int, *,
                     kept: Bool[Tensor, "*#frames lines"] | None = None, temperature: float | int = 1.0
                     ) -> Float[Tensor, "*frames lines"]:
    """The relaxed choice of ``count`` lines, ``p_k = σ((l_k + c) / T)`` with c such that ``Σ_k p_k = count``.

    Kept lines have p = 1. Lines compete: with ``q = p (1 - p)``, ``∂p_k/∂l_j = (q_k δ_kj - q_k q_j / Σ_i q_i) / T``, so
    that what all lines have in common moves nothing. c is found by bisection, its gradient is the implicit one.

    >>> p = budgeted_density(torch.tensor([[2.0, 0.0, -1.0, 5.0]]), 2)
    >>> round(p.sum().item(), 5)
    2.0
    """
    first = torch.zeros_like(logits, dtype=torch.bool) if kept is None else kept.expand_as(logits)
    wanted = count - first.sum(dim=-1, keepdim=True)
    free = (~first).sum(dim=-1, keepdim=True)
    if bool((wanted < 0).any()) or bool((wanted > free).any()) or temperature <= 0:
        raise SettingError(f"a budget of {count} lines at temperature {temperature}",
                           expected="at least the kept lines, at most all, and a temperature above zero",
                           remedy="correct the numbers")
    open_ = (wanted > 0) & (wanted < free)

    def density(shift: Tensor) -> Tensor:
        return torch.sigmoid((logits + shift) / temperature).masked_fill(first, 0.0)

    with torch.no_grad():
        reach = 40 * temperature + logits.abs().amax(dim=-1, keepdim=True)
        low, high = -reach, reach.clone()
        for _ in range(80):
            middle = (low + high) / 2
            below = density(middle).sum(dim=-1, keepdim=True) < wanted
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        shift = (low + high) / 2
        at = density(shift)
        slope = (at * (1 - at)).sum(dim=-1, keepdim=True).clamp_min(torch.finfo(at.dtype).tiny) / temperature
    excess = density(shift).sum(dim=-1, keepdim=True)
    chosen = density(shift - (excess - excess.detach()) / slope)
    chosen = torch.where(open_, chosen, (wanted > 0).to(chosen).expand_as(chosen))
    return chosen.masked_fill(first, 1.0)


def straight_through(hard: Float[Tensor, "*axes"], soft: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """The hard values, with the gradient of the soft ones (Bengio et al. 2013).

    >>> soft = torch.tensor([0.3], requires_grad=True)
    >>> straight_through(torch.tensor([1.0]), soft).item()
    1.0
    """
    return _StraightThrough.apply(hard, soft)


class _StraightThrough(torch.autograd.Function):
    """Adding and subtracting would round the hard values; this does not."""

    @staticmethod
    def forward(ctx: Any, hard: Tensor, soft: Tensor) -> Tensor:
        return hard.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        return None, grad
