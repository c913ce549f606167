"""Segmentation losses against values worked out by hand, and what must not count."""

import math

import torch

from firstread.learn.losses import UNKNOWN, dice_cross_entropy, partial_dice_cross_entropy, soft_dice


def logits_of(probabilities: torch.Tensor) -> torch.Tensor:
    return probabilities.log()


def test_soft_dice_by_hand():
    p = torch.tensor([[[0.5, 1.0]]])
    t = torch.tensor([[[1.0, 1.0]]])
    assert torch.allclose(soft_dice(p, t, torch.ones(1, 1, 2), smooth=1.0), torch.tensor([(2 * 1.5 + 1) / (3.5 + 1)]))


def test_dice_cross_entropy_by_hand():
    p = torch.tensor([[[0.75, 0.5], [0.25, 0.5]]])  # two pixels, background and one class
    entropy = -(math.log(0.75) + math.log(0.5)) / 2
    dice = (2 * 0.5 + 1) / (0.75 + 1 + 1)
    value = dice_cross_entropy(logits_of(p), torch.tensor([[0, 1]]), smooth=1.0)
    assert math.isclose(value.item(), entropy + 1 - dice, rel_tol=1e-5)


def test_unknown_pixels_count_for_nothing():
    logits = torch.randn(1, 4, 3, 3, requires_grad=True)
    target = torch.full((1, 3, 3), 2)
    target[0, 0] = UNKNOWN
    dice_cross_entropy(logits, target).backward()
    assert logits.grad[:, :, 0].abs().sum() == 0
    assert logits.grad[:, :, 1:].abs().sum() > 0


def test_partial_loss_by_hand():
    p = torch.tensor([[[0.5, 0.2], [0.3, 0.6], [0.2, 0.2]]])  # class 1 is labelled, classes 0 and 2 are "not 1"
    positive, known = torch.tensor([[False, True]]), torch.ones(1, 2, dtype=torch.bool)
    entropy = -(math.log(0.7) + math.log(0.6)) / 2
    dice = (2 * 0.6 + 1) / (0.9 + 1 + 1)
    value = partial_dice_cross_entropy(logits_of(p), positive, known, label=1, smooth=1.0)
    assert math.isclose(value.item(), entropy + 1 - dice, rel_tol=1e-5)


def test_partial_loss_does_not_ask_which_of_the_other_classes():
    p = torch.tensor([[[0.6], [0.3], [0.1]]])
    q = torch.tensor([[[0.1], [0.3], [0.6]]])
    nowhere, known = torch.zeros(1, 1, dtype=torch.bool), torch.ones(1, 1, dtype=torch.bool)
    first, second = (partial_dice_cross_entropy(logits_of(x), nowhere, known, label=1) for x in (p, q))
    assert torch.allclose(first, second)


def test_padding_has_no_gradient_in_the_partial_loss():
    logits = torch.randn(1, 4, 2, 2, requires_grad=True)
    known = torch.tensor([[[True, False], [True, True]]])
    partial_dice_cross_entropy(logits, torch.ones(1, 2, 2, dtype=torch.bool), known, label=1).backward()
    assert logits.grad[0, :, 0, 1].abs().sum() == 0
    assert logits.grad[0, :, 0, 0].abs().sum() > 0


def test_perfect_prediction_has_almost_no_loss():
    target = torch.randint(0, 4, (2, 8, 8))
    logits = 50.0 * torch.nn.functional.one_hot(target, 4).movedim(-1, 1).float()
    assert dice_cross_entropy(logits, target) < 1e-4
