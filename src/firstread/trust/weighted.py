"""Conformal intervals under covariate shift: calibration errors weighted by how likely their input is in the target.

If only the distribution of inputs changes (not that of the truth given the input), then with weights
``w(x) = p_target(x) / p_calibration(x)`` the interval of a new case x from the weighted quantile of the calibration
errors, with mass ``w(x)`` put at infinity, covers as nominal. With an estimated ratio it does so approximately.
Source: Tibshirani, Barber, Candès and Ramdas 2019, corollary 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.errors import SettingError, SignalError
from firstread.core.records import Features, Note, Phenotypes
from firstread.core.stage import Stage
from firstread.trust.conformal import smallest_calibration
from firstread.trust.intervals import with_intervals
from firstread.trust.scores import Scores, member_rows, member_spread, number_of

LEAST_MEAN = 0.2
"""Smallest mean weight: ``E_calibration[p_target / p_calibration]`` is one, unless the two have nothing in common."""


def weighted_quantile(scores: Float[Tensor, " n"], weights: Float[Tensor, " n"], new: Float[Tensor, " m"],
                      level: float) -> Float[Tensor, " m"]:
    """For each new weight the smallest score s with ``sum(w_i, s_i <= s) / (sum(w) + w_new) >= level``; inf if none.

    Equal weights give the split conformal quantile.

    >>> weighted_quantile(torch.arange(1.0, 20.0), torch.ones(19), torch.tensor([1.0, 4.0]), 0.9).tolist()
    [18.0, inf]
    """
    if bool(torch.isnan(scores).any()) or not bool((torch.isfinite(weights) & (weights >= 0)).all()):
        raise SignalError("calibration scores or weights that are no numbers", expected="scores, and weights >= 0",
                          remedy="leave out cases that could not be measured")
    order = scores.double().sort()
    below = weights.double()[order.indices].cumsum(0)
    total = below[-1] + new.double()
    place = torch.searchsorted(below, level * total * (1 - 1e-12))
    ends = torch.cat((order.values, order.values.new_tensor([torch.inf])))
    return ends[place].to(scores.dtype)


def effective_size(weights: Float[Tensor, " n"]) -> float:
    """How many equally weighted cases are worth as much, ``sum(w)**2 / sum(w**2)`` (Kish 1965).

    >>> effective_size(torch.tensor([1.0, 1.0, 0.0, 0.0]))
    2.0
    """
    w = weights.double()
    return float(w.sum()**2 / w.square().sum().clamp_min(torch.finfo(torch.float64).tiny))


@dataclass(frozen=True, eq=False)
class LikelihoodRatio:
    """``w(x) = p_target(x) / p_calibration(x)``, as a logistic classifier of standardized features sees it.

        log w(x) = intercept + sum_j slope_j (x_j - mean_j) / sd_j

    names: of the features; calibration, target: cases that it was fitted on.
    """

    names: tuple[str, ...]
    mean: Float[Tensor, " feature"]
    sd: Float[Tensor, " feature"]
    slope: Float[Tensor, " feature"]
    intercept: float
    calibration: int
    target: int

    def __call__(self, features: Float[Tensor, "case feature"]) -> Float[Tensor, " case"]:
        """The weight of each case; NaN where a feature is."""
        return (((features.double() - self.mean) / self.sd) @ self.slope + self.intercept).exp()


def fit_ratio(calibration: Float[Tensor, "n feature"], target: Float[Tensor, "m feature"], names: tuple[str, ...], *,
              penalty: float = 1.0, iterations: int = 50) -> LikelihoodRatio:
    """Logistic regression of target (1) against calibration (0) by Newton's method; odds times n / m is the ratio.

    penalty: half the weight of the squared slopes (of standardized features), which keeps the slopes finite where the
    two sets are apart. Raises SettingError for fewer than two cases of either set, SignalError for NaN.

    >>> same = fit_ratio(torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [1.0]]), ("SNR",))
    >>> same(torch.tensor([[0.5]])).tolist()
    [1.0]
    """
    n, m = len(calibration), len(target)
    if min(n, m) < 2 or calibration.shape[1] != len(names) or target.shape[1] != len(names) or penalty <= 0:
        raise SettingError(f"{n} calibration and {m} target cases of {calibration.shape[1]} and {target.shape[1]} "
                           f"features, {len(names)} names, penalty {penalty}",
                           expected="two or more of both with the same features, and a penalty above zero",
                           remedy="collect features of more target cases (they need no truth)")
    both = torch.cat((calibration, target)).detach().double()
    if not bool(torch.isfinite(both).all()):
        raise SignalError("features that are no finite numbers", expected="finite features of every case",
                          remedy="leave out the cases without them")
    mean, sd = both.mean(dim=0), both.std(dim=0)
    sd = torch.where(sd > 1e-9 * (1 + mean.abs()), sd, torch.ones_like(sd))
    design = torch.cat(((both - mean) / sd, torch.ones(n + m, 1, dtype=torch.float64)), dim=1)
    label = torch.cat((torch.zeros(n), torch.ones(m))).double()
    ridge = torch.full((design.shape[1],), penalty, dtype=torch.float64)
    ridge[-1] = 0.0
    beta = torch.zeros(design.shape[1], dtype=torch.float64)
    beta[-1] = torch.tensor(m / n, dtype=torch.float64).log()
    for _ in range(iterations):
        p = torch.sigmoid(design @ beta)
        gradient = design.T @ (p - label) + ridge * beta
        hessian = design.T @ (design * (p * (1 - p)).clamp_min(1e-12)[:, None]) + torch.diag(ridge)
        step = torch.linalg.solve(hessian, gradient)
        beta = beta - step * min(1.0, 5.0 / float(step.abs().max().clamp_min(1e-12)))
        if float(step.abs().max()) < 1e-10:
            break
    shift = float(beta[-1] + torch.tensor(n / m, dtype=torch.float64).log())
    return LikelihoodRatio(names, mean, sd, beta[:-1], shift, n, m)


class WeightedIntervals(Stage):
    """Adds intervals to ``point`` from calibration errors weighted for the target's inputs.

        [value + lower(x) * scale, value + upper(x) * scale],  scale = sd over members + floor

    with the weighted quantiles at ``(1 ± level) / 2`` of the errors, mass ``w(x)`` at infinity. scores: of the
    calibration cases; features: one row per subject. What ``ratio`` names are features, or phenotypes as measured (so
    that another mix of patients can be weighted for). A case that the calibration cases say too little about (the
    quantile is infinite) has no interval, and a note says why. Raises SettingError where the effective number of
    calibration cases is below what the level needs (19 at 90 %), or the two sets have nothing in common.
    """

    result: ClassVar[str] = "phenotypes.weighted_intervals"

    def __init__(self, *, scores: Scores, ratio: LikelihoodRatio, level: float) -> None:
        super().__init__()
        if scores.members == 0:
            raise SettingError("scores without members", expected="scores over an ensemble",
                               remedy="collect the scores with the members' phenotypes")
        self.scores, self.ratio, self.level = scores, ratio, level
        self.weights = ratio(torch.stack([scores.number(name) for name in ratio.names], dim=1))
        self.sizes = {name: effective_size(self.weights[self._usable(name)]) for name in scores.errors}
        least = smallest_calibration((1 + level) / 2)
        for name, size in self.sizes.items():
            if size < least:
                raise SettingError(f"{size:.1f} effective calibration cases of {int(self._usable(name).sum())} for "
                                   f"{name} after weighting for the target",
                                   expected=f"{least} or more at level {level}",
                                   remedy="the target is too unlike the calibration cases: calibrate on cases like it")
        mean = float(self.weights[torch.isfinite(self.weights)].mean())  # of a ratio of overlapping densities: one
        if not mean >= LEAST_MEAN:
            raise SettingError(f"weights of the calibration cases that are {mean:.2g} on average",
                               expected=f"about 1, at least {LEAST_MEAN}",
                               remedy="the target is too unlike the calibration cases: calibrate on cases like it")

    def settings(self) -> str:
        return (f"level={self.level}, calibrated_on={self.scores.calibrated_on!r}, weighted by {self.ratio.names} for "
                f"{self.ratio.target} target cases")

    def forward(self, point: Phenotypes, members: Phenotypes, features: Features | None) -> Phenotypes:
        owner = member_rows(point.rows, members.rows, self.scores.members)
        new = self.ratio(torch.stack([number_of(name, point, features) for name in self.ratio.names], dim=1))
        spreads = {name: member_spread(members.values.get(name), owner) for name in point.values}
        tails = {name: self._tails(name, new) for name in self.scores.errors
                 if name in point.values and self.scores.units[name] == point.values[name].unit}
        least = min((size for name, size in self.sizes.items() if name in tails), default=0.0)
        method = (f"weighted split conformal for covariate shift, equal tails, over an ensemble of "
                  f"{self.scores.members}; effective calibration size {least:.0f} of {self.scores.count}")
        found, bare = with_intervals(point, spreads, tails, self.scores.floors, level=self.level, method=method,
                                     calibrated_on=self.scores.calibrated_on)
        lost = sorted({int(s) for low, high in tails.values()
                       for s in point.rows.subject[~(torch.isfinite(low) & torch.isfinite(high))]})
        if lost:
            found = found.noted(Note("unlike_calibration", f"No interval for subject {', '.join(map(str, lost))}: its "
                                     "input is too unlike those of the calibration cases."))
        bare = [name for name in bare if name not in tails]
        return found.noted(Note("no_interval", f"No interval was calibrated for {', '.join(bare)}.",
                                "info")) if bare else found

    def _usable(self, name: str) -> Tensor:
        return torch.isfinite(self.scores.errors[name]) & torch.isfinite(self.weights)

    def _tails(self, name: str, new: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted tails for each new weight; NaN where that is no number."""
        usable, tail = self._usable(name), (1 + self.level) / 2
        errors, weights = self.scores.errors[name][usable], self.weights[usable]
        known = torch.where(torch.isfinite(new), new, torch.full_like(new, 1e300))
        return -weighted_quantile(-errors, weights, known, tail), weighted_quantile(errors, weights, known, tail)
