"""Rigid motion between shots, estimated and corrected: ``python -m firstread.recipes.evidence_motion``.

    python -m firstread.recipes.evidence_motion [-o docs/evidence] [--realdata FOLDER]

Simulated bodies that move between shots; with ``--realdata`` also a real brain whose motion is simulated. Takes
minutes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from firstread.acquire.coils import LoopCoils
from firstread.acquire.moving import Course, EncodeMoving, Order, moved, random_poses, shot_lines
from firstread.acquire.textures import random_plane
from firstread.core.errors import FirstreadError, InputError
from firstread.core.geometry import Grid
from firstread.core.keys import Key
from firstread.core.records import Image, KSpace, Rows
from firstread.ops.fourier import fft, ifft
from firstread.ops.quality import nrmse
from firstread.ops.rigid_motion import relative_to_first
from firstread.recipes.files import write_text
from firstread.reconstruct.direct import ZeroFilled
from firstread.reconstruct.motion import MotionCorrected, in_degrees
from firstread.reconstruct.sensitivities import estimate_sensitivities

BODIES, SHOTS, MATRIX = 3, 8, 64


def motion_row(body: Image, key: Key, order: Order, course: Course, *, angle_deg: float, shift_mm: float,
               known_maps: bool) -> dict[str, float]:
    """One scan of a moving body: errors of poses, and of the image before and after correction."""
    scan = partial(EncodeMoving, shots=SHOTS, order=order, matrix=(MATRIX, MATRIX), coils=LoopCoils(count=8),
                   keep_sensitivities=True)
    moving = scan(angle_deg=angle_deg, shift_mm=shift_mm, course=course)
    resting = scan(angle_deg=0, shift_mm=0, snr=None)
    return compared(moving(body, key), resting(body, key), moving.poses(body.rows, key)[0], known_maps=known_maps)


def compared(moving: KSpace, resting: KSpace, true: Tensor, *, known_maps: bool) -> dict[str, float]:
    """Errors with the resting scan as the truth of the image."""
    still, blurred = (ZeroFilled()(_whole(k)).data.abs()[0, 0] for k in (resting, moving))
    given = moving if known_maps else replace(moving, sensitivities=None)
    image, found = MotionCorrected(steps=40).correct(given)
    size = in_degrees(relative_to_first(true[None]))[0]
    error = in_degrees(found.pose.double())[0] - size
    return {"degrees": _rms(error[:, :1]), "mm": _rms(error[:, 1:]), "true degrees": _rms(size[:, :1]),
            "true mm": _rms(size[:, 1:]), "before": _scaled(blurred, still),
            "after": _scaled(image.data.abs()[0, 0], still)}


def _whole(kspace: KSpace) -> KSpace:
    """All shots as one scan, which is what a reconstruction that knows of no motion sees."""
    return replace(kspace, data=kspace.data.sum(1, keepdim=True), mask=kspace.mask.sum(1, keepdim=True))


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def _scaled(image: Tensor, still: Tensor) -> float:
    """NRMSE after the scale that fits best."""
    return nrmse((image * still).sum() / image.square().sum() * image, still)


def simulated_bodies() -> list[Image]:
    """Objects of no anatomy in particular, rendered twice as fine as they are scanned."""
    grid = Grid.from_spacing((1, 2 * MATRIX, 2 * MATRIX), (5.0, 110 / MATRIX, 110 / MATRIX))
    planes = [random_plane(Key(n, "evidence_motion").generator(), 2 * MATRIX) for n in range(BODIES)]
    return [Image(Rows.subjects(1), plane[None, None, None, None], grid) for plane in planes]


def motion(bodies: Sequence[Image]) -> dict[str, list[dict[str, float]]]:
    """Rows by what was done: order of lines, course of motion, whose coil maps."""
    ways: dict[str, tuple[Order, Course, bool]] = {
        "random lines, jumps, maps at rest": ("random", "jumps", True),
        "interleaved lines, jumps, maps at rest": ("interleaved", "jumps", True),
        "random lines, jumps, maps of the moving shots": ("random", "jumps", False),
        "sequential lines, jumps, maps at rest": ("sequential", "jumps", True)}
    return {name: [motion_row(body, Key(n, "evidence_motion"), order, course, angle_deg=5, shift_mm=5,
                              known_maps=known) for n, body in enumerate(bodies)]
            for name, (order, course, known) in ways.items()}


def real_brain(path: Path) -> list[dict[str, float]]:
    """The brain with 16 coils, combined to one image on twice the matrix, moved and scanned again by its own coils."""
    kspace = torch.from_numpy(np.load(path))[None, None, :, None]
    n = kspace.shape[-1]
    grid = Grid.from_spacing((1, n, n), (5.0, 2.3, 2.3))
    record = KSpace(Rows.subjects(1), kspace, grid, torch.ones(1, 1, 1, 1, 1, 1))
    maps = estimate_sensitivities(record, calibration_lines=24)
    image = (maps.conj() * ifft(kspace)).sum(2)[0, 0] / maps.abs().square().sum(2)[0, 0].clamp(min=1e-6)
    pad = (n // 2,) * 4
    fine = 2 * ifft(torch.nn.functional.pad(fft(image), pad))[0]
    rows = []
    for number in range(3):
        generator = Key(number, "evidence_brain").generator()
        poses = random_poses(SHOTS, 5, 5, "jumps", generator)
        lines = shot_lines(n, SHOTS, "random", generator)
        mask = lines[None, :, None, None, :, None].to(torch.float32)
        seen = []
        for pose in torch.cat((poses, torch.zeros(1, 3))):
            low = fft(moved(fine[None], pose, (1.15, 1.15), (n, n)))[..., n // 2:-n // 2, n // 2:-n // 2] / 2
            seen.append(fft(maps[0, 0, :, 0] * ifft(low)))
        whole = torch.stack(seen)[None, :, :, None]
        noise = whole.abs().square().mean().sqrt() / 30 * torch.randn(whole[:, :1].shape, dtype=whole.dtype,
                                                                     generator=generator)
        scan = KSpace(Rows.subjects(1), mask * (whole[:, :-1] + noise), grid, mask, maps)
        rest = KSpace(Rows.subjects(1), mask * whole[:, -1:], grid, mask, maps)
        rows.append(compared(scan, rest, poses, known_maps=True))
    return rows


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean and the range over subjects.

    >>> spread([1.0, 1.4])
    '1.20 (1.00 to 1.40)'
    """
    return f"{np.mean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def page(moves: dict[str, list[dict[str, float]]], brain: list[dict[str, float]] | None) -> str:
    """The page in Markdown."""
    lines = ["# Rigid motion between shots, simulated", "",
             "Made by `python -m firstread.recipes.evidence_motion`. Mean over subjects, with the smallest and the "
             "largest value in brackets.", "",
             f"Simulated: {BODIES} objects of no anatomy in particular (seeds from 0), rendered twice as fine as the "
             f"{MATRIX} x {MATRIX} scan, in {SHOTS} shots, 8 coils, SNR 30, motion of up to 5 degrees and 5 mm moved "
             "by bicubic interpolation (the correction uses shears). Pose errors are root mean squares relative to "
             "the first shot; NRMSE of the magnitude against the noiseless scan at rest.", "", *_motion_table(moves)]
    if brain is not None:
        lines += ["", "Semi-simulated: a real brain with 16 coils (96 x 96), its combined image moved and encoded with "
                  "its own coil maps, three draws of motion; optimistic, since the maps are those of the encoding.",
                  "", *_motion_table({"real brain, random lines, jumps": brain})]
    lines += ["", "Sequential lines give most shots no centre of k-space: their pose is hardly determined. Maps from "
              "the moving shots are blurred and cost accuracy: scan the coils at rest."]
    return "\n".join(lines) + "\n"


def _motion_table(moves: dict[str, list[dict[str, float]]]) -> list[str]:
    head = ["| scan | motion, degrees | error, degrees | motion, mm | error, mm | NRMSE before | NRMSE after |",
            "|---|---|---|---|---|---|---|"]
    keys = ("true degrees", "degrees", "true mm", "mm", "before", "after")
    return head + [f"| {name} | " + " | ".join(spread([row[key] for row in rows], 3 if key in ("before", "after")
                                                        else 2) for key in keys) + " |" for name, rows in moves.items()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m firstread.recipes.evidence_motion", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/evidence"))
    parser.add_argument("--realdata", type=Path, help="folder with kspace/brain_16coil.npy")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        brain = None if given.realdata is None else given.realdata / "kspace" / "brain_16coil.npy"
        if not given.output.is_dir() or (brain is not None and not brain.is_file()):
            raise InputError(f"output {given.output}, real data {given.realdata}", expected="folders that are there",
                             remedy="make them first")
        moves = motion(simulated_bodies())
        write_text(given.output / "motion.md", page(moves, None if brain is None else real_brain(brain)))
    except FirstreadError as error:
        print(f"evidence_motion: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
