"""read, calibrate, demo, advise."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from firstread.cli.options import Out, Overwrite, Seed, Variable, numbers, pairs, say


class Sex(StrEnum):
    F = "F"
    M = "M"


class Phase(StrEnum):
    ED = "ED"
    ES = "ES"


def read(
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="DICOM folder or file, NIfTI, ISMRMRD, fastMRI, BART, "
                                           ".mat, .npy or twix file.")],
    output: Out,
    axes: Annotated[str | None, typer.Option(help="Axes of a .npy or .mat array, such as time,coil,y,x.")] = None,
    variable: Variable = None,
    spacing: Annotated[str | None, typer.Option(help="Voxel spacing z,y,x in mm, where the file has none.")] = None,
    series: Annotated[str | None, typer.Option(help="Which DICOM series (number, UID or description).")] = None,
    phase: Annotated[Phase | None, typer.Option(help="Heart phase of a single frame.", case_sensitive=False)] = None,
    sex: Annotated[Sex | None, typer.Option(help="For the reference ranges, where the file does not say.")] = None,
    height_cm: Annotated[float | None, typer.Option(min=30, max=260)] = None,
    weight_kg: Annotated[float | None, typer.Option(min=1, max=500)] = None,
    weights: Annotated[str | None, typer.Option(help="Segmentation weights: a name from `firstread zoo`, or a "
                                                "file.")] = None,
    model: Annotated[Path | None, typer.Option(help="Your own segmentation in the place of the default one: nnU-Net "
                                               "folder, MONAI bundle, TorchScript, ONNX, or of `segment train`.")] =
        None,
    classes: Annotated[str | None, typer.Option(help="Which of the model's classes are which, such as "
                                                "LV=1,MYO=2,RV=3, where their names do not say so.")] = None,
    calibration: Annotated[Path | None, typer.Option(help="Intervals calibrated on your own cases, in the "
                                                     "place of the stored ones: a file of `firstread "
                                                     "calibrate`.")] = None,
    group: Annotated[str | None, typer.Option(help="Which group of the calibration this case belongs to, where it has "
                                              "several.")] = None,
    truth: Annotated[Path | None, typer.Option(help="Folder of `firstread simulate` with the known truth.")] = None,
    adapt: Annotated[int, typer.Option(min=0, help="Most steps in which the reconstruction of raw signal is fitted to "
                                       "this scan; undone where held-out lines say that it does not help.")] = 0,
    draws: Annotated[int, typer.Option(min=0, help="Of raw signal, so many images that fit the measured lines are "
                                       "measured too (posterior draws): what the missing lines leave open. 2 or more; "
                                       "slow.")] = 0,
    identify: Annotated[bool, typer.Option("--identify", help="Put the patient's name into the result.")] = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Read a heart: images or raw data in; page, JSON, contours and DICOM SEG out."""
    from firstread.read import Settings, read_to_folder

    settings = Settings(axes=axes, variable=variable, spacing_mm=numbers(spacing), series=series,
                        phase=phase.value if phase else None,
                        sex=sex.value if sex else None, height_cm=height_cm, weight_kg=weight_kg, weights=weights,
                        model=model, classes=pairs(classes, "--classes"), calibration=calibration, group=group,
                        truth=truth, identify=identify, adapt=adapt, draws=draws, seed=seed)
    reading = read_to_folder(source, output, settings, overwrite=overwrite, progress=say)
    say(f"{output / 'reading.html'}  ({reading.seconds:.0f} s)")


def calibrate(
    readings: Annotated[Path, typer.Argument(metavar="READINGS", help="Folder with a reading of each subject: SUBJECT/"
                                             "reading.json.")],
    truths: Annotated[Path, typer.Argument(metavar="TRUTHS.csv", help="A reader's numbers: the column subject, and "
                                           "LVEF, LVEDV … as the readings call them.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The calibration, for `read --calibration`.")],
    level: Annotated[float, typer.Option(help="Nominal share of true values inside; 0.9 needs 19 cases.")] = 0.9,
    by: Annotated[str | None, typer.Option(help="Column of groups (scanner, site) that are calibrated each by "
                                           "itself.")] = None,
    about: Annotated[str | None, typer.Option(help="What the cases are, in words; stands in every interval.")] = None,
    trained_on: Annotated[Path | None, typer.Option(help="Scans that trained your model, or a .txt of their "
                                                    "fingerprints: none may calibrate it.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Calibrate intervals on your own scans: their readings and a reader's numbers in, a file for `read` out."""
    from firstread.jobs.calibrate import Wish, calibrate_to_file

    calibrate_to_file(readings, truths, output, Wish(level, by, about, trained_on), overwrite=overwrite, progress=say)
    say(f"{output}: use it with `firstread read --calibration`")


def demo(output: Out = Path("reading"), seed: Seed = 0, overwrite: Overwrite = False) -> None:
    """Simulate the raw signal of a beating heart (8 coils, 6-fold undersampled) and read it."""
    from firstread.read import demonstrate

    reading = demonstrate(output, seed=seed, overwrite=overwrite, progress=say)
    say(f"{output / 'reading.html'}  (reading took {reading.seconds:.0f} s)")


def advise(
    reading: Annotated[Path, typer.Argument(metavar="READING", help="Folder of `firstread read`.")],
    source: Annotated[Path | None, typer.Option("--input", help="What was read; the reading keeps its hash "
                                                "alone.")] = None,
    output: Out = Path("advice"),
    endpoint: Annotated[str, typer.Option(help="LVEF, LVEDV or LVESV.")] = "LVEF",
    draws: Annotated[int, typer.Option(help="Draws of the measurement noise.")] = 4,
    lines: Annotated[int, typer.Option(help="How many lines more in every frame.")] = 4,
    axes: Annotated[str | None, typer.Option(help="As for `read`.")] = None,
    spacing: Annotated[str | None, typer.Option(help="As for `read`.")] = None,
    series: Annotated[str | None, typer.Option(help="As for `read`.")] = None,
    weights: Annotated[str | None, typer.Option(help="As for `read`.")] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Say which stage an interval comes from, and which lines, slices and frames to acquire next."""
    from firstread.advise import Question, advise_to_folder
    from firstread.read import Settings

    settings = Settings(axes=axes, spacing_mm=numbers(spacing), series=series, weights=weights, seed=seed)
    advice = advise_to_folder(reading, output, source, Question(endpoint, draws, lines), settings, overwrite=overwrite,
                              progress=say)
    typer.echo(advice.text)
