"""The gradient of a learned binary mask is that of each line's least-squares weight, measured or not."""

import pytest
import torch

from firstread.nets.cascade import data_consistency
from firstread.ops.encoding import CartesianEncoding
from firstread.ops.solve import solve

LINES, STEP = 6, 1e-6


def _random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


KSPACE, MAPS = _random(1, 2, 3, 1, LINES, 4, seed=0), _random(1, 1, 3, 1, LINES, 4, seed=1)
TRUTH = _random(1, 2, 1, 1, LINES, 4, seed=2)
MASK = torch.tensor([[1, 0, 0, 1, 1, 0], [0, 1, 0, 1, 0, 1]], dtype=torch.float64)[None, :, None, None, :, None]


def zero_filled(kspace: torch.Tensor, encoding: CartesianEncoding) -> torch.Tensor:
    return encoding.adjoint(kspace)


def least_squares(kspace: torch.Tensor, encoding: CartesianEncoding) -> torch.Tensor:
    return solve(lambda x: encoding.gram(x) + 0.3 * x, encoding.adjoint(kspace), iterations=200, tolerance=1e-13)


def consistency(kspace: torch.Tensor, encoding: CartesianEncoding) -> torch.Tensor:
    return data_consistency(0.5 * TRUTH, kspace, encoding, torch.tensor(0.3, dtype=torch.float64), steps=60)


def error(image: torch.Tensor) -> torch.Tensor:
    return (image - TRUTH).abs().square().sum()


def relaxed(weights: torch.Tensor, reconstruct) -> float:
    """The error when line j counts ``w_j``: ``E = sqrt(w) F S`` and ``y = sqrt(w) k``, a plain operator."""
    root = weights.sqrt()
    return float(error(reconstruct(root * KSPACE, CartesianEncoding(mask=root, sensitivities=MAPS))))


@pytest.mark.parametrize("reconstruct", [zero_filled, least_squares, consistency])
def test_gradient_equals_finite_differences_of_the_relaxed_operator(reconstruct):
    mask = MASK.clone().requires_grad_()
    error(reconstruct(mask * KSPACE, CartesianEncoding(mask=mask, sensitivities=MAPS))).backward()
    for place in torch.cartesian_prod(torch.arange(2), torch.arange(LINES)).tolist():
        at = (0, place[0], 0, 0, place[1], 0)
        more, less = MASK.clone(), MASK.clone()
        more[at] += STEP
        less[at] = max(0.0, less[at].item() - STEP)
        slope = (relaxed(more, reconstruct) - relaxed(less, reconstruct)) / float(more[at] - less[at])
        assert mask.grad[at].item() == pytest.approx(slope, rel=1e-3, abs=1e-4), place


def test_closed_form_of_one_coil_has_the_same_gradient():
    kspace, weight = KSPACE[:, :, :1], torch.tensor(0.4, dtype=torch.float64)
    mask = MASK.clone().requires_grad_()
    error(data_consistency(0.5 * TRUTH, mask * kspace, CartesianEncoding(mask=mask), weight)).backward()

    def relaxed_error(weights: torch.Tensor) -> torch.Tensor:  # k linear between predicted and measured
        predicted = torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(0.5 * TRUTH, dim=(-2, -1)), dim=(-2, -1),
                                                      norm="ortho"), dim=(-2, -1))
        mixed = predicted + weights / (1 + weight) * (kspace - predicted)
        return error(torch.fft.fftshift(torch.fft.ifftn(torch.fft.ifftshift(mixed, dim=(-2, -1)), dim=(-2, -1),
                                                        norm="ortho"), dim=(-2, -1)))

    for line in range(LINES):
        more, less = MASK.clone(), MASK.clone()
        more[0, 1, 0, 0, line, 0] += STEP
        less[0, 1, 0, 0, line, 0] -= STEP
        slope = (relaxed_error(more) - relaxed_error(less)) / (2 * STEP)
        assert mask.grad[0, 1, 0, 0, line, 0].item() == pytest.approx(slope.item(), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("reconstruct", [zero_filled, least_squares, consistency])
def test_values_do_not_depend_on_whether_the_mask_is_learned(reconstruct):
    results = [reconstruct(m * KSPACE, CartesianEncoding(mask=m, sensitivities=MAPS))
               for m in (MASK, MASK.clone().requires_grad_())]
    torch.testing.assert_close(results[0], results[1].detach(), rtol=0, atol=0)
