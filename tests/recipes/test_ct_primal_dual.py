"""The learned primal-dual network and its recipe."""

from dataclasses import replace

import pytest
import torch

from firstread.acquire.ellipses import draw_ellipses, random_ellipses
from firstread.core.errors import GeometryError, SettingError
from firstread.core.keys import Key
from firstread.core.records import Rows
from firstread.core.sinogram import Sinogram
from firstread.nets.primal_dual import PrimalDualNetwork
from firstread.ops.attenuation import WATER_PER_MM, hounsfield
from firstread.recipes.ct_primal_dual import Example, beam, example, grid, loss, projection, scan, train
from firstread.reconstruct.ct import FilteredBackprojection
from firstread.reconstruct.primal_dual import PrimalDual

KEY = Key(1, "test primal dual")


def rays(views: int) -> tuple[Sinogram, torch.Tensor]:
    ellipses = random_ellipses(torch.Generator().manual_seed(4), 140.0)
    data = scan(ellipses, KEY, 0, views, 1e4)[0][None, None]
    truth = hounsfield(draw_ellipses(ellipses, grid()) * WATER_PER_MM)
    return Sinogram(Rows.subjects(1), data, grid(), beam(views)), truth


def test_untrained_it_is_filtered_backprojection():
    sinogram, _ = rays(24)
    made = PrimalDual(network=PrimalDualNetwork(iterations=1, memory=2, width=4))(sinogram)
    torch.testing.assert_close(made.data, FilteredBackprojection(window="hann")(sinogram).data, rtol=1e-4, atol=0.05)


def test_a_few_steps_are_better_than_where_it_began():
    torch.manual_seed(0)
    net = PrimalDualNetwork(iterations=2, memory=3, width=8)
    ellipses = random_ellipses(torch.Generator().manual_seed(4), 140.0)
    noisy = Example(scan(ellipses, KEY, 0, 16, 3e3)[0] / WATER_PER_MM, projection(16),
                    draw_ellipses(ellipses, grid()).float()[None, None])
    first = loss(net, noisy).item()
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    for _ in range(20):
        optimizer.zero_grad()
        loss(net, noisy).backward()
        optimizer.step()
    assert loss(net, noisy).item() < first - 0.2


def test_examples_are_functions_of_the_step():
    one, again, other = example(KEY, 7), example(KEY, 7), example(KEY, 8)
    assert torch.equal(one.integrals, again.integrals) and torch.equal(one.target, again.target)
    assert not torch.equal(one.target, other.target)


def test_the_scaled_projection_has_norm_one():
    operator, x = projection(24), torch.rand(64, 64)
    for _ in range(30):
        x = operator.adjoint(operator(x / x.norm()))
    assert 0.75 < x.norm() <= 1.0001


def test_settings_bring_the_network_back():
    net = PrimalDualNetwork(iterations=2, memory=3, width=5)
    again = PrimalDualNetwork.from_weight(net.settings(), net.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values(), strict=True))


def test_training_ends_with_a_weight_that_loads(tmp_path):
    from safetensors.torch import load_file

    from firstread.recipes.ct_primal_dual import network

    state = load_file(train(tmp_path, steps=2))
    net = PrimalDualNetwork.from_weight(network().settings(), {k: v.float() for k, v in state.items()})
    sinogram, truth = rays(32)
    assert (PrimalDual(network=net)(sinogram).data[0, 0, 0, 0] - truth).square().mean().sqrt() < 300


def test_bad_input_is_refused(tmp_path):
    with pytest.raises(SettingError, match="0 iterations"):
        PrimalDualNetwork(iterations=0)
    with pytest.raises(SettingError, match="simulation"):
        train(tmp_path, data=tmp_path)
    sinogram, _ = rays(32)
    short = replace(sinogram, beam=beam(32).at_views(range(12)), data=sinogram.data[..., :12, :])
    with pytest.raises(GeometryError, match="arc of"):
        PrimalDual(network=PrimalDualNetwork(iterations=1))(short)
