"""The U-Net: shapes, gradients, one sample at a time, storage."""

import pytest
import torch
from torch.func import functional_call, grad, vmap

from firstread.core.errors import SettingError
from firstread.nets.precision import InPrecision
from firstread.nets.unet import Conv3d, UNet


def small(dims: int = 2) -> UNet:
    torch.manual_seed(0)
    return UNet(channels_in=2, channels_out=3, widths=(4, 8, 8), dims=dims)


@pytest.mark.parametrize(("dims", "space"), [(2, (16, 16)), (2, (17, 30)), (2, (3, 1)), (3, (8, 8, 8)), (3, (5, 7, 9))])
def test_any_size_comes_out_as_it_went_in(dims, space):
    assert small(dims)(torch.randn(2, 2, *space)).shape == (2, 3, *space)


def test_every_parameter_gets_a_gradient_and_so_does_the_input():
    net, x = small(), torch.randn(1, 2, 12, 12, requires_grad=True)
    net(x).square().sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_samples_do_not_see_each_other():
    net, x = small().eval(), torch.randn(3, 2, 16, 16)
    assert torch.allclose(net(x)[1], net(x[1:2])[0], atol=1e-5)


def test_gradients_per_sample_add_up_to_that_of_the_batch():
    net, x = small(), torch.randn(3, 2, 8, 8)
    weights = {name: p.detach() for name, p in net.named_parameters()}

    def loss(parameters, sample):
        return functional_call(net, parameters, (sample.unsqueeze(0),)).square().mean()

    each = vmap(grad(loss), in_dims=(None, 0))(weights, x)
    net(x).square().mean(dim=(1, 2, 3)).sum().backward()
    for name, parameter in net.named_parameters():
        assert torch.allclose(each[name].sum(0), parameter.grad, atol=1e-4), name


def test_state_dict_round_trip():
    first, second = small(), UNet(channels_in=2, channels_out=3, widths=(4, 8, 8))
    x = torch.randn(1, 2, 16, 16)
    assert not torch.equal(first(x), second(x))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x), second(x))


@pytest.mark.parametrize("wrong", [{"dims": 1}, {"widths": ()}, {"channels_in": 0}, {"widths": (4, 0)}])
def test_settings_that_make_no_network(wrong):
    with pytest.raises(SettingError):
        UNet(**{"channels_in": 1, "channels_out": 2, "widths": (4, 8), **wrong})


def test_wrong_number_of_channels_is_one_sentence():
    with pytest.raises(SettingError, match=r"expected \[batch, 2, y, x\]"):
        small()(torch.zeros(1, 1, 8, 8))


@pytest.mark.parametrize("batch", [1, 2])
def test_volumes_without_gradient_take_another_way_to_the_same_logits(batch):
    """Against float64, with a mean well above the spread, which is hard on variances; the plain layers: below 1e-5."""
    torch.manual_seed(0)
    net = UNet(channels_in=2, channels_out=3, widths=(8, 16, 24), dims=3)
    volume = torch.randn(batch, 2, 17, 20, 24) + 3
    exact = net.double()(volume.double())
    net.float()
    with torch.no_grad():
        fast = net(volume)
    assert (fast - exact).abs().max() < 4e-5 and (net(volume) - exact).abs().max() < 1e-5


def test_volumes_in_bfloat16_and_with_the_channels_last_say_the_same():
    net, x = small(3).eval(), 3 + torch.randn(1, 2, 24, 16, 16)
    expected = net.double()(x.double()).float().detach()
    net.float()
    with torch.no_grad():
        torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-4)
        rounded = InPrecision(net, torch.bfloat16)(x)
    assert rounded.dtype == torch.float32
    assert float((rounded - expected).square().mean().sqrt()) < 0.02 * float(expected.std())


def test_one_channel_goes_in_with_the_channels_last():
    torch.manual_seed(0)
    layer, x = Conv3d(1, 4, 3, padding=1), torch.randn(2, 1, 6, 7, 8)
    with torch.no_grad():
        made = layer(x)
    assert made.is_contiguous(memory_format=torch.channels_last_3d) and not made.is_contiguous()
    torch.testing.assert_close(made, layer(x).detach())
