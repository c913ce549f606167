"""Last-layer Laplace: the exact Gaussian posterior of a linear head on the features of a trained network.

    y = w · phi(x) + e,  e ~ N(0, s²),  w ~ N(0, I / tau)   =>   w | data ~ N(m, S)
    S = (Phi' Phi / s² + tau I)^-1,   m = S Phi' y / s²,   y* ~ N(m · phi*, phi*' S phi* + s²)

For a linear head with Gaussian noise Laplace's approximation is exact. Sources: MacKay 1992; Bishop 2006, section 3.3
(posterior) and 3.5 (evidence); Kristiadi, Hein and Hennig 2020 (the last layer alone).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.errors import SettingError, SignalError
from firstread.core.keys import Key
from firstread.core.records import Features, Phenotypes
from firstread.core.stage import Stage
from firstread.trust.draws import drawn_phenotypes


@dataclass(frozen=True, eq=False)
class LinearPosterior:
    """``w ~ N(mean, covariance)`` of a linear head, and the variance of the noise, in float64.

    mean ``[feature]``, covariance ``[feature, feature]``; log_evidence: log p(y | noise, prior) of the training data.
    """

    mean: Float[Tensor, " feature"]
    covariance: Float[Tensor, "feature feature"]
    noise_variance: float
    prior_precision: float
    log_evidence: float

    def predict(self, phi: Float[Tensor, "batch feature"]) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        """Mean and variance of y at new features, :func:`predictive`."""
        noise = torch.tensor(self.noise_variance, dtype=torch.float64)
        return predictive(phi.double(), self.mean, self.covariance, noise)


def predictive(phi: Float[Tensor, "batch feature"], mean: Float[Tensor, " feature"],
               covariance: Float[Tensor, "feature feature"],
               noise_variance: Float[Tensor, ""]) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Mean ``m · phi`` and variance ``phi' S phi + s²`` of y: the weights' uncertainty and the noise.

    >>> one = torch.ones(1, 1)
    >>> [moment.item() for moment in predictive(2 * one, 3 * one[0], one, torch.tensor(0.5))]
    [6.0, 4.5]
    """
    return phi @ mean, ((phi @ covariance) * phi).sum(dim=1) + noise_variance


def linear_posterior(phi: Float[Tensor, "n feature"], y: Float[Tensor, " n"], *, noise_variance: float,
                     prior_precision: float) -> LinearPosterior:
    """The posterior for given noise and prior, in closed form.

    Add a column of ones to ``phi`` for an intercept. Raises SettingError for variances that are not above zero,
    SignalError for NaN.

    >>> one = linear_posterior(torch.ones(4, 1), torch.tensor([1.0, 1.0, 3.0, 3.0]), noise_variance=1.0,
    ...                        prior_precision=1.0)
    >>> round(one.mean.item(), 6), round(one.covariance.item(), 6)
    (1.6, 0.2)
    """
    if not (noise_variance > 0 and prior_precision > 0 and len(y) == len(phi) > 0):
        raise SettingError(f"noise variance {noise_variance}, prior precision {prior_precision}, {len(y)} targets of "
                           f"{len(phi)} cases", expected="both above zero, and a target of each case",
                           remedy="let fit_posterior find them")
    phi, y = phi.detach().double(), y.detach().double()
    if not bool(torch.isfinite(phi).all() & torch.isfinite(y).all()):
        raise SignalError("features or targets that are no finite numbers", expected="finite numbers",
                          remedy="leave out the cases without them")
    n, size = phi.shape
    precision = phi.T @ phi / noise_variance + prior_precision * torch.eye(size, dtype=torch.float64)
    factor = torch.linalg.cholesky(precision)
    covariance = torch.cholesky_inverse(factor)
    mean = covariance @ (phi.T @ y) / noise_variance
    misfit = (y - phi @ mean).square().sum() / noise_variance + prior_precision * mean.square().sum()
    evidence = 0.5 * (size * math.log(prior_precision) - n * math.log(2 * math.pi * noise_variance) - float(misfit)
                      - 2 * float(factor.diagonal().log().sum()))
    return LinearPosterior(mean, covariance, noise_variance, prior_precision, evidence)


def fit_posterior(phi: Float[Tensor, "n feature"], y: Float[Tensor, " n"], *, iterations: int = 200) -> LinearPosterior:
    """The posterior with the noise and prior of largest evidence, by MacKay's fixed-point steps.

        g = feature - tau tr(S),   tau <- g / |m|²,   s² <- |y - Phi m|² / (n - g)

    The steps end where the evidence rises by less than 1e-9 of itself. Raises as :func:`linear_posterior`.
    """
    noise, prior = max(1e-6, float(y.double().var())) if len(y) > 1 else 1.0, 1.0
    found = linear_posterior(phi, y, noise_variance=noise, prior_precision=prior)
    for _ in range(iterations):
        free = phi.shape[1] - found.prior_precision * float(found.covariance.trace())
        prior = min(1e12, max(1e-12, free / max(1e-300, float(found.mean.square().sum()))))
        misfit = float((y.double() - phi.double() @ found.mean).square().sum())
        noise = max(1e-12, misfit / max(1e-9, len(y) - free))
        better = linear_posterior(phi, y, noise_variance=noise, prior_precision=prior)
        settled = abs(better.log_evidence - found.log_evidence) < 1e-9 * (1 + abs(found.log_evidence))
        found = better
        if settled:
            break
    return found


class LaplaceHead(Stage):
    """Draws of phenotypes from linear heads on features, with the exact posterior of their weights.

    posteriors, units: by phenotype; mean, sd: of each feature among the training cases, by which it is standardized
    before a one is appended (:func:`design`); draws: from the predictive distribution, keyed by row. Makes
    ``phenotypes.members``; :class:`~firstread.trust.draws.MeanOverDraws` gives the value.
    """

    result: ClassVar[str] = "phenotypes.members"

    def __init__(self, *, posteriors: Mapping[str, LinearPosterior], units: Mapping[str, str],
                 mean: Float[Tensor, " feature"], sd: Float[Tensor, " feature"], draws: int = 32) -> None:
        super().__init__()
        if draws < 2 or not posteriors or any(len(p.mean) != len(mean) + 1 for p in posteriors.values()):
            raise SettingError(f"{draws} draws of {len(posteriors)} phenotypes on {len(mean)} features",
                               expected="two draws or more, and posteriors over the features and a one",
                               remedy="fit the posteriors on design(features, mean, sd)")
        self.units, self.draws = {name: units[name] for name in posteriors}, draws
        heads = list(posteriors.values())
        self.register_buffer("mean", mean.double())
        self.register_buffer("sd", sd.double())
        self.register_buffer("weights", torch.stack([head.mean for head in heads]))
        self.register_buffer("covariance", torch.stack([head.covariance for head in heads]))
        self.register_buffer("noise", torch.tensor([head.noise_variance for head in heads], dtype=torch.float64))

    def settings(self) -> str:
        return f"phenotypes={tuple(self.units)}, draws={self.draws}"

    def forward(self, features: Features, key: Key) -> Phenotypes:
        phi = design(features.data, self.mean, self.sd)
        normal = key.normal(features.rows, (len(self.units), self.draws), dtype=torch.float64).to(phi.device)
        values = {}
        for number, name in enumerate(self.units):
            centre, variance = predictive(phi, self.weights[number], self.covariance[number], self.noise[number])
            values[name] = centre[:, None] + variance.sqrt()[:, None] * normal[:, number]
        return drawn_phenotypes(features, values, self.units)


def design(features: Float[Tensor, "batch feature"], mean: Float[Tensor, " feature"],
           sd: Float[Tensor, " feature"]) -> Float[Tensor, "batch columns"]:
    """Standardized features and a column of ones, ``((x - mean) / sd, 1)``, in float64.

    >>> design(torch.tensor([[3.0]]), torch.tensor([1.0]), torch.tensor([2.0])).tolist()
    [[1.0, 1.0]]
    """
    scaled = (features.double() - mean.double()) / sd.double()
    return torch.cat((scaled, torch.ones_like(scaled[:, :1])), dim=1)
