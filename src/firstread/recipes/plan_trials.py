"""Trainings by several plans on the same folds of one data set, each kept in a work folder and scored by patient."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from firstread.analyze.trained import SegmentByPlan
from firstread.core.errors import FirstreadError
from firstread.core.geometry import Grid
from firstread.jobs.segment_data import DataSet, class_indices, load_sample
from firstread.jobs.segment_fold import trained_fold
from firstread.jobs.segment_prepare import plan_hash, prepare_cases
from firstread.jobs.segment_validate import split_patients
from firstread.learn.patches import PreparedCase
from firstread.nets.plan import Plan
from firstread.recipes.files import write_text
from firstread.trust.agreement import Estimate
from firstread.trust.bootstrap import paired_difference
from firstread.trust.segmentation import by_subject, summarize

Row = dict[str, Any]
Measure = Callable[[Float[Tensor, "classes z y x"], Integer[Tensor, "z y x"], Grid], dict[str, float]]
"""Probabilities, true classes (255: nobody decided) and grid of one image to its numbers, NaN where there is none."""
Say = Callable[[str], None]
Make = Callable[[Path, Path, int, Sequence[int], Say], str]
"""Data folder, work folder, steps, seeds, and where to tell how far it is, to a page's text."""


@dataclass(frozen=True)
class Trials:
    """What all trainings share. plans: by name, of which the first is what others are compared with."""

    data: DataSet
    plans: Mapping[str, Plan]
    measure: Measure
    work: Path

    def run(self, seeds: Sequence[int], *, say: Say) -> dict[str, list[Row]]:
        """The rows of every plan: each image by the network of each seed that had not seen its patient.

        Seed by seed, so that a run that is stopped has whole comparisons.
        """
        made: dict[str, list[Row]] = {name: [] for name in self.plans}
        for seed in seeds:
            for name in self.plans:
                made[name] += self.one(name, seed, say=say)
        return made

    def one(self, name: str, seed: int, *, say: Say) -> list[Row]:
        """The rows of one plan and seed."""
        plan = self.plans[name]
        cases = prepare_cases(self.data, plan, self.work / "cases", progress=say)
        folds = split_patients(self.data.samples, plan.training.folds)
        seeded = replace(plan, training=replace(plan.training, seed=100 * seed))
        rows = []
        for number, held in enumerate(folds):
            training = [case for n, case in enumerate(cases) if n not in held]
            rows += self._fold(f"{name}-{seed}-{number}", seeded, training, held, number, seed, say)
        return rows

    def _fold(self, name: str, plan: Plan, cases: Sequence[PreparedCase], held: Sequence[int], number: int, seed: int,
              say: Say) -> list[Row]:
        stored = self.work / f"{name}.json"
        if stored.is_file():
            document = json.loads(stored.read_text(encoding="utf-8"))
            if document["plan"] == plan_hash(plan):
                return document["rows"]
        say(name)
        weights, began = self.work / f"{name}-{plan_hash(plan)}.safetensors", time.process_time()
        network = trained_fold(cases, plan, weights, weights.with_suffix(".pt"), number)
        seconds = time.process_time() - began
        stage = SegmentByPlan(networks=[network], plan=plan).eval()
        rows = [{**self._scored(stage, plan, n), "seed": seed} for n in held]
        parameters = sum(p.numel() for p in network.parameters())
        write_text(stored, json.dumps({"plan": plan_hash(plan), "rows": rows, "train_s": round(seconds, 1),
                                       "parameters": parameters}))
        weights.with_suffix(".pt").unlink(missing_ok=True)
        return rows

    def _scored(self, stage: SegmentByPlan, plan: Plan, number: int) -> Row:
        sample = self.data.samples[number]
        image, values = load_sample(sample)
        truth = class_indices(values, {c.value: k for k, c in enumerate(plan.classes)}, plan.ignored_value, sample.name)
        with torch.no_grad():
            probability = stage(image).data[0, 0]
        return {"case": sample.name, "patient": sample.patient,
                **{k: round(v, 5) for k, v in self.measure(probability, truth[0], image.grid).items()}}

    def cost(self, name: str) -> tuple[float, float]:
        """Parameters in millions, and CPU minutes of training for a seed, all folds."""
        kept = [json.loads(path.read_text(encoding="utf-8")) for path in self.work.glob(f"{name}-*-*.json")]
        seeds = len(kept) / next(iter(self.plans.values())).training.folds
        return kept[0]["parameters"] / 1e6, sum(k["train_s"] for k in kept) / 60 / seeds


def mean_text(rows: Sequence[Row], metric: str, digits: int = 3) -> str:
    """Mean over patients, each the mean of all images and seeds, with a 95 % bootstrap interval over patients."""
    found = summarize([row[metric] for row in rows], [row["patient"] for row in rows])
    return Estimate(found.mean, found.lower, found.upper).text(digits)


def difference_text(rows: Sequence[Row], others: Sequence[Row], metric: str, digits: int = 3) -> str:
    """Mean of ``rows`` minus ``others`` over patients, with a 95 % bootstrap interval over patients."""
    one, two = (by_subject([row[metric] for row in side], [row["patient"] for row in side]) for side in (rows, others))
    shared = sorted(set(one) & set(two))
    first, second = (torch.tensor([[side[p]] for p in shared], dtype=torch.float64) for side in (one, two))
    return paired_difference(first, second).text(digits)


def command(page: str, about: str, make: Make, *, steps: int, seeds: int, arguments: Sequence[str] | None) -> int:
    """The command of a page: ``FOLDER -o OUT --work FOLDER [--steps N] [--seeds N]``; its exit code."""
    name = f"evidence_{page.removesuffix('.md').replace('-', '_')}"
    parser = argparse.ArgumentParser(prog=f"python -m firstread.recipes.{name}", description=about)
    parser.add_argument("folder", type=Path, help="the data")
    parser.add_argument("-o", "--output", type=Path, required=True, help=f"folder for {page}")
    parser.add_argument("--work", type=Path, required=True, help="folder where runs are kept")
    parser.add_argument("--steps", type=int, default=steps, help="of each fold")
    parser.add_argument("--seeds", type=int, default=seeds, help="trainings of each fold")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        text = make(given.folder, given.work, given.steps, range(given.seeds),
                    lambda line: print(line, file=sys.stderr, flush=True))
    except FirstreadError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    given.output.mkdir(parents=True, exist_ok=True)
    write_text(given.output / page, text)
    return 0
