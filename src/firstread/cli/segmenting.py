"""segment train, predict, prompt, plan, shapes, evaluate."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from firstread.cli.allocator import give_back_freed_memory
from firstread.cli.options import Out, Overwrite, Seed, numbers, say

segment = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@segment.callback()
def segmenting() -> None:
    """Train a segmentation on your images, and use it."""


@segment.command("train")
def segment_train(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder with images/ and labels/, nnU-Net's raw layout, "
                                         "or a .csv with the columns image, label, patient, annotated.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the model.")],
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps of each fold; default: the plan's.")] = None,
    folds: Annotated[int | None, typer.Option(min=0, help="Folds by patient; 0: one network on everything, nothing "
                                              "validated.")] = None,
    plan: Annotated[Path | None, typer.Option(help="Plan to use; default: the one in the model's folder, else made by "
                                              "rules.")] = None,
    only_plan: Annotated[bool, typer.Option("--only-plan", help="Write fingerprint.json and plan.json, and stop.")] =
        False,
    start: Annotated[str | None, typer.Option(help="Weights to begin from: a name of `firstread zoo`, a "
                                              ".safetensors file, or self: learned first from the same images "
                                              "without their labels.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 …")] = "cpu",
    workers: Annotated[int, typer.Option(min=0, help="Processes that make patches ahead.")] = 0,
    seed: Annotated[int | None, typer.Option(help="What all random draws come from; default: the plan's.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin anew in a folder that holds a model; "
                                          "its plan.json stays.")] = False,
) -> None:
    """Images and labels in, a validated model out; interrupted, the same command goes on."""
    from firstread.jobs.segment_train import TrainSettings, train_segmenter
    from firstread.learn.device import usable_device

    settings = TrainSettings(steps=steps, folds=folds, seed=seed, plan=plan, only_plan=only_plan, start=start,
                             device=usable_device(device), workers=workers)
    made = train_segmenter(data, output, settings, overwrite=overwrite, progress=say)
    if only_plan:
        say(f"{output / 'plan.json'}: {made['mode']}, {made['network']['kind']}; edit it, then run without --only-plan")
        return
    for name, found in (made["validation"] or {}).items():
        say(f"{name:24} {_dice(found)}")
    say(f"{output / 'page.html'}  ({made['seconds']:.0f} s)")


@segment.command("predict")
def segment_predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of `segment train`, a default weight by "
                                          "name or file, or another's model: nnU-Net folder, MONAI bundle, "
                                          "TorchScript, ONNX.")],
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="NIfTI files or folders of them, DICOM "
                                                "folders …; several channels of one image joined by commas.")],
    output: Out,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Write probabilities of each class.")] = False,
    seg: Annotated[bool, typer.Option("--seg", help="Write DICOM SEG too, for DICOM input.")] = False,
    spacing: Annotated[str | None, typer.Option(help="Voxel spacing z,y,x in mm, where the files have none.")] = None,
    memory: Annotated[float | None, typer.Option(min=0.001, help="GiB that segmenting an image may take beyond it and "
                                                 "the model: windows are chosen to stay under it.")] = None,
    series: Annotated[str | None, typer.Option(help="Which DICOM series: number, UID or description.")] = None,
    no_mirror: Annotated[bool, typer.Option("--no-mirror", help="Another program's model: without the flipped copies "
                                            "that it averages. Faster, and not as it was trained.")] = False,
    bfloat16: Annotated[bool, typer.Option("--bfloat16", help="Networks compute in bfloat16: faster on processors that "
                                           "know it, and borders may differ by a voxel here and there.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on in an output folder that was interrupted, or where "
                                         "images failed: what is finished there is kept.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Labels on the images' own grids: NAME.nii.gz for each image, and segmentation.json."""
    from firstread.jobs.segment_predict import PredictSettings, predict_to_folder

    settings = PredictSettings(probabilities=probabilities, seg=seg, spacing_mm=numbers(spacing), memory_gib=memory,
                               series=series, mirror=not no_mirror, bfloat16=bfloat16)
    if memory is not None:
        give_back_freed_memory()
    made = predict_to_folder(model, [[Path(part) for part in image.split(",")] for image in images], output, settings,
                             overwrite=overwrite, resume=resume, progress=say)
    left = f", {len(made['failed'])} that failed before not tried again" if made["failed"] else ""
    say(f"{output}: {len(made['images'])} segmented{left}")


@segment.command("prompt")
def segment_prompt(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="NIfTI, DICOM file or folder, PNG …; a volume, a slice "
                                          "or a cine.")],
    output: Out,
    point: Annotated[list[str] | None, typer.Option(metavar="X,Y,Z[:+|-]", help="A point on the object, or with :- one "
                                                    "that is none of it; again for more.")] = None,
    box: Annotated[list[str] | None, typer.Option(metavar="X0,Y0,Z0,X1,Y1,Z1", help="A box about the object; over "
                                                  "several slices it bounds it.")] = None,
    voxels: Annotated[bool, typer.Option("--voxels", help="Prompts are voxel indices from 0, not RAS millimetres as "
                                         "viewers show; of one slice X,Y is enough.")] = False,
    frame: Annotated[int, typer.Option(min=0, help="The frame of a cine that is meant, from 0.")] = 0,
    name: Annotated[str, typer.Option(help="Of the object, such as liver.")] = "object",
    propagate: Annotated[Literal["both", "space", "time", "none"], typer.Option(
        help="Carry the mask on through slices, frames, both or none.")] = "both",
    model: Annotated[str | None, typer.Option(help="prompt (a network trained on simulated scenes), walker (a "
                                              "random walker, nothing learned), or weights of SAM or MedSAM: .pth, "
                                              ".safetensors or a Hugging Face folder; default: prompt, which walker "
                                              "carries on through thin slices.")] = None,
    prepared: Annotated[Literal["auto", "sam", "medsam"], typer.Option(
        help="How SAM's weights were trained to see images; auto: by the file's name.")] = "auto",
    reach: Annotated[float, typer.Option(help="But for SAM: how far in mm from a click the object may reach in "
                                         "its slice.")] = 50.0,
    spacing: Annotated[str | None, typer.Option(help="Voxel spacing z,y,x in mm, where the file has none.")] = None,
    series: Annotated[str | None, typer.Option(help="Which DICOM series: number, UID or description.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """A mask of what you point at, with points or a box, carried on through the volume or the cine."""
    from firstread.jobs.segment_prompt import PromptSettings, parse_box, parse_point, prompt_to_folder

    points = [parse_point(text) for text in point or ()]
    settings = PromptSettings(
        points=tuple(p for p, _ in points), positive=tuple(sign for _, sign in points),
        boxes=tuple(parse_box(text) for text in box or ()), voxels=voxels, frame=frame, name=name, propagate=propagate,
        prepared=prepared, reach_mm=reach, spacing_mm=numbers(spacing), series=series)
    made = prompt_to_folder(image, output, settings, model=model, overwrite=overwrite, progress=say)
    slices, volume = len(made["slices"][frame]), f"{made['volume_ml'][frame]:g} mL, " if made["volume_ml"] else ""
    say(f"{name}: {volume}{made['voxels'][frame]} voxels in {slices} slice{'s' * (slices != 1)}")
    say(f"{output / 'page.html'}  ({made['seconds']:.0f} s)")


@segment.command("plan")
def segment_plan(
    one: Annotated[Path, typer.Argument(metavar="A.json", help="A plan.")],
    other: Annotated[Path, typer.Argument(metavar="B.json", help="Another.")],
) -> None:
    """What differs between two plans, a line each."""
    from firstread.nets.plan_file import plan_difference, read_plan

    lines = plan_difference(read_plan(one), read_plan(other))
    typer.echo("\n".join(lines) if lines else "The plans are the same.")


@segment.command("shapes")
def segment_shapes(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Images with labels, as for `segment train`.")],
    output: Out,
    draw: Annotated[int, typer.Option(min=0, help="How many new label maps to draw.")] = 20,
    share: Annotated[float, typer.Option(min=0.01, max=1.0, help="Of the variance that the modes hold.")] = 0.98,
    limit: Annotated[float, typer.Option(min=0.0, help="How far drawn shapes may go along each mode, in standard "
                                         "deviations.")] = 2.0,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """How the labelled shapes vary (a point distribution model), and new label maps with painted images."""
    from firstread.jobs.segment_shapes import ShapeSettings, shapes_to_folder

    made = shapes_to_folder(data, output, ShapeSettings(draw=draw, share=share, limit=limit, seed=seed),
                            overwrite=overwrite, progress=say)
    for note in made["warnings"]:
        say(note)
    count, sizes = made["modes"], ", ".join(f"{v:.2g}" for v in made["sd_per_point"][:5])
    modes = f"{count} mode{'s' * (count != 1)}, {'the first ' * (count > 5)}of {sizes} {made['unit']} per point " \
        "(standard deviation, root mean square over points)"
    say(f"{output}: {'one shape' if made['warnings'] else modes}"
        + (f"; {draw} label map{'s' * (draw != 1)} drawn, to train on: firstread segment train {output} -o MODEL"
           if draw else ""))


@segment.command("evaluate")
def segment_evaluate(
    predictions: Annotated[Path, typer.Argument(metavar="PREDICTIONS", help="Predicted labels: a file, or a folder.")],
    truths: Annotated[Path, typer.Argument(metavar="TRUTHS", help="True labels: a file, or a folder with files of the "
                                           "same names.")],
    output: Out,
    labels: Annotated[str | None, typer.Option(help="Names of the label values: liver,tumour for 1 and 2, or a JSON "
                                               "file.")] = None,
    against: Annotated[Path | None, typer.Option(help="Other predictions, compared in pairs.")] = None,
    tolerance_mm: Annotated[float, typer.Option(min=0, help="Of the normalized surface Dice.")] = 1.0,
    hd95: Annotated[Literal["largest", "pooled", "area-weighted"], typer.Option(
        help="Definition of HD95: the larger of both directions' percentiles, one of both together, or by "
        "area.")] = "largest",
    cldice: Annotated[bool, typer.Option("--cldice", help="Measure clDice, for vessels and other tubes.")] = False,
    lesions: Annotated[bool, typer.Option("--lesions", help="Count lesions found, missed and added.")] = False,
    minimum_iou: Annotated[float, typer.Option(min=0, max=0.99, help="Intersection over union above which a lesion is "
                                               "found.")] = 0.0,
    both_empty: Annotated[Literal["absent", "agree"], typer.Option(help="A label that neither has: no number, or full "
                                                                   "agreement.")] = "absent",
    one_empty: Annotated[Literal["worst", "absent"], typer.Option(help="Distances of a label that only one has: the "
                                                                  "image's diagonal, or none.")] = "worst",
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Predicted beside true labels: metrics.csv, metrics.json and a page with the worst cases first."""
    from firstread.jobs.segment_evaluate import EvaluateSettings, evaluate_to_folder
    from firstread.trust.segmentation import ScoreSettings

    scores = ScoreSettings(tolerance_mm=tolerance_mm, definition=hd95, minimum_iou=minimum_iou, cldice=cldice,
                           lesions=lesions, both_empty=both_empty, one_empty=one_empty)
    settings = EvaluateSettings(labels=labels, against=against, scores=scores, seed=seed)
    made = evaluate_to_folder(predictions, truths, output, settings, overwrite=overwrite, progress=say)
    for note in made["warnings"]:
        say(note)
    for label in made["labels"]:
        say(f"{label['name']:24} {_dice(label['summary']['dice'])}")
    for label in made["comparison"]["labels"] if made["comparison"] else ():
        found = label["difference"]["dice"]
        known = found["mean"] is not None
        say(f"{label['name']:24} Dice against {against.name if against else ''}: "
            + (f"{found['mean']:+} [{found['lower']}, {found['upper']}], " if known else "") + found["verdict"])
    say(f"{output / 'page.html'}  ({made['seconds']:.0f} s)")


def _dice(found: Mapping[str, Any]) -> str:
    """A mean with its interval; without one, why.

    >>> _dice({"mean": 0.8, "lower": 0.7, "upper": 0.9, "reason": ""})
    'Dice 0.8 [0.7, 0.9]'
    >>> _dice({"mean": None, "lower": None, "upper": None, "reason": "in no case"})
    'no Dice: in no case'
    """
    if found["mean"] is None:
        return f"no Dice: {found['reason']}"
    interval = "" if found["lower"] is None else f" [{found['lower']}, {found['upper']}]"
    return f"Dice {found['mean']}{interval}" + (f" ({found['reason']})" if found["reason"] else "")
