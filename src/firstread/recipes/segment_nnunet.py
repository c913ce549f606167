"""nnU-Net's own trainer on the folds of :mod:`firstread.recipes.evidence_segment`, by another Python that has it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from firstread.chains.models import open_segmenter
from firstread.core.errors import InputError
from firstread.jobs.segment_data import DataSet
from firstread.jobs.segment_validate import score
from firstread.nets.plan import Plan
from firstread.recipes import nnunet_training
from firstread.recipes.evaluate_acdc import SPACING_MM
from firstread.recipes.files import write_text

DATASET, NAME = 501, "Dataset501_Heart"


def nnunet_rows(data: DataSet, plan: Plan, folds: Sequence[Sequence[int]], work: Path, python: Path | None, *,
                arm: str, iterations: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Dice of every held-out scan, as ``jobs.segment_validate.score`` gives it, without flips.

    Every fold is kept in ``work`` as ``ARM-K.json``, nnU-Net's own folders in ``work/ARM``. python: where there are
    folds to be trained; without it, and without those files, there are no rows.
    """
    rows = []
    for number, held in enumerate(folds):
        stored = work / f"{arm}-{number}.json"
        if not stored.is_file():
            if python is None:
                return []
            say(f"fold {number}, nnU-Net, {iterations} steps")
            home = work / arm
            if not (home / "preprocessed" / NAME / "splits_final.json").is_file():
                _prepare(data, plan, folds, home, python)
            made = _run(python, home, "train", "--fold", str(number), "--iterations", str(iterations))
            stage = open_segmenter(Path(made["folder"]), folds=[number], mirror=False, overlap=plan.overlap)
            found = score(stage, plan, [data.samples[n] for n in held])
            write_text(stored, json.dumps({**made, "plan": "nnU-Net 2d", "rows": found, "all_s": made["train_s"]}))
        rows += json.loads(stored.read_text(encoding="utf-8"))["rows"]
    return rows


def _prepare(data: DataSet, plan: Plan, folds: Sequence[Sequence[int]], home: Path, python: Path) -> None:
    """nnU-Net's raw layout, its fingerprint, plan and preprocessing, and our folds."""
    raw = home / "raw" / NAME
    shutil.rmtree(home, ignore_errors=True)
    for folder in (raw / "imagesTr", raw / "labelsTr", home / "preprocessed", home / "results"):
        folder.mkdir(parents=True)
    for sample in data.samples:
        shutil.copy(sample.images[0], raw / "imagesTr" / f"{sample.name}_0000.nii.gz")
        shutil.copy(sample.label, raw / "labelsTr" / f"{sample.name}.nii.gz")
    write_text(raw / "dataset.json", json.dumps({
        "labels": {c.name: c.value for c in plan.classes}, "channel_names": {"0": "MR"},
        "numTraining": len(data.samples), "file_ending": ".nii.gz"}))
    spacing = [v or own for v, own in zip(plan.spacing_mm, SPACING_MM, strict=True)]
    _run(python, home, "prepare", "--patch", *map(str, plan.patch), "--batch", str(plan.training.batch), "--spacing",
         *map(str, spacing))
    names = [sample.name for sample in data.samples]
    splits = [{"train": [name for n, name in enumerate(names) if n not in held], "val": [names[n] for n in held]}
              for held in folds]
    write_text(home / "preprocessed" / NAME / "splits_final.json", json.dumps(splits))


def _run(python: Path, home: Path, what: str, *arguments: str) -> dict[str, Any]:
    """What the other program says last. Its folders go by environment variables, its worker processes are none."""
    said = {"nnUNet_raw": home / "raw", "nnUNet_preprocessed": home / "preprocessed",
            "nnUNet_results": home / "results", "nnUNet_n_proc_DA": 1 if what == "prepare" else 0,
            "nnUNet_def_n_proc": 1, "OMP_NUM_THREADS": 1}
    done = subprocess.run([str(python), str(Path(nnunet_training.__file__)), str(DATASET), what, *arguments],
                          env={**os.environ, **{k: str(v) for k, v in said.items()}}, capture_output=True, text=True,
                          check=False)
    if done.returncode:
        raise InputError(f"nnU-Net that did not {what} ({(done.stderr.strip().splitlines() or ['?'])[-1]})",
                         expected="a Python with nnunetv2 2.8", remedy="check --nnunet")
    return json.loads(done.stdout.strip().splitlines()[-1])
