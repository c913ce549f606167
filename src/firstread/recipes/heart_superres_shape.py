"""Anatomically constrained super-resolution (``heart-superres-shape``): ``heart-superres`` and a shape prior.

First a T-L network learns the codes of heart shapes from labels and from images; then the super-resolution network is
trained on by ``smooth L1 + λ ‖p(volume) - f(labels)‖² / ‖f‖²`` (Oktay et al. 2018), p and f fixed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from firstread.learn.fit import fit
from firstread.learn.prefetch import Prefetched
from firstread.nets.shape_codes import ShapeCodes, code_distance, shape_losses
from firstread.nets.superres import SuperResolution
from firstread.recipes.files import refuse_data
from firstread.recipes.heart_superres import ASSUMED, BATCH, SUBJECTS, ThickStacks, store_all
from firstread.zoo.store import load

NAME = "heart-superres-shape"
SUMMARY = "the same with a shape prior (anatomically constrained), from simulation alone"
SEED, CODE_STEPS, STEPS, PRIOR = 2, 300, 200, 0.02

Batch = tuple[Tensor, ...]


def code_loss(net: nn.Module, batch: Batch) -> Tensor:
    """Of the T-L network."""
    assert isinstance(net, ShapeCodes)
    return shape_losses(net, batch[4], batch[3])


def constrained(codes: ShapeCodes, prior: float) -> Callable[[nn.Module, Batch], Tensor]:
    """The loss of a super-resolution network under the shape prior of ``codes``, with weight λ = ``prior``."""
    def loss(model: nn.Module, batch: Batch) -> Tensor:
        slices, weights, views, truth, shares = batch
        volume = model(slices, weights.float(), views)
        near = code_distance(codes.of_image(volume), codes.of_labels(shares).detach())
        return F.smooth_l1_loss(volume, truth, beta=0.05) + prior * near

    return loss


def train(out: Path, device: str, steps: int | None, data: Path | None) -> None:
    """Train into ``out``, on the CPU whatever the device; interrupted and called again it goes on.

    Raises SettingError when real data is given: this weight has seen none.
    """
    refuse_data(data, NAME)
    count = steps or STEPS
    weight = load("heart-superres")
    folder = store_all(out / "hearts", count=max(1, count * SUBJECTS // STEPS))
    batches = ThickStacks(folder, seed=SEED, labelled=True)
    torch.manual_seed(SEED)
    first = max(1, count * CODE_STEPS // STEPS)
    codes = fit(ShapeCodes(), Prefetched(batches, last=first), code_loss, steps=first, seed=SEED,
                checkpoint=out / "codes.pt").requires_grad_(False)
    assert isinstance(codes, ShapeCodes)
    start = SuperResolution.from_weight(weight.card["network"], weight.state)
    net = fit(start, Prefetched(batches, last=count), constrained(codes, PRIOR), steps=count, seed=SEED,
              learning_rate=5e-4, checkpoint=out / "network.pt")
    assert isinstance(net, SuperResolution)
    save_file({k: v.detach().half().contiguous() for k, v in net.state_dict().items()}, out / f"{NAME}.safetensors")
    card = {**weight.card, "name": NAME, "summary": SUMMARY, "recipe": "heart_superres_shape", "seed": SEED,
            "steps": count, "prior": PRIOR, "stacks_shown": weight.card["stacks_shown"] + BATCH * count,
            "started_from": "heart-superres", "profile": ASSUMED}
    (out / f"{NAME}.json").write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
