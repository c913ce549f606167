"""Numbers of a tracked motion: how far, how much larger, how strained, by frame and label."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from firstread.core.alignment import Motion
from firstread.ops.strain import around, deformation_gradient, lagrangian_strain
from firstread.report.tracked import Row

FEWEST = 20  # voxels that a mean is taken over


def numbers(motion: Motion, labels: Float[Tensor, "batch z y x"] | None, names: Mapping[int, str]
            ) -> tuple[list[Row], float]:
    """Every label of the reference frame in every frame (without labels the whole image), and the share of folds."""
    regions: dict[str, Tensor] = {"image": torch.ones(motion.batch, *motion.grid.shape, dtype=torch.bool)}
    if labels is not None:
        values = [int(v) for v in labels.unique().tolist() if v]
        regions = {names.get(value, f"label {value}"): labels == value for value in values}
    rings = {name: _rings(region) if labels is not None else torch.zeros_like(region)
             for name, region in regions.items()}
    found: list[Row] = []
    folded = 0.0
    for frame in range(motion.displacement_mm.shape[1]):
        field = motion.displacement_mm[:, frame]
        gradient = deformation_gradient(field, motion.grid)
        grown, strain = torch.linalg.det(gradient), lagrangian_strain(gradient)
        way = field.norm(dim=1)
        spread = None if motion.spread_mm is None else motion.spread_mm[:, frame].norm(dim=1)
        folded += float((grown <= 0).double().mean()) / motion.displacement_mm.shape[1]
        for name, region in regions.items():
            radial, circular = _about_centres(strain, rings[name], motion)
            time = None if motion.times_s is None else float(motion.times_s[:, frame].mean())
            found.append(Row(frame, time, name, float(way[region].mean()), float(way[region].max()),
                             float(grown[region].mean()), radial, circular,
                             None if spread is None else float(spread[region].mean())))
    return found, folded


def _rings(region: Bool[Tensor, "batch z y x"]) -> Bool[Tensor, "batch z y x"]:
    """The region in the slices where it lies around its own centre."""
    kept = torch.zeros_like(region)
    for row, z in region.flatten(2).any(dim=2).nonzero().tolist():
        y, x = (axis.double().mean().round().long() for axis in region[row, z].nonzero().T)
        kept[row, z] = region[row, z] & ~region[row, z, y, x] & _enclosed(region[row, z], int(y), int(x))
    return kept


def _enclosed(plane: Bool[Tensor, "y x"], y: int, x: int) -> bool:
    """Whether the region is met in nearly all directions from (y, x): a ring with at most a small gap."""
    places = plane.nonzero().double() - torch.tensor([y, x], dtype=torch.float64)
    angle = torch.atan2(places[:, 0], places[:, 1])
    return len(torch.floor((angle + torch.pi) * (24 / (2 * torch.pi))).clamp(max=23).unique()) >= 21


def _about_centres(strain: Tensor, ring: Tensor, motion: Motion) -> tuple[float | None, float | None]:
    if int(ring.sum()) < FEWEST:
        return None, None
    places = motion.grid.points_mm()
    radial, circular = [], []
    for row, z in ring.flatten(2).any(dim=2).nonzero().tolist():
        here = places[row, z][ring[row, z]]
        normal = torch.linalg.cross(motion.grid.affine[row, :3, 0], motion.grid.affine[row, :3, 1])
        pair = around(strain[row, z][ring[row, z]], here, here.mean(dim=0), normal / normal.norm())
        radial.append(pair[0])
        circular.append(pair[1])
    return float(torch.cat(radial).median()), float(torch.cat(circular).median())
