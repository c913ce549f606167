"""Self-supervision by lines: the split is one, the loss lines are never seen, and it teaches."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from firstread.core.errors import SettingError, SignalError
from firstread.core.geometry import Grid
from firstread.core.records import KSpace, Rows
from firstread.learn.ssdu import keep_lines, prediction_error, self_supervised_loss, split_lines
from firstread.nets.cascade import DeepCascade
from firstread.ops.encoding import CartesianEncoding
from firstread.ops.fourier import fft, ifft


def scan(seed: int = 0, frames: int = 2, lines: int = 32, coils: int = 2, share: float = 0.6) -> KSpace:
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.rand(1, frames, 1, 1, lines, 1, generator=generator) < share).float()
    mask[..., lines // 2 - 4 : lines // 2 + 4, :] = 1
    data = torch.randn(1, frames, coils, 1, lines, 6, dtype=torch.complex64, generator=generator)
    return KSpace(Rows.subjects(1), mask * data, Grid.pixels((1, lines, 6)), mask)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 999), share=st.floats(0.05, 0.95), centre=st.integers(0, 8))
def test_a_split_is_disjoint_complete_and_leaves_the_centre(seed, share, centre):
    kspace = scan(seed)
    split = split_lines(kspace, torch.Generator().manual_seed(seed), share=share, centre=centre)
    assert not bool((split.given & split.wanted).any())
    assert torch.equal(split.given | split.wanted, kspace.mask > 0)
    middle = slice(16 - centre // 2, 16 - centre // 2 + centre)
    assert not bool(split.wanted[..., middle, :].any())
    assert bool(split.wanted.flatten(2).any(dim=-1).all()) and bool(split.given.flatten(2).any(dim=-1).all())


def test_the_reconstruction_never_sees_the_loss_lines():
    """Whatever stands on the loss lines, the prediction is called with the same input."""
    kspace, seen = scan(), []

    def predict(given: KSpace) -> torch.Tensor:
        seen.append(given)
        return torch.zeros_like(given.data)

    split = split_lines(kspace, torch.Generator().manual_seed(4))
    other = torch.where(split.wanted, 7 * kspace.data + 1, kspace.data)
    changed = KSpace(kspace.rows, other, kspace.grid, kspace.mask)
    for one in (kspace, changed):
        self_supervised_loss(predict, one, torch.Generator().manual_seed(4))
    assert torch.equal(seen[0].data, seen[1].data) and torch.equal(seen[0].mask, seen[1].mask)
    assert not bool((seen[0].data * split.wanted).any()) and not bool((seen[0].mask * split.wanted).any())


def test_the_loss_looks_at_nothing_but_the_loss_lines():
    kspace = scan()
    split = split_lines(kspace, torch.Generator().manual_seed(4))
    right = torch.where(split.wanted, kspace.data, torch.randn_like(kspace.data))
    assert prediction_error(right, kspace.data, split.wanted) < 1e-5
    given_only = keep_lines(kspace, split.given).data
    assert torch.isclose(prediction_error(given_only, kspace.data, split.wanted), torch.tensor(2.0))


def test_it_teaches_without_full_sampling():
    """Discs at random places, half of their lines: the true error falls, though no image was ever seen."""
    torch.manual_seed(0)
    net = DeepCascade(cascades=1, depth=2, width=8)
    y, x = torch.meshgrid(torch.linspace(-2, 2, 32), torch.linspace(-2, 2, 12), indexing="ij")

    def made(seed: int) -> tuple[torch.Tensor, KSpace]:
        shift = torch.rand(2, generator=torch.Generator().manual_seed(seed)) - 0.5
        disc = torch.sigmoid(12 * (1 - ((y - shift[0]) ** 2 + (x - shift[1]) ** 2).sqrt()))
        image = disc[None, None, None, None] + 0j
        generator = torch.Generator().manual_seed(seed)
        mask = (torch.rand(1, 1, 1, 1, 32, 1, generator=generator) < 0.5).float()
        mask[..., 12:20, :] = 1
        return image, KSpace(Rows.subjects(1), mask * fft(image), Grid.pixels((1, 32, 12)), mask)

    def predict(kspace: KSpace) -> torch.Tensor:
        return fft(net(kspace.data, CartesianEncoding(mask=kspace.mask)))

    def error() -> float:
        with torch.no_grad():
            return sum(float((ifft(predict(k)) - image).norm() / image.norm()) for image, k in map(made, range(90, 94)))

    before = error()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for step in range(30):
        optimizer.zero_grad()
        self_supervised_loss(predict, made(step % 20)[1], torch.Generator().manual_seed(step)).backward()
        optimizer.step()
    assert error() < 0.9 * before


def test_refuses_what_cannot_be_split():
    with pytest.raises(SettingError, match="share"):
        split_lines(scan(), torch.Generator(), share=1.0)
    with pytest.raises(SignalError, match="outside"):
        split_lines(scan(share=0.0), torch.Generator())
    with pytest.raises(SignalError, match="energy"):
        prediction_error(scan().data, 0 * scan().data, scan().mask > 0)
