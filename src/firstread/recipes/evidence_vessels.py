"""Vessels of the retina by trained networks, beside what learns nothing, on real images (DRIVE):

    python -m firstread.recipes.evidence_vessels FOLDER -o docs/evidence --work FOLDER

FOLDER holds ``NN_image.png``, ``NN_vessels_observer1.png`` and ``NN_field_of_view.png``. Networks are trained by the
segmentation tool in folds by image; of the loss for thin structures (centre-line Dice) and MONAI's U-Net one row each.
Every fold is kept in the work folder: stop the command, run it again, and it goes on.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from firstread.analyze.vessels import filled_outside
from firstread.core.errors import InputError
from firstread.core.geometry import Grid
from firstread.core.records import HardLabels, Image, Rows
from firstread.io.nifti import write_image, write_labels
from firstread.jobs.segment_data import DataSet, find_data
from firstread.jobs.segment_prepare import fingerprint_of
from firstread.learn.planning import plan_for
from firstread.nets.plan import LossPlan, NetworkPlan, Plan, TrainingPlan
from firstread.ops.regions import dice
from firstread.ops.skeleton import centreline_dice
from firstread.recipes.evidence_classical import TITLES, auc, read_fundus, vessels
from firstread.recipes.files import write_text
from firstread.recipes.plan_trials import Row, Say, Trials, command, difference_text, mean_text

OUTSIDE = 255
FOLDS, STEPS, BATCH, PATCH = 4, 400, 8, (96, 96)
METRICS = ("Dice", "clDice", "AUC")
NETWORK = NetworkPlan(widths=(16, 32, 64, 128), strides=((1, 1), (2, 2), (2, 2), (2, 2)))
ARMS: dict[str, tuple[str, NetworkPlan, LossPlan]] = {
    "dice": ("Firstread, residual encoder at full resolution", NETWORK, LossPlan()),
    "topology": ("the same, `topology` 0.5 in the loss", NETWORK, LossPlan(topology=0.5)),
    "monai": ("MONAI `UNet`, residual units", NetworkPlan(
        kind="monai", name="UNet", widths=(), strides=(), blocks=(), deep_supervision=False,
        arguments={"channels": [16, 32, 64, 128, 256], "strides": [1, 2, 2, 2], "num_res_units": 2}), LossPlan())}


def write_data(folder: Path, home: Path) -> DataSet:
    """The green channel, its outside filled, and the first observer's vessels; nobody decided on the outside."""
    from PIL import Image as Pillow

    names = sorted(path.name.partition("_")[0] for path in folder.glob("*_image.png"))
    if len(names) < FOLDS:
        raise InputError(f"{len(names)} images NN_image.png in {folder.name}", expected=f"{FOLDS} or more",
                         remedy="give the folder of DRIVE's images")
    for part in ("images", "labels"):
        (home / part).mkdir(parents=True, exist_ok=True)
    labels = {"background": 0, "vessel": 1, "ignore": OUTSIDE}
    write_text(home / "dataset.json", json.dumps({"labels": labels, "channel_names": {"0": "fundus"}}))
    for name in names:
        green = np.asarray(Pillow.open(folder / f"{name}_image.png"))[..., 1].astype(np.float32)
        inside, truth = (np.asarray(Pillow.open(folder / f"{name}_{kind}.png")) > 0
                         for kind in ("field_of_view", "vessels_observer1"))
        grid = Grid.pixels((1, *green.shape))
        plane = torch.from_numpy(filled_outside(green, inside))[None, None, None, None]
        values = torch.from_numpy(np.where(inside, truth, OUTSIDE).astype(np.uint8))[None, None, None, None]
        write_image(home / "images" / f"{name}.nii.gz", Image(Rows.subjects(1), plane, grid))
        write_labels(home / "labels" / f"{name}.nii.gz", HardLabels(Rows.subjects(1), values, grid, ("background",)))
    return find_data(home)


def plans(data: DataSet, *, steps: int, say: Say) -> dict[str, Plan]:
    """One for each arm; all but network and loss is the same."""
    plan = plan_for(fingerprint_of(data, progress=say), ignored_value=data.ignored)
    plan = replace(plan, patch=PATCH, augmentation=replace(plan.augmentation, flip=("y", "x")), overlap=0.25,
                   training=TrainingPlan(steps=steps, batch=BATCH, folds=FOLDS, warmup=20, averaging=0.98))
    return {arm: replace(plan, network=network, loss=loss) for arm, (_, network, loss) in ARMS.items()}


def measured(probability: Float[Tensor, "classes z y x"], truth: Integer[Tensor, "z y x"], grid: Grid
             ) -> dict[str, float]:
    """Dice, clDice and AUC within the field of view."""
    inside = (truth != OUTSIDE)[0]
    vessel, true = probability[1, 0], (truth[0] == 1)
    found = (vessel > 0.5) & inside
    return {"Dice": float(dice(found[None], true[None])), "clDice": centreline_dice(found, true),
            "AUC": auc(vessel[inside], true[inside])}


def classical(folder: Path, names: Sequence[str]) -> dict[str, list[Row]]:
    """The rows of each method that learns nothing."""
    images = [read_fundus(folder, name) for name in names]
    return {method: [{"patient": name, "seed": 0, **{metric: table[metric][n] for metric in METRICS}}
                     for n, name in enumerate(names)] for method, table in vessels(images).items()}


def page(trials: Trials, learned: dict[str, list[Row]], unlearned: dict[str, list[Row]], again: list[Row],
         seeds: Sequence[int]) -> str:
    """vessels.md. again: the first plan's rows of one more seed."""
    plan = trials.plans["dice"]
    t, count = plan.training, len({row["patient"] for row in learned["dice"]})
    lines = [
        "# Vessels of the retina (DRIVE)", "",
        f"{count} training images of DRIVE (21 to 40), green channel, first observer, within the field of view; what "
        "lies outside counts neither in training nor here. Mean over images, 95 % bootstrap interval over images. No "
        "patient has two images.", "",
        f"**A small budget on purpose**: {t.folds} folds by image, each image scored by the network that had not seen "
        f"it; {t.steps} steps of {t.batch} patches of {'×'.join(map(str, plan.patch))} pixels, "
        f"{'one network' if len(seeds) == 1 else f'{len(seeds)} networks, of whose numbers the mean counts,'} for each "
        "fold, flips in training alone, one thread. Plans, network and steps were fixed before the first result, and "
        "the table was made once. Networks are cut at a probability of one half; of the methods without learning the "
        "cut was "
        "chosen on the other half of the images ([more](classical.md)). Nothing trained here is shipped.", "",
        f"| method | parameters | {' | '.join(METRICS)} | CPU min, all folds |",
        f"|---|---|{'---|' * len(METRICS)}---|"]
    for arm, rows in learned.items():
        size, minutes = trials.cost(arm)
        lines.append(f"| {ARMS[arm][0]} | {size:.2f} M | {' | '.join(mean_text(rows, m) for m in METRICS)} | "
                     f"{minutes:.0f} |")
    lines += [f"| {TITLES[method]}, not learned | 0 | {' | '.join(mean_text(rows, m) for m in METRICS)} | |"
              for method, rows in unlearned.items()]
    base = learned["dice"]
    lines += ["", f"{ARMS['dice'][0]} minus the others, paired by image:", "", f"| minus | {' | '.join(METRICS)} |",
              f"|---|{'---|' * len(METRICS)}"]
    others = {ARMS[arm][0]: rows for arm, rows in learned.items() if arm != "dice"} | {
        TITLES[method]: rows for method, rows in unlearned.items()}
    lines += [f"| {title} | {' | '.join(difference_text(base, rows, m) for m in METRICS)} |"
              for title, rows in others.items()]
    lines += [f"| itself, trained with another seed | {' | '.join(difference_text(base, again, m) for m in METRICS)} |",
              "", "Published, of DRIVE's 20 test images, for orientation only: Dice of the second observer 0.788 "
              "(documentation of bob.ip.binseg); of networks trained to their end on all 20 images 0.817 (R2U-Net) and "
              "0.820 (LadderNet), as their papers state.", "",
              "Command: `python -m firstread.recipes.evidence_vessels FOLDER -o docs/evidence --work FOLDER --seeds "
              f"{len(seeds)}`. CPU times of a shared machine: read ratios only.", ""]
    return "\n".join(lines)


def evidence(folder: Path, work: Path, steps: int, seeds: Sequence[int], say: Say) -> str:
    """All runs, and the page."""
    data = write_data(folder, work / "data")
    trials = Trials(data, plans(data, steps=steps, say=say), measured, work)
    learned = trials.run(seeds, say=say)
    again = trials.one("dice", len(seeds), say=say)
    return page(trials, learned, classical(folder, [s.name for s in data.samples]), again, seeds)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    return command("vessels.md", (__doc__ or "").splitlines()[0], evidence, steps=STEPS, seeds=1, arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())
