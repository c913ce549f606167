"""Randomness as a key: noise is a function of (seed, stage name, row), never of the order of execution."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from firstread.core.records import Rows


@dataclass(frozen=True)
class Key:
    """What a stage draws its noise from; a stage that is random takes ``key: Key`` in ``forward``."""

    seed: int
    stage: str

    def generator(self, *row: int) -> torch.Generator:
        """A CPU generator that depends on seed, stage and ``row`` alone."""
        text = f"{self.seed}/{self.stage}/{'/'.join(str(int(r)) for r in row)}"
        number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
        return torch.Generator().manual_seed(number)

    def generators(self, rows: Rows) -> list[torch.Generator]:
        """One generator per batch row, from its (subject, part, draw)."""
        table = torch.stack((rows.subject, rows.part, rows.draw), dim=1).tolist()
        return [self.generator(*row) for row in table]

    def normal(self, rows: Rows, shape: tuple[int, ...], *, dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal numbers ``[batch, *shape]``; complex ones have E|n|² = 1."""
        return torch.stack([torch.randn(shape, generator=g, dtype=dtype) for g in self.generators(rows)])
