"""Long-axis views of the same heart: which belong to a stack, and how they correct its volume."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from firstread.core.errors import GeometryError, SettingError, SignalError
from firstread.core.geometry import Grid
from firstread.core.records import Image
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
        rhs = op.adjoint(measured - op(start))
        for view in own:
            seen = view.thick(start)
            hit = view.thick(torch.ones_like(start)) > 0.5
            scale = _scale(seen.detach(), view.data.detach() * hit)
            rhs = rhs + WEIGHT * view.thick.adjoint(scale * view.data - seen)

        def normal(x: Tensor, op: SliceProfile = op, own: list[View] = own) -> Tensor:
            through = sum(view.thick.gram(x) for view in own)
            return op.gram(x) + WEIGHT * through + TRUST * smoothness(x, REACH)

        rows.append(start + solve(normal, rhs, iterations=iterations, tolerance=1e-3, systems=2))
    return torch.cat(rows)


def _scale(seen: Tensor, data: Tensor) -> Tensor:
    """The factor that brings ``data`` nearest to ``seen``."""
    energy = (data.abs() ** 2).sum()
    return (seen * data.conj()).real.sum() / energy.clamp(min=torch.finfo(energy.dtype).tiny)
