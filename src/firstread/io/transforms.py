"""Transforms as ITK (SimpleITK, 3D Slicer, elastix' partners) and ANTs keep them: .tfm/.txt, .mat, field .nii.gz, .h5.

A transform ``T(x) = A x + d(x)`` is kept by ITK as two: a field ``x -> x + u(x)`` and a matrix. Which comes first::

    field first:  T(x) = A (x + u(x)),        u = A^-1 d     on the grid of d           (what a registration finds)
    matrix first: T(x) = A x + u(A x),        u(A x) = d(x)  on that grid moved by A    (its inverse)

ITK works in LPS+ millimetres, as Firstread does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.errors import FormatError, OutputError, UnsupportedError
from firstread.core.geometry import Grid, Transform
from firstread.io.nifti import flip_ras_lps

_AFFINES = ("AffineTransform", "MatrixOffsetTransformBase", "Euler3DTransform", "VersorRigid3DTransform",
            "TranslationTransform", "IdentityTransform")
_KNOWN = "an ITK .tfm, .txt or .h5, an ANTs .mat, or a displacement field .nii.gz"


def write_affine(path: Path, matrix: Float[Tensor, "4 4"], *, centre: Sequence[float] = (0.0, 0.0, 0.0)) -> None:
    """An affine transform as ITK text (``.tfm``, ``.txt``) or as ANTs' ``0GenericAffine.mat`` (``.mat``)."""
    parameters, fixed = _affine_parameters(matrix, centre)
    if path.suffix == ".mat":
        from scipy.io import savemat

        savemat(path, {"AffineTransform_double_3_3": parameters[:, None], "fixed": fixed[:, None]}, format="4")
        return
    numbers, middle = (" ".join(repr(float(v)) for v in part) for part in (parameters, fixed))
    path.write_text("#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\n"
                    f"Parameters: {numbers}\nFixedParameters: {middle}\n", encoding="ascii")


def write_field(path: Path, field_mm: Float[Tensor, "3 z y x"], grid: Grid) -> None:
    """A displacement field in LPS+ millimetres as ITK and ANTs keep it (``1Warp.nii.gz``)."""
    import nibabel

    array = field_mm.permute(3, 2, 1, 0)[:, :, :, None].float().cpu().numpy()
    image = nibabel.Nifti1Image(array, flip_ras_lps(grid.affine[0].cpu()).numpy())
    image.header.set_intent("vector")
    image.header.set_xyzt_units("mm")
    image.set_qform(image.affine, 1)
    image.set_sform(image.affine, 1)
    nibabel.save(image, path)


def parts(transform: Transform) -> tuple[Float[Tensor, "4 4"], Float[Tensor, "3 z y x"] | None, Grid | None, bool]:
    """The matrix, the field u of one transform, its grid, and whether the field comes first.

    Raises OutputError where neither order gives a grid with axes at right angles, which files cannot hold.
    """
    matrix = transform.matrix[0].detach().cpu()
    if transform.displacement_mm is None or transform.from_grid is None:
        return matrix, None, None, True
    field, grid = transform.displacement_mm[0].detach().cpu(), transform.from_grid
    if _orthogonal(grid):
        back = torch.linalg.inv(matrix[:3, :3]).to(field.dtype)
        return matrix, torch.einsum("ij,jzyx->izyx", back, field), grid, True
    moved = replace(grid, affine=transform.matrix @ grid.affine, thickness_mm=None)
    if _orthogonal(moved):
        return matrix, field, moved, False
    raise OutputError("a field on a sheared grid", expected="a grid with axes at right angles",
                      remedy="compose the transform onto the grid of an image first")


def write_composite(path: Path, transform: Transform) -> None:
    """The whole transform as ITK's composite in HDF5 (``.h5``), which SimpleITK and ANTs read."""
    import h5py

    matrix, field, grid, field_first = parts(transform)
    parameters, fixed = _affine_parameters(matrix, (0.0, 0.0, 0.0))
    found = [("AffineTransform_double_3_3", parameters, fixed)]
    if field is not None and grid is not None:
        made = ("DisplacementFieldTransform_double_3_3", field.permute(1, 2, 3, 0).double().numpy().ravel(),
                _fixed_parameters(grid))
        found = [*found, made] if field_first else [made, *found]  # the last one is applied first
    with h5py.File(path, "w") as file:
        for name, text in (("ITKVersion", "5.4.0"), ("HDFVersion", "1.10"), ("OSName", ""), ("OSVersion", "")):
            _write_text(file, name, text)
        group = file.create_group("TransformGroup")
        _write_text(group.create_group("0"), "TransformType", "CompositeTransform_double_3_3")
        for number, (name, values, kept) in enumerate(found, start=1):
            one = group.create_group(str(number))
            _write_text(one, "TransformType", name)
            one.create_dataset("TransformFixedParameters", data=kept)
            one.create_dataset("TransformParameters", data=values,
                               **({"compression": "gzip", "compression_opts": 4} if len(values) > 1000 else {}))


def read_affine(path: Path) -> Float[Tensor, "4 4"]:
    """The matrix of an ITK text file or of an ANTs ``.mat``; raises FormatError, UnsupportedError."""
    from scipy.io.matlab import MatReadError

    try:
        if path.suffix == ".mat":
            from scipy.io import loadmat

            stored = loadmat(path)
            name = next(n for n in stored if not n.startswith("__") and n != "fixed")
            return _matrix(name, np.ravel(stored[name]), np.ravel(stored["fixed"]))
        lines = dict(line.split(":", 1) for line in path.read_text(encoding="ascii").splitlines()
                     if ":" in line and not line.startswith("#"))
        return _matrix(lines["Transform"].strip(), np.array(lines["Parameters"].split(), dtype=np.float64),
                       np.array(lines["FixedParameters"].split(), dtype=np.float64))
    except (StopIteration, KeyError, IndexError, ValueError, TypeError, NotImplementedError, MatReadError) as error:
        raise FormatError(f"{path.name}, which is no transform that can be read", expected=_KNOWN,
                          remedy="export it again") from error


def read_field(path: Path) -> Transform:
    """A displacement field file as a Transform (identity matrix); FormatError where it holds no vectors."""
    import nibabel

    try:
        image = nibabel.load(path)
        array = np.asarray(image.dataobj, dtype=np.float32)
    except (OSError, EOFError, ValueError, nibabel.filebasedimages.ImageFileError) as error:
        raise FormatError(f"{path.name}, which is no field that can be read", expected=_KNOWN,
                          remedy="export it again") from error
    array = array[:, :, :, 0] if array.ndim == 5 and array.shape[3] == 1 else array
    if array.ndim != 4 or array.shape[3] != 3:
        raise FormatError(f"{path.name} of shape {image.shape}", expected="three numbers (x, y, z) per voxel",
                          remedy="give a displacement field")
    grid = Grid(flip_ras_lps(torch.from_numpy(np.array(image.affine)))[None],
                (array.shape[2], array.shape[1], array.shape[0]))
    return Transform(torch.eye(4, dtype=torch.float64)[None], torch.from_numpy(array).permute(3, 2, 1, 0)[None].clone(),
                     grid)


def read_all(path: Path) -> list[Transform]:
    """The transforms in one file, in the order in which they are applied to a point of the fixed image."""
    if path.name.endswith((".nii", ".nii.gz")):
        return [read_field(path)]
    if path.suffix in (".h5", ".hdf5"):
        return _read_composite(path)
    if path.suffix in (".tfm", ".txt", ".mat"):
        return [Transform(read_affine(path)[None])]
    raise UnsupportedError(f"a transform file {path.name}", expected=_KNOWN, remedy="convert it")


def _read_composite(path: Path) -> list[Transform]:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            group = file["TransformGroup"]
            stored = [(group[name]["TransformType"][0].decode(), group[name].get("TransformParameters"),
                       group[name].get("TransformFixedParameters", group[name].get("TranformFixedParameters")))
                      for name in sorted(group, key=int)]
            found = [_transform(kind, np.asarray(values), np.asarray(fixed)) for kind, values, fixed in stored
                     if not kind.startswith("CompositeTransform")]
    except (OSError, KeyError, ValueError, IndexError) as error:
        raise FormatError(f"{path.name}, which is no ITK transform", expected=_KNOWN,
                          remedy="export it again") from error
    return found[::-1]


def _transform(kind: str, values: np.ndarray, fixed: np.ndarray) -> Transform:
    if not kind.startswith("DisplacementFieldTransform"):
        return Transform(_matrix(kind, values, fixed)[None])
    x, y, z = (int(n) for n in fixed[:3])
    affine = np.eye(4)
    affine[:3, :3] = fixed[9:18].reshape(3, 3) * fixed[6:9]
    affine[:3, 3] = fixed[3:6]
    field = torch.from_numpy(values.reshape(z, y, x, 3)).permute(3, 0, 1, 2)[None].float()
    return Transform(torch.eye(4, dtype=torch.float64)[None], field, Grid(torch.from_numpy(affine)[None], (z, y, x)))


def _matrix(kind: str, values: np.ndarray, fixed: np.ndarray) -> Float[Tensor, "4 4"]:
    name = kind.split("_")[0]
    matrix = np.eye(4)
    if name == "TranslationTransform":
        matrix[:3, 3] = values
    elif name in ("AffineTransform", "MatrixOffsetTransformBase") and len(values) == 12:
        matrix[:3, :3] = values[:9].reshape(3, 3)
        matrix[:3, 3] = values[9:] + fixed[:3] - matrix[:3, :3] @ fixed[:3]
    elif name in ("Euler3DTransform", "VersorRigid3DTransform") and len(values) == 6:
        matrix[:3, :3] = _rotation(name, values[:3], zyx=len(fixed) > 3 and bool(fixed[3]))
        matrix[:3, 3] = values[3:] + fixed[:3] - matrix[:3, :3] @ fixed[:3]
    elif name != "IdentityTransform":
        raise UnsupportedError(f"a transform of kind {kind}", expected=f"one of {', '.join(_AFFINES)} in 3D",
                               remedy="convert it to an affine")
    return torch.from_numpy(matrix)


def _rotation(name: str, values: np.ndarray, *, zyx: bool) -> np.ndarray:
    from scipy.spatial.transform import Rotation

    if name == "VersorRigid3DTransform":
        return Rotation.from_quat([*values, np.sqrt(max(0.0, 1 - float(values @ values)))]).as_matrix()
    x, y, z = (Rotation.from_euler(axis, angle).as_matrix() for axis, angle in zip("xyz", values, strict=True))
    return z @ y @ x if zyx else z @ x @ y


def _affine_parameters(matrix: Tensor, centre: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    linear, offset = matrix[:3, :3].double().numpy(), matrix[:3, 3].double().numpy()
    fixed = np.array(centre, dtype=np.float64)
    return np.concatenate((linear.ravel(), offset + linear @ fixed - fixed)), fixed


def _fixed_parameters(grid: Grid) -> np.ndarray:
    """Size, origin, spacing (x, y, z) and directions row by row."""
    affine = grid.affine[0].cpu()
    spacing = affine[:3, :3].norm(dim=0)
    return np.concatenate((np.array(grid.shape[::-1], dtype=np.float64), affine[:3, 3].numpy(), spacing.numpy(),
                           (affine[:3, :3] / spacing).numpy().ravel()))


def _write_text(group: Any, name: str, text: str) -> None:
    import h5py

    group.create_dataset(name, data=np.array([text.encode()], dtype=object), dtype=h5py.string_dtype("ascii"))


def _orthogonal(grid: Grid) -> bool:
    axes = grid.affine[0, :3, :3]
    unit = axes / axes.norm(dim=0)
    return bool((unit.T @ unit - torch.eye(3, dtype=unit.dtype)).abs().max() < 1e-5)
