"""The loop of slice-to-volume reconstruction: place the slices, then super-resolve with robust weights, and again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from firstread.core.errors import SignalError
from firstread.ops.slice_sampling import SliceSampling
from firstread.restore.slices_align import align_groups, align_slices, mask_weights, stack_motion
from firstread.restore.slices_input import SliceSet
from firstread.restore.slices_intensity import log_bias, slice_scales
from firstread.restore.slices_register import COARSE, FEW, FINE, MIDDLE, Level
from firstread.restore.slices_robust import SCALE_RANGE, Outliers, slice_potentials, slice_weights
from firstread.restore.slices_superres import EDGE, gridded, super_resolve

ROUNDS = (2, 2, 2, 3)
STEPS = 5
GROUPS = (15, 8, 4, 1)
REGULARIZATION = (0.04, 0.02, 0.02, 0.01)
MEAN = 700.0
DOUBT = 0.3  # least weight of a pixel for scale and bias, which its error may come from
Progress = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Fit:
    """The state: volume, poses and what is known of each slice.

    pixel_weights: of each pixel, slices' weights not yet in; weights: of each slice; log_gain: of each pixel, what
    its value is multiplied by (scale and bias).
    """

    volume: Float[Tensor, "z y x"]
    poses: Float[Tensor, "slice 4 4"]
    ncc: Float[Tensor, " slice"]
    weights: Float[Tensor, " slice"]
    scales: Float[Tensor, " slice"]
    pixel_weights: Float[Tensor, "slice v u"]
    log_bias: Float[Tensor, "slice v u"]

    def gain(self) -> Float[Tensor, "slice v u"]:
        """What a measured value is multiplied by: ``s exp(-b)``."""
        return self.scales[:, None, None] * torch.exp(-self.log_bias)


def sampling_of(slices: SliceSet, poses: Float[Tensor, "slice 4 4"], shape: tuple[int, int, int], spacing_mm: float,
                use: Bool[Tensor, "slice v u"]) -> SliceSampling:
    """The acquisition of these slices at these poses."""
    return SliceSampling(shape=shape, spacing_mm=spacing_mm, to_mm=poses @ slices.affine, plane=slices.plane,
                         sigma_mm=slices.sigma_mm.double(), mask=use)


def begin(slices: SliceSet, poses: Float[Tensor, "slice 4 4"], mask: Bool[Tensor, "z y x"], spacing_mm: float) -> Fit:
    """The average of all slices where their stacks lie."""
    share = mask_weights(slices, mask, spacing_mm, poses, 2.0)
    sampling = sampling_of(slices, poses, _shape(mask), spacing_mm, share > 0)
    count = len(slices)
    volume = gridded(sampling, slices.values, share)
    return Fit(volume, poses, torch.zeros(count), torch.ones(count), torch.ones(count), share,
               torch.zeros_like(slices.values))


def settle(fit: Fit, slices: SliceSet, mask: Bool[Tensor, "z y x"], spacing_mm: float,
           progress: Progress) -> Fit:
    """Rough poses, from large groups of slices to single ones; the volume is the average of what fits, each time.

    A group is of slices taken one after the other, so of one half of an interleaved stack at most.
    """
    longest = int(slices.number.max() - slices.number.min() + 1) // 2
    for size in (size for size in GROUPS if size <= longest):
        progress(f"  groups of {size} slices" if size > 1 else "  single slices, roughly")
        if size > 1:
            poses = align_groups(fit.volume, spacing_mm, slices, mask, fit.poses, size)
            _, ncc = align_slices(fit.volume, spacing_mm, slices, mask, poses, poses, (Level(4.0, 3, 0),))
        else:
            home = stack_motion(slices, fit.poses)
            poses, ncc = align_slices(fit.volume, spacing_mm, slices, mask, fit.poses, home, (COARSE,), search=True)
        share = mask_weights(slices, mask, spacing_mm, poses, 2.0)
        fits = (ncc - ncc[ncc > 0].median() + 0.15).clamp(0, 0.15) / 0.15 if bool((ncc > 0).any()) else ncc
        sampling = sampling_of(slices, poses, _shape(mask), spacing_mm, share > 0)
        volume = gridded(sampling, slices.values, share * fits[:, None, None])
        fit = replace(fit, poses=poses, ncc=ncc, volume=volume)
    return fit


def outer_iteration(fit: Fit, slices: SliceSet, mask: Bool[Tensor, "z y x"], spacing_mm: float, *,
                    number: int, last: bool, robust: bool, bias: bool, progress: Progress) -> Fit:
    """Place every slice in the volume, then super-resolve; the last iteration leaves its final solve to the caller."""
    progress(f"  iteration {number + 1}: placing {len(slices)} slices")
    corrected = replace(slices, values=slices.values * fit.gain())
    home = stack_motion(slices, fit.poses)
    poses, ncc = align_slices(fit.volume, spacing_mm, corrected, mask, fit.poses, home, (MIDDLE, FINE))
    share = mask_weights(slices, mask, spacing_mm, poses, 2.0)
    sampling = sampling_of(slices, poses, _shape(mask), spacing_mm, share > 0)
    progress(f"  iteration {number + 1}: super-resolution")
    used = share * fit.weights[:, None, None]
    volume = gridded(sampling, slices.values * fit.gain(), used if bool((used > 0).any()) else share)
    fit = replace(fit, poses=poses, ncc=ncc, volume=volume)
    outliers: Outliers | None = None
    rounds = ROUNDS[min(number, len(ROUNDS) - 1)]
    weight = REGULARIZATION[min(number, len(REGULARIZATION) - 1)]
    for k in range(rounds):
        fit, outliers = expectation(fit, sampling, slices, share, outliers, robust=robust,
                                    bias=bias and (number > 0 or k > 0))
        if last and k == rounds - 1:
            break
        volume = super_resolve(sampling, slices.values * fit.gain(), fit.pixel_weights * fit.weights[:, None, None],
                               fit.volume, regularization=weight, edge=EDGE * MEAN, iterations=STEPS)
        fit = replace(fit, volume=volume)
    return fit


def expectation(fit: Fit, sampling: SliceSampling, slices: SliceSet, share: Float[Tensor, "slice v u"],
                outliers: Outliers | None, *, robust: bool, bias: bool) -> tuple[Fit, Outliers | None]:
    """Scales, bias, and the weights of pixels and slices, from the errors of the volume as it is."""
    simulated = sampling(fit.volume)
    trusted = torch.maximum(fit.pixel_weights, DOUBT * share) * (share > 0)
    field = fit.log_bias
    if bias:
        pixel = float(slices.affine[:, :3, 0].norm(dim=1).mean())
        field = field + log_bias(slices.values * fit.gain(), simulated, trusted, pixel)
        field = field - sampling(gridded(sampling, field, trusted))  # what all slices share is the volume's own
    corrected = slices.values * torch.exp(-field)
    scales = slice_scales(corrected, simulated, trusted)
    error = scales[:, None, None] * corrected - simulated
    pixels = (share > 0).sum(dim=(1, 2))
    possible = (scales > SCALE_RANGE[0]) & (scales < SCALE_RANGE[1]) & (pixels > FEW)
    if not robust:
        return replace(fit, scales=scales.clamp(*SCALE_RANGE), log_bias=field, pixel_weights=share,
                       weights=(pixels > FEW).float()), None
    here = share > 0
    which = here.nonzero()[:, 0]
    use = share[here] * possible[which]
    if not bool((use > 0).any()):
        raise SignalError("slices of which none resembles the others", expected="stacks of the same part of one body",
                          remedy="give a mask of that part, or leave out the stacks that do not show it")
    e = error[here]
    outliers = outliers or Outliers.of(e[use > 0], use[use > 0])
    weights = outliers.weights(e)
    for _ in range(3):
        outliers = outliers.updated(e, weights, use)
        weights = outliers.weights(e)
    potentials = slice_potentials(weights, share[here], which, len(slices))
    of_slices = slice_weights(torch.where(possible, potentials, torch.full_like(potentials, torch.nan)))
    full = torch.zeros_like(share)
    full[here] = weights * share[here]
    return replace(fit, scales=scales.clamp(*SCALE_RANGE), log_bias=field, pixel_weights=full,
                   weights=of_slices), outliers


def _shape(mask: Tensor) -> tuple[int, int, int]:
    return mask.shape[0], mask.shape[1], mask.shape[2]
