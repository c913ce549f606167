"""Losses of the segmentation tool: what they are worth at known places, and what they must not depend on."""

import pytest
import torch
import torch.nn.functional as F

from firstread.learn.boundary import boundary_loss, signed_distance
from firstread.learn.losses import UNKNOWN, annotated_dice_cross_entropy, dice_cross_entropy
from firstread.learn.segmentation import loss_of, shrunk
from firstread.learn.topology import centre_line_dice, centre_line_loss
from firstread.nets.plan import ClassPlan, LossPlan, NetworkPlan, Plan


def logits_and_target(classes: int = 4, size: int = 9):
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, classes, (2, size, size), generator=generator)
    target[0, 0] = UNKNOWN
    return torch.randn(2, classes, size, size, generator=generator), target


def hot(target, classes):
    return F.one_hot(target, classes).movedim(-1, 1).float()


def test_with_all_classes_annotated_it_is_dice_with_cross_entropy():
    logits, target = logits_and_target()
    made = annotated_dice_cross_entropy(logits, target, torch.ones(2, 4, dtype=torch.bool))
    torch.testing.assert_close(made, dice_cross_entropy(logits, target))


def test_what_was_not_annotated_may_be_anything():
    """Moving probability between the background and classes nobody looked for changes nothing."""
    _, target = logits_and_target()
    target = torch.where(target == 3, 0, target)
    annotated = torch.tensor([[True, True, True, False]] * 2)
    share = torch.rand(2, 4, 9, 9) + 0.1
    share = share / share.sum(1, keepdim=True)
    other = share.clone()
    other[:, 0], other[:, 3] = share[:, 3], share[:, 0]
    one, two = (annotated_dice_cross_entropy(s.log(), target, annotated) for s in (share, other))
    torch.testing.assert_close(one, two)
    full = torch.ones(2, 4, dtype=torch.bool)
    assert not torch.allclose(annotated_dice_cross_entropy(share.log(), target, full),
                              annotated_dice_cross_entropy(other.log(), target, full))


def test_its_gradient_is_finite_and_zero_where_nothing_is_known():
    logits, target = logits_and_target()
    logits.requires_grad_()
    annotated_dice_cross_entropy(logits, target, torch.tensor([[True, True, False, False]] * 2), focal=2.0).backward()
    assert bool(torch.isfinite(logits.grad).all())
    assert logits.grad[0, :, 0].abs().max() == 0 and logits.grad[1].abs().max() > 0


def test_focal_forgives_what_is_nearly_right():
    target = torch.zeros(1, 4, 4, dtype=torch.long)
    logits = torch.zeros(1, 2, 4, 4)
    logits[:, 0] = 3.0
    plain, focal = (annotated_dice_cross_entropy(logits, target, torch.ones(1, 2, dtype=torch.bool), dice=0.0, focal=f)
                    for f in (0.0, 2.0))
    right = torch.sigmoid(torch.tensor(3.0))
    torch.testing.assert_close(focal / plain, (1 - right) ** 2)


def test_boundary_loss_grows_with_the_distance_of_the_mistake():
    truth = torch.zeros(1, 16, 16, dtype=torch.long)
    truth[0, 6:10, 6:10] = 1
    assert boundary_loss(hot(truth, 2), truth).item() == 0
    near, far = truth.clone(), truth.clone()
    near[0, 10, 7], far[0, 15, 15] = 1, 1
    losses = [boundary_loss(hot(t, 2), truth).item() for t in (near, far)]
    assert 0 < losses[0] < losses[1]
    assert signed_distance(truth[0] == 1)[0, 7] == pytest.approx(6.0)


def test_a_broken_line_costs_more_than_a_thin_one():
    truth = torch.zeros(1, 21, 21)
    truth[0, 9:12] = 1
    thin, broken = torch.zeros_like(truth), truth.clone()
    thin[0, 10] = 1
    broken[0, :, 7:14] = 0
    assert centre_line_dice(thin, truth) > 0.95 > centre_line_dice(broken, truth)
    target = truth.long()
    assert centre_line_loss(hot(target, 2), target).item() == pytest.approx(0.0, abs=1e-6)


def test_targets_shrink_as_the_network_strides():
    target = torch.arange(7).repeat(6, 1)[None]
    small = shrunk(target, (3, 4))
    assert small.shape == (1, 3, 4) and small[0, 0].tolist() == [1, 3, 5, UNKNOWN]
    assert shrunk(target, (6, 7)) is target


def test_every_term_reaches_the_weights():
    from firstread.nets.build import build_network

    plan = Plan(classes=(ClassPlan("background", 0), ClassPlan("a", 1)), mode="2d", spacing_mm=(None, None, None),
                patch=(16, 16), network=NetworkPlan(widths=(4, 8), strides=((1, 1), (2, 2)), blocks=(0, 1)),
                loss=LossPlan(focal=1.0, boundary=0.5, topology=0.5))
    network = build_network(plan)
    target = torch.zeros(2, 16, 16, dtype=torch.uint8)
    target[:, 4:9, 3:12] = 1
    loss_of(plan)(network, (torch.randn(2, 1, 16, 16), target, torch.ones(2, 2, dtype=torch.bool))).backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in network.parameters())
