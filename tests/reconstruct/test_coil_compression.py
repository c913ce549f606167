"""Virtual coils: orthonormal, of most energy, aligned along the readout; images change little; bad input."""

from dataclasses import replace

import pytest
import torch

from firstread.acquire.coils import LoopCoils
from firstread.acquire.mri import Encode
from firstread.acquire.sampling import UniformLines
from firstread.core.errors import SettingError
from firstread.core.geometry import Grid
from firstread.core.keys import Key
from firstread.core.records import Image, KSpace, Rows
from firstread.core.stage import Chain
from firstread.ops.coil_compression import align, principal_coils
from firstread.ops.fourier import ifft
from firstread.reconstruct.coil_compression import CompressCoils
from firstread.reconstruct.espirit import Espirit
from firstread.reconstruct.iterative import CGSense

SIZE, COILS = 40, 12


@pytest.fixture(scope="module")
def image() -> Image:
    line = torch.linspace(-1, 1, SIZE)
    disc = ((line[:, None] / 0.8) ** 2 + (line / 0.9) ** 2 < 1) * (1 + 0.5 * torch.sin(8 * line))
    return Image(Rows.subjects(1), disc[None, None, None, None], Grid.from_spacing((1, SIZE, SIZE), (8.0, 2.0, 2.0)))


@pytest.fixture(scope="module")
def kspace(image) -> KSpace:
    return Encode(coils=LoopCoils(count=COILS), sampling=UniformLines(acceleration=2, centre_lines=16), snr=200.0,
                  keep_sensitivities=True)(image, Key(0, "encode"))


def test_the_first_virtual_coils_are_the_best_of_their_number():
    samples = torch.randn(6, 50, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    matrix, energy = principal_coils(samples, 2)
    singular = torch.linalg.svdvals(samples)
    assert torch.allclose(energy, singular.square())
    assert torch.allclose((matrix @ samples).norm().square(), singular[:2].square().sum())
    assert torch.allclose(matrix @ matrix.mH, torch.eye(2, dtype=torch.complex128), atol=1e-12)


def test_all_virtual_coils_lose_nothing(kspace):
    whole = CompressCoils(count=COILS)(kspace)
    assert torch.allclose(whole.data.norm(), kspace.data.norm(), rtol=1e-4)
    settings = {"regularization": 1e-3, "iterations": 60, "tolerance": 1e-7}
    one, other = CGSense(**settings)(kspace), CGSense(**settings)(whole)
    assert torch.allclose(one.data, other.data, atol=1e-3)  # covariance and maps went with the data


def test_aligned_matrices_span_the_same_and_vary_less():
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(5, 3, dtype=torch.complex128, generator=generator)
    drift = torch.randn(5, 3, dtype=torch.complex128, generator=generator)
    bases = torch.linalg.qr(torch.stack([start + 0.02 * x * drift for x in range(20)])).Q.mH
    turns = torch.linalg.qr(torch.randn(20, 3, 3, dtype=torch.complex128, generator=generator)).Q
    jumping = turns @ bases
    smooth = align(jumping)
    assert torch.allclose(smooth.mH @ smooth, jumping.mH @ jumping, atol=1e-10)
    assert (smooth[1:] - smooth[:-1]).norm() < 0.1 * (jumping[1:] - jumping[:-1]).norm()


@pytest.mark.parametrize("method", ["svd", "geometric"])
def test_a_third_of_the_coils_gives_nearly_the_same_image(image, kspace, method):
    given = replace(kspace, noise_covariance=None, sensitivities=None)
    whole = Chain(Espirit(kernel=5), CGSense(regularization=1e-3))(given)["reconstruction"].data.abs()
    few = Chain(CompressCoils(count=4, method=method), Espirit(kernel=5), CGSense(regularization=1e-3))(given)
    assert few["compressed"].data.shape[2] == 4
    assert (few["reconstruction"].data.abs() - whole).norm() < 0.06 * whole.norm()


def test_geometric_keeps_more_energy_and_compresses_given_maps(image, kspace):
    given = replace(kspace, noise_covariance=None)
    kept = [CompressCoils(count=2, method=method)(given).data.norm() for method in ("svd", "geometric")]
    assert kept[1] > kept[0]
    full = replace(given, mask=torch.ones_like(given.mask))
    made = CompressCoils(count=COILS, method="geometric")(full)
    combined = (made.sensitivities.conj() * ifft(made.data)).sum(dim=2)
    before = (full.sensitivities.conj() * ifft(full.data)).sum(dim=2)
    assert torch.allclose(combined, before, atol=1e-4)


def test_errors_and_notes(kspace):
    made = CompressCoils(count=3)(kspace)
    assert made.notes[-1].code == "coil_compression" and "3 virtual coils of 12" in made.notes[-1].text
    with pytest.raises(SettingError, match="13 virtual coils of 12"):
        CompressCoils(count=13)(kspace)
    with pytest.raises(SettingError, match="0 virtual coils"):
        CompressCoils(count=0)
    with pytest.raises(SettingError, match="noise covariance"):
        CompressCoils(count=3, method="geometric")(kspace)
    points = (torch.rand(1, 1, 1, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    with pytest.raises(SettingError, match="missing samples"):
        CompressCoils(count=3, method="geometric")(replace(kspace, mask=points, noise_covariance=None))
