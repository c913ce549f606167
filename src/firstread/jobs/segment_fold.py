"""One network of one fold: begun, trained on, resumed, kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from firstread.chains.trained import trained_network
from firstread.jobs.segment_weights import painted_weights, save_network, start_from
from firstread.learn.anatomy import anatomy_loss, autoencoder_loss
from firstread.learn.fit import fit
from firstread.learn.patches import Patches, PreparedCase
from firstread.learn.prefetch import Prefetched
from firstread.learn.segmentation import Term, loss_of
from firstread.learn.shape_prior import LabelShapes, shape_loss
from firstread.nets.build import build_network
from firstread.nets.plan import Plan
from firstread.nets.shape_codes import ShapeCodes

SELF = "self"
_SHAPE_BATCHES = 60


def trained_fold(cases: Sequence[PreparedCase], plan: Plan, weights: Path, checkpoint: Path, number: int, *,
                 start: str | None = None, device: str = "cpu", workers: int = 0) -> nn.Module:
    """The network at ``weights``, or one trained on ``cases`` and stored there."""
    if weights.is_file():
        return trained_network(plan, weights)
    seed = plan.training.seed + number
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(plan)
    if start == SELF:
        start = str(painted_weights(cases, plan, checkpoint.with_name(f"painted_{weights.name}"), seed=seed,
                                    steps=plan.training.steps, device=device))
    if start is not None:
        start_from(network, start)
    t = plan.training
    batches = Patches(cases, plan, seed=seed)
    loss = loss_of(plan, anatomy=_anatomy(batches, plan, checkpoint, seed, device) if plan.loss.anatomy else None,
                   shape=shape_term(batches, plan, cases[0].spacing) if plan.loss.shape else None)
    made = fit(network.to(device), Prefetched(batches, last=t.steps, workers=workers) if workers else batches, loss,
               steps=t.steps, checkpoint=checkpoint, learning_rate=t.learning_rate, warmup=t.warmup,
               averaging=t.averaging, clip=4.0, every=max(1, min(100, t.steps // 4)), seed=seed)
    save_network(made, weights)
    return made


def shape_term(batches: Patches, plan: Plan, spacing: Sequence[float]) -> Term:
    """How unlikely a shape is by the labels of the same patches. Raises InputError where few show all classes whole."""
    labels = (batches(step)[1] for step in range(_SHAPE_BATCHES))
    return shape_loss(LabelShapes.fit(labels, len(plan.classes), tuple(spacing)[-plan.dims:]), len(plan.classes))


def _anatomy(batches: Patches, plan: Plan, checkpoint: Path, seed: int, device: str) -> Term:
    """The distance of label autoencoder codes, trained on the labels of the same patches."""
    classes = len(plan.classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        codes = ShapeCodes(classes=classes - 1, size=(8, 24, 24))
    steps = max(10, plan.training.steps // 4)
    fit(codes, batches, lambda net, batch: autoencoder_loss(net, batch[1], classes), steps=steps, warmup=10, seed=seed,
        checkpoint=checkpoint.with_name(f"anatomy_{checkpoint.name}"), every=100)
    return anatomy_loss(codes.to(device), classes)
