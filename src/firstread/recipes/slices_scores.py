"""How well a volume of slices agrees with a known truth, one rigid offset of the whole removed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from firstread.core.geometry import Grid
from firstread.core.slices import SliceVolume
from firstread.ops.resample import sample
from firstread.ops.rigid import angle_degrees, fit_rigid, inverse


@dataclass(frozen=True)
class PoseError:
    """Of slices that show the region: the mean distance (mm) of their points from the truth, the angle, the offset."""

    mean_mm: float
    median_mm: float
    p90_mm: float
    mean_deg: float
    offset: Float[Tensor, "4 4"]


def slice_points(grids: Sequence[Grid]) -> Float[Tensor, "slice 25 3"]:
    """A 5 x 5 lattice over the middle half of every slice, in the scan's millimetres."""
    made = []
    for grid in grids:
        z, y, x = grid.shape
        across = torch.linspace(0.25, 0.75, 5, dtype=torch.float64)
        v, u = torch.meshgrid(across * (y - 1), across * (x - 1), indexing="ij")
        for k in range(z):
            index = torch.stack((u.flatten(), v.flatten(), torch.full((25,), float(k), dtype=torch.float64)), dim=-1)
            made.append(grid.to_mm(index[None])[0])
    return torch.stack(made)


def pose_error(volume_poses: Float[Tensor, "slice 4 4"], true_poses: Float[Tensor, "slice 4 4"],
               points: Float[Tensor, "slice n 3"], use: Bool[Tensor, " slice"]) -> PoseError:
    """Distances after the rigid motion that best joins both sets of moved points (fitted robustly: the best 80 %)."""
    def moved(poses: Tensor) -> Tensor:
        return points @ poses[:, :3, :3].transpose(1, 2) + poses[:, None, :3, 3]

    found, true = moved(volume_poses), moved(true_poses)
    chosen = use.clone()
    offset = fit_rigid(found[chosen].flatten(0, 1), true[chosen].flatten(0, 1))
    for _ in range(5):
        away = (found @ offset[:3, :3].T + offset[:3, 3] - true).norm(dim=-1).mean(dim=1)
        chosen = use & (away <= torch.quantile(away[use], 0.8))
        offset = fit_rigid(found[chosen].flatten(0, 1), true[chosen].flatten(0, 1))
    away = (found @ offset[:3, :3].T + offset[:3, 3] - true).norm(dim=-1).mean(dim=1)[use]
    turned = angle_degrees(inverse(true_poses) @ offset @ volume_poses)[use]
    return PoseError(float(away.mean()), float(away.median()), float(torch.quantile(away, 0.9)), float(turned.mean()),
                     offset)


def on_truth(volume: SliceVolume, offset: Float[Tensor, "4 4"], points_mm: Float[Tensor, "n 3"]
             ) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"]]:
    """The volume at points of the true head, and whether its region holds them; offset: its millimetres to the head's.
    """
    back = inverse(offset)
    index = volume.grid.to_index((points_mm @ back[:3, :3].T + back[:3, 3])[None])[:, None, None]
    assert volume.region is not None
    inside = sample(volume.region[:, 0].double(), index)[0, 0, 0, 0] > 0.99
    return sample(volume.data[:, 0].detach().double(), index)[0, 0, 0, 0], inside


def fitted_psnr(made: Float[Tensor, " n"], true: Float[Tensor, " n"]) -> tuple[float, float]:
    """PSNR (dB; peak: the maximum of the truth) after one factor, and NCC."""
    scaled = made * ((made * true).sum() / made.square().sum().clamp_min(1e-30))
    error = (scaled - true).square().mean()
    one, two = made - made.mean(), true - true.mean()
    ncc = (one * two).sum() / (one.norm() * two.norm()).clamp_min(1e-30)
    return float(10 * torch.log10(true.max()**2 / error)), float(ncc)


def brain_points(brain: Bool[Tensor, "z y x"], spacing_mm: float, *, every_mm: float = 1.0
                 ) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
    """Points of the brain in millimetres about the volume's centre, and their voxel index (x, y, z)."""
    step = max(1, round(every_mm / spacing_mm))
    place = brain[::step, ::step, ::step].nonzero().flip(-1).double() * step
    centre = torch.tensor([(n - 1) / 2 for n in brain.shape[::-1]], dtype=torch.float64)
    return (place - centre) * spacing_mm, place
