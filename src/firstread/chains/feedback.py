"""Feedback upstream: the chain run on draws of every stage, for shares of variance and for what to acquire next.

    k-space ─▶ new noise, k₁ times ─▶ k₂ reconstructions ─▶ k₃ members of the segmentation ─▶ numbers, slice volumes

Every reconstruction is reduced to its numbers at once: no two are in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from firstread.acquire.next_lines import line_contributions
from firstread.acquire.repeat import RepeatNoise
from firstread.analyze.consensus import Harden
from firstread.analyze.segment import Segment
from firstread.chains.scope import Scope, voxel_ml
from firstread.core.errors import SettingError
from firstread.core.keys import Key
from firstread.core.records import Image, Note
from firstread.core.stage import Stage
from firstread.measure.cardiac import CLASSES, CardiacFunction
from firstread.measure.volumes import at_frame, ejection_fraction, end_systole_weights, first_frame_weights
from firstread.ops.regions import volume_ml
from firstread.trust.shares import Shares, covariance_shares, crossed_shares

NOISE, METHOD, SEGMENTATION = "measurement noise", "reconstruction method", "segmentation"
ENDPOINTS = ("LVEF", "LVEDV", "LVESV")
_SOFTNESS = 0.02  # of the choice of end-systole, as a share of the mean volume


@dataclass(frozen=True, eq=False)
class Draws:
    """What every combination of draws gave.

    values: by phenotype ``[noise, method, member]``, NaN where it could not be measured; volumes_ml: of the LV cavity,
    ``[noise, method, member, time, z]``; lines: what each line of an image brings into the endpoint
    (:func:`~firstread.acquire.next_lines.line_contributions`), ``[noise, method, time, z, line]``, None without raw
    signal.
    """

    methods: tuple[str, ...]
    values: Mapping[str, Float[Tensor, "noise method member"]]
    units: Mapping[str, str]
    volumes_ml: Float[Tensor, "noise method member time z"]
    lines: Float[Tensor, "noise method time z line"] | None
    notes: tuple[Note, ...]

    def shares(self, name: str, *, confidence: float = 0.9, seed: int = 0) -> Shares:
        """Shares of the variance of a phenotype, over the stages that were drawn more than once.

        Raises SettingError where it was not measured in every draw, or only one thing was drawn.
        """
        table = self.values[name]
        drawn = [axis for axis, size in enumerate(table.shape) if size > 1]
        names = [(NOISE, METHOD, SEGMENTATION)[axis] for axis in drawn]
        if not drawn:
            raise SettingError("one draw of every stage", expected="two draws or more of some stage",
                               remedy="use an ensemble, or raw signal")
        return crossed_shares(table.reshape([table.shape[axis] for axis in drawn]), names, confidence=confidence,
                              seed=seed)


def draw_images(image: Image, segment: Segment) -> Draws:
    """Draws of the segmentation alone: images without raw signal."""
    values, units, volumes = measured(image, segment)
    return Draws((), {n: v[None, None] for n, v in values.items()}, units, volumes[None, None], None, image.notes)


def draw_kspace(scope: Scope, methods: Mapping[str, Stage], segment: Segment, *, draws: int, seed: int,
                endpoint: str = "LVEF", watch: Callable[[str], None] = lambda text: None) -> Draws:
    """Draws of the noise, each reconstructed by every method and segmented by every member.

    scope: what of one heart's scan is drawn (:mod:`firstread.chains.scope`). methods: by name, stages from KSpace to
    Image. endpoint: what the lines are weighed for, by its gradient at the scan as it was measured. Raises SettingError
    for fewer than two draws.
    """
    if draws < 2 or not methods or scope.scan.batch != 1:
        raise SettingError(f"{draws} draws of {scope.scan.batch} scans by {len(methods)} reconstructions",
                           expected="two draws or more of one scan, one reconstruction or more", remedy="draw more")
    slope = endpoint_slope(scope.volumes_ml.sum(dim=1), endpoint).float()
    toward = endpoint_gradient(scope.image, segment, slope)
    again, tables, lines = RepeatNoise(), [], []
    for number in range(draws):
        rows = replace(scope.scan.rows, draw=torch.full_like(scope.scan.rows.draw, number))
        noisy = again(replace(scope.scan, rows=rows, noise_covariance=scope.noise_covariance), Key(seed, again.name))
        noisy = replace(noisy, noise_covariance=scope.scan.noise_covariance)
        for name, method in methods.items():
            watch(f"  draw {number + 1} of {draws}, {name}")
            image = scope.place(method(noisy))
            lines.append(line_contributions(image.data, toward)[0])
            tables.append(measured(scope.few(image), segment))
    shape = (draws, len(methods))
    names = [n for n in tables[0][0] if all(n in values for values, _, _ in tables)]
    values = {n: torch.stack([values[n] for values, _, _ in tables]).unflatten(0, shape) for n in names}
    drawn = torch.stack([volumes for _, _, volumes in tables]).unflatten(0, shape)
    volumes = scope.volumes_ml.expand(*drawn.shape[:3], -1, -1).clone()
    volumes[..., list(scope.frames), :] = drawn
    return Draws(tuple(methods), values, tables[0][1], volumes, torch.stack(lines).unflatten(0, shape), scope.notes)


def slice_frame_shares(volumes_ml: Float[Tensor, "draw time z"], endpoint: str) -> Float[Tensor, "time z"]:
    """What each slice and frame brings into the variance of ``endpoint`` over draws; they sum to one.

    The endpoint is linear in the slice volumes to first order, ``Σ_tz a_t v_tz`` with ``a_t = ∂endpoint/∂V_t`` at the
    mean over draws; the shares are those of the covariance with the sum.
    """
    slope = endpoint_slope(volumes_ml.sum(dim=2).mean(dim=0), endpoint)
    return covariance_shares(volumes_ml * slope[:, None])


def endpoint_slope(curve: Float[Tensor, " time"], endpoint: str) -> Float[Tensor, " time"]:
    """``∂endpoint/∂V_t`` of LVEF, LVEDV or LVESV at an LV volume curve, end-systole chosen softly.

    >>> endpoint_slope(torch.tensor([100.0, 40.0, 90.0]), "LVEDV").tolist()
    [1.0, 0.0, 0.0]
    """
    if endpoint not in ENDPOINTS or len(curve) < 2:
        raise SettingError(f"endpoint {endpoint!r} of {len(curve)} frames", remedy="choose another",
                           expected=f"one of {', '.join(ENDPOINTS)} of two frames or more")
    with torch.enable_grad():
        volume = curve.detach().clone()[None].requires_grad_()
        end_diastolic = at_frame(volume, first_frame_weights(volume))
        end_systolic = at_frame(volume, end_systole_weights(volume, softness=_SOFTNESS))
        made = {"LVEDV": end_diastolic, "LVESV": end_systolic,
                "LVEF": ejection_fraction(end_diastolic, end_systolic)}[endpoint]
        (slope,) = torch.autograd.grad(made.sum(), volume)
    return slope[0]


def endpoint_gradient(image: Image, segment: Segment, slope: Float[Tensor, " time"]
                      ) -> Complex[Tensor, "1 time 1 z y x"]:
    """``∂endpoint/∂image`` through the ensemble's mean probability of the LV cavity, in the frames that matter.

    Frames whose slope is below a hundredth of the largest are left at zero.
    """
    gradient = torch.zeros_like(image.data)
    for frame in (slope.abs() > 0.01 * slope.abs().max()).nonzero().flatten().tolist():
        with torch.enable_grad():
            part = image.data[:, frame:frame + 1].detach().clone().requires_grad_()
            labels = segment(Image(image.rows, part, image.grid))
            cavity = labels.data[:, :, labels.names.index(CLASSES[0])]
            volume = volume_ml(cavity, voxel_ml(labels)).mean()
            (found,) = torch.autograd.grad(slope[frame] * volume, part)
        gradient[:, frame:frame + 1] = found
    return gradient


def measured(image: Image, segment: Segment) -> tuple[dict[str, Tensor], dict[str, str], Tensor]:
    """Numbers ``[member]`` by name, their units, and LV cavity volumes ``[member, time, z]``, each member by itself."""
    with torch.no_grad():
        hard = Harden()(segment(image))
        found = CardiacFunction(warn=False)(hard)
    present = {name: p for name, p in found.values.items() if p.value is not None}
    cavity = (hard.data[:, :, 0] == hard.names.index(CLASSES[0])).sum(dim=(-2, -1), dtype=torch.float64)
    volumes = cavity * voxel_ml(hard).to(torch.float64)[:, None, None]
    return ({name: p.value.double() for name, p in present.items()}, {name: p.unit for name, p in present.items()},
            volumes)
