"""From what a user points at to a mask: the method that is asked for, as a chain of one stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from firstread.analyze.prompt_channels import CHANNELS
from firstread.analyze.prompt_handover import Handover
from firstread.analyze.prompt_network import PromptedNetwork
from firstread.analyze.prompted import Propagate, SegmentPrompted
from firstread.analyze.prompting import Promptable
from firstread.analyze.random_walk import RandomWalker
from firstread.analyze.sam import PromptedSam
from firstread.core.errors import FormatError, InputError
from firstread.core.prompts import Prompts
from firstread.core.records import Image
from firstread.core.stage import Chain
from firstread.nets.resunet import ResUNet
from firstread.zoo.sam import read_sam
from firstread.zoo.store import load

WALKER, NETWORK = "walker", "prompt"


def open_promptable(model: str | Path | None = None, *, prepared: Literal["auto", "sam", "medsam"] = "auto",
                    reach_mm: float = 50.0, thin: bool = False) -> Promptable:
    """The method: ``walker`` (the random walker), ``prompt`` (the default weight) or another weight of its recipe by
    its .safetensors file, else SAM or MedSAM from a local file or folder. Where nothing is said it is ``prompt``, of
    whose masks in thin slices the walker carries on.

    prepared: how SAM's network was trained to see images, which no checkpoint tells; ``auto``: ``medsam`` where the
    name of the file says so, else ``sam``. reach_mm: of the walker and the network, how far from a click the object may
    reach; thin: whether slices lie near each other (not :func:`~firstread.analyze.register_motion.is_in_plane`).
    Raises SettingError for a reach of zero, InputError and FormatError as :func:`~firstread.zoo.sam.read_sam` and
    :func:`~firstread.zoo.store.load`.
    """
    if model is None and thin:
        return Handover(pointed=open_promptable(NETWORK, reach_mm=reach_mm),
                        carried=open_promptable(WALKER, reach_mm=reach_mm))
    chosen = NETWORK if model is None else str(model)
    if chosen == WALKER:
        return RandomWalker(reach_mm=reach_mm)
    path = Path(chosen)
    if chosen == NETWORK or is_own(path):
        return PromptedNetwork(network=prompt_network(path if path.suffix else chosen), reach_mm=reach_mm)
    if not path.exists():
        raise InputError(f"no weights at {path.name}", expected=f"{WALKER}, {NETWORK}, or a file or folder of "
                         "SAM's kind", remedy="correct --model, or leave it out")
    if path.suffix == ".safetensors" and "head.weight" in _parameters(path):
        raise InputError(f"{path.name}, a network of ours without its card", expected=f"{path.stem}.json of `firstread "
                         "train prompt` beside it", remedy="copy both files")
    if prepared == "auto":
        prepared = "medsam" if "medsam" in path.name.lower() else "sam"
    return PromptedSam(network=read_sam(path), prepared=prepared)


def is_own(path: Path) -> bool:
    """Whether a file is a weight of the recipe ``prompt``: the card beside it says so."""
    beside = path.with_suffix(".json")
    if path.suffix != ".safetensors" or not beside.is_file():
        return False
    try:
        card = json.loads(beside.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(card, dict) and card.get("recipe") == "prompt_network"


def _parameters(path: Path) -> tuple[str, ...]:
    """Names in a .safetensors file; none of a damaged one, which whoever reads it whole will say."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as stored:
            return tuple(stored.keys())
    except (SafetensorError, OSError):
        return ()


def prompt_network(name: str | Path) -> ResUNet:
    """The network of a default weight by name, or of a file with its card beside it; in eval mode.

    Raises InputError for one that is not there, FormatError for weights that are not those of the card.
    """
    stored = load(name)
    try:
        settings = stored.card["network"]
        if settings["channels_in"] != CHANNELS:
            raise ValueError("channels_in")
        widths = tuple(int(width) for width in settings["widths"])
        network = ResUNet(channels_in=CHANNELS, channels_out=2, widths=widths, strides=((2, 2),) * len(widths),
                          blocks=(1,) * len(widths))
        network.load_state_dict(stored.state)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise FormatError(f"{stored.name}.safetensors, weights of another network than its card describes",
                          expected="the weight with its own card", remedy="install it or train it again") from error
    return network.eval()


def prompted_chain(method: Promptable, *, propagate: Propagate = "both") -> Chain:
    """Image and prompts in, labels out."""
    return Chain(SegmentPrompted(method=method, propagate=propagate), inputs={"image": Image, "prompts": Prompts})
