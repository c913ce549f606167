"""How well the promptable network does on simulated scenes that no step of its training saw, beside the random walker.

``python -m firstread.recipes.evaluate_prompt FOLDER``: FOLDER holds ``prompt.safetensors`` and its card; the figures
are written into the card, and ``prompt.md`` is made of it. Real images: :mod:`firstread.recipes.evidence_prompted`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from firstread.acquire.slices import random_stacks
from firstread.analyze.prompting import PlanePrompt, Promptable, box_of, deepest
from firstread.chains.prompted import open_promptable
from firstread.core.errors import FirstreadError, InputError
from firstread.core.keys import Key
from firstread.ops.regions import dice
from firstread.recipes.evidence_prompted import CLICKS, cell, error_click
from firstread.recipes.files import write_text
from firstread.recipes.prompt_network import NAME
from firstread.recipes.prompt_scenes import Scene, draw_scene
from firstread.recipes.prompt_users import LEAST_PX, SPACING, heart_scene

SCENES, HEARTS, KEY = 120, 40, Key(1, "prompt_evaluation")
TOLD = ("one click", "three clicks", "box", "neighbour's mask")


def scenes() -> dict[str, list[Scene]]:
    """Shapes of no anatomy, and structures of hearts of the training's generator."""
    made = {"shapes": [draw_scene(KEY, number) for number in range(SCENES)], "hearts": []}
    for number in range(HEARTS):
        images, labels = random_stacks(Key(KEY.seed, "prompt_evaluation_heart"), number, subjects=1, slices=4, size=112)
        made["hearts"].append(heart_scene(images[0], labels[0], KEY.generator(SCENES, number)))
    return made


def told(method: Promptable, scene: Scene) -> dict[str, float]:
    """Dice in the first plane of a scene by what is said; where the object has ended, whether that is seen (1 or 0)."""
    (image, beside), (truth, before) = scene.images, scene.truth
    empty, found = PlanePrompt.empty(SPACING), {}
    if int(before.sum()) >= LEAST_PX:
        mask = method(image[None], empty.after(beside[None], before)) > 0.5
        if not bool(truth.any()):
            return {"ended": float(int(mask.sum()) < 4)}
        found["neighbour's mask"] = float(dice(mask[None], truth[None]))
    if int(truth.sum()) < LEAST_PX:
        return {}
    found["box"] = float(dice((method(image[None], replace(empty, box=box_of(truth))) > 0.5)[None], truth[None]))
    masks = clicked(method, image, truth)
    return found | {kind: float(dice(masks[n][None], truth[None])) for kind, n in (("one click", 0),
                                                                                 ("three clicks", -1))}


def clicked(method: Promptable, image: Float[Tensor, "y x"], truth: Bool[Tensor, "y x"]) -> list[Bool[Tensor, "y x"]]:
    """The masks after one click in the middle and after each of the next, where it is wrong."""
    points, positive = deepest(truth, SPACING)[None], torch.tensor([True])
    prompt = replace(PlanePrompt.empty(SPACING), points=points, positive=positive)
    made = [method(image[None], prompt) > 0.5]
    while len(made) < CLICKS and (click := error_click(made[-1][None], truth[None], SPACING)) is not None:
        place = torch.tensor([[click[0][1], click[0][0]]])
        prompt = replace(prompt, points=torch.cat((prompt.points, place)),
                         positive=torch.cat((prompt.positive, torch.tensor([click[1]]))))
        made.append(method(image[None], prompt) > 0.5)
    return made


def measured(methods: Mapping[str, Promptable]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """By method, kind of scene and what is said: a number of every scene."""
    with torch.no_grad():
        drawn = scenes()
        made: dict[str, dict[str, dict[str, list[float]]]] = {}
        for name, method in methods.items():
            for kind, some in drawn.items():
                rows = [told(method, scene) for scene in some]
                made.setdefault(name, {})[kind] = {said: [row[said] for row in rows if said in row]
                                                   for said in (*TOLD, "ended")}
    return made


def page(card: Mapping[str, Any]) -> str:
    """The card as a page."""
    lines = [f"# {NAME}", "", f"{card['summary'][0].upper()}{card['summary'][1:]}.", "",
             f"`firstread segment prompt IMAGE --model {NAME} --point X,Y,Z -o OUT`", "", "| | |", "|---|---|",
             f"| recipe | `firstread train {NAME} -o DIR`, seed {card['seed']}, {card['steps']} steps |",
             f"| network | residual U-Net 2D, widths {list(card['network']['widths'])}, half precision |",
             f"| data | {card['data']} |", f"| licence | {card['licence']} |", "", "## Figures", "",
             "Dice in one plane of simulated scenes that were not trained on, mean with 95 % bootstrap interval over "
             "scenes; `ended`: share of scenes without the object in which the neighbour's mask is not carried on. "
             "Real images: `docs/evidence/prompted.md`.", "",
             f"| scenes | method | {' | '.join(TOLD)} | ended |", f"|---|---|{'---|' * (len(TOLD) + 1)}"]
    for kind in ("shapes", "hearts"):
        for method, found in card["evaluation"].items():
            lines.append(f"| {kind} | {method} | {' | '.join(found[kind][said] for said in (*TOLD, 'ended'))} |")
    return "\n".join([*lines, "", "## Limits", "", *(f"- {limit}" for limit in card["limits"]), ""])


def main(arguments: list[str] | None = None) -> int:
    """Measure and write; 2 with one sentence where something is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        weight = given.folder / f"{NAME}.safetensors"
        if not weight.is_file() or not weight.with_suffix(".json").is_file():
            raise InputError(f"no {weight.name} with its card in {given.folder.name}", expected="the folder of the "
                             "weight", remedy=f"train it: firstread train {NAME} -o DIR")
        rows = measured({"network": open_promptable(weight), "random walker": open_promptable("walker")})
        card = json.loads(weight.with_suffix(".json").read_text(encoding="utf-8"))
        card["evaluation"] = {method: {kind: {said: cell(values, [str(n) for n in range(len(values))]) if values else ""
                                              for said, values in some.items()} for kind, some in by_kind.items()}
                              for method, by_kind in rows.items()}
        write_text(weight.with_suffix(".json"), json.dumps(card, indent=1, ensure_ascii=False) + "\n")
        write_text(weight.with_suffix(".md"), page(card))
    except FirstreadError as error:
        print(f"evaluate_prompt: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
