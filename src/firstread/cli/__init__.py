"""The command line: verbs, thin, a file for each group. Every mistake of a user is one sentence and exit code 2;
Ctrl-C is one sentence and exit code 130."""

from __future__ import annotations

import sys
from typing import NoReturn

import typer
import typer.core

from firstread.cli.allocator import keep_freed_memory
from firstread.cli.making import train, zoo
from firstread.cli.reading import advise, calibrate, demo, read
from firstread.cli.reconstruction import evidence, reconstruct
from firstread.cli.registering import register, template, track, warp
from firstread.cli.restoring import restore
from firstread.cli.segmenting import segment
from firstread.cli.simulating import simulate

typer.core.HAS_RICH = False  # some versions write "\[required]", meant for Rich, into plain help
app = typer.Typer(name="firstread", add_completion=False, no_args_is_help=True, rich_markup_mode=None,
                  help="Raw scanner signal or medical images in, a reading out. Not for clinical use.")
for verb in (read, reconstruct, register, warp, track, template, demo, train, advise, calibrate, zoo):
    app.command()(verb)
app.add_typer(simulate, name="simulate", help="Make raw data with known truth.")
app.add_typer(evidence, name="evidence", help="Published tables with this program's rows, for whoever has the data.")
app.add_typer(restore, name="restore", help="Make a better image of images.")
app.add_typer(segment, name="segment", help="Train a segmentation on your images, and use it.")
INTERRUPTED = 130  # what typer answers to Ctrl-C


def main() -> None:
    """Entry point: run, and turn every user's mistake into one sentence and exit code 2, Ctrl-C into one and 130."""
    from firstread.core.errors import FirstreadError

    keep_freed_memory()
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
        _fail(_interrupted(sys.argv[1:]), INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


def _interrupted(arguments: list[str]) -> str:
    """What is left when Ctrl-C ends a command: of a training what it learned, of all else nothing.

    >>> _interrupted(["segment", "train", "data", "-o", "model"])
    'Interrupted: what was done is kept in the output folder. The same command goes on.'
    """
    if arguments[:1] == ["train"] or arguments[:2] == ["segment", "train"]:
        return "Interrupted: what was done is kept in the output folder. The same command goes on."
    if arguments[:2] == ["segment", "predict"]:
        return "Interrupted: images that were finished are kept in the output folder. Add --resume to go on."
    return "Interrupted: nothing half-written is left. Run the same command again."


def _fail(text: str, code: int = 2) -> NoReturn:
    typer.echo(f"firstread: {text}", err=True)
    sys.exit(code)
