"""The frame that a volume is reconstructed in: aligned with the template stack, centred on the region of interest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from firstread.core.errors import GeometryError, SignalError
from firstread.core.geometry import Grid
from firstread.core.records import Image, Labels
from firstread.ops.resample import resample, sample
from firstread.restore.slices_template import motion_score

MARGIN_MM = 4.0
LARGEST = 40e6  # voxels


@dataclass(frozen=True, eq=False)
class Frame:
    """to_frame: the scan's millimetres to those of the volume; grid: the volume's, in the scan's millimetres; mask: the
    region of interest on it."""

    to_frame: Float[Tensor, "4 4"]
    grid: Grid
    mask: Bool[Tensor, "z y x"]


def choose_template(stacks: Image, mask: Labels | None) -> tuple[int, str]:
    """The stack that the mask was drawn on, else the one of least motion; and the reason in words.

    Raises GeometryError where a stack and the mask have nothing in common.
    """
    if mask is not None:
        for row in range(stacks.batch):
            one = stacks.grid.affine[row]
            if bool((one - mask.grid.affine[0]).abs().max() < 1e-3 * float(stacks.grid.spacing_mm[row].max())):
                return row, "the mask was drawn on it"
    scores = [motion_score(_region_of(stacks, row, mask)) for row in range(stacks.batch)]
    best = min(range(len(scores)), key=scores.__getitem__)
    return best, f"least motion between its slices (rank {', '.join(f'{s:.3f}' for s in scores)} of the stacks)"


def make_frame(stacks: Image, template: int, mask: Labels | None, spacing_mm: float) -> Frame:
    """Raises SignalError for an empty mask, GeometryError for a volume too large to hold."""
    own = stacks.grid.affine[template]
    first = own[:3, 0] / own[:3, 0].norm()
    second = own[:3, 1] - first * (own[:3, 1] @ first)
    second = second / second.norm()
    turn = torch.stack((first, second, torch.linalg.cross(first, second)))
    if mask is None:
        points = _bright_points(stacks, template)
    else:
        place = (mask.data[0, 0, 0] > 0).nonzero().flip(-1)
        if len(place) == 0:
            raise SignalError("an empty mask", expected="voxels above zero where the region of interest is",
                              remedy="draw the mask on one of the stacks, or leave it out")
        points = mask.grid.to_mm(place[None].double())[0]
    local = points @ turn.T
    low, high = local.amin(dim=0), local.amax(dim=0)
    middle = (low + high) / 2
    shape = tuple(int(n) for n in ((high - low + 2 * MARGIN_MM) / spacing_mm).ceil().long().flip(0))
    if shape[0] * shape[1] * shape[2] > LARGEST:
        raise GeometryError(f"a volume of {' x '.join(map(str, shape))} voxels", expected=f"at most {LARGEST:.0f} "
                            "voxels", remedy="give a mask of the part of interest, or a coarser resolution")
    to_frame = torch.eye(4, dtype=torch.float64)
    to_frame[:3, :3], to_frame[:3, 3] = turn, -middle
    index = torch.diag(torch.tensor([spacing_mm] * 3 + [1.0], dtype=torch.float64))
    index[:3, 3] = -spacing_mm * (torch.tensor(shape[::-1]).double() - 1) / 2
    thickness = torch.tensor([spacing_mm], dtype=torch.float64)
    grid = Grid((torch.linalg.inv(to_frame) @ index)[None], (shape[0], shape[1], shape[2]), thickness,
                stacks.grid.frame)
    if mask is None:
        seen = _on_grid(stacks, template, grid)
        return Frame(to_frame, grid, seen > _threshold(stacks, template))
    soft = resample((mask.data[:1, 0] > 0).float(), mask.grid.select(torch.tensor([0])), grid)[0, 0]
    return Frame(to_frame, grid, soft > 0.5)


def template_volume(stacks: Image, template: int, frame: Frame) -> Float[Tensor, "z y x"]:
    """The template stack, interpolated on the volume's grid."""
    return _on_grid(stacks, template, frame.grid)


def _on_grid(stacks: Image, row: int, grid: Grid) -> Tensor:
    source = stacks.grid.select(torch.tensor([row]))
    return resample(stacks.data[row:row + 1, 0].detach().nan_to_num(0.0), source, grid)[0, 0]


def _region_of(stacks: Image, row: int, mask: Labels | None) -> Tensor:
    """The box of a stack that holds the mask, or its signal."""
    data = stacks.data[row, 0, 0].detach().nan_to_num(0.0)
    if mask is None:
        inside = data > _threshold(stacks, row)
    else:
        points = stacks.grid.select(torch.tensor([row])).points_mm()
        index = mask.grid.to_index(points)
        inside = sample((mask.data[:1, 0] > 0).float(), index, mode="nearest")[0, 0] > 0.5
    if not bool(inside.any()):
        if mask is not None and not bool((mask.data > 0).any()):
            raise SignalError("an empty mask", expected="voxels above zero where the region of interest is",
                              remedy="draw the mask on one of the stacks, or leave it out")
        raise GeometryError(f"stack {row + 1} " + ("without signal above its background" if mask is None else
                            "does not overlap the region of interest (the mask)"),
                            expected="stacks that show the same part of the body",
                            remedy="check that all stacks are of one examination, or leave this one out")
    spans = [inside.any(dim=d).nonzero()[:, 0] for d in ((1, 2), (0, 2), (0, 1))]
    z, y, x = (slice(int(s[0]), int(s[-1]) + 1) for s in spans)
    return data[z, y, x]


def _threshold(stacks: Image, row: int) -> float:
    """A tenth of the bright signal: background is below."""
    values = stacks.data[row].detach()
    values = values[values.isfinite()]
    return 0.1 * float(torch.quantile(values[:: values.numel() // 1_000_000 + 1].float(), 0.98))


def _bright_points(stacks: Image, row: int) -> Tensor:
    place = (stacks.data[row, 0, 0].detach().nan_to_num(0.0) > _threshold(stacks, row)).nonzero().flip(-1)
    return stacks.grid.select(torch.tensor([row])).to_mm(place[None].double())[0]
