"""The variational network: data consistency, learned sensitivities, gradients, independence of frames."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from firstread.core.errors import SettingError
from firstread.nets.varnet import RIDGE, VariationalNetwork, soft_consistency, unit_maps
from firstread.ops.encoding import CartesianEncoding
from firstread.ops.fourier import fft, ifft
from firstread.ops.solve import conjugate_gradient


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


def _encoding(frames: int = 2, coils: int = 3) -> CartesianEncoding:
    mask = (torch.rand(1, frames, 1, 1, 8, 1, generator=torch.Generator().manual_seed(1)) < 0.5).double()
    mask[..., 3:6, :] = 1
    return CartesianEncoding(mask=mask, sensitivities=unit_maps(_random(1, 1, coils, 1, 8, 6, seed=9)))


def _network(cascades: int = 2) -> VariationalNetwork:
    torch.manual_seed(0)
    net = VariationalNetwork(cascades=cascades, widths=(4, 4), map_widths=(4, 4)).double()
    for module in (net.sensitivities.correction, *net.corrections):
        torch.nn.init.normal_(module.unet.logits.weight, std=0.3)
    return net


@settings(deadline=None, max_examples=20)
@given(step=st.floats(0, 1.9), seed=st.integers(0, 99))
def test_soft_consistency_is_a_gradient_step(step, seed):
    mask = (torch.rand(6, generator=torch.Generator().manual_seed(seed)) < 0.5).double()
    k, y = _random(6, seed=seed).requires_grad_(), mask * _random(6, seed=seed + 1)
    (0.5 * (mask * k - y).abs().square().sum()).backward()
    assert torch.allclose(soft_consistency(k, y, mask, torch.tensor(step).double()), k - step * k.grad)


def test_a_full_step_restores_the_measured_samples_exactly():
    mask, k, y = torch.tensor([1.0, 0, 1]).double(), _random(3), _random(3, seed=1)
    made = soft_consistency(k, mask * y, mask, torch.tensor(1.0).double())
    assert torch.allclose(mask * made, mask * y, atol=1e-15) and torch.equal((1 - mask) * made, (1 - mask) * k)


def test_learned_maps_have_unit_energy():
    net, encoding = _network(), _encoding()
    maps = net.maps(encoding(_random(1, 2, 1, 1, 8, 6)), encoding)
    assert torch.allclose(maps.abs().square().sum(dim=2), torch.ones(1, 1, 1, 8, 6).double())
    assert not torch.allclose(maps, encoding.sensitivities)


def test_it_begins_as_the_coil_combined_image():
    net, encoding = VariationalNetwork(cascades=3, widths=(4, 4), map_widths=(4, 4)).double(), _encoding()
    measured = encoding(_random(1, 2, 1, 1, 8, 6))
    assert torch.allclose(net(measured, encoding), encoding.adjoint(measured))


def test_magnitude_is_the_root_sum_of_squares_where_the_maps_explain_the_coils():
    encoding = _encoding()
    whole = CartesianEncoding(mask=torch.ones(1, 1, 1, 1, 8, 1).double(), sensitivities=encoding.sensitivities)
    measured = whole(_random(1, 2, 1, 1, 8, 6))
    made = VariationalNetwork(cascades=1, widths=(4, 4), map_widths=(4, 4)).double()(measured, whole)
    assert torch.allclose(made.abs(), ifft(measured).abs().square().sum(dim=2, keepdim=True).sqrt())


def test_it_may_begin_at_least_squares():
    """Measured samples are kept, the others are those of ``(EᴴE + 0.01)⁻¹ Eᴴ y``; the gradient goes through."""
    encoding = _encoding(frames=1)
    net = VariationalNetwork(cascades=1, widths=(4, 4), map_widths=(4, 4), start=60).double()
    measured = encoding(_random(1, 1, 1, 1, 8, 6)).requires_grad_()
    x = conjugate_gradient(lambda v: encoding.gram(v) + RIDGE * v, encoding.adjoint(measured), iterations=60)
    expected = fft(encoding.sensitivities * x)
    kspace = measured + (1 - encoding.mask) * expected
    maps = net.maps(measured, encoding)
    assert torch.allclose(net(measured, encoding), (maps.conj() * ifft(kspace)).sum(dim=2, keepdim=True))
    assert torch.autograd.gradcheck(lambda y: net(y, encoding), (measured,), fast_mode=True)


def test_one_cascade_is_the_formula():
    net, encoding = _network(cascades=1), _encoding(frames=1)
    measured = encoding(_random(1, 1, 1, 1, 8, 6))
    maps = net.maps(measured, encoding)
    first = (maps.conj() * ifft(measured)).sum(dim=2, keepdim=True)
    planes = torch.view_as_real(first[0, 0, 0]).movedim(-1, 1)
    change = net.corrections[0](planes)
    kspace = measured - net.steps[0] * (encoding.mask * measured - measured) + fft(maps * change)
    assert torch.allclose(net(measured, encoding), (maps.conj() * ifft(kspace)).sum(dim=2, keepdim=True))


def test_gradients_reach_every_parameter_and_the_measurements():
    net, encoding = _network(), _encoding()
    measured = encoding(_random(1, 2, 1, 1, 8, 6)).requires_grad_()
    net(measured, encoding).abs().square().sum().backward()
    assert measured.grad.abs().max() > 0
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    assert net.corrections[0].unet.logits.weight.grad.abs().max() > 0
    assert net.sensitivities.correction.unet.logits.weight.grad.abs().max() > 0


def test_gradcheck():
    net, encoding = _network(), _encoding(frames=1, coils=2)
    measured = encoding(_random(1, 1, 1, 1, 8, 6)).requires_grad_()
    assert torch.autograd.gradcheck(lambda y: net(y, encoding), (measured,), fast_mode=True)


def test_frames_share_maps_but_nothing_else():
    net, encoding = _network(), _encoding()
    net.maps = lambda measured, encoding: encoding.sensitivities
    measured = encoding(_random(1, 2, 1, 1, 8, 6))
    alone = CartesianEncoding(mask=encoding.mask[:, 1:], sensitivities=encoding.sensitivities)
    assert torch.allclose(net(measured, encoding)[:, 1:], net(measured[:, 1:], alone), atol=1e-12)


def test_a_weight_file_brings_the_network_back():
    net, encoding = _network(), _encoding()
    again = VariationalNetwork.from_weight(net.settings(), net.state_dict()).double()
    measured = encoding(_random(1, 2, 1, 1, 8, 6))
    assert torch.allclose(net(measured, encoding), again(measured, encoding), atol=1e-5)


def test_refuses_no_cascades():
    with pytest.raises(SettingError, match="cascades"):
        VariationalNetwork(cascades=0)
