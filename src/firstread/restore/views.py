"""Long-axis views of the same heart: which belong to a stack, and how they correct its volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from firstread.core.batched import concatenate
from firstread.core.errors import GeometryError, SettingError, SignalError
from firstread.core.geometry import Grid
from firstread.core.records import Image, Rows
from firstread.ops.resample import resample
from firstread.ops.slice_profile import Profile, SectionProfile, SliceProfile
from firstread.ops.solve import solve

WEIGHT, TRUST, REACH = 0.5, 0.02, 2.0
"""Of a view's pixels beside the stack's; of the estimate; how far a correction spreads, in voxels."""


@dataclass(frozen=True)
class View:
    """One view of one row: its pixels ``[1, time, channel, z, y, x]``, its slice profile in the volume, its middle."""

    data: Tensor
    thick: SectionProfile
    thin: SectionProfile

    def frame(self, time: int) -> View:
        """The same view with one frame alone."""
        return replace(self, data=self.data[:, time:time + 1])


def views_of(long_axis: Image, image: Image, volume: Grid, level: Float[Tensor, "batch 1 1 1 1 1"], *,
             profile: Profile) -> list[list[View]]:
    """The views of each row of the stack ``image``: rows of ``long_axis`` of the same subject and draw.

    volume: the grid to restore; level: what each row's intensities are divided by. Raises SettingError where a row has
    no view or the frames differ, GeometryError for an unknown thickness, SignalError for values that are no numbers.
    """
    if long_axis.data.shape[1:3] != image.data.shape[1:3]:
        raise SettingError(f"views of {tuple(long_axis.data.shape[1:3])} frames and channels",
                           expected=f"those of the stack, {tuple(image.data.shape[1:3])}",
                           remedy="bring both to the same phases first")
    if long_axis.grid.thickness_mm is None:
        raise GeometryError("long-axis views of unknown thickness", expected="their thickness in mm",
                            remedy="give their grid a thickness_mm")
    if not bool(torch.isfinite(torch.view_as_real(long_axis.data.detach() + 0j)).all()):
        raise SignalError("views with values that are no numbers", expected="finite values",
                          remedy="leave the damaged view out")
    found = []
    for row in range(image.batch):
        own = (long_axis.rows.subject == image.rows.subject[row]) & (long_axis.rows.draw == image.rows.draw[row])
        if not bool(own.any()):
            raise SettingError(f"no view of subject {int(image.rows.subject[row])}", expected="one view or more",
                               remedy="give views of every subject, or of none")
        here, views = volume.select(torch.tensor([row])), []
        for place in torch.nonzero(own):
            part = long_axis.select(place)
            thickness = float(part.grid.thickness_mm[0])
            views.append(View(part.data / level[row], *(
                SectionProfile(section=part.grid, volume=here, thickness_mm=size, profile=profile).to(part.data)
                for size in (thickness, 0.0))))
        found.append(views)
    return found


def join_views(views: Sequence[Image]) -> Image:
    """Views of one subject as rows of one Image: every slice is a row, smaller ones are interpolated in plane to the
    pixels of the largest (their fields of view stay).

    Raises SettingError where frames differ, GeometryError for an unknown thickness.
    """
    if len({view.data.shape[1:3] for view in views}) != 1:
        raise SettingError(f"views of {sorted({view.data.shape[1] for view in views})} frames",
                           expected="one number of frames", remedy="bring them to the same phases first")
    shape = (1, *(max(view.grid.shape[axis] for view in views) for axis in (1, 2)))
    slices = [_slice(view, z) for view in views for z in range(view.grid.shape[0])]
    parts = [part if part.grid.shape == shape else _fitted(part, shape) for part in slices]
    joined = concatenate([replace(part, times_s=None, cycle_s=None, source=None) for part in parts])
    return replace(joined, rows=Rows.parts(joined.batch), notes=())


def _slice(view: Image, z: int) -> Image:
    if view.grid.thickness_mm is None:
        raise GeometryError("a view of unknown thickness", expected="its thickness in mm",
                            remedy="give its grid a thickness_mm")
    return replace(view, data=view.data[:, :, :, z:z + 1], grid=view.grid.crop((z, 0, 0), (1, *view.grid.shape[1:])))


def _fitted(part: Image, shape: tuple[int, int, int]) -> Image:
    grid, data = part.grid.resize(shape), part.data.flatten(1, 2)
    both = torch.view_as_real(data).movedim(-1, 1).flatten(1, 2) if data.is_complex() else data
    fine = resample(both, part.grid, grid, outside="border")
    if data.is_complex():
        fine = torch.view_as_complex(fine.unflatten(1, (2, -1)).movedim(1, -1).contiguous())
    return replace(part, data=fine.unflatten(1, part.data.shape[1:3]), grid=grid)


def smoothness(x: Float[Tensor, "batch time channel z y x"], reach: float) -> Float[Tensor, "batch time channel z y x"]:
    """``(1 + reach² DᵀD) x`` with first differences along z, y and x, free at the ends.

    >>> smoothness(torch.ones(1, 1, 1, 2, 2, 2), 3.0).flatten().tolist()[:2]
    [1.0, 1.0]
    """
    total = x
    for axis in (-3, -2, -1):
        step = x.diff(dim=axis)
        pad = [0, 0] * (-axis - 1)
        total = total + reach**2 * (F.pad(step, [*pad, 1, 0]) - F.pad(step, [*pad, 0, 1]))
    return total


def fuse(volume: Float[Tensor, "batch time channel Z y x"], slices: Float[Tensor, "batch time channel z y x"],
         stack: SliceProfile, views: list[list[View]], *, iterations: int = 40
         ) -> Float[Tensor, "batch time channel Z y x"]:
    """The volume that explains stack and views and departs from ``volume`` v smoothly.

        argmin_x ‖W x - y‖² + w Σ_i ‖A_i x - s_i y_i‖² + μ (x - v)ᵀ (1 + ℓ² DᵀD) (x - v)

    with ``s_i = <A_i v, y_i> / <y_i, y_i>``, since views are not as bright as the stack. w, μ, ℓ: ``WEIGHT``,
    ``TRUST``, ``REACH``.
    """
    rows = []
    for row, own in enumerate(views):
        op = SliceProfile(weights=stack.weights[row % len(stack.weights)][None])
        start, measured = volume[row:row + 1], slices[row:row + 1]
        scales = [_scale(view, start) for view in own]

        def normal(x: Tensor, op: SliceProfile = op, own: list[View] = own) -> Tensor:
            through = sum(view.thick.gram(x) for view in own)
            return op.gram(x) + WEIGHT * through + TRUST * smoothness(x, REACH)

        frames = []
        for time in range(start.shape[1]):
            before = start[:, time:time + 1]
            rhs = op.adjoint(measured[:, time:time + 1] - op(before))
            for view, scale in zip(own, scales, strict=True):
                rhs = rhs + WEIGHT * view.thick.adjoint(scale * view.frame(time).data - view.thick(before))
            frames.append(before + solve(normal, rhs, iterations=iterations, tolerance=1e-3, systems=2))
        rows.append(torch.cat(frames, dim=1))
    return torch.cat(rows)


def agreement(view: View, volume: Float[Tensor, "1 time channel Z y x"]) -> tuple[float, float]:
    """Correlation of a view's magnitudes with what it should see of ``volume``, and the share of its pixels within.

    The correlation is 0 where either is flat.
    """
    seen, data = view.thick(volume.abs()), view.data.abs()
    inside = (view.thick(torch.ones_like(volume[:, :1, :1]).real) > 0.5).expand_as(seen)
    a, b = (values[inside] - values[inside].mean() for values in (seen, data))
    size = (a.square().sum() * b.square().sum()).sqrt()
    return float((a * b).sum() / size) if float(size) > 0 else 0.0, float(inside.float().mean())


def _scale(view: View, volume: Tensor) -> Tensor:
    """The factor that brings a view, all frames together, nearest to what it sees of ``volume``; a constant."""
    with torch.no_grad():
        hit = view.thick(torch.ones_like(volume[:, :1])) > 0.5
        data = view.data * hit
        energy = (data.abs() ** 2).sum()
        product = sum((view.thick(volume[:, t:t + 1]) * data[:, t:t + 1].conj()).real.sum()
                      for t in range(volume.shape[1]))
        return product / energy.clamp(min=torch.finfo(energy.dtype).tiny)
