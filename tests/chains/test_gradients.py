"""One differentiable program: the ejection fraction's gradient reaches k-space and the sampling mask."""

from dataclasses import replace

import pytest
import torch
from samples import blob
from torch import nn

from firstread.acquire.coils import GaussianCoils
from firstread.acquire.mri import Encode
from firstread.acquire.sampling import FullySampled, LearnedMask, VariableDensity
from firstread.analyze.segment import Segment
from firstread.core.case import Case
from firstread.core.keys import Key
from firstread.core.records import KSpace
from firstread.core.stage import Chain
from firstread.measure.cardiac import CardiacFunction
from firstread.reconstruct.iterative import CGSense


def downstream() -> list:
    """A network without kinks, so that finite differences are those of a smooth function."""
    torch.manual_seed(1)
    smooth = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 4, 3, padding=1)).double()
    return [CGSense(iterations=80, tolerance=1e-12),
            Segment(networks=[smooth], patch=32, search=32), CardiacFunction(softness=0.2, warn=False)]


def double_kspace() -> KSpace:
    image = blob(frames=3)
    image = replace(image, data=image.data.to(torch.complex128))
    sampling = VariableDensity(acceleration=2, centre_lines=6)
    encode = Encode(sampling=sampling, coils=GaussianCoils(count=3), snr=80.0, keep_sensitivities=True)
    return encode(image, Key(2, "encode"))


def test_gradient_of_ef_with_respect_to_kspace_agrees_with_finite_differences():
    chain, kspace = Chain(*downstream()), double_kspace()

    def fraction(data: torch.Tensor) -> torch.Tensor:
        return chain(Case({"kspace": replace(kspace, data=data)}))["phenotypes"]["LVEF"].value.sum()

    data = kspace.data.clone().requires_grad_()
    fraction(data).backward()
    generator = torch.Generator().manual_seed(0)
    step = 1e-5
    for _ in range(3):
        direction = kspace.mask * torch.randn(data.shape, generator=generator, dtype=torch.complex128)
        slope = (fraction(kspace.data + step * direction) - fraction(kspace.data - step * direction)) / (2 * step)
        exact = (data.grad.conj() * direction).sum().real
        assert exact.item() == pytest.approx(slope.item(), rel=1e-4, abs=1e-7)


def test_gradient_of_ef_reaches_the_sampling_mask():
    mask = LearnedMask(lines=24, count=12, centre_lines=4)
    encode = Encode(sampling=mask, coils=GaussianCoils(count=3), keep_sensitivities=True)
    image = blob(frames=3)
    image = replace(image, data=image.data.to(torch.complex128))
    done = Chain(encode, *downstream())(Case({"image": image}))
    assert set(done["kspace"].mask.unique().tolist()) <= {0.0, 1.0}
    assert done["kspace"].mask[0, 0, 0, 0].sum() == 12
    done["phenotypes"]["LVEF"].value.sum().backward()
    gradient = torch.cat([p.grad.flatten() for p in mask.parameters()])
    assert torch.isfinite(gradient).all() and (gradient != 0).sum() > 4


def test_gradient_of_ef_with_respect_to_a_relaxed_mask_agrees_with_finite_differences():
    chain, kspace = Chain(*downstream()), double_kspace()
    full = Encode(sampling=FullySampled(), coils=GaussianCoils(count=3), snr=80.0, keep_sensitivities=True)
    image = blob(frames=3)
    full = full(replace(image, data=image.data.to(torch.complex128)), Key(2, "encode"))
    mask = 0.4 + 0.6 * kspace.mask.double()

    def fraction(mask: torch.Tensor) -> torch.Tensor:
        relaxed = replace(full, data=mask * full.data, mask=mask)
        return chain(Case({"kspace": relaxed}))["phenotypes"]["LVEF"].value.sum()

    leaf = mask.clone().requires_grad_()
    fraction(leaf).backward()
    generator, step = torch.Generator().manual_seed(0), 1e-5
    for _ in range(2):
        direction = (mask < 1) * torch.randn(mask.shape, generator=generator, dtype=torch.float64)
        slope = (fraction(mask + step * direction) - fraction(mask - step * direction)) / (2 * step)
        assert (leaf.grad * direction).sum().item() == pytest.approx(slope.item(), rel=1e-4, abs=1e-7)
