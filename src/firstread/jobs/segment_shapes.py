"""``firstread segment shapes``: a labelled data set in, a point distribution model and new label maps out.

    labels ─▶ points ─▶ mean and modes (shapes.json, modes.png) ─▶ drawn label maps, painted: a data set to train on
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Integer
from torch import Generator, Tensor

from firstread.core.geometry import Grid
from firstread.core.keys import Key
from firstread.core.provenance import versions
from firstread.core.records import HardLabels, Image, Rows
from firstread.io.folder import check_free, new_folder
from firstread.io.nifti import write_image
from firstread.jobs.segment_data import check_named, class_indices, counted, find_data, load_sample
from firstread.jobs.segment_predict import write_values
from firstread.jobs.segment_prepare import fingerprint_of
from firstread.learn.augment import change_brightness
from firstread.learn.planning import plan_for
from firstread.learn.shape_prior import LabelShapes
from firstread.nets.plan import AugmentationPlan, Plan
from firstread.ops.arrange import Arrangement
from firstread.ops.shape_model import ShapeModel

MARKER, SCHEMA = "shapes.json", "firstread.segment-shapes/1"
SCANNER = AugmentationPlan(blur_chance=1.0, blur_voxels=0.8, bias_chance=1.0, noise_chance=1.0, noise_sd=0.1)
Progress = Callable[[str], None]


@dataclass(frozen=True)
class ShapeSettings:
    """draw: new label maps; share: of the variance that the modes hold; limit: of drawn shapes along each mode, in
    standard deviations."""

    draw: int = 20
    share: float = 0.98
    limit: float = 2.0
    seed: int = 0


def shapes_to_folder(source: Path, folder: Path, settings: ShapeSettings | None = None, *, overwrite: bool = False,
                     progress: Progress = lambda text: None) -> dict[str, Any]:
    """Write ``shapes.json``, ``modes.png``, and a data set of drawn label maps with painted images.

    Of slices where the rules' plan is one of slices, else of volumes; at the plan's spacing. Raises InputError where
    fewer than a dozen show every class whole, and what reading the data may raise; whole or not at all.
    """
    settings = settings or ShapeSettings()
    check_free(folder, marker=MARKER, overwrite=overwrite)
    data = find_data(source)
    found = fingerprint_of(data, progress=progress)
    check_named(data, found["each"])
    plan = plan_for(found, ignored_value=data.ignored)
    pixels: list[tuple[float, float, float]] = []

    def maps() -> Iterator[Integer[Tensor, "row *space"]]:
        known = {c.value: index for index, c in enumerate(plan.classes)}
        for sample in data.samples:
            image, values = load_sample(sample)
            arrangement = Arrangement.of(image.grid, spacing_mm=plan.spacing_mm, slices=plan.dims == 2)
            index = class_indices(values, known, plan.ignored_value, sample.name)
            label = arrangement.labels(index, classes=len(plan.classes))
            z, y, x = arrangement.target.spacing_mm[0].tolist()
            pixels.append((z, y, x))
            yield label.flatten(0, 1) if plan.dims == 2 else label

    next(maps())
    pixel = pixels[0]
    progress(f"points of {counted(len(data.samples), 'case')}")
    shapes = LabelShapes.fit(maps(), len(plan.classes), pixel[-plan.dims:], share=settings.share)
    drawn = shapes.draw(settings.draw, Key(settings.seed, "shapes").generator(0), limit=settings.limit)
    model = shapes.model
    unit = "mm" if found["millimetres"] else "voxels"
    warnings = notes_of(model, pixel[-plan.dims:], drawn=settings.draw)
    with new_folder(folder, marker=MARKER, overwrite=overwrite) as work:
        for part in ("images", "labels"):
            (work / part).mkdir()
        _write_drawn(work, drawn, plan, pixel, settings.seed)
        _picture(work / "modes.png", shapes, unit)
        names = {c.name: c.value for c in plan.classes}
        (work / "dataset.json").write_text(json.dumps({"labels": names, "channel_names": {"0": "painted"}}) + "\n",
                                           encoding="utf-8")
        document = {"schema": SCHEMA, "statement": "Research software. Not for clinical use.", "classes": names,
                    "axes": "zyx"[-plan.dims:], "spacing": list(pixel[-plan.dims:]),
                    "unit": unit, "points": len(model.mean), "modes": len(model.variance),
                    "sd": [round(v, 4) for v in model.variance.sqrt().tolist()],
                    "sd_per_point": [round(v, 4) for v in (model.variance / len(model.mean)).sqrt().tolist()],
                    "mean": model.mean.tolist(), "directions": model.modes.tolist(),
                    "drawn": settings.draw, "seed": settings.seed, "warnings": warnings, "versions": versions()}
        (work / MARKER).write_text(json.dumps(document) + "\n", encoding="utf-8")
    return document


def notes_of(model: ShapeModel, pixel: Sequence[float], *, drawn: int = 0) -> list[str]:
    """What to say of a model whose points vary by less than a tenth of a pixel (standard deviation, root mean square
    over points): the labels that it was made of are one shape.

    >>> notes_of(ShapeModel(torch.zeros(9, 2), torch.zeros(1, 9, 2), torch.zeros(1)), (1.5, 1.5))
    ['Nothing varies: the labelled shapes differ by less than a tenth of a pixel per point.']
    """
    if float((model.variance.sum() / len(model.mean)).sqrt()) >= 0.1 * min(pixel):
        return []
    copies = f" All {drawn} label maps drawn are that one shape." if drawn > 1 else ""
    return [f"Nothing varies: the labelled shapes differ by less than a tenth of a pixel per point.{copies}"]


def paint(labels: Integer[Tensor, "*space"], classes: int, generator: Generator) -> Float[Tensor, "*space"]:
    """An image of labels in a contrast of its own (SynthSeg, Billot 2023): a mean and a spread for each class, drawn
    anew, then blur, shading and noise."""
    mean = torch.rand(classes, generator=generator)
    spread = 0.1 * torch.rand(classes, generator=generator)
    index = labels.long()
    made = mean[index] + spread[index] * torch.randn(labels.shape, generator=generator)
    return change_brightness(made[None], SCANNER, generator)[0]


def _write_drawn(work: Path, drawn: Integer[Tensor, "row *space"], plan: Plan, pixel: tuple[float, float, float],
                 seed: int) -> None:
    for number, row in enumerate(drawn):
        label = row.reshape(1, 1, 1, *(1,) * (3 - row.ndim), *row.shape)
        picture = paint(row, len(plan.classes), Key(seed, "shapes.paint").generator(number)).reshape(label.shape)
        grid = Grid.from_spacing((label.shape[3], label.shape[4], label.shape[5]), pixel)
        write_image(work / "images" / f"shape{number:04d}.nii.gz", Image(Rows.subjects(1), picture, grid))
        write_values(work / "labels" / f"shape{number:04d}.nii.gz",
                     HardLabels(Rows.subjects(1), label, grid, plan.names), [c.value for c in plan.classes])


def _picture(path: Path, shapes: LabelShapes, unit: str) -> None:
    """Outlines at -2, 0 and 2 standard deviations of the first modes, of volumes seen along their first axis."""
    from matplotlib.figure import Figure

    model = shapes.model
    count = min(4, len(model.variance))
    figure = Figure(figsize=(3 * count, 3), layout="constrained")
    for mode, axes in enumerate(figure.subplots(1, count, squeeze=False)[0]):
        for deviations, colour in ((-2, "tab:blue"), (0, "black"), (2, "tab:red")):
            weights = torch.zeros(1, len(model.variance))
            weights[0, mode] = deviations * model.variance[mode].sqrt()
            for outline in model.shapes(weights)[0].unflatten(0, (len(shapes.inside), -1)):
                loop = torch.cat((outline[1:], outline[1:2])) if outline.shape[-1] == 2 else outline[1:]
                axes.plot(loop[:, -1], loop[:, -2], "-" if outline.shape[-1] == 2 else ".", color=colour, linewidth=1,
                          markersize=2)
        each = float((model.variance[mode] / len(model.mean)).sqrt())
        axes.set_title(f"mode {mode + 1}: {each:.2g} {unit} per point", fontsize=9)
        axes.set_aspect("equal")
        axes.invert_yaxis()
        axes.axis("off")
    figure.savefig(path, dpi=100)
