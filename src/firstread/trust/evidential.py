"""Evidential regression: a head that predicts a normal-inverse-gamma distribution over mean and variance.

    y ~ N(mu, s²),  mu ~ N(gamma, s² / nu),  s² ~ InverseGamma(alpha, beta)

so that y itself is Student-t with 2 alpha degrees of freedom about gamma. Source: Amini, Schwarting, Soleimany and Rus
2020. The split into aleatoric and epistemic parts is not identified by the data alone (Meinert, Gawlikowski and Lavin
2023): take the spread as a ranking of cases, and let conformal calibration give it its size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from firstread.core.errors import SettingError
from firstread.core.keys import Key
from firstread.core.records import Features, Phenotypes
from firstread.core.stage import Stage
from firstread.trust.draws import drawn_phenotypes


class NormalInverseGamma(NamedTuple):
    """Parameters, tensors of one shape: location ``gamma``, ``nu > 0``, ``alpha > 1``, ``beta > 0``."""

    gamma: Tensor
    nu: Tensor
    alpha: Tensor
    beta: Tensor

    @classmethod
    def from_raw(cls, raw: Float[Tensor, "*lead four"]) -> NormalInverseGamma:
        """Any four numbers: ``gamma = a, nu = softplus(b), alpha = 1 + softplus(c), beta = softplus(d)``."""
        gamma, nu, alpha, beta = raw.unbind(dim=-1)
        tiny = torch.finfo(raw.dtype).eps
        return cls(gamma, F.softplus(nu) + tiny, F.softplus(alpha) + 1 + tiny, F.softplus(beta) + tiny)

    @property
    def aleatoric(self) -> Tensor:
        """Expected variance of y about mu, ``E[s²] = beta / (alpha - 1)``."""
        return self.beta / (self.alpha - 1)

    @property
    def epistemic(self) -> Tensor:
        """Variance of mu, ``beta / (nu (alpha - 1))``."""
        return self.aleatoric / self.nu

    @property
    def scale(self) -> Tensor:
        """Scale of the Student-t distribution of y, ``sqrt(beta (1 + nu) / (nu alpha))``."""
        return (self.beta * (1 + self.nu) / (self.nu * self.alpha)).sqrt()


def evidential_loss(predicted: NormalInverseGamma, truth: Float[Tensor, "*lead"], *,
                    evidence_weight: float = 0.01) -> Float[Tensor, ""]:
    """Mean negative log-likelihood of y plus a penalty on evidence where the error is large.

        NLL = log(pi / nu) / 2 - alpha log W + (alpha + 1/2) log(nu (y - gamma)² + W)
              + log Gamma(alpha) - log Gamma(alpha + 1/2),   W = 2 beta (1 + nu)
        loss = NLL + weight |y - gamma| (2 nu + alpha)

    >>> one = torch.ones(1, dtype=torch.float64)
    >>> round(evidential_loss(NormalInverseGamma(0 * one, one, 2 * one, one), 0 * one).item(), 4)
    0.9808
    """
    gamma, nu, alpha, beta = predicted
    omega, error = 2 * beta * (1 + nu), truth - gamma
    likelihood = (0.5 * (torch.pi / nu).log() - alpha * omega.log()
                  + (alpha + 0.5) * (nu * error.square() + omega).log()
                  + torch.lgamma(alpha) - torch.lgamma(alpha + 0.5))
    return (likelihood + evidence_weight * error.abs() * (2 * nu + alpha)).mean()


class EvidentialHead(Stage):
    """Draws of phenotypes from a head that predicts their normal-inverse-gamma distribution from features.

    head: ``[batch, feature] -> [batch, 4 * phenotypes]``; units: by phenotype, in the head's order; centre, scale: the
    phenotype is ``centre + scale * y`` of the head's y; draws: from the Student-t distribution of y, keyed by row. Made
    of ``phenotypes.members``; :class:`~firstread.trust.draws.MeanOverDraws` gives the value. No gradient through the
    draws; train the head on :func:`evidential_loss`.
    """

    result: ClassVar[str] = "phenotypes.members"
    differentiable = False

    def __init__(self, *, head: nn.Module, units: Mapping[str, str], centre: tuple[float, ...],
                 scale: tuple[float, ...], draws: int = 32) -> None:
        super().__init__()
        if draws < 2 or not units or len(centre) != len(units) or len(scale) != len(units):
            raise SettingError(f"{draws} draws of {len(units)} phenotypes, {len(centre)} centres, {len(scale)} scales",
                               expected="two draws or more, and a centre and a scale for each phenotype",
                               remedy="take the mean and standard deviation of the training targets")
        self.head, self.units, self.centre, self.scale, self.draws = head, dict(units), centre, scale, draws

    def predict(self, features: Float[Tensor, "batch feature"]) -> NormalInverseGamma:
        """The distribution of each phenotype in the head's own units, ``[batch, phenotype]``."""
        raw = self.head(features)
        if raw.shape != (len(features), 4 * len(self.units)):
            raise SettingError(f"an output of shape {tuple(raw.shape)}",
                               expected=f"[batch, {4 * len(self.units)}]: four numbers for each phenotype",
                               remedy="give the last layer as many outputs")
        return NormalInverseGamma.from_raw(raw.unflatten(1, (len(self.units), 4)))

    def forward(self, features: Features, key: Key) -> Phenotypes:
        from scipy import stats

        with torch.no_grad():
            found = self.predict(features.data)
        uniform = torch.stack([torch.rand(len(self.units), self.draws, generator=g, dtype=torch.float64)
                               for g in key.generators(features.rows)])
        degrees = 2 * found.alpha.double().cpu()[..., None]
        unit_draws = torch.from_numpy(stats.t.ppf(uniform.clamp(1e-9, 1 - 1e-9).numpy(), degrees.numpy()))
        y = found.gamma.double().cpu()[..., None] + found.scale.double().cpu()[..., None] * unit_draws
        values = {name: self.centre[i] + self.scale[i] * y[:, i].to(features.data.device)
                  for i, name in enumerate(self.units)}
        return drawn_phenotypes(features, values, self.units)
