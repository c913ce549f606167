"""The deep cascade: data consistency at its limits, data sharing, the published network, differentiability."""

import numpy
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from firstread.core.errors import SettingError
from firstread.nets.cascade import (
    DeepCascade,
    consistent_kspace,
    d5_c5_from_arrays,
    d5_c10_s,
    data_consistency,
    share_data,
    share_frames,
)
from firstread.nets.residual import ResidualBlock, shift_frames
from firstread.ops.encoding import CartesianEncoding
from firstread.ops.fourier import fft


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


def _encoding(coils: int | None = None, frames: int = 3) -> CartesianEncoding:
    mask = (torch.rand(1, frames, 1, 1, 8, 1, generator=torch.Generator().manual_seed(1)) < 0.5).double()
    mask[..., 3:6, :] = 1
    return CartesianEncoding(mask=mask, sensitivities=None if coils is None else _random(1, 1, coils, 1, 8, 6, seed=9))


def test_noiseless_consistency_keeps_every_measured_sample():
    encoding = _encoding()
    measured, image = encoding(_random(1, 3, 1, 1, 8, 6)), _random(1, 3, 1, 1, 8, 6, seed=2)
    made = fft(data_consistency(image, measured, encoding))
    assert torch.allclose(encoding.mask * made, measured)
    assert torch.allclose((1 - encoding.mask) * made, (1 - encoding.mask) * fft(image))


@settings(deadline=None, max_examples=20)
@given(weight=st.floats(0.01, 100))
def test_closed_form_is_the_minimizer(weight):
    """The gradient of ``‖M k - y‖² + μ ‖k - z‖²`` vanishes."""
    mask = torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    z, y = _random(4), mask * _random(4, seed=1)
    k = consistent_kspace(z, y, mask, torch.tensor(weight, dtype=torch.float64))
    assert torch.allclose(mask * (mask * k - y) + weight * (k - z), torch.zeros(4, dtype=k.dtype), atol=1e-9)


def test_limits_of_the_weight():
    z, y, mask = _random(4), _random(4, seed=1), torch.ones(4)
    assert torch.allclose(consistent_kspace(z, y, mask, torch.tensor(1e12)), z)
    assert torch.allclose(consistent_kspace(z, y, mask, torch.tensor(1e-12)), y)


def test_one_unit_coil_by_conjugate_gradients_equals_the_closed_form():
    closed = _encoding()
    solved = CartesianEncoding(mask=closed.mask, sensitivities=torch.ones(1, 1, 1, 1, 8, 6, dtype=torch.complex128))
    measured, image = closed(_random(1, 3, 1, 1, 8, 6)), _random(1, 3, 1, 1, 8, 6, seed=2)
    weight = torch.tensor(0.3, dtype=torch.float64)
    assert torch.allclose(data_consistency(image, measured, solved, weight, steps=3),
                          data_consistency(image, measured, closed, weight), atol=1e-10)


def test_many_coils_solve_the_proximal_step():
    encoding = _encoding(coils=4)
    measured, image = encoding(_random(1, 3, 1, 1, 8, 6)), _random(1, 3, 1, 1, 8, 6, seed=2)
    weight = torch.tensor(0.3, dtype=torch.float64)
    x = data_consistency(image, measured, encoding, weight, steps=200)
    assert torch.allclose(encoding.gram(x) + weight * x, encoding.adjoint(measured) + weight * image, atol=1e-8)


def test_many_coils_need_a_weight():
    encoding = _encoding(coils=2)
    image = _random(1, 3, 1, 1, 8, 6)
    with pytest.raises(SettingError, match="many coils"):
        data_consistency(image, encoding(image), encoding)


@settings(deadline=None, max_examples=25)
@given(frames=st.integers(1, 9), distance=st.integers(1, 6), seed=st.integers(0, 99))
def test_data_sharing_is_the_mean_of_measured_neighbours(frames, distance, seed):
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.rand(1, frames, 1, 1, 5, 1, generator=generator) < 0.4).float()
    measured = mask * torch.randn(1, frames, 2, 1, 5, 2, dtype=torch.complex64, generator=generator)
    shared = share_data(measured, mask, distance)
    assert torch.equal(shared * mask, measured)
    for t in range(frames):
        near = sorted({(t + d) % frames for d in range(-distance, distance + 1)})
        for line in range(5):
            if mask[0, t, 0, 0, line, 0]:
                continue
            there = [s for s in near if mask[0, s, 0, 0, line, 0]]
            expected = measured[0, there, :, 0, line].mean(dim=0) if there else torch.zeros(2, 2)
            assert torch.allclose(shared[0, t, :, 0, line], expected + 0j, atol=1e-6)


@settings(deadline=None, max_examples=15)
@given(frames=st.integers(1, 6), distance=st.integers(1, 4), seed=st.integers(0, 99))
def test_sharing_frames_is_the_mean_over_all_neighbours_away_from_the_measured_lines(frames, distance, seed):
    mask = (torch.rand(1, frames, 1, 1, 5, 1, generator=torch.Generator().manual_seed(seed)) < 0.4).double()
    image = _random(1, frames, 1, 1, 5, 3, seed=seed)
    k, made = fft(image), fft(share_frames(image, mask, distance))
    for t in range(frames):
        near = torch.stack([k[:, (t + d) % frames] for d in range(-distance, distance + 1)]).mean(dim=0)
        own = mask[:, t] != 0
        assert torch.allclose(made[:, t], torch.where(own, k[:, t], near))


def test_d5_c10_s_shares_the_measurements_first_and_then_the_images():
    """The published layout by its numbers; at the second block, an image that is static stays as it is."""
    net = d5_c10_s()
    layers = net.blocks[0].layers
    assert len(net.blocks) == 10 and [tuple(layer.weight.shape) for layer in layers] == [
        (64, 10, 3, 3, 3), (64, 64, 3, 3, 3), (64, 64, 3, 3, 3), (64, 64, 3, 3, 3), (2, 64, 3, 3, 3)]
    seen = []
    small = DeepCascade(cascades=2, depth=2, width=4, kernel="tyx", sharing=(1, 2), resharing=True).double()
    for block in small.blocks:
        block.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    encoding = _encoding(frames=5)
    measured = encoding(_random(1, 5, 1, 1, 8, 6))
    made = small(measured, encoding)
    first = torch.view_as_complex(seen[0].unflatten(1, (3, 2)).movedim(2, -1).contiguous())
    second = torch.view_as_complex(seen[1].unflatten(1, (3, 2)).movedim(2, -1).contiguous())
    for number, distance in enumerate((1, 2), start=1):
        assert torch.allclose(fft(first[:, number]), share_data(measured, encoding.mask, distance)[0, :, 0, 0])
        assert torch.allclose(second[:, number], share_frames(made, encoding.mask, distance)[0, :, 0, 0])
    again = DeepCascade.from_weight(small.settings(), small.state_dict())
    assert again.resharing


def test_shifting_moves_channels_in_time_and_loses_nothing():
    features = torch.arange(5.0).reshape(5, 1, 1, 1).expand(5, 8, 1, 1)
    made = shift_frames(features)[:, :, 0, 0]
    assert torch.equal(made[:, 0], torch.tensor([4.0, 0, 1, 2, 3]))
    assert torch.equal(made[:, 2], torch.tensor([1.0, 2, 3, 4, 0]))
    assert torch.equal(made[:, 4:], features[:, 4:, 0, 0])


@pytest.mark.parametrize("kernel", ["yx", "tyx", "shift"])
@pytest.mark.parametrize("coils", [None, 3])
def test_starts_as_classical_reconstruction_and_has_gradients_everywhere(kernel, coils):
    net = DeepCascade(cascades=2, depth=3, width=4, kernel=kernel, sharing=(1,), consistency=0.1,
                      steady=0.5).double()
    encoding = _encoding(coils)
    truth = _random(1, 3, 1, 1, 8, 6)
    measured = encoding(truth).requires_grad_()
    made = net(measured, encoding)
    assert made.shape == truth.shape
    torch.nn.init.normal_(net.blocks[0].layers[-1].weight)
    torch.nn.init.normal_(net.blocks[1].layers[-1].weight)
    net(measured, encoding).abs().square().sum().backward()
    assert measured.grad.abs().max() > 0
    assert all(p.grad is not None and torch.isfinite(p.grad).all() and p.grad.abs().max() > 0 for p in net.parameters())


@pytest.mark.parametrize("kernel", ["tyx", "shift"])
def test_time_is_circular(kernel):
    net = DeepCascade(cascades=1, depth=3, width=4, kernel=kernel).double()
    torch.nn.init.normal_(net.blocks[0].layers[-1].weight)
    encoding = _encoding(frames=5)
    measured = encoding(_random(1, 5, 1, 1, 8, 6))
    later = CartesianEncoding(mask=encoding.mask.roll(2, dims=1))
    assert torch.allclose(net(measured, encoding).roll(2, dims=1), net(measured.roll(2, dims=1), later), atol=1e-10)


def test_frames_are_independent_without_a_temporal_kernel():
    net = DeepCascade(cascades=1, depth=2, width=4).double()
    torch.nn.init.normal_(net.blocks[0].layers[-1].weight)
    encoding = _encoding()
    measured = encoding(_random(1, 3, 1, 1, 8, 6))
    alone = net(measured[:, 1:2], CartesianEncoding(mask=encoding.mask[:, 1:2]))
    assert torch.allclose(net(measured, encoding)[:, 1:2], alone, atol=1e-12)


def test_corrections_of_what_does_not_move_are_damped():
    net = DeepCascade(cascades=1, depth=2, width=4, kernel="shift", steady=0.0).double()
    torch.nn.init.normal_(net.blocks[0].layers[-1].weight)
    silent = CartesianEncoding(mask=torch.zeros(1, 1, 1, 1, 8, 1).double())  # no consistency: the correction alone
    measured = torch.zeros(1, 3, 1, 1, 8, 6, dtype=torch.complex128)
    net.blocks[0].layers[0].bias.data.fill_(1.0)
    assert net(measured, silent).abs().max() < 1e-12  # still input, still correction: all of it is dropped
    net.shares.data.fill_(1.0)
    assert net(measured, silent).abs().max() > 0.1
    net.shares.data.fill_(0.0)
    assert net(measured[:, :1], silent).abs().max() > 0.1  # one frame has no mean over time to damp


def _trained_on(steps: int = 2, slices: int = 3, **settings):
    """A network that is no identity, and a scan of a few coils and slices."""
    torch.manual_seed(0)
    net = DeepCascade(cascades=2, depth=3, width=8, kernel="shift", consistency=0.2, steps=steps, sharing=(1,),
                      variation=0.02, iterations=4, steady=0.5, **settings).double()
    for block in net.blocks:
        torch.nn.init.normal_(block.layers[-1].weight, std=0.1)
    maps = _random(1, 1, 3, slices, 8, 6)
    mask = _encoding(frames=3).mask.clone()
    return net, CartesianEncoding(mask=mask, sensitivities=maps, fourier_axes=("y",)), _random(1, 3, 1, slices, 8, 6)


def test_blocks_that_run_again_give_the_same_gradient():
    net, encoding, image = _trained_on()
    measured, found = encoding(image), []
    for recompute in (False, True):
        net.zero_grad()
        leaf, mask = measured.clone().requires_grad_(), encoding.mask.clone().requires_grad_()
        scan = CartesianEncoding(mask=mask, sensitivities=encoding.sensitivities, fourier_axes=("y",))
        made = net(leaf, scan, recompute=recompute)
        made.abs().square().sum().backward()
        found.append([made.detach(), leaf.grad, mask.grad, *(p.grad for p in net.parameters())])
    for one, other in zip(*found, strict=True):
        assert one.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-12)


def test_slices_that_are_independent_do_not_meet():
    net, encoding, image = _trained_on()
    measured = encoding(image)
    alone = net(measured[:, :, :, 1:2], encoding.at_slice(1))
    torch.testing.assert_close(net(measured, encoding)[:, :, :, 1:2], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_a_cine_frame_by_frame_is_that_of_all_frames_at_once(frames):
    torch.manual_seed(0)
    block = ResidualBlock(channels=2, depth=3, width=8, kernel="shift").double()
    torch.nn.init.normal_(block.layers[-1].weight)
    cine = torch.randn(frames, 2, 8, 6, dtype=torch.float64)
    features = F.relu(block.layers[0](cine))
    features = F.relu(block.layers[1](shift_frames(features)))
    torch.testing.assert_close(block(cine), block.layers[2](shift_frames(features)))


@pytest.mark.parametrize("kernel", ["yx", "shift"])
def test_a_block_without_gradient_computes_the_same(kernel):
    torch.manual_seed(0)
    block = ResidualBlock(channels=6, depth=3, width=8, kernel=kernel)
    torch.nn.init.normal_(block.layers[-1].weight)
    torch.nn.init.normal_(block.layers[-1].bias)
    cine = torch.randn(4, 6, 7, 10)
    made = block(cine)
    with torch.no_grad():
        torch.testing.assert_close(block(cine), made, rtol=1e-5, atol=1e-5)


def test_a_weight_file_brings_the_network_back():
    net = DeepCascade(cascades=2, depth=2, width=4, kernel="shift", sharing=(2,), consistency=0.2, variation=0.01,
                      steady=0.4)
    torch.nn.init.normal_(net.blocks[0].layers[-1].weight)
    again = DeepCascade.from_weight(net.settings(), net.state_dict())
    encoding = _encoding(2)
    measured = encoding(_random(1, 3, 1, 1, 8, 6))
    assert torch.equal(net.double()(measured, encoding), again.double()(measured, encoding))


def test_refuses_impossible_sizes():
    with pytest.raises(SettingError, match="depth"):
        DeepCascade(depth=1)


@pytest.mark.realdata
def test_published_weights_map_the_reference_input_to_its_output(realdata):
    with numpy.load(realdata / "deep_cascade" / "d5_c5.npz") as arrays:
        net = d5_c5_from_arrays(arrays)
    with numpy.load(realdata / "deep_cascade" / "reference_io.npz") as stored:
        reference = {name: torch.from_numpy(stored[name]) for name in ("kspace", "mask", "output", "zero_filled")}
    encoding = CartesianEncoding(mask=reference["mask"].float()[None, None, None, None, :, None])
    with torch.no_grad():
        made = net(reference["kspace"][None, None, None, None], encoding)[0, 0, 0, 0]
    assert (made - reference["output"]).abs().max() < 1e-4
    zero_filled = encoding.adjoint(reference["kspace"][None, None, None, None])[0, 0, 0, 0]
    assert (zero_filled - reference["zero_filled"]).abs().max() < 1e-5


def test_arrays_of_another_network_are_refused():
    with pytest.raises(SettingError, match="D5-C5"):
        d5_c5_from_arrays({f"arr_{n}": numpy.zeros((3, 3), dtype=numpy.float32) for n in range(50)})
