"""CardiacFunction: volumes, ejection fraction, output, mass and wall thickness from a segmented short-axis stack."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from firstread.core.errors import SettingError
from firstread.core.records import HardLabels, Labels, Note, Phenotype, Phenotypes, SoftLabels
from firstread.core.stage import Stage
from firstread.measure.aha import apex_points_up, base_to_apex
from firstread.measure.groups import Hearts, find_hearts
from firstread.measure.quality import segmentation_notes
from firstread.measure.volumes import (
    at_frame,
    cardiac_output,
    ejection_fraction,
    end_systole_weights,
    first_frame_weights,
    heart_rate,
    largest_volume_weights,
    muscle_mass,
    sum_over_parts,
)
from firstread.measure.wall import SEGMENTS, segment_thickness_mm
from firstread.ops.regions import volume_ml

NO_MM = "the image has no spacing in millimetres"
NO_PHASE = "a single frame of unknown phase"
ROUNDING = 1e-3  # mL or percent below zero that a sum over voxels may leave
BACKWARDS = "the end-systolic volume is above the end-diastolic one"
NO_CYCLE = "the length of the heart cycle is not known"
CLASSES = ("LV cavity", "LV myocardium", "RV cavity")


@dataclass(frozen=True)
class _Moment:
    """Which frames count as end-diastole and end-systole (weights ``[heart, time]``), or why there is none."""

    diastole: Tensor | None
    systole: Tensor | None
    reason: str | None = None


class CardiacFunction(Stage):
    """Phenotypes of both ventricles from the labels of a short-axis cine, one row per subject and draw.

        LVESV = min_t V(t),  LVEF = 100 (LVEDV - LVESV) / LVEDV,  LVCO = (LVEDV - LVESV) HR / 1000,
        LVM = 1.05 V_muscle(ED)

    Makes LVEDV, LVESV, LVSV, RVEDV, RVESV, RVSV (mL), LVEF, RVEF (%), LVCO (L/min), LVM (g), HR (1/min), ED_frame and
    ES_frame (counted from 0), WT_AHA_1 … 16 and WT_Global (mm), and the curves LV_volume_ml and RV_volume_ml. What
    cannot be measured is absent with a reason; a row of a batch that lacks what others have is NaN. Rows of one subject
    and draw with different ``part`` are the slices of one heart (a stack that is not rigid) and are summed.

    softness: 0 takes the frame of smallest LV volume as end-systole; more than 0 averages over frames
    (``end_systole_weights``), so that the choice is differentiable too. The same under train and eval.
    end_diastole: ``first`` frame (of a sequence that begins at the R wave) or the frame of ``maximum`` LV volume.
    warn: whether quality rules and doubts about phases become notes (off for the members of an ensemble).
    phase: what a single frame shows; without it LV_volume and RV_volume are given instead of LVEDV or LVESV.

    A ventricle that is larger at end-systole than at end-diastole is warned of (``negative_stroke_volume``), and of
    hard labels its ejection fraction is left out; of soft labels, and without ``warn``, it stays a finite number with
    a gradient, so that training on it does not break.

    Soft labels give expected volumes with gradients; wall thickness and quality rules always use the most probable
    class and have no gradient. Errors: labels without a class named ``LV cavity``.
    Source: Bai et al. 2018 and 2020 (ukbb_cardiac).

    >>> from firstread.core.geometry import Grid
    >>> from firstread.core.records import Rows
    >>> disc = torch.zeros(1, 2, 1, 4, 8, 8, dtype=torch.uint8)
    >>> disc[:, 0, :, :, 2:6, 2:6] = 1
    >>> disc[:, 1, :, :, 3:5, 2:6] = 1
    >>> labels = HardLabels(Rows.subjects(), disc, Grid.from_spacing((4, 8, 8), (10.0, 1.0, 1.0)), ("none", *CLASSES))
    >>> phenotypes = CardiacFunction()(labels)
    >>> [round(phenotypes[name].value.item(), 3) for name in ("LVEDV", "LVESV", "LVEF")]
    [0.64, 0.32, 50.0]
    """

    result: ClassVar[str] = "phenotypes"

    def __init__(self, *, softness: float = 0.0, end_diastole: Literal["first", "maximum"] = "first",
                 phase: Literal["ED", "ES"] | None = None, warn: bool = True) -> None:
        super().__init__()
        if softness < 0 or not math.isfinite(softness):
            raise SettingError(f"softness {softness}", expected="zero or more", remedy="use 0 for the hard choice")
        if end_diastole not in ("first", "maximum"):
            raise SettingError(f"end_diastole {end_diastole!r}", expected="'first' or 'maximum'",
                               remedy="choose one of the two")
        if phase not in (None, "ED", "ES"):
            raise SettingError(f"phase {phase!r}", expected="'ED', 'ES' or None", remedy="choose one of them")
        self.softness, self.end_diastole, self.phase, self.warn = softness, end_diastole, phase, warn

    def forward(self, labels: Labels) -> Phenotypes:
        missing = [name for name in CLASSES if name not in labels.names]
        if CLASSES[0] in missing:
            raise SettingError(f"labels of {', '.join(labels.names)}", expected=f"a class named {CLASSES[0]!r}",
                               remedy="name the classes of the segmentation (background first)")
        hearts = find_hearts(labels.rows)
        hard = labels.harden() if isinstance(labels, SoftLabels) else labels
        voxel = labels.grid.voxel_ml if labels.grid.has_mm else torch.ones_like(labels.grid.voxel_ml)
        curves = {name: sum_over_parts(volume_ml(_weights(labels, name), voxel), hearts.owner, hearts.count)
                  for name in CLASSES if name not in missing}
        notes: list[Note] = []
        moment = self._moment(labels, hearts, curves[CLASSES[0]], notes)
        values = _ventricle_values(curves, moment, labels.grid.has_mm, self.phase)
        if self.warn:
            notes += _backwards(values, hearts, given=hard is not labels)
            if hard is labels:
                values |= _without_backwards(values)
        values |= _flow_values(values, _cycle(labels, hearts, notes))
        values |= _wall_values(hard, hearts, moment, missing)
        notes = [*notes, *_quality(hard, hearts, moment, missing)] if self.warn else []
        unit = "ml" if labels.grid.has_mm else "voxels"
        named = {f"{name[:2]}_volume_{unit}": curves[name] for name in (CLASSES[0], CLASSES[2]) if name in curves}
        return Phenotypes(hearts.rows, values, named, notes=labels.notes).noted(*notes)

    def _moment(self, labels: Labels, hearts: Hearts, cavity: Tensor, notes: list[Note]) -> _Moment:
        frames = cavity.shape[1]
        if frames == 1:
            one = torch.ones_like(cavity)
            return _Moment(one if self.phase != "ES" else None, one if self.phase == "ES" else None,
                           "a single frame" if self.phase else NO_PHASE)
        largest = largest_volume_weights(cavity, softness=self.softness)
        if self.end_diastole == "maximum":
            diastole = largest
        else:
            late = hearts.any(_begins_late(labels))
            diastole = torch.where(late[:, None].to(cavity.device), largest, first_frame_weights(cavity))
            if late.any():
                notes.append(Note("not_at_r_wave", "The sequence does not begin at the R wave; the frame of largest LV "
                                                   "volume was taken as end-diastole."))
            notes += _larger_elsewhere(cavity.detach(), diastole.detach(), hearts)
        return _Moment(diastole, end_systole_weights(cavity, softness=self.softness))


def _larger_elsewhere(cavity: Tensor, diastole: Tensor, hearts: Hearts) -> list[Note]:
    """Warn where a frame has an LV volume more than 5 % above that of the frame taken as end-diastole."""
    taken, largest = at_frame(cavity, diastole), cavity.amax(dim=1)
    return [Note("diastole_not_largest", f"The largest LV volume{hearts.name(heart)} is in frame "
                 f"{int(cavity[heart].argmax())} and more than 5 % above that of the first frame, which was taken as "
                 "end-diastole.") for heart in (largest > 1.05 * taken).nonzero().flatten().tolist()]


def _weights(labels: Labels, name: str) -> Tensor:
    """Probability, or one and zero, of a class: ``[batch, time, z, y, x]``."""
    index = labels.names.index(name)
    return labels.data[:, :, index] if isinstance(labels, SoftLabels) else labels.data[:, :, 0] == index


def _begins_late(labels: Labels) -> Tensor:
    """Per row, whether the first frame lies more than two frames after the R wave."""
    if labels.times_s is None or labels.times_s.shape[1] < 2:
        return torch.zeros(labels.batch, dtype=torch.bool)
    first = labels.times_s[:, 0].median(dim=1).values
    step = (labels.times_s[:, 1:] - labels.times_s[:, :-1]).flatten(1).median(dim=1).values
    return (first > 2 * step) & (step > 0)


def _ventricle_values(curves: dict[str, Tensor], moment: _Moment, has_mm: bool,
                      phase: str | None) -> dict[str, Phenotype]:
    values: dict[str, Phenotype] = {}
    for side, name in (("LV", CLASSES[0]), ("RV", CLASSES[2])):
        curve, reason = curves.get(name), moment.reason
        if curve is None:
            why: str | None = f"no class {name!r} in the labels"
        else:
            why = f"no {side} was found" if not bool((curve > 0).any()) else None
        end_diastolic = at_frame(curve, moment.diastole) if why is None and moment.diastole is not None else None
        end_systolic = at_frame(curve, moment.systole) if why is None and moment.systole is not None else None
        if phase is None and moment.reason is not None and why is None:
            values[f"{side}_volume"] = _millilitres(curve[:, 0], has_mm)
            end_diastolic = None
        both = end_diastolic is not None and end_systolic is not None
        for measure, found in (("EDV", end_diastolic), ("ESV", end_systolic),
                               ("SV", end_diastolic - end_systolic if both else None)):
            values[side + measure] = (_absent("mL", why or reason) if found is None else _millilitres(found, has_mm))
        values[side + "EF"] = (_present(ejection_fraction(end_diastolic, end_systolic), "%") if both
                               else _absent("%", why or reason))
    values["LVM"] = _mass(curves.get(CLASSES[1]), moment, has_mm)
    for name, weights in (("ED_frame", moment.diastole), ("ES_frame", moment.systole)):
        if moment.reason is not None or weights is None:
            values[name] = _absent("frame", moment.reason or NO_PHASE)
        else:
            frames = torch.arange(weights.shape[1], dtype=weights.dtype, device=weights.device)
            values[name] = _present((weights * frames).sum(dim=1), "frame")
    return values


def _backwards(values: dict[str, Phenotype], hearts: Hearts, *, given: bool) -> list[Note]:
    """A warning for each ventricle that pumps backwards; given: whether its ejection fraction is given all the same."""
    notes = []
    for side in ("LV", "RV"):
        for heart in _negative(values, side).nonzero().flatten().tolist():
            names = [n for n in (f"{side}EDV", f"{side}ESV", f"{side}SV", f"{side}EF") if values[n].value is not None]
            said = ", ".join(f"{n} {float(v[heart]):.4g} {values[n].unit}" for n in names
                             if (v := values[n].value) is not None and math.isfinite(float(v[heart])))
            notes.append(Note("negative_stroke_volume", f"The {side}{hearts.name(heart)} is larger at end-systole than "
                              f"at end-diastole ({said}), which no heart is: its outlines are wrong in one of the two "
                              f"frames{'' if given else f', and {side}EF is left out'}."))
    return notes


def _without_backwards(values: dict[str, Phenotype]) -> dict[str, Phenotype]:
    """The ejection fractions, those below zero left out: NaN in a batch, absent where no heart of it has one."""
    made = {}
    for side in ("LV", "RV"):
        value, wrong = values[side + "EF"].value, _negative(values, side)
        if value is not None and bool(wrong.any()):
            kept = torch.where(wrong, torch.full_like(value, math.nan), value)
            made[side + "EF"] = _absent("%", BACKWARDS) if bool(wrong.all()) else _present(kept, "%")
    return made


def _negative(values: dict[str, Phenotype], side: str) -> Bool[Tensor, " heart"]:
    """Which hearts have a larger end-systolic than end-diastolic volume, beyond rounding; none where none is known."""
    known = [v.detach() < -ROUNDING for name in ("EF", "SV") if (v := values[side + name].value) is not None]
    return torch.stack(known).any(dim=0) if known else torch.zeros(0, dtype=torch.bool)


def _mass(muscle: Tensor | None, moment: _Moment, has_mm: bool) -> Phenotype:
    """Mass at end-diastole; of a single frame whatever its phase, since muscle keeps its volume."""
    if muscle is None:
        return _absent("g", f"no class {CLASSES[1]!r} in the labels")
    if not has_mm:
        return _absent("g", NO_MM)
    weights = moment.diastole if moment.diastole is not None else moment.systole
    return _present(muscle_mass(at_frame(muscle, weights)), "g")


def _cycle(labels: Labels, hearts: Hearts, notes: list[Note]) -> Tensor | None:
    """Mean length of the cycle of each heart in seconds, NaN where unknown; None where no heart's is known."""
    if labels.cycle_s is not None and bool(torch.isfinite(labels.cycle_s).any()):
        return hearts.mean(labels.cycle_s.detach())
    if labels.times_s is None or labels.times_s.shape[1] < 2:
        return None
    frames = labels.times_s.shape[1]
    span = (labels.times_s[:, -1] - labels.times_s[:, 0]) * frames / (frames - 1)
    if not bool((span > 0).any()):
        return None
    notes.append(Note("heart_rate_from_frames", "The heart rate was computed from the number of frames and their "
                                                "distance in time; the file does not state it."))
    return hearts.mean(torch.where(span > 0, span, torch.full_like(span, math.nan)))


def _flow_values(values: dict[str, Phenotype], cycle_s: Tensor | None) -> dict[str, Phenotype]:
    if cycle_s is None:
        return {"HR": _absent("1/min", NO_CYCLE), "LVCO": _absent("L/min", values["LVSV"].reason or NO_CYCLE)}
    rate = heart_rate(cycle_s.double())
    stroke = values["LVSV"]
    output = (_absent("L/min", stroke.reason) if stroke.value is None
              else _present(cardiac_output(stroke.value, rate.to(stroke.value)), "L/min"))
    return {"HR": _present(rate, "1/min"), "LVCO": output}


def _diastolic_frame(moment: _Moment, heart: int) -> int | None:
    return None if moment.diastole is None else int(moment.diastole[heart].detach().argmax())


def _wall_values(hard: HardLabels, hearts: Hearts, moment: _Moment, missing: list[str]) -> dict[str, Phenotype]:
    reason = (NO_MM if not hard.grid.has_mm else
              f"no class {CLASSES[1]!r} in the labels" if CLASSES[1] in missing else
              moment.reason if moment.reason == NO_PHASE or moment.diastole is None else None)
    names = [f"WT_AHA_{i}" for i in range(1, SEGMENTS + 1)] + ["WT_Global"]
    if reason is not None:
        return {name: _absent("mm", reason) for name in names}
    rows, whys = [], []
    for heart in range(hearts.count):
        slices = hearts.slices(hard, heart, _diastolic_frame(moment, heart), CLASSES)
        segments, overall, why = segment_thickness_mm(slices)
        rows.append([*segments.tolist(), overall])
        whys.append(why)
    table = torch.tensor(rows, dtype=torch.float64)
    why = next((w for w in whys if w), "no endocardial contour falls into this segment")
    return {name: _present(column, "mm") if bool(torch.isfinite(column).any()) else _absent("mm", why)
            for name, column in zip(names, table.unbind(dim=1), strict=True)}


def _quality(hard: HardLabels, hearts: Hearts, moment: _Moment, missing: list[str]) -> list[Note]:
    if missing or moment.diastole is None or moment.reason == NO_PHASE:
        return []
    notes = []
    for heart in range(hearts.count):
        masks = hearts.masks(hard, heart, _diastolic_frame(moment, heart), CLASSES)
        name = hearts.name(heart)
        notes += [Note(n.code, f"{n.text[:-1]}{name and f' ({name[4:]})'}.") for n in segmentation_notes(*masks)]
        seen = [s for s in hearts.slices(hard, heart, _diastolic_frame(moment, heart), CLASSES) if s.cavity.any()]
        if hard.grid.frame == "patient" and len(seen) > 1 and apex_points_up(base_to_apex(seen)):
            notes.append(Note("apex_above_base", f"The narrow end of the heart{name} lies above the wide one, going by "
                              "the header's orientation; anterior and inferior segments may be exchanged."))
    return notes


def _present(value: Tensor, unit: str) -> Phenotype:
    return Phenotype(value, unit)


def _millilitres(value: Tensor, has_mm: bool) -> Phenotype:
    return Phenotype(value, "mL") if has_mm else _absent("mL", NO_MM)


def _absent(unit: str, reason: str | None) -> Phenotype:
    return Phenotype(None, unit, reason=reason)
