"""Losses for segmentation, with pixels that are not labelled or only partly labelled.

Targets are class indices; ``UNKNOWN`` marks pixels that count for nothing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

UNKNOWN = 255


def soft_dice(probabilities: Float[Tensor, "batch classes *space"], target: Float[Tensor, "batch classes *space"],
              known: Float[Tensor, "batch 1 *space"], *, smooth: float = 16.0) -> Float[Tensor, " classes"]:
    """Soft Dice per class over the whole batch.

    ``2 Σ p t + s) / (Σ p + Σ t + s)`` over known pixels (Milletari 2016, without squares); ``smooth`` pixels keep a
    class that is absent from the batch at one.

    >>> one = torch.ones(1, 2, 4); soft_dice(one, one, torch.ones(1, 1, 4))
    tensor([1., 1.])
    """
    across = (0, *range(2, probabilities.ndim))
    shared = (probabilities * target * known).sum(across)
    total = ((probabilities + target) * known).sum(across)
    return (2 * shared + smooth) / (total + smooth)


def dice_cross_entropy(logits: Float[Tensor, "batch classes *space"], target: Int[Tensor, " batch *space"], *,
                       smooth: float = 16.0) -> Float[Tensor, ""]:
    """``CE + (1 - mean Dice of the foreground classes)``, over pixels whose target is not ``UNKNOWN``."""
    known = (target != UNKNOWN).unsqueeze(1).to(logits.dtype)
    index = torch.where(target == UNKNOWN, 0, target.long())
    log = F.log_softmax(logits, dim=1)
    entropy = -(log.gather(1, index.unsqueeze(1)) * known).sum() / known.sum().clamp(min=1)
    hot = F.one_hot(index, logits.shape[1]).movedim(-1, 1).to(logits.dtype)
    return entropy + 1 - soft_dice(log.exp(), hot, known, smooth=smooth)[1:].mean()


def partial_dice_cross_entropy(logits: Float[Tensor, "batch classes *space"], positive: Bool[Tensor, " batch *space"],
                               known: Bool[Tensor, " batch *space"], *, label: int,
                               smooth: float = 16.0) -> Float[Tensor, ""]:
    """The same loss where only one class was labelled: all others are summed into "not this class".

    positive: pixels of class ``label``; known: pixels that count (leave out padding, which is no labelled background).
    """
    log = F.log_softmax(logits, dim=1)
    others = [c for c in range(logits.shape[1]) if c != label]
    yes, no = log[:, label], torch.logsumexp(log[:, others], dim=1)
    weight, hot = known.to(logits.dtype), positive.to(logits.dtype)
    entropy = -((hot * yes + (1 - hot) * no) * weight).sum() / weight.sum().clamp(min=1)
    dice = soft_dice(yes.exp().unsqueeze(1), hot.unsqueeze(1), weight.unsqueeze(1), smooth=smooth)
    return entropy + 1 - dice[0]


def annotated_dice_cross_entropy(
        logits: Float[Tensor, "batch classes *space"], target: Integer[Tensor, " batch *space"],
        annotated: Bool[Tensor, "batch classes"], *, dice: float = 1.0, cross_entropy: float = 1.0, focal: float = 0.0,
        smooth: float = 16.0) -> Float[Tensor, ""]:
    """Dice and cross entropy where each row was annotated for some of the classes only (marginal loss, Shi 2021).

    What a row was not annotated for counts as background there: ``p_0' = p_0 + sum_(c not annotated) p_c``. With all
    annotated it is ``cross_entropy * CE + dice * (1 - mean Dice)``. focal: ``(1 - p_t)^focal`` in front of the cross
    entropy (Lin 2017). Pixels of ``UNKNOWN`` count for nothing; Dice is over the batch, of classes annotated in it.
    """
    log = F.log_softmax(logits.float(), dim=1)
    if not bool(annotated.all()):
        shape = (*annotated.shape, *(1,) * (logits.ndim - 2))
        mine = annotated.clone()
        mine[:, 0] = True
        hidden = (~mine).reshape(shape)
        lowest = torch.finfo(log.dtype).min / 4
        rest = torch.cat((log[:, :1], torch.where(hidden, log, lowest)[:, 1:]), dim=1)
        log = torch.cat((rest.logsumexp(dim=1, keepdim=True), torch.where(hidden, lowest, log)[:, 1:]), dim=1)
        hit = mine.gather(1, target.flatten(1).long().clamp(max=annotated.shape[1] - 1)).reshape(target.shape)
        target = torch.where((target != UNKNOWN) & ~hit, 0, target)
    known = (target != UNKNOWN).unsqueeze(1).to(log.dtype)
    index = torch.where(target == UNKNOWN, 0, target.long())
    picked = log.gather(1, index.unsqueeze(1))
    weight = known if focal == 0 else known * (1 - picked.exp()) ** focal
    entropy = -(picked * weight).sum() / known.sum().clamp(min=1)
    hot = F.one_hot(index, logits.shape[1]).movedim(-1, 1).to(log.dtype)
    overlap = soft_dice(log.exp(), hot, known, smooth=smooth)[annotated.any(dim=0)][1:]
    return cross_entropy * entropy + dice * (1 - overlap.mean() if len(overlap) else log.new_zeros(()))
