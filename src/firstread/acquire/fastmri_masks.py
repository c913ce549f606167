"""The sampling masks of the fastMRI challenge, column by column, drawn as its own code draws them.

Source: Zbontar et al. 2018 (arXiv 1811.08839), section 4.9; the draws are those of numpy's RandomState seeded by the
characters of the file's name, so that a volume gets the mask that the challenge's baselines gave it.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from firstread.core.errors import SettingError

CENTRE_FRACTIONS = {4: 0.08, 8: 0.04}
Kind = Literal["random", "equispaced"]


def fastmri_mask(columns: int, acceleration: int, *, kind: Kind = "random", name: str = "") -> Bool[Tensor, " columns"]:
    """Which columns are measured: the central fraction, and others at random or evenly spaced.

    ``p = (N / a - n) / (N - n)`` for each column outside the n central ones, n = round(0.08 N) at 4-fold and
    round(0.04 N) at 8-fold. Evenly spaced: every ``a (n - N) / (n a - N)``-th column from a random offset on.
    name: of the file, which seeds the draw. Raises SettingError for another acceleration.

    >>> int(fastmri_mask(368, 4, name="file1000000.h5").sum())
    88
    """
    if acceleration not in CENTRE_FRACTIONS:
        raise SettingError(f"{acceleration}-fold", expected="4 or 8, as fastMRI defines them", remedy="choose one")
    state = np.random.RandomState(tuple(map(ord, name)) or 0)
    central = round(columns * CENTRE_FRACTIONS[acceleration])
    state.randint(0, 1)  # fastMRI draws which of its accelerations to take
    first = (columns - central + 1) // 2
    if kind == "random":
        share = (columns / acceleration - central) / (columns - central)
        mask = state.uniform(size=columns) < share
    else:
        step = acceleration * (central - columns) / (central * acceleration - columns)
        offset = state.randint(0, round(step))
        mask = np.zeros(columns, dtype=bool)
        mask[np.around(np.arange(offset, columns - 1, step)).astype(int)] = True
    mask[first:first + central] = True
    return torch.from_numpy(mask)
