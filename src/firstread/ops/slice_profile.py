"""What a slice of a certain thickness sees of a volume, ``y = W x``: for stacks along the volume's z, and for sections.

A stack shares its pixels with the volume and differs along z alone: one matrix. A section (a long-axis view, say) lies
anywhere: every pixel is a weighted sum of trilinear samples along the section's normal.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from firstread.core.errors import GeometryError, SettingError
from firstread.core.geometry import Grid
from firstread.ops.linear import LinearOp
from firstread.ops.resample import index_map

Profile = Literal["box", "trapezoid", "gaussian"]
REACH: dict[str, float] = {"box": 0.5, "trapezoid": 0.75, "gaussian": 1.0}
"""How far from its middle a section follows each profile, in thicknesses."""


def cumulative(offset: Float[Tensor, "*shape"], profile: str) -> Float[Tensor, "*shape"]:
    """Share of a slice's signal from below ``offset``, in thicknesses from its middle: ``P(u) = ∫_{-∞}^u p``.

    All profiles are one thickness wide at half maximum: ``box``; ``trapezoid`` with flanks of half a thickness;
    ``gaussian`` with sd = thickness / 2.355 (Kuklisova-Murgasova 2012). Raises SettingError for another name.

    >>> cumulative(torch.tensor([-2.0, 0.0, 0.5]), "box").tolist()
    [0.0, 0.5, 1.0]
    """
    if profile == "box":
        return (offset + 0.5).clamp(0, 1)
    if profile == "trapezoid":
        flank = (0.75 - offset.abs()).clamp(0, 0.5)
        outside = flank.square() + (0.25 - offset.abs()).clamp(min=0)
        return torch.where(offset > 0, 1 - outside, outside)
    if profile == "gaussian":
        return torch.special.ndtr(offset * (2 * math.sqrt(2 * math.log(2))))
    raise SettingError(f"a slice profile {profile!r}", expected=f"one of {', '.join(get_args(Profile))}",
                       remedy="correct `profile`")


def profile_weights(slices_mm: Float[Tensor, " slice"], thickness_mm: float, voxels_mm: Float[Tensor, " voxel"],
                    voxel_mm: float, *, profile: Profile = "trapezoid") -> Float[Tensor, "slice voxel"]:
    """Share of each voxel in each slice, ``W_kj = P((z_j + h/2 - z_k) / T) - P((z_j - h/2 - z_k) / T)``, rows sum to 1.

    slices_mm, voxels_mm: middles along the normal; thickness_mm: T; voxel_mm: h. Raises GeometryError for a slice that
    the voxels do not reach, SettingError for sizes that are not above zero.

    >>> profile_weights(torch.tensor([1.0]), 2.0, torch.tensor([0.5, 1.5, 2.5]), 1.0, profile="box").tolist()
    [[0.5, 0.5, 0.0]]
    """
    if not (thickness_mm > 0 and voxel_mm > 0):
        raise SettingError(f"slices of {thickness_mm} mm and voxels of {voxel_mm} mm", expected="both above zero",
                           remedy="state the slice thickness")
    away = (voxels_mm - slices_mm[:, None]) / thickness_mm
    half = 0.5 * voxel_mm / thickness_mm
    weights = cumulative(away + half, profile) - cumulative(away - half, profile)
    total = weights.sum(dim=1, keepdim=True)
    if bool((total < 0.5).any()):
        raise GeometryError("a slice more than half outside the volume", expected="slices within it",
                            remedy="enlarge the volume")
    return weights / total


class SliceProfile(LinearOp):
    """Volume ``[batch, time, channel, Z, y, x]`` to the stack of slices that sees it, ``y_k = Σ_j W_kj x_j``.

    weights: W, ``[batch or 1, slice, voxel]``; differentiable in it and in the volume. Raises SettingError for weights
    of another shape.

    >>> SliceProfile(weights=torch.tensor([[[0.5, 0.5]]]))(torch.tensor([2.0, 4.0]).reshape(1, 1, 1, 2, 1, 1)).item()
    3.0
    """

    def __init__(self, *, weights: Float[Tensor, "#batch slice voxel"]):
        if weights.ndim != 3:
            raise SettingError(f"weights of shape {tuple(weights.shape)}", expected="[batch or 1, slice, voxel]",
                               remedy="add the batch axis")
        self.weights = weights

    @classmethod
    def between(cls, stack: Grid, volume: Grid, *, thickness_mm: Float[Tensor, " batch"] | None = None,
                profile: Profile = "trapezoid") -> SliceProfile:
        """Of a stack's grid over a volume's grid that has the same pixels in plane and the same normal.

        thickness_mm: default the stack's own. Raises GeometryError where grids do not fit or the thickness is unknown.
        """
        thickness = stack.thickness_mm if thickness_mm is None else thickness_mm
        if thickness is None:
            raise GeometryError("a stack of unknown slice thickness", expected="its thickness in mm",
                                remedy="give the image's grid a thickness_mm")
        matrix = index_map(stack, volume)
        plane = matrix[:, [0, 0, 0, 1, 1, 1, 2, 2], [0, 1, 3, 0, 1, 3, 0, 1]]
        wanted = torch.tensor([1.0, 0, 0, 0, 1, 0, 0, 0], dtype=plane.dtype)
        if stack.shape[1:] != volume.shape[1:] or bool((plane - wanted).abs().max() > 1e-4):
            raise GeometryError("a stack and a volume of other pixels", expected="one plane of pixels for both",
                                remedy="use a SectionProfile, or resample in plane first")
        rows = []
        for step, voxel, to_stack, thick in zip(stack.spacing_mm[:, 0], volume.spacing_mm[:, 0], matrix, thickness,
                                                strict=True):
            places = (torch.arange(volume.shape[0]).to(step) * to_stack[2, 2] + to_stack[2, 3]) * step
            rows.append(profile_weights(torch.arange(stack.shape[0]).to(step) * step, float(thick), places,
                                        float(voxel), profile=profile))
        return cls(weights=torch.stack(rows))

    def to(self, like: Tensor) -> SliceProfile:
        """The same in the precision and on the device of ``like``."""
        return SliceProfile(weights=self.weights.to(like.device, like.real.dtype if like.is_complex() else like.dtype))

    def forward(self, x: Num[Tensor, "batch time channel voxel y x"]) -> Num[Tensor, "batch time channel slice y x"]:
        """``W x``."""
        return _along_z(self.weights, x)

    def adjoint(self, y: Num[Tensor, "batch time channel slice y x"]) -> Num[Tensor, "batch time channel voxel y x"]:
        """``Wᵀ y``."""
        return _along_z(self.weights.mT, y)

    def bound(self) -> float:
        """The largest eigenvalue of ``WᵀW``."""
        return float(torch.linalg.matrix_norm(self.weights.detach(), 2).max()) ** 2


def _along_z(matrix: Tensor, data: Tensor) -> Tensor:
    """A real matrix on the z axis of real or complex data."""
    return torch.einsum("bkj,btcjyx->btckyx", matrix.to(data.dtype).expand(data.shape[0], -1, -1), data)


class SectionProfile(LinearOp):
    """Volume ``[batch, time, channel, Z, Y, X]`` to sections of any position: ``[batch, time, channel, z, y, x]``.

    ``y_r = Σ_s w_s x(r + s n)``: trilinear samples x(·) along the section's normal n, weighted by the slice profile. A
    pixel whose samples do not all lie within the volume is zero, and so is its row of the operator.

    section, volume: grids of one batch size; thickness_mm: of the sections, 0 for one sample in their middle;
    samples: along the normal. Raises SettingError for a negative thickness or no sample, GeometryError for sections
    that miss the volume.

    >>> volume = Grid.from_spacing((4, 4, 4), (1.0, 1.0, 1.0))
    >>> op = SectionProfile(section=volume, volume=volume, thickness_mm=0.0)
    >>> op(torch.ones(1, 1, 1, 4, 4, 4)).sum().item()
    64.0
    """

    def __init__(self, *, section: Grid, volume: Grid, thickness_mm: float, samples: int = 9,
                 profile: Profile = "trapezoid"):
        if thickness_mm < 0 or samples < 1:
            raise SettingError(f"thickness {thickness_mm} mm, {samples} samples", expected="0 or more, one or more",
                               remedy="correct the thickness")
        self.shape, self.volume = section.shape, volume.shape
        offsets, share = _samples(thickness_mm, samples, profile)
        normal = torch.linalg.cross(section.affine[:, :3, 0], section.affine[:, :3, 1])
        normal = normal / normal.norm(dim=1, keepdim=True)
        points = section.points_mm().flatten(1, 3)[:, :, None] + offsets[:, None] * normal[:, None, None]
        index, weight, within = _trilinear(volume.to_index(points), volume.shape)
        whole = within.all(dim=2)
        if not bool(whole.flatten(1).any(dim=1).all()):
            raise GeometryError("a section beside the volume", expected="sections through it",
                                remedy="check that both are of one patient and position")
        weight = weight * (share[:, None] * whole[:, :, None, None])
        self.index, self.weight = index.flatten(2), weight.flatten(2)

    def to(self, like: Tensor) -> SectionProfile:
        """The same in the precision and on the device of ``like``."""
        made = copy.copy(self)
        kind = like.real.dtype if like.is_complex() else like.dtype
        made.index, made.weight = self.index.to(like.device), self.weight.to(like.device, kind)
        return made

    def forward(self, x: Num[Tensor, "batch time channel Z Y X"]) -> Num[Tensor, "batch time channel z y x"]:
        """``W x``."""
        flat = x.flatten(3).flatten(1, 2)
        taps = self.index.flatten(1)[:, None].expand(-1, flat.shape[1], -1)
        seen = flat.gather(2, taps).unflatten(2, self.index.shape[1:])
        return (seen * self.weight[:, None]).sum(dim=-1).reshape(*x.shape[:3], *self.shape)

    def adjoint(self, y: Num[Tensor, "batch time channel z y x"]) -> Num[Tensor, "batch time channel Z Y X"]:
        """``Wᵀ y``."""
        flat = y.flatten(3).flatten(1, 2)
        taps = self.index.flatten(1)[:, None].expand(-1, flat.shape[1], -1)
        spread = (flat[..., None] * self.weight[:, None]).flatten(2)
        volume = flat.new_zeros(*flat.shape[:2], math.prod(self.volume))
        return volume.scatter_add(2, taps, spread).reshape(*y.shape[:3], *self.volume)


def _samples(thickness_mm: float, samples: int, profile: Profile) -> tuple[Tensor, Tensor]:
    """Offsets in mm along the normal and their shares."""
    if thickness_mm == 0:
        return torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    edges = torch.linspace(-1, 1, samples + 1, dtype=torch.float64) * REACH[profile]
    share = cumulative(edges, profile).diff()
    return thickness_mm * (edges[1:] + edges[:-1]) / 2, share / share.sum()


def _trilinear(index: Float[Tensor, "batch pixel sample 3"], shape: tuple[int, int, int]
               ) -> tuple[Int[Tensor, "batch pixel sample 8"], Float[Tensor, "batch pixel sample 8"], Tensor]:
    """Flat voxel numbers and weights of the eight neighbours of indices (x, y, z), and which lie within."""
    size = torch.tensor(shape[::-1], device=index.device)
    within = ((index >= -0.5) & (index <= size - 0.5)).all(dim=-1)
    index = index.clamp(min=torch.zeros(3, dtype=index.dtype), max=(size - 1).to(index.dtype))
    low = index.floor().clamp(max=(size - 2).clamp(min=0).to(index.dtype))
    part = index - low
    numbers, weights = [], []
    for corner in range(8):
        bit = torch.tensor([corner & 1, corner >> 1 & 1, corner >> 2])
        place = (low.long() + bit).minimum(size - 1)
        numbers.append((place[..., 2] * shape[1] + place[..., 1]) * shape[2] + place[..., 0])
        weights.append(torch.where(bit.bool(), part, 1 - part).prod(dim=-1))
    return torch.stack(numbers, dim=-1), torch.stack(weights, dim=-1), within


def spread(sections: Sequence[Tensor], thin: Sequence[SectionProfile]
           ) -> Float[Tensor, "batch time 2 Z Y X"]:
    """Values of sections put back where they lie in the volume, and how surely each voxel was hit (0 to 1).

    ``v = Σ Aᵀ y / Σ Aᵀ 1`` with A of one sample in each section's middle (``thickness_mm=0``); zero elsewhere.

    >>> grid = Grid.from_spacing((3, 3, 3), (1.0, 1.0, 1.0))
    >>> middle = SectionProfile(section=grid, volume=grid, thickness_mm=0.0)
    >>> spread([torch.full((1, 1, 1, 3, 3, 3), 2.0)], [middle]).amax()
    tensor(2.)
    """
    total = sum(op.to(y).adjoint(y) for y, op in zip(sections, thin, strict=True))
    count = sum(op.to(y).adjoint(torch.ones_like(y)) for y, op in zip(sections, thin, strict=True))
    return torch.cat((total / count.clamp(min=1e-3) * (count > 1e-3), count.clamp(max=1)), dim=2)
