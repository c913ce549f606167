"""Is an input like the calibration cases? A novelty score on features, its conformal p-value, and a guard.

The score is the squared Mahalanobis distance to reference cases. Among n calibration cases that did not define it,

    p = (1 + #{ calibration scores >= score }) / (n + 1)

is uniform or larger for an exchangeable new case, whatever the features' distribution.
Sources: Vovk, Gammerman and Shafer 2005; Bates, Candès, Lei, Romano and Sesia 2023 (conformal p-values for outliers).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.errors import ChainError, SettingError, SignalError
from firstread.core.records import Features, Note, Phenotypes
from firstread.core.stage import Stage
from firstread.trust.full_novelty import FullNovelty
from firstread.trust.scores import feature_rows


@dataclass(frozen=True, eq=False)
class Novelty:
    """A novelty score and how it falls on calibration cases.

        score(x) = (x - mean)' precision (x - mean)

    names: of the features; mean ``[feature]``, sd ``[feature]``, precision ``[feature, feature]`` of the reference
    cases; calibration: scores of the calibration cases, ascending; calibrated_on: the data, in words.
    """

    names: tuple[str, ...]
    mean: Float[Tensor, " feature"]
    sd: Float[Tensor, " feature"]
    precision: Float[Tensor, "feature feature"]
    calibration: Float[Tensor, " n"]
    calibrated_on: str

    @property
    def count(self) -> int:
        """Calibration cases; p is never below ``1 / (count + 1)``."""
        return len(self.calibration)

    def score(self, features: Float[Tensor, "case feature"]) -> Float[Tensor, " case"]:
        """Squared Mahalanobis distance of each case; NaN where a feature is."""
        away = features.double() - self.mean
        return ((away @ self.precision) * away).sum(dim=1)

    def p_value(self, features: Float[Tensor, "case feature"]) -> Float[Tensor, " case"]:
        """Conformal p-value of each case; NaN where a feature is."""
        return conformal_p_value(self.score(features), self.calibration)

    def reason(self, features: Float[Tensor, " feature"], *, most: int = 2) -> str:
        """The features furthest from the reference cases' means, in their standard deviations."""
        away = ((features.double() - self.mean) / self.sd).tolist()
        order = sorted(range(len(away)), key=lambda i: -abs(away[i]))[:most]
        return ", ".join(f"{self.names[i]} {abs(away[i]):.1f} sd {'above' if away[i] > 0 else 'below'}" for i in order)

    def as_json(self) -> dict[str, Any]:
        """Plain lists, for JSON."""
        tables = {name: getattr(self, name).tolist() for name in ("mean", "sd", "precision", "calibration")}
        return {"names": list(self.names), "calibrated_on": self.calibrated_on, **tables}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Novelty:
        """From what ``as_json`` gave; raises KeyError, TypeError or ValueError for anything else."""
        names = tuple(str(name) for name in data["names"])
        mean, sd, precision, calibration = (torch.tensor(data[name], dtype=torch.float64)
                                            for name in ("mean", "sd", "precision", "calibration"))
        if precision.shape != (len(names), len(names)) or mean.shape != (len(names),) or sd.shape != mean.shape:
            raise ValueError(f"novelty of {len(names)} features")
        return cls(names, mean, sd, precision, calibration, str(data["calibrated_on"]))


def novelty_from_json(data: Mapping[str, Any]) -> Novelty | FullNovelty:
    """Whichever of the two was stored; raises KeyError, TypeError or ValueError for anything else."""
    return FullNovelty.from_json(data) if "cases" in data else Novelty.from_json(data)


def conformal_p_value(score: Float[Tensor, " case"], calibration: Float[Tensor, " n"]) -> Float[Tensor, " case"]:
    """``(1 + #{calibration >= score}) / (n + 1)``; NaN for a score that is none.

    >>> conformal_p_value(torch.tensor([2.5, 9.0]), torch.tensor([1.0, 2.0, 3.0])).tolist()
    [0.5, 0.25]
    """
    ordered = calibration.double().sort().values
    above = len(ordered) - torch.searchsorted(ordered, score.double().contiguous())
    return torch.where(torch.isnan(score), torch.nan, (1 + above) / (len(ordered) + 1))


def fit_novelty(reference: Float[Tensor, "m feature"], calibration: Float[Tensor, "n feature"],
                names: tuple[str, ...], *, calibrated_on: str, shrinkage: float = 0.1) -> Novelty:
    """Mean and covariance from reference cases (those that trained the chain, say), scores of other, calibration cases.

    shrinkage: share of the covariance that is taken from its diagonal alone, ``(1 - s) C + s diag(C)``, so that it can
    be inverted with few cases. Raises SettingError for fewer than two reference cases or a calibration set among the
    reference, SignalError for NaN.
    """
    reference, calibration = reference.detach().double(), calibration.detach().double()
    if len(reference) < 2 or len(calibration) < 1 or not 0 < shrinkage <= 1 or reference.shape[1] != len(names):
        raise SettingError(f"{len(reference)} reference and {len(calibration)} calibration cases of "
                           f"{reference.shape[1]} features, {len(names)} names, shrinkage {shrinkage}",
                           expected="two reference cases or more, a name per feature, shrinkage in (0, 1]",
                           remedy="collect features of more cases (they need no truth)")
    if not bool(torch.isfinite(reference).all() & torch.isfinite(calibration).all()):
        raise SignalError("features that are no finite numbers", expected="finite features of every case",
                          remedy="leave out the cases without them")
    if bool((calibration[:, None] == reference[None]).all(dim=2).any()):
        raise SettingError("calibration cases among the reference cases", expected="two disjoint sets",
                           remedy="give each case to one of the two")
    mean, sd = reference.mean(dim=0), reference.std(dim=0)
    sd = torch.where(sd > 1e-6 * (1 + mean.abs()), sd, 1e-6 * (1 + mean.abs()))
    scaled = (reference - mean) / sd
    correlation = scaled.T @ scaled / (len(reference) - 1)
    one = torch.eye(len(names), dtype=torch.float64)
    precision = torch.linalg.inv((1 - shrinkage) * correlation + shrinkage * one) / sd[:, None] / sd[None]
    made = Novelty(names, mean, sd, precision, calibration.new_zeros(0), calibrated_on)
    return replace(made, calibration=made.score(calibration).sort().values)


class ShiftGuard(Stage):
    """Keeps intervals from being believed where the input is unlike the calibration cases.

    A row with p below ``refuse_below`` loses its intervals, one below ``warn_below`` keeps them; a note gives p and the
    features that are furthest out. Under exchangeability it refuses at most a share ``refuse_below`` of the cases.
    features: one row per subject; a subject whose features are not finite loses its intervals too. Raises SettingError
    where there are too few calibration cases for p to become that small (says the smallest number).
    """

    result: ClassVar[str] = "phenotypes.guarded"

    def __init__(self, *, novelty: Novelty | FullNovelty, refuse_below: float = 0.01, warn_below: float = 0.05) -> None:
        super().__init__()
        if not 0 < refuse_below <= warn_below < 1:
            raise SettingError(f"refusing below {refuse_below}, warning below {warn_below}",
                               expected="0 < refuse_below <= warn_below < 1", remedy="correct the levels")
        least = math.floor(1 / refuse_below + 1e-9)
        if novelty.count < least:
            raise SettingError(f"{novelty.count} calibration cases to refuse below p = {refuse_below}",
                               expected=f"{least} or more", remedy="describe more cases (they need no truth)")
        self.novelty, self.refuse_below, self.warn_below = novelty, refuse_below, warn_below

    def settings(self) -> str:
        return (f"refuse_below={self.refuse_below}, warn_below={self.warn_below}, features={self.novelty.names}, "
                f"calibrated_on={self.novelty.calibrated_on!r}")

    def forward(self, phenotypes: Phenotypes, features: Features) -> Phenotypes:
        missing = [name for name in self.novelty.names if name not in features.names]
        if missing:
            raise ChainError(f"features without {', '.join(missing)}", expected=", ".join(self.novelty.names),
                             remedy="describe the input as the calibration cases were described")
        table = feature_rows(phenotypes.rows, features)[:, [features.names.index(n) for n in self.novelty.names]]
        p = self.novelty.p_value(table)
        refused = ~(p >= self.refuse_below)
        notes = []
        for row in (~(p >= self.warn_below)).nonzero().flatten().tolist():
            who = f"subject {int(phenotypes.rows.subject[row])}"
            if math.isnan(float(p[row])):
                notes.append(Note("undescribed_input", f"No intervals for {who}: its input could not be described."))
                continue
            why = (f"the input of {who} is unlike the calibration cases (p = {float(p[row]):.3f}; "
                   f"{self.novelty.reason(table[row])})")
            notes.append(Note("shifted_input", f"No intervals: {why}." if bool(refused[row]) else
                              f"The intervals may be too narrow: {why}."))
        return without_intervals(phenotypes, refused).noted(*notes)


def without_intervals(phenotypes: Phenotypes, rows: Tensor) -> Phenotypes:
    """The same phenotypes, without intervals (NaN) in the rows where the mask is set."""
    if not bool(rows.any()):
        return phenotypes
    values = {name: p if p.lower is None or p.upper is None else
              replace(p, lower=p.lower.masked_fill(rows, torch.nan), upper=p.upper.masked_fill(rows, torch.nan))
              for name, p in phenotypes.values.items()}
    return replace(phenotypes, values=values)
