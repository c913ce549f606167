"""The command line: verbs, thin. Every mistake of a user is one sentence and exit code 2."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer

app = typer.Typer(name="firstread", add_completion=False, no_args_is_help=True, rich_markup_mode=None,
                  help="Raw scanner signal or medical images in, a reading out. Not for clinical use.")

Out = Annotated[Path, typer.Option("-o", "--output", help="Folder for the result; appears when it is complete.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier result in the output folder.")]
INTERRUPTED = 130  # what typer answers to Ctrl-C
Variable = Annotated[str | None, typer.Option(help="Which array of a .mat file with several.")]
Seed = Annotated[int, typer.Option(help="What all random draws come from.")]


class Sex(StrEnum):
    F = "F"
    M = "M"


class Phase(StrEnum):
    ED = "ED"
    ES = "ES"


@app.command()
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
    truth: Annotated[Path | None, typer.Option(help="Folder of `firstread simulate` with the known truth.")] = None,
    identify: Annotated[bool, typer.Option("--identify", help="Put the patient's name into the result.")] = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Read a heart: images or raw data in; page, JSON, contours and DICOM SEG out."""
    from firstread.read import Settings, read_to_folder

    settings = Settings(axes=axes, variable=variable, spacing_mm=_numbers(spacing), series=series,
                        phase=phase.value if phase else None,
                        sex=sex.value if sex else None, height_cm=height_cm, weight_kg=weight_kg, weights=weights,
                        truth=truth, identify=identify, seed=seed)
    reading = read_to_folder(source, output, settings, overwrite=overwrite, progress=_say)
    _say(f"{output / 'reading.html'}  ({reading.seconds:.0f} s)")


@app.command()
def reconstruct(
    source: Annotated[Path | None, typer.Argument(metavar="INPUT", help="ISMRMRD, fastMRI, BART, .mat, .npy or Siemens "
                                                  "twix file.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for the result.")] = None,
    method: Annotated[str, typer.Option(help="A name of --list-methods.")] = "cs",
    regularization: Annotated[float | None, typer.Option(help="Absent: the method's default.")] = None,
    axes: Annotated[str | None, typer.Option(help="Axes of a .npy or .mat array, such as coil,y,x.")] = None,
    variable: Variable = None,
    spacing: Annotated[str | None, typer.Option(help="Voxel spacing z,y,x in mm, where the file has none.")] = None,
    complex_parts: Annotated[bool, typer.Option("--complex", help="Write real and imaginary part too.")] = False,
    identify: Annotated[bool, typer.Option("--identify", help="Keep the patient's name in DICOM.")] = False,
    list_methods: Annotated[bool, typer.Option("--list-methods", help="Show the methods.")] = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Reconstruct raw data: image.nii.gz, a page and, where the header allows it, DICOM MR."""
    from firstread.core.errors import InputError

    if list_methods:
        from firstread.chains.reconstruct import methods_table

        typer.echo(methods_table())
        return
    if source is None or output is None:
        raise InputError("no input or no output folder", expected="firstread reconstruct INPUT -o DIR",
                         remedy="see `firstread reconstruct --help`")
    from firstread.jobs.reconstruct import Settings, reconstruct_to_folder

    settings = Settings(method=method, regularization=regularization, axes=axes, variable=variable,
                        spacing_mm=_numbers(spacing), complex_parts=complex_parts, identify=identify, seed=seed)
    made = reconstruct_to_folder(source, output, settings, overwrite=overwrite, progress=_say)
    _say(f"{output / 'page.html'}  ({made.seconds:.1f} s)")


@app.command()
def demo(output: Out = Path("reading"), seed: Seed = 0, overwrite: Overwrite = False) -> None:
    """Simulate the raw signal of a beating heart (8 coils, 6-fold undersampled) and read it."""
    from firstread.read import demonstrate

    reading = demonstrate(output, seed=seed, overwrite=overwrite, progress=_say)
    _say(f"{output / 'reading.html'}  (reading took {reading.seconds:.0f} s)")


simulate = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(simulate, name="simulate", help="Make raw data with known truth.")


@simulate.command("heart")
def simulate_heart(
    output: Out,
    subjects: Annotated[int, typer.Option(min=1)] = 1,
    family: Annotated[str, typer.Option(help="train, calibration or test: disjoint subjects; test differs in "
                                        "shape.")] = "test",
    pathology: Annotated[str | None, typer.Option(help="normal, dilated, hypertrophic, infarct, rv_disease; default: "
                                                  "mixed.")] = None,
    acceleration: Annotated[float, typer.Option(min=1)] = 6.0,
    coils: Annotated[int, typer.Option(min=1)] = 8,
    snr: Annotated[float, typer.Option(min=0.1, help="Signal of blood over noise, per coil-combined pixel.")] = 30.0,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Phantom subjects: ISMRMRD k-space, NIfTI truth and truth.json, a folder each."""
    from firstread.simulate import simulate_hearts

    simulate_hearts(output, subjects=subjects, family=family, pathology=pathology, acceleration=acceleration,
                    coils=coils, snr=snr, seed=seed, overwrite=overwrite, progress=_say)


@app.command()
def train(
    recipe: Annotated[str | None, typer.Argument(help="Name of the recipe.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for checkpoints, weight and "
                                                "card.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 …")] = "cpu",
    steps: Annotated[int | None, typer.Option(min=1, help="Fewer or more steps than the recipe's own.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the real data that the recipe mixes in.")] = None,
    list_recipes: Annotated[bool, typer.Option("--list", help="Show the recipes.")] = False,
) -> None:
    """Train a default weight again; interrupted, the same command continues."""
    from firstread.core.errors import InputError
    from firstread.recipes.registry import find, names

    if list_recipes:
        for name in names():
            typer.echo(f"{name:28} {find(name).SUMMARY}")
        return
    if recipe is None or output is None:
        raise InputError("no recipe or no output folder", expected="firstread train RECIPE -o DIR",
                         remedy="see `firstread train --list`")
    found = find(recipe)
    output.mkdir(parents=True, exist_ok=True)
    found.train(output, device, steps, data)
    _say(f"{output / recipe}.safetensors")


@app.command()
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

    settings = Settings(axes=axes, spacing_mm=_numbers(spacing), series=series, weights=weights, seed=seed)
    advice = advise_to_folder(reading, output, source, Question(endpoint, draws, lines), settings, overwrite=overwrite,
                              progress=_say)
    typer.echo(advice.text)


@app.command()
def zoo(name: Annotated[str | None, typer.Argument(help="Show the card of this weight.")] = None) -> None:
    """The default weights and their cards."""
    import json

    from firstread.zoo.store import card, names

    if name is not None:
        typer.echo(json.dumps(card(name), indent=2, ensure_ascii=False))
        return
    for each in names():
        typer.echo(f"{each:28} {card(each).get('summary', '')}")


def _numbers(text: str | None) -> tuple[float, float, float] | None:
    from firstread.core.errors import InputError

    if text is None:
        return None
    try:
        z, y, x = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--spacing {text!r}", expected="three numbers z,y,x in mm",
                         remedy="write it as --spacing 8,1.5,1.5") from None
    return z, y, x


def _say(text: str) -> None:
    typer.echo(text, err=True)


def main() -> None:
    """Entry point: run, and turn every user's mistake into one sentence and exit code 2."""
    from firstread.core.errors import FirstreadError

    try:
        code = app(standalone_mode=False)
    except FirstreadError as error:
        _fail(str(error))
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        shown = getattr(error, "format_message", None)  # a usage error of the command line
        if shown is None:
            raise
        _fail(shown())
    if code == INTERRUPTED:
        _fail("Interrupted: no result was written; run the same command again.")
    sys.exit(code if isinstance(code, int) else 0)


def _fail(text: str) -> NoReturn:
    typer.echo(f"firstread: {text}", err=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
