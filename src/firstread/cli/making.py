"""train, zoo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from firstread.cli.options import say


def train(
    recipe: Annotated[str | None, typer.Argument(help="Name of the recipe.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for checkpoints, weight and "
                                                "card.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 …")] = "cpu",
    steps: Annotated[int | None, typer.Option(min=1, help="Fewer or more steps than the recipe's own.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the real data that the recipe mixes in.")] = None,
    list_recipes: Annotated[bool, typer.Option("--list", help="Show the recipes, and which have a weight "
                                      "here.")] = False,
) -> None:
    """Train a default weight again; interrupted, the same command continues."""
    from firstread.core.errors import InputError
    from firstread.learn.device import usable_device
    from firstread.recipes.registry import find, names
    from firstread.zoo.store import names as weights

    if list_recipes:
        shipped = weights()
        for name in names():
            typer.echo(f"{name:28} {find(name).SUMMARY}{'  [weight shipped]' if name in shipped else ''}")
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
