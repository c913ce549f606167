"""Transform files: SimpleITK reads ours and moves the same points; we read its own."""

import pytest
import torch

from firstread.core.errors import FormatError, OutputError, UnsupportedError
from firstread.core.geometry import Grid, Transform
from firstread.io.transforms import parts, read_affine, read_all, write_affine, write_composite, write_field
from firstread.ops.rigid import exponential
from firstread.ops.warp import apply, compose, inverse

sitk = pytest.importorskip("SimpleITK")


@pytest.fixture
def transform() -> Transform:
    grid = Grid.from_spacing((9, 10, 11), (2.0, 1.5, 1.2))
    grid = Grid(exponential(torch.tensor([0.2, -0.3, 0.4, 5.0, 1.0, -3.0], dtype=torch.float64)) @ grid.affine,
                grid.shape)
    matrix = exponential(torch.tensor([[0.05, 0.1, -0.05, 1.0, -2.0, 0.5]], dtype=torch.float64)).clone()
    matrix[:, 0, 0] *= 1.1
    field = torch.stack([torch.sin(grid.points_mm()[..., k] / 4 + k) for k in (1, 2, 0)], dim=1).float()
    return Transform(matrix, field, grid)


def points(transform: Transform) -> torch.Tensor:
    return transform.from_grid.points_mm()[:, 2:-2, 2:-2, 2:-2].reshape(1, -1, 3)


def by_sitk(found, places: torch.Tensor) -> torch.Tensor:
    return torch.tensor([[found.TransformPoint(p) for p in places[0].tolist()]], dtype=torch.float64)


def test_sitk_reads_the_composite_both_ways(transform, tmp_path):
    places = points(transform)
    write_composite(tmp_path / "t.h5", transform)
    there = by_sitk(sitk.ReadTransform(str(tmp_path / "t.h5")), places)
    torch.testing.assert_close(there, apply(transform, places), rtol=0, atol=1e-5)
    back = inverse(transform)
    write_composite(tmp_path / "i.h5", back)
    torch.testing.assert_close(by_sitk(sitk.ReadTransform(str(tmp_path / "i.h5")), there), apply(back, there), rtol=0,
                               atol=1e-5)


def test_sitk_reads_affine_and_field_as_ants_keeps_them(transform, tmp_path):
    matrix, field, grid, first = parts(transform)
    assert first
    write_affine(tmp_path / "a.tfm", matrix, centre=(10.0, -5.0, 3.0))
    write_field(tmp_path / "1Warp.nii.gz", field, grid)
    whole = sitk.CompositeTransform(3)
    whole.AddTransform(sitk.ReadTransform(str(tmp_path / "a.tfm")))
    read = sitk.Cast(sitk.ReadImage(str(tmp_path / "1Warp.nii.gz")), sitk.sitkVectorFloat64)
    whole.AddTransform(sitk.DisplacementFieldTransform(read))
    places = points(transform)
    torch.testing.assert_close(by_sitk(whole, places), apply(transform, places), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["t.h5", "a.tfm", "a.txt", "a.mat"])
def test_what_was_written_is_read(transform, tmp_path, name):
    if name == "t.h5":
        write_composite(tmp_path / name, transform)
        first, second = read_all(tmp_path / name)
        made = compose(second, first)
        torch.testing.assert_close(apply(made, points(transform)), apply(transform, points(transform)), rtol=0,
                                   atol=1e-5)
    else:
        write_affine(tmp_path / name, transform.matrix[0], centre=(1.0, 2.0, 3.0))
        torch.testing.assert_close(read_affine(tmp_path / name), transform.matrix[0])


@pytest.mark.parametrize("made", [sitk.Euler3DTransform((1, 2, 3), 0.1, 0.2, 0.3, (4, 5, 6)),
                                  sitk.VersorRigid3DTransform((0.1, 0.2, 0.3), 0.4, (4, 5, 6), (1, 2, 3)),
                                  sitk.TranslationTransform(3, (1, 2, 3))], ids=lambda t: t.GetName())
def test_itk_s_rigid_transforms_are_read(made, tmp_path):
    sitk.WriteTransform(made, str(tmp_path / "t.tfm"))
    place = torch.tensor([[[7.0, -8.0, 9.0]]], dtype=torch.float64)
    torch.testing.assert_close(Transform(read_affine(tmp_path / "t.tfm")[None]).apply(place), by_sitk(made, place))


def test_bad_files_are_one_sentence(transform, tmp_path):
    (tmp_path / "a.tfm").write_text("nothing")
    (tmp_path / "a.mat").write_bytes(b"nothing at all")
    (tmp_path / "a.h5").write_bytes(b"nothing")
    for name in ("a.tfm", "a.mat", "a.h5"):
        with pytest.raises(FormatError):
            read_all(tmp_path / name)
    with pytest.raises(UnsupportedError):
        read_all(tmp_path / "a.xyz")
    sitk.WriteTransform(sitk.Similarity3DTransform(), str(tmp_path / "s.tfm"))
    with pytest.raises(UnsupportedError, match="Similarity"):
        read_affine(tmp_path / "s.tfm")
    sheared = transform.from_grid.affine.clone()
    sheared[0, 0, 1] += 1.0
    with pytest.raises(OutputError):
        parts(Transform(transform.matrix, transform.displacement_mm, Grid(sheared, transform.from_grid.shape)))
