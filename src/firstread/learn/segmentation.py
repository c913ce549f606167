"""The loss of a segmentation plan, as ``learn.fit`` asks for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn

from firstread.learn.boundary import boundary_loss
from firstread.learn.losses import UNKNOWN, annotated_dice_cross_entropy
from firstread.learn.topology import centre_line_loss
from firstread.nets.plan import LossPlan, Plan

Loss = Callable[[nn.Module, Sequence[Tensor]], Tensor]
Term = Callable[[Tensor, Tensor], Tensor]


def loss_of(plan: Plan, *, anatomy: Term | None = None, shape: Term | None = None) -> Loss:
    """Model and batch (images, targets, annotated) to a scalar.

    With deep supervision the same loss at every scale of the decoder, weighted 1, 1/2, 1/4 … and divided by their sum
    (Isensee 2021); the added terms at the finest alone. anatomy, shape: from logits and targets to a distance of
    shapes, and to how unlikely the predicted one is.
    """
    terms = plan.loss

    def loss(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
        device = next(model.parameters()).device
        images, targets, annotated = (part.to(device) for part in batch)
        deep = plan.network.deep_supervision and hasattr(model, "scales")
        made = model.scales(images) if deep else [model(images)]
        weights = [0.5**k for k in range(len(made))]
        total = torch.stack([w * region_loss(logits, shrunk(targets, logits.shape[2:]), annotated, terms)
                             for w, logits in zip(weights, made, strict=True)]).sum() / sum(weights)
        if terms.boundary:
            total = total + terms.boundary * boundary_loss(made[0].softmax(1), targets)
        if terms.topology:
            total = total + terms.topology * centre_line_loss(made[0].softmax(1), targets)
        if terms.anatomy and anatomy is not None:
            total = total + terms.anatomy * anatomy(made[0], targets)
        if terms.shape and shape is not None:
            total = total + terms.shape * shape(made[0], targets)
        return total

    return loss


def region_loss(logits: Float[Tensor, "batch classes *space"], targets: Integer[Tensor, " batch *space"],
                annotated: Bool[Tensor, "batch classes"], terms: LossPlan) -> Float[Tensor, ""]:
    """Dice and cross entropy with the weights of the plan."""
    return annotated_dice_cross_entropy(logits, targets, annotated, dice=terms.dice, focal=terms.focal,
                                        cross_entropy=terms.cross_entropy)


def shrunk(targets: Integer[Tensor, " batch *space"], space: tuple[int, ...]) -> Integer[Tensor, " batch *small"]:
    """Targets at a coarser scale: the nearest voxel; beyond the image, where the network padded, ``UNKNOWN``."""
    here = tuple(targets.shape[1:])
    if here == tuple(space):
        return targets
    steps = [max(1, round(n / s)) for n, s in zip(here, space, strict=True)]
    missing = [s * step - n for n, s, step in zip(here, space, steps, strict=True)]
    padded = F.pad(targets, [p for m in reversed(missing) for p in (0, max(0, m))], value=UNKNOWN)
    for axis, (step, size) in enumerate(zip(steps, space, strict=True), start=1):
        index = (torch.arange(size, device=targets.device) * step + step // 2).clamp(max=padded.shape[axis] - 1)
        padded = padded.index_select(axis, index)
    return padded
