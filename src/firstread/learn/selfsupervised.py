"""Learning from images without labels: blocks of an image are hidden, the network paints them from what is around.

The network is the one that will segment but for its last layer, so that all its other weights are a start for it.
Sources: Pathak 2016 (context encoders); Chen 2019 (context restoration, for medical images); He 2022 (masks of blocks).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from firstread.core.errors import SettingError
from firstread.learn.fit import fit
from firstread.learn.patches import Patches, PreparedCase
from firstread.nets.build import build_network
from firstread.nets.plan import Plan

SHARE, BLOCK = 0.5, 8


def random_blocks(batch: int, space: Sequence[int], *, share: float = SHARE, block: int = BLOCK
                  ) -> Bool[Tensor, "batch 1 *space"]:
    """True on blocks of ``block`` voxels along each axis (cut off at the far edges), each by the chance ``share``.

    An axis shorter than two blocks is hidden as a whole. Drawn from torch's own generator, which ``learn.fit`` seeds
    for each step. Raises SettingError for a share outside (0, 1) or blocks of no voxel.

    >>> _ = torch.manual_seed(0)
    >>> random_blocks(1, (16, 24)).shape, random_blocks(8, (64, 64)).float().mean().round(decimals=1)
    (torch.Size([1, 1, 16, 24]), tensor(0.5000))
    """
    if not 0 < share < 1 or block < 1:
        raise SettingError(f"a share of {share} hidden in blocks of {block}", expected="a share between 0 and 1, "
                           "blocks of one voxel or more", remedy="correct the settings")
    sides = [block if size >= 2 * block else size for size in space]
    hidden = torch.rand(batch, 1, *(-(-size // side) for size, side in zip(space, sides, strict=True))) < share
    for axis, (size, side) in enumerate(zip(space, sides, strict=True), start=2):
        hidden = hidden.repeat_interleave(side, dim=axis).narrow(axis, 0, size)
    return hidden


def painting_loss(model: nn.Module, images: Float[Tensor, "batch channel *space"],
                  hidden: Bool[Tensor, "batch 1 *space"]) -> Float[Tensor, ""]:
    """``sum_hidden (f(x') - x)^2 / number hidden``, where ``x'`` is ``x`` with the mean of what is seen put over them.

    A block is hidden in all channels, so that a neighbouring slice does not give it away.
    """
    seen = (~hidden).to(images.dtype)
    across = tuple(range(2, images.ndim))
    mean = (images * seen).sum(across, keepdim=True) / seen.sum(across, keepdim=True).clamp(min=1)
    square = (model(torch.where(hidden, mean, images)) - images).square() * hidden
    return square.sum() / (hidden.sum() * images.shape[1]).clamp(min=1)


def pretrain(cases: Sequence[PreparedCase], plan: Plan, *, steps: int, checkpoint: Path, seed: int = 0,
             device: str = "cpu") -> nn.Module:
    """The plan's network with an image instead of logits at its end, trained on the images of ``cases`` alone.

    Labels are not looked at: patches are laid anywhere. Batch, learning rate and augmentation are the plan's; a run
    that is killed goes on at ``checkpoint``. Raises what :func:`~firstread.learn.fit.fit` raises.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(plan, outputs=plan.channels)
    unlabelled = [PreparedCase(c.image, torch.zeros_like(c.label), {}, c.annotated, c.spacing) for c in cases]

    def loss(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
        images = batch[0].to(next(model.parameters()).device)
        return painting_loss(model, images, random_blocks(len(images), images.shape[2:]).to(images.device))

    t = plan.training
    return fit(network.to(device), Patches(unlabelled, plan, seed=seed), loss, steps=steps, checkpoint=checkpoint,
               seed=seed, learning_rate=t.learning_rate, warmup=min(t.warmup, max(1, steps // 5)),
               averaging=t.averaging, clip=4.0)
