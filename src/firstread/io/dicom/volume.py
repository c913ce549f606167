"""Frames of one series to rows, phases and slices; what does not fit is named."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from firstread.core.errors import GeometryError, InputError
from firstread.core.geometry import Grid
from firstread.core.records import Note
from firstread.io.dicom.frames import Frame
from firstread.io.stacking import Stack, stack_slices


@dataclass(frozen=True)
class Layout:
    """Frames in the order ``[row][phase][slice]``, the grid, times and cycle in seconds (None where unknown)."""

    frames: list[list[list[Frame]]]
    grid: Grid
    times_s: np.ndarray | None  # [row, phase, slice]
    cycle_s: np.ndarray | None  # [row, slice]


def arrange(frames: tuple[Frame, ...], notes: list[Note], spacing_mm: tuple[float, float, float] | None) -> Layout:
    """Slices by position, phases by trigger time (or temporal position, or instance number).

    Errors: GeometryError for a missing slice, InputError for slices with different numbers of phases.
    """
    frames = _without_copies(frames, notes)
    height, width = frames[0].storage.shape
    if frames[0].affine is None:
        if any(frame.affine is not None for frame in frames):
            raise GeometryError("a series of which some images have no position", expected="a position in every image",
                                remedy="export the series again")
        return _unplaced(frames, notes, spacing_mm)
    slices = _by_place(frames, notes)
    affines = np.stack([group[0].affine for group in slices if group[0].affine is not None])
    thick = slices[0][0].thickness_mm
    gaps: list[Note] = []
    stack = stack_slices(affines, (height, width), thick, gaps)
    if len(slices) > 1:
        _judge_steps(affines, stack, gaps, notes, thick)
    ordered = [[slices[i] for i in row] for row in stack.order]
    rows = [[list(phase) for phase in zip(*row, strict=True)] for row in ordered]
    return Layout(rows, stack.grid, _times(ordered, notes), _cycles(ordered, notes))


def _without_copies(frames: tuple[Frame, ...], notes: list[Note]) -> tuple[Frame, ...]:
    """Each SOP instance once."""
    unique = tuple({(f.sop_uid or str(f.storage.path), f.index): f for f in frames}.values())
    if len(unique) < len(frames):
        notes.append(Note("duplicate_images", f"{len(frames) - len(unique)} images are in the folder twice: one copy "
                          "of each was read."))
    return unique


def _by_place(frames: tuple[Frame, ...], notes: list[Note]) -> list[list[Frame]]:
    """Frames of each slice position, in order of time; every slice has equally many."""
    places: dict[tuple, list[Frame]] = {}
    placed = [(frame, frame.affine[:3].ravel()) for frame in frames if frame.affine is not None]
    for (frame, _), place in zip(placed, np.round([where for _, where in placed], 2).tolist(), strict=True):
        places.setdefault(tuple(place), []).append(frame)
    slices = [_by_time(group) for group in places.values()]
    sizes = sorted({len(group) for group in slices})
    if len(sizes) > 1:
        raise InputError(f"slices of {sizes[0]} to {sizes[-1]} frames in one series", expected="as many heart "
                         "phases in every slice", remedy="add the missing images, or choose another series (--series)")
    again = sum(len(group) - len({_moment(frame) for frame in group}) for group in slices)
    if again:
        raise InputError(f"{again} images at the same place and time as another one", expected="one image for "
                         "each slice and heart phase", remedy="remove the repeated acquisition from the folder")
    if sizes[0] > 1 and any(f.trigger_ms is None for group in slices for f in group):
        notes.append(Note("order_assumed", "Images without trigger times are sorted by temporal position and instance "
                          "number."))
    return slices


def _moment(frame: Frame) -> tuple:
    return (frame.trigger_ms, *frame.order)


def _by_time(group: list[Frame]) -> list[Frame]:
    timed = all(frame.trigger_ms is not None for frame in group) and len({f.trigger_ms for f in group}) > 1
    return sorted(group, key=lambda f: (f.trigger_ms if timed else 0.0, *f.order))


def _judge_steps(affines: np.ndarray, stack: Stack, gaps: list[Note], notes: list[Note], thick: float | None) -> None:
    """Missing slices are an error; uneven steps, tilt and overlap are notes."""
    normal = affines[0, :3, 2] / np.linalg.norm(affines[0, :3, 2])
    if gaps and "evenly" in gaps[0].text:
        places = np.sort(affines[:, :3, 3] @ normal)
        steps = np.diff(places)
        step = float(np.median(steps))
        holes = np.round(steps / step) - 1 if step > 1e-3 else np.zeros(1)
        if (holes > 0).any() and np.abs(steps / step - np.round(steps / step)).max() < 0.1:
            raise GeometryError(f"a stack in which {int(holes.sum())} of {int(len(places) + holes.sum())} slices are "
                                f"missing (steps of {step:.4g} mm with gaps of {steps.max():.4g} mm)",
                                expected="evenly spaced slices", remedy="add the missing images")
        notes.append(Note("mixed_spacing", f"Slices lie {steps.min():.4g} to {steps.max():.4g} mm apart: each is kept "
                          "with its own position."))
        return
    notes.extend(gaps)
    if gaps:
        return
    step_vector = stack.grid.affine[0, :3, 2].numpy()
    step = float(step_vector @ normal)
    tilt = np.rad2deg(np.arccos(min(1.0, abs(step) / float(np.linalg.norm(step_vector)))))
    if tilt > 1.0:
        notes.append(Note("gantry_tilt", f"The stack is sheared by {tilt:.1f} degrees (gantry tilt); its grid keeps "
                          "the shear."))
    if thick and step < 0.98 * thick:
        notes.append(Note("slices_overlap", f"Slices of {thick:.4g} mm lie {step:.4g} mm apart: they overlap.", "info"))
    if thick and step > 1.02 * thick:
        notes.append(Note("slice_gap", f"Slices of {thick:.4g} mm lie {step:.4g} mm apart: volumes count the gap as "
                          "tissue of the slice.", "info"))


def _unplaced(frames: tuple[Frame, ...], notes: list[Note], spacing_mm: tuple[float, float, float] | None) -> Layout:
    """Two-dimensional images (X-ray, ultrasound): frames over time at the detector."""
    group = _by_time(list(frames))
    shape = (1, *group[0].storage.shape)
    in_plane = group[0].spacing_mm
    files = {frame.storage.path for frame in group}
    if len(files) > 1:
        notes.append(Note("order_assumed", f"{len(files)} images without position are taken as frames in order of "
                          "time."))
    if spacing_mm is not None:
        grid = Grid.from_spacing(shape, spacing_mm, frame="detector")
        notes.append(Note("spacing_stated", "The spacing was stated by the user, not taken from the file.", "info"))
    elif in_plane is not None:
        grid = Grid.from_spacing(shape, (group[0].thickness_mm or 1.0, *in_plane), frame="detector")
        notes.append(Note("position_unknown", "The images state no position in the patient: lengths are those at the "
                          "detector."))
    else:
        grid = Grid.pixels(shape)
        notes.append(Note("spacing_unknown", "The images state no spacing: nothing in mm or mL can be measured."))
    return Layout([[[frame] for frame in group]], grid, _times([[group]], notes), _cycles([[group]], notes))


def _times(rows: list[list[list[Frame]]], notes: list[Note]) -> np.ndarray | None:
    """``[row, phase, slice]`` seconds; ``rows[row][slice][phase]``."""
    if len(rows[0][0]) == 1:
        return None
    stamps = [[[frame.trigger_ms for frame in group] for group in row] for row in rows]
    if any(stamp is None for row in stamps for group in row for stamp in group):
        notes.append(Note("times_unknown", "The images state no time of their frames."))
        return None
    times = np.array(stamps, dtype=np.float64).transpose(0, 2, 1) / 1000
    if (np.diff(times, axis=1) <= 0).any():
        notes.append(Note("times_unknown", "The trigger times do not rise from frame to frame: they are not used."))
        return None
    return times


def _cycles(rows: list[list[list[Frame]]], notes: list[Note]) -> np.ndarray | None:
    """``[row, slice]`` seconds: NominalInterval or HeartRate, else frames times frame duration with a note."""
    phases = len(rows[0][0])
    if phases == 1:
        return None
    stated = [[[f.cycle_ms for f in group if f.cycle_ms is not None] for group in row] for row in rows]
    if all(values for row in stated for values in row):
        return np.array([[float(np.median(values)) for values in row] for row in stated]) / 1000
    times = _times(rows, [])
    if times is None:
        return None
    notes.append(Note("cycle_assumed", "The length of the heart cycle is taken as frames times frame duration."))
    return (times[:, -1] - times[:, 0]) * phases / (phases - 1)
