"""Heads on a reading's numbers that predict a distribution of the truth, for the comparison of intervals.

A head sees the measured phenotypes, the ensemble's spread of each, and features of the image. Half of the calibration
subjects train it, the other half calibrate its intervals: it pays for correcting the value with fewer cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from firstread.core.keys import Key
from firstread.core.records import Features, Phenotypes, Rows
from firstread.core.stage import Stage
from firstread.recipes.heart_tables import UNITS, Results
from firstread.trust.draws import MeanOverDraws
from firstread.trust.evidential import EvidentialHead, evidential_loss
from firstread.trust.laplace import LaplaceHead, design, fit_posterior

DRAWS, STEPS, HIDDEN = 64, 400, 16


def features_of(results: Results, image: Float[Tensor, "subject feature"], names: Sequence[str]) -> Features:
    """The measured numbers, their spread over the ensemble, and the image's features; NaN where not measured."""
    subjects = len(results.rows)
    point, members = results.point(), results.members()
    values = torch.stack([_value(point, name) for name in names], dim=1)
    spread = torch.stack([_value(members, name).reshape(subjects, -1).std(dim=1) for name in names], dim=1)
    called = (*names, *(f"spread of {name}" for name in names), *(f"image {i}" for i in range(image.shape[1])))
    return Features(Rows.subjects(subjects), torch.cat((values, spread, image.double()), dim=1), called)


def _value(phenotypes: Phenotypes, name: str) -> Float[Tensor, " rows"]:
    value = phenotypes[name].value
    return torch.full((len(phenotypes.rows.subject),), torch.nan, dtype=torch.float64) if value is None else value


def laplace(features: Features, truth: Mapping[str, Float[Tensor, " subject"]]) -> Stage:
    """Linear heads with the exact posterior of their weights, noise and prior of largest evidence."""
    known, mean, sd = _standard(features, truth)
    phi = design(features.data[known], mean, sd)
    return LaplaceHead(posteriors={name: fit_posterior(phi, values[known]) for name, values in truth.items()},
                       units={name: UNITS[name] for name in truth}, mean=mean, sd=sd, draws=DRAWS)


class _Scaled(nn.Module):
    def __init__(self, mean: Tensor, sd: Tensor, outputs: int):
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("sd", sd)
        self.layers = nn.Sequential(nn.Linear(len(mean), HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, outputs)).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers((x - self.mean) / self.sd)


def evidential(features: Features, truth: Mapping[str, Float[Tensor, " subject"]], *, seed: int = 0) -> Stage:
    """A small network that predicts a normal-inverse-gamma distribution of each phenotype (Amini 2020)."""
    known, mean, sd = _standard(features, truth)
    wanted = torch.stack([values[known] for values in truth.values()], dim=1).double()
    centre, scale = wanted.mean(dim=0), wanted.std(dim=0)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = _Scaled(mean, sd, 4 * len(truth))
    stage = EvidentialHead(head=head, units={name: UNITS[name] for name in truth}, centre=tuple(centre.tolist()),
                           scale=tuple(scale.tolist()), draws=DRAWS)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2, weight_decay=1e-2)
    for _ in range(STEPS):
        optimizer.zero_grad()
        evidential_loss(stage.predict(features.data[known]), (wanted - centre) / scale).backward()
        optimizer.step()
    return stage.eval()


def drawn(head: Stage, features: Features) -> tuple[Phenotypes, Phenotypes]:
    """Value (mean of the draws) and draws of every subject."""
    members = head(features, Key(0, "heads"))
    return MeanOverDraws()(members), members


def _standard(features: Features, truth: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Which subjects have all numbers; mean and standard deviation of the features among them."""
    known = torch.isfinite(features.data).all(dim=1)
    for values in truth.values():
        known = known & torch.isfinite(values)
    chosen = features.data[known]
    return known, chosen.mean(dim=0), chosen.std(dim=0).clamp_min(1e-9)
