"""Two real lesions, segmented from a click, for :mod:`firstread.recipes.evidence_classical`; one method is learned."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool
from scipy import ndimage
from torch import Tensor

from firstread.analyze.prompted import SegmentPrompted
from firstread.analyze.seeded import GrowRegion, RandomWalk, Watershed
from firstread.chains.prompted import open_promptable
from firstread.core.errors import FormatError
from firstread.core.geometry import Grid
from firstread.core.prompts import Prompts
from firstread.core.records import Findings, Image, Rows
from firstread.core.stage import Stage
from firstread.ops.regions import dice, largest_component
from firstread.ops.surface import hausdorff95_mm

CLICKS, SEED, CIRCLE = 5, 0, 1.1
LesionTable = dict[str, dict[str, tuple[list[float], list[float], str]]]
"""By method and case: Dice and HD95 (mm) of each click, and the settings."""


def read_nrrd(path: Path) -> tuple[np.ndarray, Grid]:
    """A volume ``[z, y, x]`` of a gzipped or raw NRRD file in LPS millimetres.

    Raises FormatError for another kind of file.
    """
    head, _, body = path.read_bytes().partition(b"\n\n")
    lines = [line for line in head.decode("ascii", "replace").splitlines() if ": " in line and line[0] != "#"]
    fields = {key: value for key, _, value in (line.partition(": ") for line in lines)}
    kinds = {"int16": "i2", "short": "i2", "int": "i4", "uchar": "u1", "uint8": "u1", "float": "f4", "int32": "i4"}
    placed = fields.get("space") == "left-posterior-superior"
    if not head.startswith(b"NRRD") or fields.get("type") not in kinds or not placed:
        raise FormatError(f"{path.name}, a file of another kind", expected="NRRD in left-posterior-superior",
                          remedy="convert it")
    sizes = [int(n) for n in fields["sizes"].split()]
    raw = gzip.decompress(body) if fields["encoding"] in ("gzip", "gz") else body
    order = ">" if fields.get("endian") == "big" else "<"
    values = np.frombuffer(raw, order + kinds[fields["type"]]).reshape(sizes[::-1])
    vectors = [[float(n) for n in part.strip("()").split(",")]
               for part in (*fields["space directions"].split(), fields["space origin"])]
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3] = torch.tensor(vectors, dtype=torch.float64).T
    return values.astype(values.dtype.newbyteorder("=")), Grid(affine[None], tuple(values.shape))


def read_lesion(folder: Path, stem: str) -> tuple[Image, Bool[Tensor, "z y x"]]:
    """Image of a case and mask of its largest lesion, the one that is clicked on.

    Raises FormatError where they differ in size.
    """
    values, grid = read_nrrd(folder / f"{stem}_image.nrrd")
    mask, _ = read_nrrd(folder / f"{stem}_label.nrrd")
    if mask.shape != values.shape:
        raise FormatError(f"{stem}: a mask of {mask.shape} voxels", expected=f"{values.shape}, as the image",
                          remedy="take files that belong together")
    data = torch.from_numpy(values.astype(np.float32))[None, None, None]
    return Image(Rows.subjects(1), data, grid), largest_component(torch.from_numpy(mask > 0), full=True)


def clicks(truth: Bool[np.ndarray, "z y x"], spacing_mm: Sequence[float], count: int) -> list[tuple[int, ...]]:
    """Where somebody might click: voxels at least half as deep in the lesion as its deepest, drawn at random."""
    depth = ndimage.distance_transform_edt(truth, sampling=spacing_mm)
    places = np.argwhere(depth >= 0.5 * depth.max())
    return [tuple(p) for p in np.random.default_rng(SEED).permutation(places)[:count].tolist()]


def lesion_methods() -> dict[str, dict[str, Callable[[float], Stage]]]:
    """By method and setting, the stage for a reach in mm."""
    return {"region growing": {f"width {w:g}": partial(_growing, w) for w in (2.0, 2.5, 3.0, 4.0)},
            "random walker": {f"beta {b:g}": partial(_walking, b) for b in (3.0, 10.0, 30.0, 130.0)},
            "watershed": {f"sigma {s:g} px": partial(_flooding, s) for s in (1.0, 2.0, 3.0)},
            "the circle itself": {"": partial(_growing, 1e6)},
            "`segment prompt`, random walker": {"as it is": partial(_prompted, "walker")},
            "`segment prompt`, network (learned)": {"as it is": partial(_prompted, "prompt")}}


def _prompted(model: str, reach_mm: float) -> Stage:
    return SegmentPrompted(method=open_promptable(model, reach_mm=reach_mm), propagate="space")


def _growing(width: float, reach_mm: float) -> Stage:
    return GrowRegion(width=width, reach_mm=reach_mm)


def _walking(beta: float, reach_mm: float) -> Stage:
    return RandomWalk(beta=beta, reach_mm=reach_mm)


def _flooding(sigma_px: float, reach_mm: float) -> Stage:
    return Watershed(sigma_px=sigma_px, reach_mm=reach_mm)


def lesions(cases: Mapping[str, tuple[Image, Tensor]]) -> LesionTable:
    """Dice and HD95 of each case's clicks by method, with the settings that were best on the other case.

    cases: image and mask [z, y, x] by name. With each click comes a circle (a ball, in mm): CIRCLE times as wide as the
    farthest voxel of the lesion asks for, which the user is supposed to draw.
    """
    points = {name: clicks(truth.numpy(), image.grid.spacing_mm[0].tolist(), CLICKS)
              for name, (image, truth) in cases.items()}
    found: LesionTable = {}
    for method, settings in lesion_methods().items():
        masks = {name: {key: [_from_click(make(CIRCLE * farthest_mm(truth, image, place)), image, place)
                              for place in points[name]] for key, make in settings.items()}
                 for name, (image, truth) in cases.items()}
        scores = {name: {key: [float(dice(mask, cases[name][1])) for mask in row] for key, row in rows.items()}
                  for name, rows in masks.items()}
        for name, (image, truth) in cases.items():
            others = [scores[other] for other in cases if other != name]
            best = max(settings, key=lambda key, others=others: np.mean([other[key] for other in others]))
            z, y, x = image.grid.spacing_mm[0].tolist()
            far = [hausdorff95_mm(mask, truth, (z, y, x)) for mask in masks[name][best]]
            found.setdefault(method, {})[name] = (scores[name][best], far, best)
    return found


def farthest_mm(truth: Bool[Tensor, "z y x"], image: Image, place: Sequence[int]) -> float:
    """Distance of the lesion's farthest voxel from a click."""
    away = (truth.nonzero() - torch.tensor(place)) * image.grid.spacing_mm[0]
    return float(away.norm(dim=1).max())


def _from_click(stage: Stage, image: Image, place: Sequence[int]) -> Bool[Tensor, "z y x"]:
    if isinstance(stage, SegmentPrompted):
        with torch.no_grad():
            return stage(image, Prompts.on_grid(image.grid, points=[place[::-1]])).data[0, 0, 1] > 0.5
    index = torch.tensor([[place[::-1]]], dtype=torch.float64)
    made = stage(image, Findings(Rows.subjects(1), image.grid.to_mm(index), torch.ones(1, 1), ("lesion",)))
    return made.data[0, 0, 0] > 0
