"""Worlds with a known law for the tests of intervals: members scatter about a truth with a spread of each case."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from firstread.core.records import Features, Phenotype, Phenotypes, Rows


def phenotypes(value: Tensor, members: Tensor, *, name: str = "LVEF", unit: str = "%") -> tuple[Phenotypes, Phenotypes]:
    """Point ``[n]`` and members ``[n, k]`` as records."""
    point = Phenotypes(Rows.subjects(len(value)), {name: Phenotype(value, unit)})
    copies = point.draws(members.shape[1])
    return point, Phenotypes(copies.rows, {name: Phenotype(members.flatten(), unit)})


def world(seed: int, n: int, *, noise: Callable[[Tensor], Tensor] = torch.ones_like, centre: float = 0.0,
          members: int = 3) -> tuple[Phenotypes, Phenotypes, dict[str, Tensor], Features]:
    """A feature x ~ N(centre, 1); truth in 30 … 70; members and their mean err by 2 %, the mean also by noise(x) %."""
    draw = torch.Generator().manual_seed(seed)
    x = centre + torch.randn(n, generator=draw).double()
    truth = 30 + 40 * torch.rand(n, generator=draw).double()
    table = truth[:, None] + 2 * torch.randn(n, members, generator=draw)
    value = table.mean(1) + noise(x) * torch.randn(n, generator=draw)
    point, copies = phenotypes(value, table - table.mean(1, keepdim=True) + value[:, None])
    return point, copies, {"LVEF": truth}, Features(Rows.subjects(n), x[:, None], ("x",))


def coverage(found: Phenotypes, truth: dict[str, Tensor]) -> Tensor:
    """Whether each case with an interval is covered."""
    lvef = found["LVEF"]
    known = torch.isfinite(lvef.lower)
    return ((truth["LVEF"] >= lvef.lower) & (truth["LVEF"] <= lvef.upper))[known]
