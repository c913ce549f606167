"""simulate, train, zoo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from firstread.cli.options import Out, Overwrite, Seed, say

simulate = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


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
                    coils=coils, snr=snr, seed=seed, overwrite=overwrite, progress=say)


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
    from firstread.learn.device import usable_device
    from firstread.recipes.registry import find, names

    if list_recipes:
        for name in names():
            typer.echo(f"{name:28} {find(name).SUMMARY}")
        return
    if recipe is None or output is None:
        raise InputError("no recipe or no output folder", expected="firstread train RECIPE -o DIR",
                         remedy="see `firstread train --list`")
    found = find(recipe)
    place = usable_device(device)
    output.mkdir(parents=True, exist_ok=True)
    found.train(output, place, steps, data)
    say(f"{output / recipe}.safetensors")


def zoo(name: Annotated[str | None, typer.Argument(help="Show the card of this weight.")] = None) -> None:
    """The default weights and their cards."""
    import json

    from firstread.zoo.store import card, names

    if name is not None:
        typer.echo(json.dumps(card(name), indent=2, ensure_ascii=False))
        return
    for each in names():
        typer.echo(f"{each:28} {card(each).get('summary', '')}")
