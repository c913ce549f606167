"""From the fingerprint of a data set to a plan: rules, each one sentence, all of them open to editing.

- Slices or volumes: one slice per image gives ``2d``; axes whose spacing differs threefold or more (where millimetres
  are unknown: sizes that differ threefold) give ``2.5d``, a slice with its neighbours; else ``3d``.
- Spacing: the median of the cases along each axis; slices keep their own distance. Without millimetres all stays.
- Patch: the median image at that spacing, at most ``256 x 256`` or ``96^3`` voxels, a multiple of the strides.
- Scales: an axis is halved while its patch is 8 voxels or more and, in volumes, its spacing is no more than twice the
  smallest at that scale; from the image to the first scale already.
- Intensities: ``window`` between the 0.5 and 99.5 percentile of labelled voxels for CT (stated, or air below -500),
  else ``zscore``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from firstread.nets.plan import AugmentationPlan, ClassPlan, Mode, NetworkPlan, Normalization, Plan, TrainingPlan

ANISOTROPIC = 3.0
LARGEST = {"2d": 256, "2.5d": 256, "3d": 96}
WIDTHS = (24, 48, 96, 192)


def plan_for(fingerprint: Mapping[str, Any], *, ignored_value: int | None = None) -> Plan:
    """The plan of a data set."""
    shape, spacing = fingerprint["shape"]["median"], fingerprint["spacing"]["median"]
    millimetres = fingerprint["millimetres"]
    mode = mode_for(shape, spacing if millimetres else None)
    shape, spacing = _ordered(shape, spacing, millimetres, mode)
    slices = mode != "3d"
    wanted = (None if slices else spacing[0], spacing[1], spacing[2]) if millimetres else (None, None, None)
    axes = slice(1, 3) if slices else slice(0, 3)
    strides, patch = scales_for(shape[axes], spacing[axes] if millimetres else [1.0] * len(shape[axes]), LARGEST[mode])
    thin = not slices and patch[0] * 2 <= min(patch[1:])
    found = AugmentationPlan(rotation_deg=(30.0, 0.0, 0.0) if slices or thin else (30.0, 15.0, 15.0))
    classes = tuple(ClassPlan(c["name"], c["value"]) for c in fingerprint["classes"] if c["value"] != ignored_value)
    folds = max(2, min(5, fingerprint["patients"]))
    return Plan(classes=classes, mode=mode, spacing_mm=wanted, patch=patch,
                normalization=tuple(normalization_for(m, i) for m, i in
                                    zip(fingerprint["modalities"], fingerprint["intensity"], strict=True)),
                network=NetworkPlan(widths=WIDTHS[: len(strides)], strides=strides, blocks=(1,) * len(strides)),
                augmentation=found, training=TrainingPlan(folds=folds, batch=8 if slices else 2),
                ignored_value=ignored_value)


def mode_for(shape: Sequence[float], spacing_mm: Sequence[float] | None) -> Mode:
    """Slices or volumes.

    >>> mode_for((10, 200, 200), (8.0, 1.5, 1.5)), mode_for((100, 100, 90), (1.0, 1.0, 1.2)), mode_for((1, 9, 9), None)
    ('2.5d', '3d', '2d')
    """
    if min(shape) == 1:
        return "2d"
    table = list(spacing_mm) if spacing_mm is not None else [1 / n for n in shape]
    return "2.5d" if max(table) / sorted(table)[1] >= ANISOTROPIC else "3d"


def scales_for(shape: Sequence[float], spacing: Sequence[float], largest: int
               ) -> tuple[tuple[tuple[int, ...], ...], tuple[int, ...]]:
    """Strides into each scale, two or more, and the patch: a multiple of them.

    >>> scales_for((180, 200), (1.0, 1.0), 128)
    (((2, 2), (2, 2), (2, 2), (2, 2)), (128, 128))
    """
    size = [min(largest, max(8, int(n))) for n in shape]
    now, left = list(spacing), list(size)
    strides: list[tuple[int, ...]] = []
    while len(strides) < len(WIDTHS):
        stride = tuple(2 if n >= 8 and mm <= 2 * min(now) else 1 for n, mm in zip(left, now, strict=True))
        if max(stride) == 1 and len(strides) >= 2:
            break
        strides.append(stride)
        left = [n // s for n, s in zip(left, stride, strict=True)]
        now = [mm * s for mm, s in zip(now, stride, strict=True)]
    whole = [1] * len(size)
    for stride in strides:
        whole = [w * s for w, s in zip(whole, stride, strict=True)]
    return tuple(strides), tuple(min(-(-n // w), largest // w) * w for n, w in zip(size, whole, strict=True))


def normalization_for(modality: str, intensity: Mapping[str, float]) -> Normalization:
    """``window`` for CT, else ``zscore``."""
    if modality.upper() == "CT" or (modality == "unknown" and intensity["minimum"] <= -500):
        return Normalization("window", *(round(intensity[k], 3) for k in ("low", "high", "mean")),
                             max(round(intensity["sd"], 3), 1e-3))
    return Normalization("zscore")


def _ordered(shape: Sequence[float], spacing: Sequence[float], millimetres: bool, mode: Mode
             ) -> tuple[list[float], list[float]]:
    """With the axis across slices first, as images will be turned."""
    first = max(range(3), key=lambda a: spacing[a]) if millimetres and mode != "3d" else 0
    order = [first, *(a for a in range(3) if a != first)]
    return [shape[a] for a in order], [spacing[a] for a in order]
