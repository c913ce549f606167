"""Somebody's network for the study of joint training: MONAI's U-Net, trained by ``firstread segment train``.

    python -m firstread.recipes.monai_hearts -o FOLDER
    python -m firstread.recipes.study_endpoint -o OUT --work WORK --network FOLDER/model --name endpoint-monai

It sees noiseless images at end-diastole and end-systole of the subjects that the study trains on, and no
reconstruction. Interrupted, the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from firstread.analyze.segment import NAMES
from firstread.chains.trained import is_trained
from firstread.core.errors import FirstreadError
from firstread.io.nifti import write_image, write_labels
from firstread.jobs.segment_data import find_data
from firstread.jobs.segment_prepare import fingerprint_of
from firstread.jobs.segment_train import TrainSettings, train_segmenter
from firstread.learn.planning import plan_for
from firstread.nets.plan import NetworkPlan, TrainingPlan
from firstread.recipes.endpoint_pool import Stack, case_of, store_all
from firstread.recipes.files import write_text

NETWORK = NetworkPlan(kind="monai", name="UNet", widths=(), strides=(), blocks=(), deep_supervision=False,
                      arguments={"channels": [16, 32, 64, 128], "strides": [2, 2, 2], "num_res_units": 2})


def write_data(subjects: Sequence[Path], home: Path) -> Path:
    """Two phases of every subject and their labels as NIfTI files, in the layout that ``segment train`` reads."""
    for part in ("images", "labels"):
        (home / part).mkdir(parents=True, exist_ok=True)
    labels = {name: value for value, name in enumerate(NAMES)}
    write_text(home / "dataset.json", json.dumps({"labels": labels, "channel_names": {"0": "MR"}}))
    for number, path in enumerate(subjects):
        case = case_of(path, seed=number)
        image, truth = case["truth.image"], case["truth.labels"]
        cavity = (truth.data[0, :, 0] == 1).flatten(1).sum(dim=1)
        for phase, frame in (("ED", 0), ("ES", int(cavity.argmin()))):
            name = f"{path.stem}_{phase}.nii.gz"
            if not (home / "labels" / name).is_file():
                one = {"times_s": None, "cycle_s": None}
                write_image(home / "images" / name, replace(image, data=image.data[:, frame:frame + 1].abs(), **one))
                write_labels(home / "labels" / name, replace(truth, data=truth.data[:, frame:frame + 1], **one))
    return home


def train(folder: Path, *, subjects: int, steps: int) -> Path:
    """The folder of the trained model; one that is finished stays."""
    if is_trained(folder / "model"):
        return folder / "model"
    torch.set_num_threads(1)
    source = write_data(store_all(folder / "subjects", Stack(), "train", subjects), folder / "data")
    rules = plan_for(fingerprint_of(find_data(source), progress=_say))
    training = TrainingPlan(steps=steps, batch=8, folds=0, warmup=20, averaging=0.98)
    plan = replace(rules, mode="2d", patch=(80, 80), spacing_mm=(None, 2.0, 2.0), network=NETWORK, training=training,
                   overlap=0.25)
    write_text(folder / "plan.json", json.dumps(plan.as_dict(), indent=1) + "\n")
    train_segmenter(source, folder / "model", TrainSettings(plan=folder / "plan.json"), progress=_say)
    return folder / "model"


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m firstread.recipes.monai_hearts", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of subjects, data and model")
    parser.add_argument("--subjects", type=int, default=48)
    parser.add_argument("--steps", type=int, default=400)
    asked = parser.parse_args(argv)
    try:
        print(train(asked.output, subjects=asked.subjects, steps=asked.steps))
    except FirstreadError as error:
        print(f"monai_hearts: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
