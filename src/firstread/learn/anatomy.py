"""The anatomically constrained loss (Oktay 2018): labels are compared by what a label autoencoder makes of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor

from firstread.learn.losses import UNKNOWN
from firstread.nets.shape_codes import ShapeCodes, code_distance


def label_shares(target: Integer[Tensor, " batch *space"], classes: int) -> Float[Tensor, "batch foreground z y x"]:
    """One-hot foreground classes, slices as stacks of one; unknown voxels belong to none."""
    hot = F.one_hot(torch.where(target == UNKNOWN, 0, target).long(), classes).movedim(-1, 1)[:, 1:].float()
    return hot.unsqueeze(2) if hot.ndim == 4 else hot


def autoencoder_loss(net: ShapeCodes, target: Integer[Tensor, " batch *space"], classes: int) -> Float[Tensor, ""]:
    """Cross entropy of the labels decoded from their code, at the autoencoder's size, and a little of the code's size.

    What the autoencoder is trained by before it judges a segmentation.
    """
    pooled = F.adaptive_avg_pool3d(label_shares(target, classes), net.size)
    wanted = torch.cat(((1 - pooled.sum(dim=1, keepdim=True)).clamp(0, 1), pooled), dim=1)
    code = net.of_labels(pooled)
    return -(wanted * F.log_softmax(net.decode(code), dim=1)).sum(1).mean() + 1e-4 * code.square().mean()


def anatomy_loss(net: ShapeCodes, classes: int) -> Callable[[Tensor, Tensor], Tensor]:
    """From logits and targets to ``|f(softmax) - f(truth)|^2 / |f(truth)|^2``, f the frozen encoder.

    Unknown voxels of the target hide the prediction too.
    """
    net = net.eval().requires_grad_(False)

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        found = logits.softmax(dim=1)[:, 1:] * (target != UNKNOWN).unsqueeze(1)
        found = found.unsqueeze(2) if found.ndim == 4 else found
        return code_distance(net.of_labels(found), net.of_labels(label_shares(target, classes)))

    return loss
