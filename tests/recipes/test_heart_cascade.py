"""The training examples of the cascade: a function of the step, consistent with their target, and learnable."""

import pytest
import torch

from firstread.core.keys import Key
from firstread.nets.cascade import DeepCascade
from firstread.recipes import heart_cascade
from firstread.recipes.heart_cascade import COLUMNS, SIZE, example, moving_texture, network, second_loss

KEY = Key(0, "heart_cascade")


@pytest.fixture(scope="module", autouse=True)
def textures_alone():
    """Without phantoms, which take seconds each."""
    kept = heart_cascade.phantom
    heart_cascade.phantom = lambda number: moving_texture(torch.Generator().manual_seed(number))[None]
    yield
    heart_cascade.phantom = kept


def test_examples_depend_on_the_step_alone():
    first, again, other = example(KEY, 3), example(KEY, 3), example(KEY, 4)
    assert torch.equal(first.problem.measured, again.problem.measured) and torch.equal(first.target, again.target)
    assert not torch.equal(first.target[..., :1], other.target[..., :1])


@pytest.mark.parametrize("step", range(6))
def test_the_target_explains_the_measurements_up_to_noise_and_coil_error(step):
    made = example(KEY, step)
    assert made.target.shape[-2:] == (SIZE, COLUMNS)
    misfit = (made.problem.encoding(made.target) - made.problem.measured).norm() / made.problem.measured.norm()
    assert misfit < 0.5
    assert 0.02 < made.target.abs().mean() < 2


def test_the_network_learns_one_example():
    torch.manual_seed(0)
    net = DeepCascade(cascades=1, depth=3, width=8, kernel="shift", sharing=(2,), consistency=0.1, variation=0.03,
                      iterations=3, steady=0.3)
    one = example(KEY, 1)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    losses = []
    for _ in range(6):
        value = second_loss(net, one)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < losses[0]


def test_the_default_network_stays_within_its_budget():
    """At most 0.2 TFLOP for a slice of 30 frames of 192 x 160: convolutions, and Fourier steps of 8 coils."""
    net, voxels = network(), 30 * 192 * 160
    convolutions = 2 * voxels * sum(layer.weight.numel() for block in net.blocks for layer in block.layers)
    fourier = 8 * voxels * (2 * 5 * 7.6 + 20) * (net.iterations + net.cascades * net.steps)
    assert convolutions + fourier < 0.2e12
