"""Does every subject pull the mask the same way? The gradient of each loss on the sampling mask, subject by subject.

    python -m firstread.recipes.endpoint_gradients -o docs/evidence --work FOLDER --accelerations 4 8 16 32

The mask, networks, scans and losses are those with which every arm of ``study_endpoint`` begins, and its work folder
serves here too. Of the gradients ``g_s`` of one loss, the mean of ``cos(g_s, g_r)`` over pairs of subjects says how
much of a step is common to all: near one every step goes the same way, near zero steps undo each other. Beside it: how
many lines training moved, from the masks that the study exported into the same output folder. Writes
``endpoint-gradients.md`` and ``.json``.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from firstread.core.errors import FirstreadError, InputError, SettingError
from firstread.io import pattern
from firstread.learn.joint import accumulate, freeze
from firstread.learn.objectives import Objective
from firstread.recipes.endpoint import Setting, batches_of, chain_of, first_parts, objective_of
from firstread.recipes.endpoint_pool import Stack, store_all
from firstread.recipes.files import write_text
from firstread.recipes.study_endpoint import setting_at

LEARNED = ("learned-mask", "joint")
LOSSES = {"reconstruction": "image", "labels.members": "contours", "phenotypes": "EF"}


def agreement(gradients: Float[Tensor, "subjects values"]) -> float:
    """``mean_{s ≠ r} cos(g_s, g_r)``: one where all agree, about zero where they have nothing in common.

    >>> round(agreement(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]])), 3)
    0.333
    """
    unit = F.normalize(gradients, dim=1)
    count = len(unit)
    return ((unit @ unit.mT).sum() - unit.square().sum()).item() / (count * (count - 1))


@dataclass(frozen=True)
class Row:
    """One loss at one acceleration, a number for each seed.

    norm: mean length of a subject's gradient; alike: :func:`agreement`; with_image: cosine of the mean gradient with
    that of the image loss.
    """

    acceleration: float
    loss: str
    norm: tuple[float, ...]
    alike: tuple[float, ...]
    with_image: tuple[float, ...]


def gradients_of(setting: Setting, pool: Sequence[Path], *, seed: int, subjects: int
                 ) -> dict[str, Float[Tensor, "subjects values"]]:
    """By loss, weighted as in training: the gradient of every subject on the logits of the mask that training begins
    with.
    """
    parts = first_parts(setting, seed=seed)
    chain, batches = chain_of(parts, setting), batches_of(pool, seed=seed, device="cpu")
    freeze(chain, "reconstruction", "labels.members")
    found: dict[str, list[Tensor]] = {called: [] for called in LOSSES.values()}
    for term in objective_of(setting).terms:
        for step in range(subjects):
            parts.mask.logits.grad = None
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed((seed << 32) + step)
                accumulate(chain, batches(step), Objective((term,)))
            if parts.mask.logits.grad is None:
                raise SettingError(f"a loss on {term.result!r} that gives the mask no gradient",
                                   expected="a mask that is learned", remedy="give a setting of a learned mask")
            found[LOSSES[term.result]].append(parts.mask.logits.grad.flatten().clone())
    return {called: torch.stack(each) for called, each in found.items()}


def rows_of(acceleration: float, seeds: Sequence[Mapping[str, Float[Tensor, "subjects values"]]]) -> list[Row]:
    """A row for each loss; one mapping of loss to gradients for each seed."""
    image = LOSSES["reconstruction"]
    return [Row(acceleration, loss, tuple(found[loss].norm(dim=1).mean().item() for found in seeds),
                tuple(agreement(found[loss]) for found in seeds),
                tuple(F.cosine_similarity(found[loss].mean(dim=0), found[image].mean(dim=0), dim=0).item()
                      for found in seeds)) for loss in LOSSES.values()]


def moved(folder: Path, arm: str, acceleration: float, *, seeds: int, start: str = "fine-tuned") -> list[float]:
    """Share of a mask's lines that the arm of each seed measures and the mask it began with does not, in per cent.

    folder: of the exported masks; start: an arm that does not train its mask.
    """
    def mask(of: str, seed: int) -> Tensor:
        file = folder / f"{of}-{acceleration:g}-seed{seed}.json"
        if not file.is_file():
            raise InputError(f"no {file.name} in {folder.name}", expected="the masks of study_endpoint, of the same "
                             "accelerations and seeds", remedy="run it first, into the same output folder")
        return pattern.read(file).mask.bool()

    return [100 * (mask(arm, seed) & ~mask(start, seed)).sum().item() / mask(start, seed).sum().item()
            for seed in range(seeds)]


def text(values: Sequence[float], digits: int) -> str:
    """Mean over seeds, smallest and largest.

    >>> text([1.0, 3.0], 1)
    '2.0 (1.0 to 3.0)'
    """
    return f"{sum(values) / len(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def report(rows: Sequence[Row], shares: Mapping[float, Mapping[str, Sequence[float]]], *, subjects: int,
           command: str) -> str:
    """The page; shares: of lines that moved, by acceleration and arm, a number for each seed."""
    lines = ["# What pulls the mask", "",
             "**Simulated.** The masks, networks and losses of [the endpoint study](endpoint-fresh.md) before their "
             f"first step; gradients on the mask's logits, {subjects} training subjects, {len(rows[0].norm)} seeds. "
             "Agreement: mean cosine between the gradients of two subjects, 1 if all pull the same way, 0 if they "
             "have nothing in common. Norm: of one subject's gradient, as weighted in training, over that of the image "
             "loss. Mean over seeds, smallest to largest in brackets.", "",
             "| acceleration | loss on | norm / image's | agreement of subjects | cosine with the image's mean |",
             "|---|---|---|---|---|"]
    image = {row.acceleration: row.norm for row in rows if row.loss == LOSSES["reconstruction"]}
    for row in rows:
        ratio = [a / b for a, b in zip(row.norm, image[row.acceleration], strict=True)]
        lines.append(f"| {row.acceleration:g} | {row.loss} | {text(ratio, 1)} | {text(row.alike, 2)} | "
                     f"{text(row.with_image, 2)} |")
    lines += ["", "Lines that training moved in the study, per cent of all (mean over seeds, smallest to largest):", "",
              f"| acceleration | {' | '.join(LEARNED)} |", "|---" * (1 + len(LEARNED)) + "|"]
    lines += [f"| {acceleration:g} | {' | '.join(text(share[arm], 0) for arm in LEARNED)} |"
              for acceleration, share in shares.items()]
    return "\n".join([*lines, "", "```", command, "```", ""])


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m firstread.recipes.endpoint_gradients", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the page and the numbers")
    parser.add_argument("--work", type=Path, required=True, help="folder of the simulated subjects")
    parser.add_argument("--accelerations", type=float, nargs="+", default=[4.0, 8.0, 16.0])
    parser.add_argument("--subjects", type=int, default=8, help="training subjects for each seed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--matrix", type=int, nargs=2, default=[160, 64], metavar=("LINES", "SAMPLES"))
    parser.add_argument("--spacing", type=float, default=2.0, help="pixel size in mm")
    parser.add_argument("--patch", type=int, default=96, help="of the segmentation, pixels")
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--slices", type=int, default=3)
    asked = parser.parse_args(argv)
    try:
        if asked.subjects < 2 or asked.seeds < 1:
            raise SettingError(f"{asked.subjects} subjects, {asked.seeds} seeds", expected="two or more, one or more",
                               remedy="correct --subjects or --seeds")
        stack = Stack(lines=asked.matrix[0], columns=asked.matrix[1], frames=asked.frames, slices=asked.slices,
                      spacing_mm=asked.spacing)
        setting = Setting(stack=stack, subjects=asked.subjects, centre_lines=2, patch=asked.patch)
        pool = store_all(asked.work / "subjects", stack, "train", asked.subjects)
        masks = asked.output / "endpoint-lines"
        shares = {acceleration: {arm: moved(masks, arm, acceleration, seeds=asked.seeds) for arm in LEARNED}
                  for acceleration in asked.accelerations}
        rows = [row for acceleration in asked.accelerations for row in rows_of(acceleration, [
            gradients_of(setting_at(setting, acceleration), pool, seed=seed, subjects=asked.subjects)
            for seed in range(asked.seeds)])]
        words = [word for name, value in vars(asked).items() if name not in ("output", "work")
                 for word in (f"--{name}", *(f"{v:g}" for v in (value if isinstance(value, list) else [value])))]
        command = f"python -m firstread.recipes.endpoint_gradients -o docs/evidence --work FOLDER {shlex.join(words)}"
        page = report(rows, shares, subjects=asked.subjects, command=command)
        write_text(asked.output / "endpoint-gradients.md", page)
        write_text(asked.output / "endpoint-gradients.json", json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    except FirstreadError as error:
        print(f"endpoint_gradients: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
