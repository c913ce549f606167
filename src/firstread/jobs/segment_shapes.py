"""``firstread segment shapes``: a labelled data set in, a point distribution model and new label maps out.

    labels ─▶ points ─▶ mean and modes (shapes.json, modes.png) ─▶ drawn label maps, painted: a data set to train on
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
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
from firstread.jobs.segment_data import class_indices, find_data, load_sample
from firstread.jobs.segment_predict import write_values
from firstread.jobs.segment_prepare import fingerprint_of
from firstread.learn.augment import change_brightness
from firstread.learn.planning import plan_for
from firstread.learn.shape_prior import LabelShapes
from firstread.nets.plan import AugmentationPlan, Plan
from firstread.ops.arrange import Arrangement

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
    plan = plan_for(fingerprint_of(data, progress=progress), ignored_value=data.ignored)
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
    progress(f"points of {len(data.samples)} cases")
    shapes = LabelShapes.fit(maps(), len(plan.classes), pixel[-plan.dims:], share=settings.share)
    drawn = shapes.draw(settings.draw, Key(settings.seed, "shapes").generator(0), limit=settings.limit)
    model = shapes.model
    with new_folder(folder, marker=MARKER, overwrite=overwrite) as work:
        for part in ("images", "labels"):
            (work / part).mkdir()
        _write_drawn(work, drawn, plan, pixel, settings.seed)
        _picture(work / "modes.png", shapes)
        names = {c.name: c.value for c in plan.classes}
        (work / "dataset.json").write_text(json.dumps({"labels": names, "channel_names": {"0": "painted"}}) + "\n",
                                           encoding="utf-8")
        document = {"schema": SCHEMA, "statement": "Research software. Not for clinical use.", "classes": names,
                    "axes": "zyx"[-plan.dims:], "spacing": list(pixel[-plan.dims:]),
                    "points": len(model.mean), "modes": len(model.variance),
                    "sd": [round(v, 4) for v in model.variance.sqrt().tolist()],
                    "sd_per_point": [round(v, 4) for v in (model.variance / len(model.mean)).sqrt().tolist()],
                    "mean": model.mean.tolist(), "directions": model.modes.tolist(),
                    "drawn": settings.draw, "seed": settings.seed, "versions": versions()}
        (work / MARKER).write_text(json.dumps(document) + "\n", encoding="utf-8")
    return document


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


def _picture(path: Path, shapes: LabelShapes) -> None:
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
        axes.set_title(f"mode {mode + 1}: {each:.2g} per point", fontsize=9)
        axes.set_aspect("equal")
        axes.invert_yaxis()
        axes.axis("off")
    figure.savefig(path, dpi=100)
