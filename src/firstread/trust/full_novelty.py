"""A novelty score that all calibration cases both define and calibrate, for calibrations of a few dozen cases.

:class:`~firstread.trust.shift.Novelty` splits the cases: some define the score, the others calibrate it. Of 30 cases
nothing can be split. Full (transductive) conformal prediction needs no split: the new case joins the n others, each of
the n + 1 is scored by its distance to all of them, and its rank among them is uniform under exchangeability.
Sources: Vovk, Gammerman and Shafer 2005, chapter 2; Laxhammar and Falkman 2015 (anomaly detection).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.errors import SettingError, SignalError

SHRINKAGE = 0.1
FINEST: Mapping[str, float] = {"log_pixel_mm": 0.02, "log_slice_mm": 0.02}
"""Standard deviations below which a feature is not taken to vary (a spacing by 5 %), so that cases of one protocol do
not make every other one infinitely strange; 0.002 for all others."""


@dataclass(frozen=True, eq=False)
class FullNovelty:
    """How unlike its calibration cases an input is, by full conformal prediction.

        s_i = (x_i - m)' C^-1 (x_i - m),  i = 1 … n + 1,   p = #{ i : s_i >= s_(n+1) } / (n + 1)

    m, C: mean and covariance of all n + 1 cases, correlations shrunk by a tenth, standard deviations not below
    ``FINEST``. names: of the features; cases ``[n, feature]``; calibrated_on: the data, in words.

    >>> found = FullNovelty(("noise",), torch.linspace(-1, 1, 19)[:, None].double(), "an example")
    >>> [round(p, 2) for p in found.p_value(torch.tensor([[0.0], [5.0]])).tolist()]
    [1.0, 0.05]
    """

    names: tuple[str, ...]
    cases: Float[Tensor, "n feature"]
    calibrated_on: str

    @property
    def count(self) -> int:
        """Calibration cases; p is never below ``1 / (count + 1)``."""
        return len(self.cases)

    def p_value(self, features: Float[Tensor, "case feature"]) -> Float[Tensor, " case"]:
        """Conformal p-value of each case, by itself; NaN where a feature is."""
        found = features.new_full((len(features),), torch.nan, dtype=torch.float64)
        for row, case in enumerate(features.detach().double()):
            if bool(torch.isfinite(case).all()):
                scores = joint_distances(torch.cat((self.cases, case[None])), self._finest())
                found[row] = (scores >= scores[-1] * (1 - 1e-9)).double().mean()
        return found

    def reason(self, features: Float[Tensor, " feature"], *, most: int = 2) -> str:
        """The features furthest from the calibration cases' means, in their standard deviations."""
        sd = self.cases.std(dim=0).clamp_min(0).maximum(self._finest())
        away = ((features.double() - self.cases.mean(dim=0)) / sd).tolist()
        order = sorted(range(len(away)), key=lambda i: -abs(away[i]))[:most]
        return ", ".join(f"{self.names[i]} {abs(away[i]):.1f} sd {'above' if away[i] > 0 else 'below'}" for i in order)

    def as_json(self) -> dict[str, Any]:
        """Plain lists, for JSON."""
        return {"names": list(self.names), "calibrated_on": self.calibrated_on, "cases": self.cases.tolist()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FullNovelty:
        """From what ``as_json`` gave; raises KeyError, TypeError or ValueError for anything else."""
        names, cases = tuple(str(name) for name in data["names"]), torch.tensor(data["cases"], dtype=torch.float64)
        if cases.ndim != 2 or cases.shape[1] != len(names):
            raise ValueError(f"novelty of {len(names)} features")
        return cls(names, cases, str(data["calibrated_on"]))

    def _finest(self) -> Float[Tensor, " feature"]:
        return torch.tensor([FINEST.get(name, 0.002) for name in self.names], dtype=torch.float64)


def joint_distances(cases: Float[Tensor, "n feature"], finest: Float[Tensor, " feature"], *,
                    shrinkage: float = SHRINKAGE) -> Float[Tensor, " n"]:
    """Squared Mahalanobis distance of each case to the mean of all, itself among them: ``(x - m)' C^-1 (x - m)``.

    finest: the least standard deviation of each feature; shrinkage: of the correlations, ``(1 - s) R + s I``.

    >>> joint_distances(torch.tensor([[-1.0], [0.0], [1.0]]).double(), torch.tensor([0.1]).double()).tolist()
    [1.0, 0.0, 1.0]
    """
    away = cases - cases.mean(dim=0)
    scaled = away / cases.std(dim=0).maximum(finest)
    correlation = scaled.T @ scaled / (len(cases) - 1)
    one = torch.eye(cases.shape[1], dtype=cases.dtype)
    return (scaled * torch.linalg.solve((1 - shrinkage) * correlation + shrinkage * one, scaled.T).T).sum(dim=1)


def full_novelty(features: Float[Tensor, "n feature"], names: tuple[str, ...], *, calibrated_on: str) -> FullNovelty:
    """From the features of calibration cases; those that are NaN in a case (no spacing stated, say) are left out.

    Raises SettingError for fewer than two cases, SignalError where no feature is known of every case.
    """
    table = features.detach().double()
    if len(table) < 2 or table.shape[1] != len(names):
        raise SettingError(f"{len(table)} cases of {table.shape[1]} features, {len(names)} names",
                           expected="two cases or more, a name per feature", remedy="describe more cases")
    known = torch.isfinite(table).all(dim=0)
    if not bool(known.any()):
        raise SignalError("no feature that is known of every calibration case", expected="finite features",
                          remedy="leave out the cases that could not be described")
    kept = tuple(name for name, there in zip(names, known.tolist(), strict=True) if there)
    return FullNovelty(kept, table[:, known], calibrated_on)
