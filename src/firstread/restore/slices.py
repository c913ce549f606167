"""Slice-to-volume reconstruction: stacks of slices of something that moved between them in, one volume out.

    stacks ─▶ template, frame ─▶ poses of stacks ─▶ average ─┬▶ poses of slices ─▶ super-resolution ─┐ ─▶ volume
                                                             └──────────── four times ◀──────────────┘

After Kuklisova-Murgasova et al. 2012 (robust statistics, super-resolution), Kainz et al. 2015 (template by rank) and
Alansary et al. 2017 (patches).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from firstread.core.batched import concatenate
from firstread.core.errors import GeometryError, InputError, SettingError
from firstread.core.records import HardLabels, Image, Note, Rows
from firstread.core.slices import SliceVolume
from firstread.core.stage import Stage
from firstread.restore.slices_align import align_stacks
from firstread.restore.slices_field import fit_field
from firstread.restore.slices_input import SliceSet, check_finite, cut_slices
from firstread.restore.slices_loop import (
    EDGE,
    MEAN,
    REGULARIZATION,
    Fit,
    Progress,
    begin,
    outer_iteration,
    sampling_of,
    settle,
)
from firstread.restore.slices_patches import cut_patches, of_parents
from firstread.restore.slices_result import NO_MASK, describe
from firstread.restore.slices_superres import super_resolve
from firstread.restore.slices_volume import Frame, choose_template, make_frame, template_volume

FINAL_STEPS = 10
Method = Literal["voxels", "field"]


class SliceToVolume(Stage):
    """Motion-corrected, super-resolved volume of stacks of slices.

    resolution_mm: of the isotropic volume. iterations: how often slices are placed anew.
    robust: EM weights for pixels and slices (off: all count alike). bias: estimate a bias field per slice.
    method: "voxels", super-resolution as above; "field", a network of position fitted to this case instead.
    patch_mm: after the first iteration squares of this size, half overlapping, move on their own (0: whole slices);
    they carry no gradient.
    regularization: of edges against noise.
    progress: told what is being done.

    Reads the Image "stacks" (a row per stack, as ``join_stacks`` makes it) and optionally the HardLabels "mask" of the
    part that moves as one; writes the SliceVolume "volume". The gradient is that of the last super-resolution with
    poses and weights as found. A field has none. Raises GeometryError for stacks that do not overlap, SignalError for
    an empty mask.
    """

    result = "volume"

    def __init__(self, *, resolution_mm: float | int = 0.8, method: Method = "voxels", iterations: int = 4,
                 robust: bool = True, bias: bool = True, patch_mm: float | int = 0,
                 regularization: float | int = REGULARIZATION[-1], progress: Progress | None = None):
        super().__init__()
        if not 0.2 <= resolution_mm <= 10 or iterations < 1 or regularization <= 0 or not 0 <= patch_mm < math.inf:
            raise SettingError(f"{resolution_mm} mm, {iterations} iterations, regularization {regularization}, patches "
                               f"of {patch_mm} mm", remedy="correct the setting", expected="0.2 to 10 mm, one "
                               "iteration or more, regularization above zero")
        if method not in get_args(Method):
            raise SettingError(f"method {method!r}", expected=" or ".join(get_args(Method)), remedy="take one of them")
        self.method: Method = method
        self.differentiable = method == "voxels" and not (patch_mm > 0 and iterations > 1)
        self.resolution_mm, self.iterations, self.robust, self.bias = float(resolution_mm), iterations, robust, bias
        self.patch_mm, self.regularization = float(patch_mm), float(regularization)
        self.progress: Callable[[str], None] = progress or _silent

    def forward(self, stacks: Image, mask: HardLabels | None = None) -> SliceVolume:
        made = []
        keys = torch.stack((stacks.rows.subject, stacks.rows.draw), dim=1)
        for key in torch.unique(keys, dim=0):
            own = stacks.select(torch.nonzero((keys == key).all(dim=1))[:, 0])
            region = None if mask is None else mask.select(torch.nonzero(
                (mask.rows.subject == key[0]) & (mask.rows.draw == key[1]))[:1, 0])
            made.append(self._one(own, region))
        if len({volume.grid.shape for volume in made}) > 1 or len({volume.reasons for volume in made}) > 1:
            raise GeometryError("subjects with volumes of other sizes", expected="one subject at a time",
                                remedy="take the subjects one by one")
        return made[0] if len(made) == 1 else concatenate(made)

    def _one(self, stacks: Image, mask: HardLabels | None) -> SliceVolume:
        if stacks.batch < 2:
            raise InputError("one stack", expected="two or more, best three or more in different orientations",
                             remedy="join several stacks of the same subject")
        check_finite(stacks)
        template, reason = choose_template(stacks, mask)
        frame = make_frame(stacks, template, mask, self.resolution_mm)
        factors = _matching(stacks)
        scaled = replace(stacks, data=stacks.data * factors[:, None, None, None, None, None])
        with torch.no_grad():
            self.progress("  placing the stacks")
            still = self._stack_poses(scaled, template, frame)
        slices = cut_slices(scaled, frame.to_frame, frame.mask, self.resolution_mm, still)
        with torch.no_grad():
            fit, used = self._estimate(replace(slices, values=slices.values.detach()), frame, still)
        patched = self.patch_mm > 0 and self.iterations > 1
        used = used if patched else slices  # whole slices carry the gradient
        fit, volume = self._finish(fit, used, frame)
        data = (volume * frame.mask)[None, None, None] / float(factors[template])
        on_slices = of_parents(fit, used, slices) if patched else fit
        result = describe(stacks, slices, on_slices, still, frame, template, reason)
        rows = Rows(stacks.rows.subject[:1], torch.zeros_like(stacks.rows.part[:1]), stacks.rows.draw[:1])
        made = SliceVolume(rows, data, frame.grid, source=stacks.source, notes=stacks.notes,
                           region=frame.mask[None, None, None].float(), **result)
        return made.noted(*self._notes(stacks, mask, made))

    def _stack_poses(self, stacks: Image, template: int, frame: Frame) -> Tensor:
        still = torch.eye(4, dtype=torch.float64).repeat(stacks.batch, 1, 1)
        slices = cut_slices(stacks, frame.to_frame, frame.mask, self.resolution_mm, still)
        volume = template_volume(stacks, template, frame)
        return align_stacks(volume, self.resolution_mm, slices, frame.mask, still, template)

    def _estimate(self, slices: SliceSet, frame: Frame, still: Tensor) -> tuple[Fit, SliceSet]:
        fit = begin(slices, still[slices.stack], frame.mask, self.resolution_mm)
        fit = settle(fit, slices, frame.mask, self.resolution_mm, self.progress)
        for number in range(self.iterations):
            if number == 1 and self.patch_mm > 0:
                slices, fit = cut_patches(slices, fit, self.patch_mm)
            fit = outer_iteration(fit, slices, frame.mask, self.resolution_mm, number=number,
                                  last=number == self.iterations - 1, robust=self.robust, bias=self.bias,
                                  progress=self.progress)
        return fit, slices

    def _finish(self, fit: Fit, used: SliceSet, frame: Frame) -> tuple[Fit, Tensor]:
        """The last solve, which carries the gradient to the stacks; or the field, with which poses move once more."""
        if self.method == "field":
            volume, poses = fit_field(fit, used, frame.grid.shape, self.resolution_mm, progress=self.progress)
            return replace(fit, poses=poses), volume.clamp_min(0)
        weights = fit.pixel_weights * fit.weights[:, None, None]
        sampling = sampling_of(used, fit.poses, frame.grid.shape, self.resolution_mm, fit.pixel_weights > 0)
        volume = super_resolve(sampling, used.values * fit.gain(), weights, fit.volume, edge=EDGE * MEAN,
                               regularization=self.regularization, iterations=FINAL_STEPS)
        return fit, volume.clamp_min(0)

    def _notes(self, stacks: Image, mask: HardLabels | None, made: SliceVolume) -> list[Note]:
        notes = [] if mask is not None else [NO_MASK]
        normal = stacks.grid.affine[:, :3, 2]
        normal = normal / normal.norm(dim=1, keepdim=True)
        if bool(((normal @ normal[0]).abs() > 0.95).all()):
            notes.append(Note("parallel_stacks", "All stacks have the same orientation: detail across their slices "
                              "comes from none of them."))
        left_out = made.states.count("excluded")
        shown = left_out + made.states.count("used")
        if left_out > 0.3 * shown:
            notes.append(Note("many_excluded", f"{left_out} of {shown} slices were excluded."))
        return notes


def _matching(stacks: Image) -> Tensor:
    """What each stack is multiplied by so that its signal (above a tenth of its brightest) has the mean 700."""
    factors = []
    for row in range(stacks.batch):
        values = stacks.data[row].detach()
        values = values[values.isfinite()].float()
        top = torch.quantile(values[:: values.numel() // 1_000_000 + 1], 0.98)
        factors.append(MEAN / values[values > 0.1 * top].mean().clamp_min(1e-9))
    return torch.stack(factors)


def _silent(text: str) -> None:
    """No progress."""
