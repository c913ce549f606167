"""Our segmentation network beside MONAI's U-Net, and what labels are worth, on real short-axis scans (ACDC):

    python -m firstread.recipes.evidence_segment FOLDER -o docs/evidence --work FOLDER

FOLDER holds one ``patientNNN.npz`` each, as for ``recipes.evaluate_acdc``. Both networks are trained by the same tool
with the same plan but for the network: patches, augmentation, loss, steps, seeds, folds by patient. With ``--nnunet
PYTHON`` nnU-Net's own trainer runs on the same folds. Beside them two ways that learn nothing. Each run is kept in the
work folder: kill it, run it again, and it goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from firstread.core.errors import FirstreadError, InputError
from firstread.core.geometry import Grid
from firstread.core.records import HardLabels, Image, Rows
from firstread.io.nifti import write_image, write_labels
from firstread.jobs.segment_data import DataSet, find_data
from firstread.jobs.segment_prepare import fingerprint_of, plan_hash, prepare_cases
from firstread.jobs.segment_validate import split_patients, validate
from firstread.jobs.segment_weights import painted_weights, save_network, start_from
from firstread.learn.fit import fit
from firstread.learn.patches import Patches, PreparedCase
from firstread.learn.planning import plan_for
from firstread.learn.segmentation import loss_of
from firstread.nets.build import build_network
from firstread.nets.plan import NetworkPlan, Normalization, Plan, TrainingPlan
from firstread.recipes.evaluate_acdc import OURS, SPACING_MM
from firstread.recipes.files import write_text
from firstread.recipes.heart_segment import WIDTHS
from firstread.recipes.segment_classical import METHODS, classical_rows
from firstread.recipes.segment_nnunet import nnunet_rows
from firstread.recipes.segment_tables import page

NAMES = ("background", "LV cavity", "LV myocardium", "RV cavity")
FOLDS, STEPS, BATCH, CURVE_FOLDS, CURVE_STEPS = 4, 400, 8, 5, 120
NNUNET_STEPS = {"nnunet": 50, "equal": STEPS}  # that take as long as STEPS of the others; as many
PATCH, PIXEL_MM, CURVE_PATCH, CURVE_PIXEL_MM = (80, 80), 2.0, (96, 96), 1.5
LABELLED, STARTS, PAINTING_STEPS = (1, 2, 5, 15), ("random", "phantom", "self"), 60
ARMS = {"firstread": NetworkPlan(),
        "monai": NetworkPlan(kind="monai", name="UNet", widths=(), strides=(), blocks=(), deep_supervision=False,
                             arguments={"channels": [16, 32, 64, 128, 256], "strides": [2, 2, 2, 2],
                                        "num_res_units": 2})}


def write_data(folder: Path, home: Path) -> DataSet:
    """The scans as NIfTI files, once; their spacing is not in the source, and assumed."""
    files = sorted(folder.glob("patient*.npz"))
    if not files:
        raise InputError(f"no patients in {folder.name}", expected="files patientNNN.npz", remedy="give ACDC's folder")
    for part in ("images", "labels"):
        (home / part).mkdir(parents=True, exist_ok=True)
    labels = {name: value for value, name in enumerate(NAMES)}
    write_text(home / "dataset.json", json.dumps({"labels": labels, "channel_names": {"0": "MR"}}))
    for file in files:
        with np.load(file) as stored:
            for phase in ("ed", "es"):
                name = f"{file.stem}_{phase.upper()}.nii.gz"
                if (home / "labels" / name).is_file():
                    continue
                image = torch.from_numpy(stored[f"{phase}_image"].astype(np.float32))[None, None, None]
                truth = torch.from_numpy(np.array(OURS, dtype=np.uint8)[stored[f"{phase}_label"]])[None, None, None]
                grid = Grid.from_spacing((image.shape[3], image.shape[4], image.shape[5]), SPACING_MM,
                                         frame="detector")
                write_image(home / "images" / name, Image(Rows.subjects(1), image, grid))
                write_labels(home / "labels" / name, HardLabels(Rows.subjects(1), truth, grid, NAMES))
    return find_data(home)


def base_plan(found: dict[str, Any], *, steps: int) -> Plan:
    """The rules' plan of the data at this budget."""
    plan = plan_for(found)
    training = TrainingPlan(steps=steps, batch=BATCH, folds=FOLDS, warmup=20, averaging=0.98)
    return replace(plan, patch=PATCH, spacing_mm=(None, PIXEL_MM, PIXEL_MM), training=training, overlap=0.25)


def curve_plan(plan: Plan, *, steps: int) -> Plan:
    """The same for the network of the default weight, which knows percentiles and pixels of 1.5 mm."""
    network = NetworkPlan(kind="unet", widths=WIDTHS, deep_supervision=False)
    return replace(plan, network=network, normalization=(Normalization("percentiles"),), patch=CURVE_PATCH,
                   spacing_mm=(None, CURVE_PIXEL_MM, CURVE_PIXEL_MM),
                   training=replace(plan.training, steps=steps, learning_rate=1e-3))


def run(name: str, plan: Plan, cases: Sequence[PreparedCase], held: Sequence[Any], work: Path, *, seed: int,
        start: str | None = None, untrained: bool = False) -> list[dict[str, Any]]:
    """Train (unless ``untrained``) and score on the held-out samples; stored under its name."""
    stored = work / f"{name}.json"
    if stored.is_file():
        document = json.loads(stored.read_text(encoding="utf-8"))
        if document["plan"] == plan_hash(plan):
            return document["rows"]
    began = time.process_time()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: nn.Module = build_network(plan)
    if start is not None:
        start_from(network, start)
    if not untrained:
        t = plan.training
        network = fit(network, Patches(cases, plan, seed=seed), loss_of(plan), steps=t.steps,
                      checkpoint=work / f"{name}-{plan_hash(plan)}.pt", learning_rate=t.learning_rate, warmup=t.warmup,
                      averaging=t.averaging, clip=4.0, every=50, seed=seed)
    seconds = time.process_time() - began
    rows = validate(network.eval(), plan, held)
    save_network(network, work / f"{name}.safetensors")
    document = {"plan": plan_hash(plan), "rows": rows, "train_s": round(seconds, 1),
                "all_s": round(time.process_time() - began, 1),
                "parameters": sum(p.numel() for p in network.parameters())}
    write_text(stored, json.dumps(document))
    return rows


def compare(data: DataSet, plan: Plan, work: Path) -> dict[str, list[dict[str, Any]]]:
    """Every arm, every fold."""
    cases = prepare_cases(data, plan, work / "cases-zscore", progress=_say)
    folds = split_patients(data.samples, FOLDS)
    made: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    for number, held in enumerate(folds):
        training = [case for n, case in enumerate(cases) if n not in held]
        for arm, network in ARMS.items():
            _say(f"fold {number}, {arm}")
            made[arm] += run(f"{arm}-{number}", replace(plan, network=network), training,
                             [data.samples[n] for n in held], work, seed=number)
    return made


def without_learning(data: DataSet, work: Path) -> dict[str, list[dict[str, Any]]]:
    """Every scan by each method of :mod:`firstread.recipes.segment_classical`."""
    made = {}
    for method in METHODS:
        stored = work / f"classical-{method}.json"
        if not stored.is_file():
            _say(method)
            began = time.process_time()
            rows = classical_rows(data, method, dict(enumerate(NAMES[1:], start=1)))
            write_text(stored, json.dumps({"rows": rows, "all_s": round(time.process_time() - began, 1)}))
        made[method] = json.loads(stored.read_text(encoding="utf-8"))["rows"]
    return made


def curve(data: DataSet, plan: Plan, work: Path, *, draws: int, labelled: Sequence[int] = LABELLED,
          starts: Sequence[str] = STARTS) -> dict[str, list[dict[str, Any]]]:
    """By number of labelled patients and start, the scores of the held-out patients of the first ``draws`` folds."""
    cases = prepare_cases(data, plan, work / "cases-percentiles", progress=_say)
    made: dict[str, list[dict[str, Any]]] = {}
    for number, held in enumerate(split_patients(data.samples, CURVE_FOLDS)[:draws]):
        samples = [data.samples[n] for n in held]
        made.setdefault("0 phantom", []).extend(run(f"curve-0-phantom-{number}", plan, [], samples, work, seed=number,
                                                    start="heart-sax", untrained=True))
        for count in labelled:
            for start in starts:
                made.setdefault(f"{count} {start}", []).extend(
                    point(data, cases, plan, work, number=number, held=held, count=count, start=start))
    return made


def point(data: DataSet, cases: Sequence[PreparedCase], plan: Plan, work: Path, *, number: int, held: Sequence[int],
          count: int, start: str) -> list[dict[str, Any]]:
    """One training of the curve: fold ``number``, so many labelled patients of those not held out, this start."""
    others = sorted({s.patient for n, s in enumerate(data.samples) if n not in held})
    order = torch.randperm(len(others), generator=torch.Generator().manual_seed(100 + number)).tolist()
    chosen = {others[k] for k in order[:count]}
    training = [case for case, s in zip(cases, data.samples, strict=True) if s.patient in chosen]
    _say(f"curve: fold {number}, {count} patients, {start}")
    weights = {"random": None, "phantom": "heart-sax"}
    if start == "self":
        unlabelled = [case for n, case in enumerate(cases) if n not in held]
        weights["self"] = str(painted_weights(unlabelled, plan, work / f"painted-{number}.safetensors",
                                              steps=PAINTING_STEPS, seed=number))
    return run(f"curve-{count}-{start}-{number}", plan, training, [data.samples[n] for n in held], work, seed=number,
               start=weights[start])


def evidence(folder: Path, work: Path, *, steps: int, curve_steps: int, draws: int = CURVE_FOLDS,
             labelled: Sequence[int] = LABELLED, starts: Sequence[str] = STARTS, nnunet: Path | None = None
             ) -> dict[str, Any]:
    """All runs and what the page says of them."""
    data = write_data(folder, work / "data")
    stored = work / "fingerprint.json"
    if not stored.is_file():
        write_text(stored, json.dumps(fingerprint_of(data, progress=_say)))
    plan = base_plan(json.loads(stored.read_text(encoding="utf-8")), steps=steps)
    arms = compare(data, plan, work)
    for arm, count in NNUNET_STEPS.items():
        if rows := nnunet_rows(data, plan, split_patients(data.samples, FOLDS), work, nnunet, arm=arm,
                               iterations=count, say=_say):
            arms[arm] = rows
    points = curve(data, curve_plan(plan, steps=curve_steps), work, draws=draws, labelled=labelled,
                   starts=starts) if curve_steps else {}
    seconds = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(work.glob("*-*.json"))}
    return {"plan": plan.as_dict(), "arms": arms, "nnunet_steps": NNUNET_STEPS["nnunet"],
            "classical": without_learning(data, work), "curve": points, "curve_steps": curve_steps, "draws": draws,
            "painting_steps": PAINTING_STEPS, "patients": len({s.patient for s in data.samples}),
            "first": sorted({data.samples[n].patient for n in split_patients(data.samples, FOLDS)[0]}),
            "cost": {name: {k: v for k, v in document.items() if k != "rows"} for name, document in seconds.items()}}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m firstread.recipes.evidence_segment",
                                     description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="files patientNNN.npz")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for segment.md and segment.json")
    parser.add_argument("--work", type=Path, required=True, help="folder where runs are kept")
    parser.add_argument("--steps", type=int, default=STEPS, help="of each fold of the comparison")
    parser.add_argument("--curve-steps", type=int, default=CURVE_STEPS, help="of each point of the curve; 0: no curve")
    parser.add_argument("--draws", type=int, default=CURVE_FOLDS, help="of labelled patients, a fold of the curve each")
    parser.add_argument("--labelled", type=int, nargs="+", default=LABELLED, help="numbers of labelled patients")
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=STARTS, help="weights that points begin from")
    parser.add_argument("--nnunet", type=Path, help="a Python that has nnunetv2: its trainer runs too")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        given.work.mkdir(parents=True, exist_ok=True)
        found = evidence(given.folder, given.work, steps=given.steps, curve_steps=given.curve_steps,
                         draws=given.draws, labelled=given.labelled, starts=given.starts, nnunet=given.nnunet)
    except FirstreadError as error:
        print(f"evidence_segment: {error}", file=sys.stderr)
        return 2
    given.output.mkdir(parents=True, exist_ok=True)
    write_text(given.output / "segment.json", json.dumps(found, indent=1))
    write_text(given.output / "segment.md", page(found, NAMES[1:]))
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
