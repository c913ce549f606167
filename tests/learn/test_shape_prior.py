"""Point distribution models of label maps: points there and back, what they find unlikely, what they draw."""

import math

import pytest
import torch
import torch.nn.functional as F

from firstread.core.errors import InputError
from firstread.learn.losses import UNKNOWN
from firstread.learn.shape_prior import LabelShapes, shape_loss
from firstread.ops.regions import dice
from firstread.ops.shape_points import directions, enclosed, painted, shape_points, whole

SIZE = 48


def heart(seed: int, *, size: int = SIZE) -> torch.Tensor:
    """A cavity (1) in its wall (2) with a disc (3) beside it; sizes, place and turn vary."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    place = size / 2 + 3 * torch.randn(2, generator=generator)
    radius = 6 + torch.randn((), generator=generator).clamp(-2, 2)
    turn = 0.4 * torch.randn((), generator=generator)
    far = ((y - place[0]) ** 2 + (x - place[1]) ** 2).sqrt()
    other = ((y - place[0] - 12 * turn.sin()) ** 2 + (x - place[1] - 12 * turn.cos()) ** 2).sqrt()
    label = torch.where(other < 5, 3, 0)
    label[far < radius + 4] = 2
    label[far < radius] = 1
    return label.to(torch.uint8)


@pytest.fixture(scope="module")
def hearts():
    return torch.stack([heart(seed) for seed in range(40)])


@pytest.fixture(scope="module")
def shapes(hearts):
    return LabelShapes.fit([hearts], 4, (1.5, 1.5))


@pytest.mark.parametrize("axes", [2, 3])
def test_rays_are_unit_vectors_that_cancel(axes):
    rays = directions(50, axes)
    torch.testing.assert_close(rays.norm(dim=1), torch.ones(50))
    assert rays.mean(0).norm() < 0.02


@pytest.mark.parametrize("axes", [2, 3])
def test_of_a_ball_all_points_lie_at_its_radius(axes):
    spacing = (2.0, 1.0, 1.5)[-axes:]
    space = (20, 40, 30)[-axes:]
    grid = torch.meshgrid(*[torch.arange(n) * s for n, s in zip(space, spacing, strict=True)], indexing="ij")
    middle = [19.0, 18.0, 22.0][-axes:]
    ball = torch.sigmoid(12 - torch.stack([(g - m) ** 2 for g, m in zip(grid, middle, strict=True)]).sum(0).sqrt())
    points = shape_points(ball[None, None], directions(40, axes), spacing)[0]
    torch.testing.assert_close(points[0], torch.tensor(middle), atol=0.1, rtol=0)
    torch.testing.assert_close((points[1:] - points[0]).norm(dim=1), torch.full((40,), 12.0), atol=0.25, rtol=0)
    back = painted(points[None], space, spacing)
    assert dice(back.reshape(1, 1, -1), (ball > 0.5).reshape(1, 1, -1)).item() > 0.97


def test_points_move_with_what_they_are_of(hearts):
    shares = F.one_hot(hearts[:2].long(), 4).movedim(-1, 1)[:, 1:].float()
    rays = directions(24, 2)
    moved = shape_points(shares.roll((3, -2), (2, 3)), rays, (1.0, 1.0))
    torch.testing.assert_close(moved, shape_points(shares, rays, (1.0, 1.0)) + torch.tensor([3.0, -2.0]), atol=1e-3,
                               rtol=0)


def test_what_is_cut_or_missing_or_beside_the_unknown_is_not_whole(hearts):
    rows = hearts[:5].clone()
    rows[1][rows[1] == 3] = 0
    rows[2] = rows[2].roll(20, 0)
    rows[3][int(SIZE / 2)] = UNKNOWN
    assert whole(rows, 3).tolist() == [True, False, False, False, True]
    assert enclosed(hearts, 3).nonzero().tolist() == [[1, 0]]


def test_labels_come_back_from_their_points(shapes, hearts):
    shares = F.one_hot(hearts[:5].long(), 4).movedim(-1, 1)[:, 1:].float()
    for points, truth in zip(shapes.points(shares), hearts[:5], strict=True):
        made = shapes.paint(points, (SIZE, SIZE))
        assert all(dice((made == k)[None], (truth == k)[None]).item() > 0.93 for k in (1, 2, 3))


def test_drawn_maps_are_hearts(shapes):
    from scipy import ndimage

    drawn = shapes.draw(20, torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn, shapes.draw(20, torch.Generator().manual_seed(0)))
    assert whole(drawn, 3).all() and len(torch.unique(drawn.flatten(1), dim=0)) == 20
    assert (enclosed(drawn, 3) == shapes.inside).all()
    for row in drawn:
        assert ndimage.label(row.numpy() == 2)[1] == 1
    radii = ((drawn == 1).sum((1, 2)) / math.pi).sqrt()
    assert radii.mean().item() == pytest.approx(6, abs=0.7) and 0.4 < radii.std().item() < 1.8


def test_the_truth_costs_little_and_a_torn_heart_much(shapes, hearts):
    loss = shape_loss(shapes, 4)
    held = torch.stack([heart(seed) for seed in range(100, 104)])

    def logits(labels):
        return 12 * F.one_hot(labels.long(), 4).movedim(-1, 1).float()

    torn = held.clone()
    torn[:, : SIZE // 2 - 2][torn[:, : SIZE // 2 - 2] == 2] = 0
    good, bad = loss(logits(held), held), loss(logits(torn), held)
    assert good < 0.7 < 1.5 < bad
    guess = (logits(torn) / 6).requires_grad_()
    before = loss(guess, held)
    before.backward()
    assert bool(torch.isfinite(guess.grad).all())
    assert loss(guess - 50 * guess.grad / guess.grad.norm(), held) < before
    assert loss(guess, torch.zeros_like(held)).item() == 0


def test_too_few_whole_maps_are_refused(hearts):
    with pytest.raises(InputError, match="11 of 20 label maps"):
        LabelShapes.fit([torch.cat((hearts[:11], torch.zeros_like(hearts[:9])))], 4, (1.0, 1.0))
