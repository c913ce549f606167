"""nnU-Net v2's own planning, preprocessing and trainer at a small budget, for :mod:`firstread.recipes.segment_nnunet`.

Run by a Python that has ``nnunetv2`` (2.8), as a file of its own; nothing of Firstread is imported::

    nnUNet_raw=… nnUNet_preprocessed=… nnUNet_results=… PYTHON nnunet_training.py 501 prepare --patch 80 80 --batch 8
        --spacing 9 2 2
    … PYTHON nnunet_training.py 501 train --fold 0 --iterations 400

The rules are nnU-Net's but for what the budget states: its planner is told the largest patch, the batch and the spacing
(and chooses the network for them), its trainer the number of iterations. One thread, no worker processes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

PLANS, CONFIGURATION, EPOCHS = "smallPlans", "2d", 10


def prepare(dataset: int, patch: list[int], batch: int, spacing: list[float]) -> dict[str, Any]:
    """Fingerprint, plan and preprocessing; what was planned."""
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, preprocess_dataset

    class Small(ExperimentPlanner):
        """nnU-Net's planner for images no larger than the patch, with the batch stated."""

        def get_plans_for_configuration(self, spacing: Any, median_shape: Any, *rest: Any, **named: Any) -> dict:
            size = np.minimum(median_shape, patch[-len(median_shape):] if len(spacing) == 2 else median_shape)
            made = super().get_plans_for_configuration(spacing, size, *rest, **named)
            return {**made, "batch_size": batch}

    extract_fingerprints([dataset], num_processes=1)
    planner = Small(dataset, plans_name=PLANS, overwrite_target_spacing=spacing)
    plan = planner.plan_experiment()["configurations"][CONFIGURATION]
    preprocess_dataset(dataset, PLANS, (CONFIGURATION,), num_processes=[1], show_progress_bar=False)
    return {key: plan[key] for key in ("patch_size", "batch_size", "spacing")}


def train(dataset: int, fold: int, iterations: int) -> dict[str, Any]:
    """One fold; its cost: processor time of patches and steps, without start, checks on held-out patches and files."""
    from nnunetv2.run.run_training import get_trainer_from_args

    torch.manual_seed(fold)
    np.random.seed(fold)
    trainer = get_trainer_from_args(str(dataset), CONFIGURATION, fold, plans_identifier=PLANS,
                                    device=torch.device("cpu"))
    trainer.num_epochs = min(EPOCHS, iterations)
    trainer.num_iterations_per_epoch = iterations // trainer.num_epochs
    trainer.num_val_iterations_per_epoch = 1
    trainer.save_every = iterations
    marks: list[float] = []
    for name in ("on_train_epoch_start", "on_train_epoch_end"):
        setattr(trainer, name, _noted(getattr(trainer, name), marks))
    trainer.run_training()
    spent = sum(after - before for before, after in zip(marks[::2], marks[1::2], strict=True))
    return {"train_s": round(spent, 1), "folder": str(Path(trainer.output_folder).parent),
            "iterations": trainer.num_epochs * trainer.num_iterations_per_epoch,
            "parameters": sum(p.numel() for p in trainer.network.parameters())}


def _noted(call: Callable[..., Any], marks: list[float]) -> Callable[..., Any]:
    """The same call, writing down the processor time before it."""
    def noted(*values: Any) -> Any:
        marks.append(time.process_time())
        return call(*values)

    return noted


def main() -> None:
    """The command; its last line is a JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("dataset", type=int)
    parser.add_argument("what", choices=("prepare", "train"))
    parser.add_argument("--patch", type=int, nargs=2)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--spacing", type=float, nargs=3)
    parser.add_argument("--fold", type=int)
    parser.add_argument("--iterations", type=int)
    given = parser.parse_args()
    torch.set_num_threads(1)
    made = (prepare(given.dataset, given.patch, given.batch, given.spacing) if given.what == "prepare"
            else train(given.dataset, given.fold, given.iterations))
    print(json.dumps(made))


if __name__ == "__main__":
    main()
