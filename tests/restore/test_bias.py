"""Bias field of a phantom whose field is a formula, beside SimpleITK's N4."""

from dataclasses import replace

import pytest
import torch

from firstread.core.errors import GeometryError, SettingError, SignalError
from firstread.core.geometry import Grid
from firstread.core.records import HardLabels, Image, Rows
from firstread.ops.bias import bias_field, otsu, sharpened, spline_basis, spline_fit
from firstread.restore.bias import CorrectBias

SHAPE = (12, 48, 48)


def phantom(noise: float = 0.02) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """An ellipsoid of three tissues under ``exp`` of a slow wave (0.6 to 1.6), its field and its body."""
    z, y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    radius = (1.1 * z**2 + 1.3 * y**2 + 1.5 * x**2).sqrt()
    tissue = torch.where(radius < 0.35, 0.35, torch.where(torch.sin(9 * x) * torch.sin(8 * y) > 0, 1.0, 0.7))
    body = radius < 1.0
    field = torch.exp(0.35 * torch.sin(1.3 * x + 0.4) + 0.25 * y * z - 0.15 * y**2)
    clean = torch.where(body, tissue, torch.zeros(()))
    generator = torch.Generator().manual_seed(0)
    return (clean * field + noise * torch.randn(SHAPE, generator=generator)).abs(), field, body


def error(found: torch.Tensor, field: torch.Tensor, body: torch.Tensor) -> float:
    """Standard deviation of the log ratio of two fields in the body."""
    return float((found / field).log()[body].std())


def test_the_field_of_a_formula_is_found():
    image, field, body = phantom()
    found = bias_field(image, body)
    before = error(torch.ones_like(field), field, body)
    assert before > 0.14 and error(found, field, body) < 0.05 * before
    assert float(found[body].log().mean()) == pytest.approx(0.0, abs=0.02)


def test_near_simpleitk():
    sitk = pytest.importorskip("SimpleITK")
    image, field, body = phantom()
    given, mask = sitk.GetImageFromArray(image.numpy()), sitk.GetImageFromArray(body.numpy().astype("uint8"))
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.Execute(given, mask)
    theirs = torch.from_numpy(sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(given))).float().exp()
    ours = bias_field(image, body)
    assert error(ours, field, body) < 1.05 * error(theirs, field, body)
    assert error(ours, theirs, body) < 1e-3


def test_what_has_no_field_stays():
    image, _, body = phantom()
    flat = image / phantom(0.0)[1]
    assert error(bias_field(flat, body), torch.ones(SHAPE), body) < 0.01


def test_sharpening_narrows_each_tissue():
    generator = torch.Generator().manual_seed(0)
    values = torch.cat([m + 0.08 * torch.randn(4000, generator=generator) for m in (-1.0, 0.0)]).double()
    made = sharpened(values)
    assert made[:4000].std() < 0.6 * values[:4000].std() and abs(float(made[4000:].mean())) < 0.02


def test_fits_of_what_is_left_come_near_what_splines_span():
    places = torch.linspace(0, 1, 30, dtype=torch.float64)
    basis = [spline_basis(places[:1], 1), spline_basis(places, 4), spline_basis(places, 4)]
    wanted = torch.cos(2 * places)[None, :, None] + places**2
    left = wanted.clone()
    for _ in range(30):
        left = left - torch.einsum("ai,bj,ck,ijk->abc", *basis, spline_fit(left, torch.ones_like(left), basis))
    assert left.square().mean().sqrt() < 0.03 * wanted.square().mean().sqrt()


def test_one_field_for_all_frames_with_and_without_mask():
    image, field, body = phantom()
    grid = Grid.from_spacing(SHAPE, (4.0, 2.0, 2.0))
    record = Image(Rows.subjects(1), torch.stack((image, 0.5 * image))[None, :, None], grid)
    mask = HardLabels(Rows.subjects(1), body[None, None, None].to(torch.uint8), grid, ("air", "body"))
    stage = CorrectBias(levels=3, iterations=20)
    for labels in (None, mask):
        made = stage(record, labels).data
        torch.testing.assert_close(made[:, 0], 2 * made[:, 1])
        inner = (image > 0.3) & body
        assert error(image / made[0, 0, 0], field, inner) < 0.4 * error(torch.ones(SHAPE), field, inner)
    assert otsu(image.flatten()) < 0.5
    shifted = replace(mask, grid=Grid.from_spacing(SHAPE, (4.0, 2.0, 1.0)))
    with pytest.raises(GeometryError, match="mask"):
        stage(record, shifted)
    with pytest.raises(SignalError, match="0 voxels"):
        stage(record, replace(mask, data=mask.data * 0))
    with pytest.raises(SettingError):
        CorrectBias(levels=0)
