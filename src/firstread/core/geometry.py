"""Where voxels lie: Grid (index to millimetres) and Transform (millimetres to millimetres).

World coordinates are LPS+ millimetres, as in DICOM. Points are ``(x, y, z)``; shapes and spacings are
``(z, y, x)``, the order of the tensor axes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.batched import Batched
from firstread.core.errors import GeometryError

Frame = Literal["patient", "slide", "detector", "none"]
AXES = ("z", "y", "x")


@dataclass(frozen=True, eq=False)
class Grid(Batched):
    """A voxel grid: ``mm = affine @ (x, y, z, 1)``.

    affine: voxel index (x, y, z) to LPS+ millimetres, float64 ``[batch, 4, 4]``.
    shape: voxels along (z, y, x).
    thickness_mm: slice thickness ``[batch]``, or None where unknown (the spacing along z includes the gap).
    frame: what the millimetres refer to; ``none`` means that the affine holds pixels, not millimetres.

    >>> Grid.from_spacing((10, 192, 192), (8.0, 1.5, 1.5)).voxel_ml.item()
    0.018
    """

    affine: Float[Tensor, "batch 4 4"]
    shape: tuple[int, int, int]
    thickness_mm: Float[Tensor, " batch"] | None = None
    frame: Frame = "patient"

    def __post_init__(self):
        if self.affine.dtype != torch.float64:
            object.__setattr__(self, "affine", self.affine.double())
        if min(self.shape) < 1:
            raise GeometryError(f"a grid of shape {self.shape}", expected="one voxel or more along each axis",
                                remedy="check the image for empty axes")
        size = torch.linalg.det(self.affine[:, :3, :3].detach()).abs()
        if not torch.isfinite(self.affine).all() or bool((size < 1e-12).any()):
            raise GeometryError(f"a voxel of size {size.min().item():.3g} mm³", expected="spacing above zero",
                                remedy="correct the spacing in the file's header")

    @classmethod
    def from_spacing(cls, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], *,
                     batch: int = 1, frame: Frame = "patient") -> Grid:
        """An axis-aligned grid centred on the origin; shape and spacing in (z, y, x)."""
        affine = torch.eye(4, dtype=torch.float64)
        for column, (size, spacing) in enumerate(zip(shape[::-1], spacing_mm[::-1], strict=True)):
            affine[column, column] = spacing
            affine[column, 3] = -spacing * (size - 1) / 2
        thickness = torch.full((batch,), float(spacing_mm[0]), dtype=torch.float64)
        return cls(affine.expand(batch, 4, 4).clone(), shape, thickness, frame)

    @classmethod
    def pixels(cls, shape: tuple[int, int, int], *, batch: int = 1) -> Grid:
        """A grid that knows no millimetres: frame ``none``, unit spacing."""
        return replace(cls.from_spacing(shape, (1.0, 1.0, 1.0), batch=batch, frame="none"), thickness_mm=None)

    @property
    def spacing_mm(self) -> Float[Tensor, "batch 3"]:
        """Distance between neighbouring voxels along (z, y, x), the gap between slices included."""
        return self.affine[:, :3, :3].norm(dim=1).flip(-1)

    @property
    def voxel_ml(self) -> Float[Tensor, " batch"]:
        """Volume of one voxel, ``|det(affine)| / 1000`` millilitres."""
        return torch.linalg.det(self.affine[:, :3, :3]).abs() / 1000

    @property
    def has_mm(self) -> bool:
        return self.frame != "none"

    def require_mm(self, what: str) -> None:
        """Refuse to measure in millimetres on a grid that has none."""
        if not self.has_mm:
            raise GeometryError(f"an image without spacing for {what}", expected="a grid in millimetres",
                                remedy="state the spacing when reading the file (--spacing z,y,x)")

    def to_mm(self, index_xyz: Float[Tensor, "batch *n 3"]) -> Float[Tensor, "batch *n 3"]:
        """Voxel indices (x, y, z), fractions allowed, to millimetres."""
        return _apply(self.affine, index_xyz)

    def to_index(self, points_mm: Float[Tensor, "batch *n 3"]) -> Float[Tensor, "batch *n 3"]:
        """Millimetres to voxel indices (x, y, z), fractions kept."""
        return _apply(torch.linalg.inv(self.affine), points_mm)

    def points_mm(self) -> Float[Tensor, "batch z y x 3"]:
        """The centre of every voxel in millimetres."""
        z, y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in self.shape), indexing="ij")
        index = torch.stack((x, y, z), dim=-1).expand(self.affine.shape[0], *self.shape, 3)
        return self.to_mm(index.to(self.affine.device))

    def crop(self, start: tuple[int, int, int], shape: tuple[int, int, int]) -> Grid:
        """The grid of the block that begins at voxel ``start`` (z, y, x); negative starts pad."""
        origin = torch.tensor(start[::-1], dtype=torch.float64, device=self.affine.device)
        affine = self.affine.clone()
        affine[:, :3, 3] = self.to_mm(origin.expand(affine.shape[0], 3))
        return replace(self, affine=affine, shape=shape)

    def resize(self, shape: tuple[int, int, int]) -> Grid:
        """The same field of view cut into ``shape`` voxels (outer edges stay where they are)."""
        factor = torch.tensor([a / b for a, b in zip(self.shape, shape, strict=True)][::-1], dtype=torch.float64,
                              device=self.affine.device)
        affine = self.affine.clone()
        affine[:, :3, :3] = self.affine[:, :3, :3] * factor
        affine[:, :3, 3] = self.to_mm(((factor - 1) / 2).expand(affine.shape[0], 3))
        return replace(self, affine=affine, shape=shape)

    def flip(self, axis: Literal["z", "y", "x"]) -> Grid:
        """The grid of data flipped along ``axis``; every voxel keeps its place in the world."""
        column = 2 - AXES.index(axis)
        last = self.shape[AXES.index(axis)] - 1
        affine = self.affine.clone()
        affine[:, :3, 3] += last * self.affine[:, :3, column]
        affine[:, :3, column] = -self.affine[:, :3, column]
        return replace(self, affine=affine)

    def permute(self, order: tuple[int, int, int]) -> Grid:
        """The grid of data whose (z, y, x) axes were permuted with ``order``."""
        columns = [2 - order[2], 2 - order[1], 2 - order[0], 3]
        shape = (self.shape[order[0]], self.shape[order[1]], self.shape[order[2]])
        return replace(self, affine=self.affine[:, :, columns], shape=shape, thickness_mm=self.thickness_mm)

    def same_as(self, other: Grid, *, tolerance_mm: float = 1e-3) -> bool:
        """Whether both grids put every voxel within ``tolerance_mm`` of the same place."""
        if self.shape != other.shape or self.affine.shape != other.affine.shape:
            return False
        corners = torch.tensor([[x, y, z] for x in (0, self.shape[2] - 1) for y in (0, self.shape[1] - 1)
                                for z in (0, self.shape[0] - 1)], dtype=torch.float64, device=self.affine.device)
        corners = corners.expand(self.affine.shape[0], 8, 3)
        return bool((self.to_mm(corners) - other.to_mm(corners)).abs().max() <= tolerance_mm)


@dataclass(frozen=True, eq=False)
class Transform(Batched):
    """A map of millimetres to millimetres: ``y = matrix @ (x, 1) + displacement(x)``.

    matrix: rigid or affine part ``[batch, 4, 4]``.
    displacement_mm: optional field ``[batch, 3, z, y, x]`` (x, y, z components) on ``from_grid``.

    It takes places of the fixed image to places of the moving one, so that ``moving(T(x))`` is the moving image as seen
    on the fixed grid; ``from_grid`` is the fixed grid, ``to_grid`` the moving one.
    """

    matrix: Float[Tensor, "batch 4 4"]
    displacement_mm: Float[Tensor, "batch 3 z y x"] | None = None
    from_grid: Grid | None = None
    to_grid: Grid | None = None

    def __post_init__(self):
        if self.displacement_mm is not None and (self.from_grid is None
                                                 or tuple(self.displacement_mm.shape[2:]) != self.from_grid.shape):
            raise GeometryError(f"a field of {tuple(self.displacement_mm.shape[2:])} voxels on "
                                f"{'no grid' if self.from_grid is None else self.from_grid.shape}",
                                expected="a field on its from_grid", remedy="give the grid that the field lies on")

    @classmethod
    def identity(cls, batch: int = 1) -> Transform:
        return cls(torch.eye(4, dtype=torch.float64).expand(batch, 4, 4).clone())

    def apply(self, points_mm: Float[Tensor, "batch *n 3"]) -> Float[Tensor, "batch *n 3"]:
        """Move points; with a field it is ``ops.warp.apply``."""
        self._require_matrix()
        return _apply(self.matrix, points_mm)

    def compose(self, first: Transform) -> Transform:
        """The transform that applies ``first``, then this one; with a field it is ``ops.warp.compose``."""
        self._require_matrix()
        first._require_matrix()
        return Transform(self.matrix @ first.matrix, None, first.from_grid, self.to_grid)

    def inverse(self) -> Transform:
        """The transform back; with a field it is ``ops.warp.inverse``."""
        self._require_matrix()
        return Transform(torch.linalg.inv(self.matrix), None, self.to_grid, self.from_grid)

    def _require_matrix(self) -> None:
        if self.displacement_mm is not None:
            raise GeometryError("a transform with a displacement field", expected="a rigid or affine transform",
                                remedy="use ops.warp, which samples the field")


def _apply(matrix: Tensor, points: Tensor) -> Tensor:
    batch = points.shape[0]
    flat = points.reshape(batch, -1, 3).to(matrix.dtype)
    moved = flat @ matrix[:, :3, :3].transpose(1, 2) + matrix[:, None, :3, 3]
    return moved.reshape(points.shape)
