"""Rigid registration of many slices (or stacks) to one volume at once: Gauss-Newton on the normalized correlation.

For one slice with pixels y and the volume as seen at its pose v(δ), both brought to mean zero and length one,

    NCC = ⟨ŷ, v̂⟩ = 1 - ½ ‖ŷ - v̂‖²,     dv̂ = (I - v̂ v̂ᵀ)(dv - mean dv) / ‖v - mean v‖,

so that the residual ``ŷ - v̂`` and its analytic Jacobian give Levenberg-Marquardt steps of the six parameters.
All slices go together; each accepts or refuses its own step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.ops.resample import sample
from firstread.ops.rigid import about, exponential
from firstread.ops.slice_sampling import gaussian_kernel, smooth_volume

STEP = (0.2, 4.0)  # longest single step: rad, mm
FEW = 24  # fewer pixels than this place nothing


@dataclass(frozen=True)
class Level:
    """smooth_mm: sd of the Gaussian on volume and slices; stride: every how many pixels; iterations: steps."""

    smooth_mm: float
    stride: int
    iterations: int


COARSE, MIDDLE, FINE = Level(2.5, 3, 8), Level(1.2, 2, 7), Level(0.6, 2, 6)


@dataclass(frozen=True, eq=False)
class Targets:
    """What is placed: pixel values and weights ``[group, pixel]``, points (mm) before the pose, and profile nodes.

    nodes: offsets (mm) along the normal that are averaged, ``[group, node, 3]``, with their weights.
    """

    values: Float[Tensor, "group pixel"]
    weights: Float[Tensor, "group pixel"]
    points: Float[Tensor, "group pixel 3"]
    nodes: Float[Tensor, "group node 3"]
    node_weights: Float[Tensor, " node"]

    def compact(self) -> Targets:
        """Without pixels that do not count, as far as the fullest group allows."""
        counts = self.weights > 0
        most = max(1, int(counts.sum(dim=1).max()))
        first = torch.argsort(counts.to(torch.uint8), dim=1, descending=True, stable=True)[:, :most]
        return Targets(self.values.gather(1, first), self.weights.gather(1, first),
                       self.points.gather(1, first[..., None].expand(-1, -1, 3)), self.nodes, self.node_weights)

    def repeated(self, times: int) -> Targets:
        """All groups, one after the other, ``times`` over."""
        return Targets(self.values.repeat(times, 1), self.weights.repeat(times, 1), self.points.repeat(times, 1, 1),
                       self.nodes.repeat(times, 1, 1), self.node_weights)


def with_gradient(volume: Float[Tensor, "z y x"], spacing_mm: float, smooth_mm: float) -> Float[Tensor, "4 z y x"]:
    """The smoothed volume and its derivatives along x, y, z per millimetre."""
    v = smooth_volume(volume[None], gaussian_kernel(smooth_mm / spacing_mm))[0]
    dz, dy, dx = torch.gradient(v, spacing=spacing_mm)
    return torch.stack((v, dx, dy, dz))


def refine(volume: Float[Tensor, "4 z y x"], spacing_mm: float, targets: Targets, poses: Float[Tensor, "group 4 4"],
           iterations: int) -> tuple[Float[Tensor, "group 4 4"], Float[Tensor, " group"]]:
    """Poses of higher NCC, and that NCC; groups of too few pixels keep theirs and get NCC 0."""
    enough = (targets.weights > 0).sum(dim=1) > FEW
    y = _standard(targets.values, targets.weights)[0]
    ncc, hessian, slope, centre = _normal_equations(volume, spacing_mm, targets, y, poses)
    damping = torch.full_like(ncc, 1e-2)
    for _ in range(iterations):
        diagonal = hessian.diagonal(dim1=1, dim2=2)
        ridge = damping[:, None] * diagonal + 1e-6 * diagonal.sum(dim=1, keepdim=True) + 1e-12
        step = torch.linalg.solve(hessian + torch.diag_embed(ridge), slope)
        limit = torch.cat((step[:, :3].norm(dim=1, keepdim=True) / STEP[0],
                           step[:, 3:].norm(dim=1, keepdim=True) / STEP[1]), dim=1).amax(dim=1).clamp_min(1.0)
        tried = about(exponential(step / limit[:, None]), centre) @ poses
        found = _normal_equations(volume, spacing_mm, targets, y, tried)
        better = (found[0] > ncc) & enough
        poses = torch.where(better[:, None, None], tried, poses)
        ncc, hessian, slope, centre = (torch.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)
                                       for new, old in zip(found, (ncc, hessian, slope, centre), strict=True))
        damping = torch.where(better, damping / 3, damping * 5).clamp(1e-4, 1e4)
    return poses, torch.where(enough, ncc, torch.zeros_like(ncc)).float()


def refine_starts(volume: Float[Tensor, "4 z y x"], spacing_mm: float, targets: Targets,
                  starts: Float[Tensor, "start group 4 4"], iterations: int, *, margin: float = 0.0
                  ) -> Float[Tensor, "group 4 4"]:
    """For each group the best pose that one of its starts leads to; the first one's unless better by ``margin``."""
    count = len(starts)
    poses, ncc = refine(volume, spacing_mm, targets.repeated(count), starts.flatten(0, 1), iterations)
    ncc = ncc.reshape(count, -1)
    ncc[0] += margin
    return poses.reshape(starts.shape)[ncc.argmax(dim=0), torch.arange(starts.shape[1])]


def best_of(volume: Float[Tensor, "4 z y x"], spacing_mm: float, targets: Targets,
            candidates: Sequence[Float[Tensor, "group 4 4"]], *, margin: float = 0.01
            ) -> tuple[Float[Tensor, "group 4 4"], Float[Tensor, " group"]]:
    """For each group the candidate of highest NCC; the first one is kept unless another is better by ``margin``."""
    y = _standard(targets.values, targets.weights)[0]
    best, poses = None, candidates[0]
    for candidate in candidates:
        v = _seen(volume[:1], spacing_mm, targets, candidate)[0][0]
        ncc = (targets.weights * y * _standard(v, targets.weights)[0]).sum(dim=1)
        if best is None:
            best = ncc + margin
            continue
        better = ncc > best
        best, poses = torch.where(better, ncc, best), torch.where(better[:, None, None], candidate, poses)
    assert best is not None
    return poses, best


def _seen(volume: Tensor, spacing_mm: float, targets: Targets, poses: Tensor) -> tuple[Tensor, Tensor]:
    """The volume's channels ``[channel, group, pixel]`` at the posed points, and these points."""
    pose = poses.float()
    places = targets.points @ pose[:, :3, :3].transpose(1, 2) + pose[:, None, :3, 3]
    middle = torch.tensor([(n - 1) / 2 for n in volume.shape[:0:-1]])
    total = None
    for k, weight in enumerate(targets.node_weights.tolist()):
        shift = (pose[:, :3, :3] @ targets.nodes[:, k, :, None])[:, None, :, 0]
        made = weight * sample(volume[None], ((places + shift) / spacing_mm + middle)[None, :, :, None])[0, ..., 0]
        total = made if total is None else total + made
    assert total is not None
    return total, places


def _standard(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean zero and length one under the weights; with the mean's count and the length."""
    count = weights.sum(dim=1, keepdim=True).clamp_min(1e-6)
    centred = values - (weights * values).sum(dim=1, keepdim=True) / count
    length = (weights * centred.square()).sum(dim=1, keepdim=True).sqrt().clamp_min(1e-6)
    return centred / length, count, length


def _normal_equations(volume: Tensor, spacing_mm: float, targets: Targets, y: Tensor, poses: Tensor
                      ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """NCC, JᵀJ, Jᵀ(ŷ - v̂), and the centre (mm) about which the parameters turn."""
    seen, places = _seen(volume, spacing_mm, targets, poses)
    w = targets.weights
    v, count, length = _standard(seen[0], w)
    centre = (w[..., None] * places).sum(dim=1) / count
    dx, dy, dz = seen[1:]
    x, y_mm, z = (places - centre[:, None]).unbind(dim=-1)
    jacobian = torch.stack((y_mm * dz - z * dy, z * dx - x * dz, x * dy - y_mm * dx, dx, dy, dz), dim=1)
    mean = torch.bmm(jacobian, w[..., None]) / count[..., None]
    jacobian = (jacobian - mean) / length[..., None]
    weighted = w[:, None] * jacobian
    along = torch.bmm(weighted, v[..., None])[..., 0]
    hessian = torch.bmm(weighted, jacobian.transpose(1, 2)) - along[:, :, None] * along[:, None]
    ncc = (w * y * v).sum(dim=1)
    right = torch.bmm(weighted, y[..., None])[..., 0] - ncc[:, None] * along
    return ncc.double(), hessian.double(), right.double(), centre.double()
