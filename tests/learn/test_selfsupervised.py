"""Painting hidden blocks: what is hidden, what is asked, and that labels are not looked at."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from firstread.core.errors import SettingError
from firstread.jobs.segment_weights import painted_weights, start_from
from firstread.learn.patches import PreparedCase
from firstread.learn.selfsupervised import painting_loss, random_blocks
from firstread.nets.build import build_network
from firstread.nets.plan import ClassPlan, NetworkPlan, Plan, TrainingPlan

PLAN = Plan(classes=(ClassPlan("background", 0), ClassPlan("a", 1)), mode="2d", spacing_mm=(None, None, None),
            patch=(16, 16), training=TrainingPlan(batch=2, steps=3),
            network=NetworkPlan(widths=(4, 8), strides=((2, 2), (2, 2)), blocks=(1, 1)))


@given(st.lists(st.integers(1, 20), min_size=2, max_size=3), st.integers(1, 8))
@settings(max_examples=20, deadline=None)
def test_whole_blocks_are_hidden(space, block):
    hidden = random_blocks(2, space, block=block)
    assert hidden.shape == (2, 1, *space)
    sides = [block if size >= 2 * block else size for size in space]
    corners = hidden[(..., *(slice(None, None, side) for side in sides))]
    for axis, (size, side) in enumerate(zip(space, sides, strict=True), start=2):
        corners = corners.repeat_interleave(side, dim=axis).narrow(axis, 0, size)
    assert torch.equal(corners, hidden)


def test_only_hidden_places_count_and_the_network_does_not_see_them():
    images, hidden = torch.randn(2, 3, 8, 8), random_blocks(2, (8, 8), block=4)
    hidden[0, 0, 0, 0], hidden[1, 0, 7, 7] = True, False

    class Keep(nn.Module):
        def forward(self, x):
            self.seen = x
            return x

    class Answer(nn.Module):
        def forward(self, x):
            return torch.where(hidden, images, -9.0)

    keep = Keep()
    loss = painting_loss(keep, images, hidden)
    changed = torch.where(hidden, 100.0, images)
    painting_loss(other := Keep(), changed, hidden)
    torch.testing.assert_close(other.seen, keep.seen)
    assert float(painting_loss(Answer(), images, hidden)) == 0.0
    expected = (keep.seen - images)[hidden.expand_as(images)].square().mean()
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("share, block", [(0.0, 8), (1.0, 8), (0.5, 0)])
def test_nothing_or_everything_hidden_is_refused(share, block):
    with pytest.raises(SettingError, match="hidden in blocks"):
        random_blocks(1, (8, 8), share=share, block=block)


def test_painted_weights_fit_all_but_the_logits_and_know_no_labels(tmp_path):
    def case(label):
        return PreparedCase(torch.randn(1, 1, 2, 20, 20, generator=torch.Generator().manual_seed(1)), label,
                            {1: torch.tensor([[0, 0, 3, 3]])}, torch.ones(2, dtype=torch.bool), (1.0, 1.0, 1.0))

    labels = torch.zeros(1, 2, 20, 20, dtype=torch.uint8)
    files = [painted_weights([case(label)], PLAN, tmp_path / f"{k}.safetensors", steps=3, seed=0)
             for k, label in enumerate((labels, labels + 1))]
    assert files[0].read_bytes() == files[1].read_bytes()
    network = build_network(PLAN)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    left = start_from(network, str(files[0]))
    assert left and all(name.startswith(("logits", "head")) for name in left)
    assert not torch.equal(before["down.0.0.shortcut.weight"], network.state_dict()["down.0.0.shortcut.weight"])
