"""A model that ``firstread segment train`` made, or a default weight that carries a plan, as a stage.

    MODEL/plan.json, fold_K.safetensors (or fold_all), card.json
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from firstread.analyze.segment import Segment
from firstread.analyze.trained import SegmentByPlan
from firstread.core.errors import FormatError, InputError
from firstread.core.provenance import weights_hash
from firstread.nets.build import build_network
from firstread.nets.plan import Plan
from firstread.nets.plan_file import plan_from, read_plan
from firstread.nets.unet import UNet
from firstread.zoo.store import Weight, load, names
from firstread.zoo.store import card as stored_card

CARD = "card.json"
PLAN = "plan.json"
SCHEMA = "firstread.segment-model/1"


def is_trained(folder: Path) -> bool:
    """Whether a folder is one that ``firstread segment train`` began or finished."""
    return (folder / PLAN).is_file()


def card_of(folder: Path) -> dict[str, Any]:
    """The card of a finished model.

    Raises InputError where training has not ended, FormatError for another version.
    """
    if not (folder / CARD).is_file():
        raise InputError(f"{folder.name or folder}, a model whose training has not ended" if is_trained(folder) else
                         f"no model in {folder.name or folder}", expected=f"a folder with {CARD}",
                         remedy="run `firstread segment train` to its end")
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        if card["schema"] != SCHEMA:
            raise ValueError(card["schema"])
        list(card["networks"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{CARD} of another form ({error})", expected=SCHEMA,
                          remedy="train with this version") from error
    return card


def trained_network(plan: Plan, weights: Path) -> nn.Module:
    """One network of a plan with its weights. Raises FormatError for weights that are damaged or of another plan."""
    network = build_network(plan)
    try:
        network.load_state_dict(load(weights).state)
    except RuntimeError as error:
        raise FormatError(f"{weights.name}, weights of another network than {PLAN} describes", expected="the plan that "
                          "they were trained with", remedy=f"restore {PLAN}, or train again") from error
    return network.eval()


def segmenting_weights() -> list[str]:
    """The default weights that make labels of an image by themselves: those with a plan, and the heart's ensembles."""
    return [name for name in names() if {"plan", "members"} & stored_card(name).keys()]


def networks_of(weight: Weight) -> list[UNet]:
    """The members of an ensemble: parameters named ``member0.…``, ``member1.…``, or the one ``segmenter.…`` that was
    trained with a reconstruction; the card's ``network`` is the U-Net's settings.

    Raises FormatError for a weight that is no ensemble of U-Nets.
    """
    prefixes = sorted({name.split(".")[0] for name in weight.state} - {"mask", "cascade"})
    try:
        settings = weight.card["network"]
        networks = [UNet(channels_in=settings["channels_in"], channels_out=settings["channels_out"],
                         widths=tuple(settings["widths"])) for _ in prefixes]
        for network, prefix in zip(networks, prefixes, strict=True):
            network.load_state_dict(weight.part(prefix))
    except (KeyError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise FormatError(f"weight {weight.name!r} ({reason})", expected="members of the U-Net that the card describes",
                          remedy="check --weights") from error
    return [network.eval().to(memory_format=torch.channels_last) for network in networks]


def open_weight(name: str | Path, *, members: bool = False) -> SegmentByPlan | Segment:
    """The stage of a default weight by its name, or of one's own by its ``.safetensors`` file with the card beside it.

    members: a row of labels for each network of an ensemble instead of their mean. Raises InputError for a weight that
    is not there or makes no labels, FormatError for a damaged one.
    """
    stored = load(name)
    if "members" in stored.card:
        return Segment(networks=networks_of(stored), members=members).eval()
    if "plan" not in stored.card:
        raise InputError(f"the weight {stored.name!r}, which makes no labels", expected="one that segments images, "
                         f"such as {segmenting_weights()}", remedy="see `firstread zoo`")
    plan = plan_from(stored.card["plan"], f"{stored.name}.json")
    network = build_network(plan)
    try:
        network.load_state_dict(stored.state)
    except RuntimeError as error:
        raise FormatError(f"{stored.name}.safetensors, weights of another network than its card describes",
                          expected="the weight with its own card", remedy="install or train it again") from error
    return SegmentByPlan(networks=[network.eval()], plan=plan).eval()


def open_trained(folder: Path, *, members: bool = False) -> SegmentByPlan:
    """The stage of a model folder, all its folds. members: a row of labels for each instead of their mean.

    Raises InputError where there is no finished model, FormatError for damaged files or another version.
    """
    card = card_of(folder)
    plan = read_plan(folder / PLAN)
    networks = [trained_network(plan, folder / name) for name in card["networks"]]
    for name, network, stated in zip(card["networks"], networks, card.get("hashes", ()), strict=False):
        if weights_hash(network) != stated:
            raise FormatError(f"{name}, whose weights are not those of card.json", expected="the files as they were "
                              "written together", remedy="copy the whole folder again, or train again")
    return SegmentByPlan(networks=networks, plan=plan, members=members).eval()
