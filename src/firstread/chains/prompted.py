"""From what a user points at to a mask: the method that is asked for, as a chain of one stage."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from firstread.analyze.prompted import Propagate, SegmentPrompted
from firstread.analyze.prompting import Promptable
from firstread.analyze.random_walk import RandomWalker
from firstread.analyze.sam import PromptedSam
from firstread.core.prompts import Prompts
from firstread.core.records import Image
from firstread.core.stage import Chain
from firstread.zoo.sam import read_sam


def open_promptable(model: Path | None = None, *, prepared: Literal["auto", "sam", "medsam"] = "auto",
                    reach_mm: float = 50.0) -> Promptable:
    """The method: the random walker where no ``model`` is given, else SAM or MedSAM from a local file or folder.

    prepared: how the network was trained to see images, which no checkpoint tells; ``auto``: ``medsam`` where the name
    of the file says so, else ``sam``. reach_mm: of the random walker, how far from a click the object may reach.
    Raises SettingError for a reach of zero, InputError and FormatError as :func:`~firstread.zoo.sam.read_sam`.
    """
    if model is None:
        return RandomWalker(reach_mm=reach_mm)
    if prepared == "auto":
        prepared = "medsam" if "medsam" in model.name.lower() else "sam"
    return PromptedSam(network=read_sam(model), prepared=prepared)


def prompted_chain(method: Promptable, *, propagate: Propagate = "both") -> Chain:
    """Image and prompts in, labels out."""
    return Chain(SegmentPrompted(method=method, propagate=propagate), inputs={"image": Image, "prompts": Prompts})
