"""Choosing λ: known minima, corners and crossings; Stein's estimate against the true error; the noise of k-space."""

import pytest
import torch

from firstread.core.errors import SettingError, SignalError
from firstread.ops.regularization import (
    by_corner,
    by_descent,
    by_discrepancy,
    cartesian_radius,
    monte_carlo_divergence,
    outer_noise_variance,
    predicted_risk,
)

RANGE = {"lowest": 1e-4, "highest": 1e2}


def ridge(seed: int = 0, samples: int = 4000):
    """Denoising by ``x / (1 + λ)``: everything is known in closed form."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(2, samples, dtype=torch.complex128, generator=generator)
    noise = torch.randn(2, samples, dtype=torch.complex128, generator=generator) * torch.tensor([[0.5], [1.0]])
    return truth, truth + noise, torch.tensor([0.25, 1.0]).double()


def test_discrepancy_finds_the_crossing_of_every_row():
    target = torch.tensor([0.01, 3.0]).double()
    made = by_discrepancy(lambda v: v**2, target, steps=25, **RANGE)
    assert torch.allclose(made, target.sqrt(), rtol=1e-4)


def test_the_lowest_risk_lies_between_grid_points():
    best = torch.tensor([0.037, 2.2]).double()
    made = by_descent(lambda v: (v.log() - best.log()) ** 2, torch.ones(2).double(), **RANGE)
    assert torch.allclose(made, best)


def test_an_end_is_given_where_the_risk_falls_to_it():
    made = by_descent(lambda v: v, torch.ones(1).double(), **RANGE)
    assert torch.allclose(made, torch.tensor([1e-4]).double())


def test_the_corner_of_an_l():
    corner = 0.1

    def curve(weight):
        misfit = (weight / corner).clamp_min(1) ** 2
        penalty = (corner / weight).clamp_min(1) ** 2
        return misfit, penalty

    made = by_corner(curve, torch.ones(1).double(), steps=13, **RANGE)
    assert made.item() == pytest.approx(corner, rel=0.4)


def test_stein_s_estimate_is_the_true_error_and_finds_its_minimum():
    truth, y, variance = ridge()
    samples = torch.full((2,), 4000.0).double()
    probe = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(9))

    def made(weight):
        return lambda v: v / (1 + weight[:, None])

    def risk(weight):
        x = made(weight)(y)
        change = monte_carlo_divergence(made(weight), y, probe, size=0.1, at_y=x)
        return predicted_risk((x - y).abs().square().sum(dim=1), change, samples, variance)

    weight = torch.tensor([0.3, 0.3]).double()
    error = (made(weight)(y) - truth).abs().square().mean(dim=1)
    assert torch.allclose(risk(weight), error, rtol=0.1)
    chosen = by_descent(risk, weight, lowest=0.02, highest=10.0, factor=2.0)
    # the best λ of this shrinkage is σ² / E|x|², here σ²
    assert torch.allclose(chosen, variance, rtol=0.25)


def test_noise_of_outer_kspace():
    generator = torch.Generator().manual_seed(3)
    y, x = torch.meshgrid(torch.arange(64) - 32.0, torch.arange(64) - 32.0, indexing="ij")
    signal = 1e3 * torch.exp(-(y**2 + x**2) / 50)
    noise = torch.randn(2, 2, 3, 1, 64, 64, dtype=torch.complex64, generator=generator)
    data = signal + noise * torch.tensor([0.2, 2.0]).reshape(2, 1, 1, 1, 1, 1)
    mask = torch.rand(2, 2, 1, 1, 64, 1, generator=generator).expand(-1, -1, -1, -1, -1, 64) < 0.5
    found = outer_noise_variance(mask * data, mask, cartesian_radius(data, (-2, -1)))
    assert torch.allclose(found, torch.tensor([0.04, 4.0]), rtol=0.1)
    with pytest.raises(SignalError, match="zero"):
        outer_noise_variance(torch.zeros_like(data), mask, cartesian_radius(data, (-2, -1)))


def test_refuses_an_empty_range():
    like = torch.ones(1)
    for wrong in ({"lowest": 0.0, "highest": 1.0}, {"lowest": 1.0, "highest": 0.5}):
        with pytest.raises(SettingError, match="λ from"):
            by_discrepancy(lambda v: v, like, **wrong)
    with pytest.raises(SettingError, match="factor"):
        by_descent(lambda v: v, like, factor=1.0, **RANGE)
