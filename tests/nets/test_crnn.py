"""The convolutional recurrent network: the recurrence, data consistency, the authors' parameters."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from firstread.core.errors import SettingError
from firstread.nets.crnn import RecurrentNetwork, both_ways, crnn_from_state
from firstread.ops.encoding import CartesianEncoding
from firstread.ops.fourier import fft, ifft


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


def _encoding(coils: int | None = None, frames: int = 3) -> CartesianEncoding:
    mask = (torch.rand(1, frames, 1, 1, 8, 1, generator=torch.Generator().manual_seed(1)) < 0.5).double()
    mask[..., 3:6, :] = 1
    return CartesianEncoding(mask=mask, sensitivities=None if coils is None else _random(1, 1, coils, 1, 8, 6, seed=9))


def _network(**settings) -> RecurrentNetwork:
    torch.manual_seed(0)
    net = RecurrentNetwork(**{"iterations": 2, "depth": 3, "width": 4} | settings).double()
    nn.init.normal_(net.block.last.weight, std=0.3)
    return net


def test_recurrence_runs_both_ways_with_the_same_weights():
    along = nn.Conv2d(3, 3, 3, padding=1).double()
    driven = torch.randn(4, 3, 5, 5, dtype=torch.float64)
    made = both_ways(driven, along)
    assert torch.allclose(both_ways(driven.flip(0), along), made.flip(0))
    forward, state = [], torch.zeros(1, 3, 5, 5).double()
    for t in range(4):
        state = F.relu(driven[t : t + 1] + along(state))
        forward.append(state)
    last = F.relu(driven[3:] + along(torch.zeros(1, 3, 5, 5).double()))
    assert torch.allclose(made[3:], forward[3] + last)


def test_measured_samples_are_kept_exactly():
    net, encoding = _network(), _encoding()
    measured = encoding(_random(1, 3, 1, 1, 8, 6))
    made = net(measured, encoding)
    assert torch.allclose(encoding.mask * fft(made), measured)
    assert not torch.allclose(made, encoding.adjoint(measured))


@pytest.mark.parametrize("coils", [None, 3])
def test_gradients_reach_every_parameter(coils):
    net, encoding = _network(consistency=0.1), _encoding(coils)
    measured = encoding(_random(1, 3, 1, 1, 8, 6)).requires_grad_()
    net(measured, encoding).abs().square().sum().backward()
    assert measured.grad.abs().max() > 0
    assert all(p.grad is not None and torch.isfinite(p.grad).all() and p.grad.abs().max() > 0 for p in net.parameters())


def test_gradcheck():
    net, encoding = _network(width=2), _encoding(frames=2)
    measured = encoding(_random(1, 2, 1, 1, 8, 6)).requires_grad_()
    assert torch.autograd.gradcheck(lambda y: net(y, encoding), (measured,), fast_mode=True)


def test_slices_are_independent():
    net, encoding = _network(), _encoding()
    measured = encoding(_random(1, 3, 1, 2, 8, 6))
    assert torch.allclose(net(measured, encoding)[:, :, :, 1:], net(measured[:, :, :, 1:], encoding), atol=1e-12)


def test_a_weight_file_brings_the_network_back():
    net, encoding = _network(consistency=0.2), _encoding(2)
    again = RecurrentNetwork.from_weight(net.settings(), net.state_dict()).double()
    measured = encoding(_random(1, 3, 1, 1, 8, 6))
    assert torch.allclose(net(measured, encoding), again(measured, encoding), atol=1e-5)


def published(width: int = 64) -> dict[str, torch.Tensor]:
    """Random parameters under the authors' names."""
    generator = torch.Generator().manual_seed(3)
    sizes = {"bcrnn.CRNN_model.i2h": (width, 2), "bcrnn.CRNN_model.h2h": (width, width),
             "bcrnn.CRNN_model.ih2ih": (width, width), "conv4_x": (2, width),
             **{f"conv{n}_{kind}": (width, width) for n in (1, 2, 3) for kind in "xh"}}
    made = {}
    for name, (out, into) in sizes.items():
        made[f"{name}.weight"] = 0.02 * torch.randn(out, into, 3, 3, generator=generator)
        made[f"{name}.bias"] = 0.02 * torch.randn(out, generator=generator)
    return made


def test_the_authors_parameters_give_the_authors_formula():
    """Two iterations written out frame by frame, with both biases of every sum."""
    state = published()
    net = crnn_from_state(state)
    net.iterations = 2
    encoding = _encoding(frames=2)
    encoding = CartesianEncoding(mask=encoding.mask.float())
    measured = encoding(_random(1, 2, 1, 1, 8, 6).to(torch.complex64))

    def conv(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)

    image = ifft(measured)[0, :, 0, 0]
    hidden = [torch.zeros(2, 64, 8, 6) for _ in range(4)]
    for _ in range(2):
        x = torch.view_as_real(image).movedim(-1, 1)
        ways = []
        for order in ((0, 1), (1, 0)):
            memory, states = torch.zeros(1, 64, 8, 6), {}
            for t in order:
                memory = F.relu(conv("bcrnn.CRNN_model.i2h", x[t : t + 1]) + conv("bcrnn.CRNN_model.h2h", memory)
                                + conv("bcrnn.CRNN_model.ih2ih", hidden[0][t : t + 1]))
                states[t] = memory
            ways.append(torch.cat([states[0], states[1]]))
        hidden[0] = ways[0] + ways[1]
        for n in (1, 2, 3):
            hidden[n] = F.relu(conv(f"conv{n}_x", hidden[n - 1]) + conv(f"conv{n}_h", hidden[n]))
        change = torch.view_as_complex(conv("conv4_x", hidden[3]).movedim(1, -1).contiguous())
        k = fft(image + change)
        mask = encoding.mask[0, :, 0, 0]
        image = ifft((1 - mask) * k + measured[0, :, 0, 0])
    with torch.no_grad():
        assert torch.allclose(net(measured, encoding)[0, :, 0, 0], image, atol=1e-4)


def test_other_parameters_are_refused():
    with pytest.raises(SettingError, match="CRNN-MRI"):
        crnn_from_state(published(width=8))
    with pytest.raises(SettingError, match="KeyError"):
        crnn_from_state({})


def test_refuses_impossible_sizes():
    with pytest.raises(SettingError, match="depth"):
        RecurrentNetwork(depth=1)
