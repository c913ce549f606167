"""What verbs share: options, and how they speak."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Out = Annotated[Path, typer.Option("-o", "--output", help="Folder for the result; appears when it is complete.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier result in the output folder.")]
Variable = Annotated[str | None, typer.Option(help="Which array of a .mat file with several.")]
Seed = Annotated[int, typer.Option(help="What all random draws come from.")]


def numbers(text: str | None) -> tuple[float, float, float] | None:
    """Three numbers z,y,x of an option; None for None."""
    from firstread.core.errors import InputError

    if text is None:
        return None
    try:
        z, y, x = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--spacing {text!r}", expected="three numbers z,y,x in mm",
                         remedy="write it as --spacing 8,1.5,1.5") from None
    return z, y, x


def sizes(text: str | None) -> tuple[int, ...] | None:
    """Whole numbers of an option, such as y,x; None for None."""
    from firstread.core.errors import InputError

    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--matrix {text!r}", expected="whole numbers y,x or z,y,x",
                         remedy="write it as --matrix 256,256") from None


def pairs(text: str | None, option: str) -> dict[str, str] | None:
    """``A=1,B=2`` of an option; None for None."""
    from firstread.core.errors import InputError

    if text is None:
        return None
    found = [part.split("=") for part in text.split(",")]
    if any(len(part) != 2 or not all(side.strip() for side in part) for part in found):
        raise InputError(f"{option} {text!r}", expected="names and values joined by =",
                         remedy=f"write it as {option} LV=1,MYO=2,RV=3")
    return {name.strip(): value.strip() for name, value in found}


def say(text: str) -> None:
    """Progress, on stderr."""
    typer.echo(text, err=True)
