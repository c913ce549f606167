"""Codes of heart shapes, from labels and from images: the prior of anatomically constrained networks (Oktay 2018).

A "T-L network": an encoder f and a decoder learn what labels look like; a predictor p finds the same code from an
image. A restored volume is then asked to have, by p, the code of the true shape.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from firstread.core.errors import SettingError


class ShapeCodes(nn.Module):
    """Volumes of labels, or of intensities, to ``code`` numbers; labels also back from them.

    classes: foreground classes; size: (z, y, x) that everything is averaged to first; widths: channels at each halving.
    Raises SettingError for a size that the halvings do not divide.

    >>> net = ShapeCodes(classes=3, size=(8, 8, 8), code=4, widths=(4, 4))
    >>> net.of_labels(torch.zeros(1, 3, 12, 16, 16)).shape, net.of_image(torch.zeros(1, 1, 30, 8, 8)).shape
    (torch.Size([1, 4]), torch.Size([1, 4]))
    """

    def __init__(self, *, classes: int = 3, size: tuple[int, int, int] = (16, 24, 24), code: int = 32,
                 widths: tuple[int, ...] = (12, 24, 32)) -> None:
        super().__init__()
        factor = 2 ** len(widths)
        if not widths or any(n % factor or n < factor for n in size):
            raise SettingError(f"{len(widths)} halvings of a volume of {size}", expected=f"multiples of {factor}",
                               remedy="change the size or the number of widths")
        self.size, self.deep = size, (widths[-1], *(n // factor for n in size))
        inner = self.deep[0] * self.deep[1] * self.deep[2] * self.deep[3]
        self.encoder = _halving((classes, *widths), inner, code)
        self.predictor = _halving((1, *widths), inner, code)
        self.first = nn.Linear(code, inner)
        self.decoder = nn.ModuleList(nn.Conv3d(a, b, 3, padding=1)
                                     for a, b in pairwise((*reversed(widths), classes + 1)))

    def of_labels(self, shares: Float[Tensor, "batch classes z y x"]) -> Float[Tensor, "batch code"]:
        """f: the code of the share of each class in every voxel."""
        return self.encoder(F.adaptive_avg_pool3d(shares, self.size))

    def of_image(self, image: Float[Tensor, "batch 1 z y x"]) -> Float[Tensor, "batch code"]:
        """p: the code of the shape in an image of brightness about 1."""
        return self.predictor(F.adaptive_avg_pool3d(image, self.size))

    def decode(self, codes: Float[Tensor, "batch code"]) -> Float[Tensor, "batch logits z y x"]:
        """Logits of background and classes, of ``size``."""
        x = self.first(codes).unflatten(1, self.deep)
        for layer in self.decoder:
            x = layer(F.interpolate(F.relu(x), scale_factor=2, mode="nearest"))
        return x


def _halving(widths: tuple[int, ...], inner: int, code: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Conv3d(a, b, 3, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(inner, code))


def code_distance(first: Float[Tensor, "batch code"], second: Float[Tensor, "batch code"]) -> Float[Tensor, ""]:
    """``mean_batch ‖a - b‖² / ‖b‖²``, the shape prior's loss, relative so that its weight means the same for any code.

    >>> code_distance(torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 0.0]])).item()
    1.0
    """
    return ((first - second).square().sum(dim=1) / second.detach().square().sum(dim=1).clamp(min=1e-6)).mean()


def shape_losses(net: ShapeCodes, shares: Float[Tensor, "batch classes z y x"], image: Float[Tensor, "batch 1 z y x"]
                 ) -> Float[Tensor, ""]:
    """What a T-L network is trained by: cross entropy of the decoded labels, p of the image near f of the labels."""
    code = net.of_labels(shares)
    pooled = F.adaptive_avg_pool3d(shares, net.size)
    target = torch.cat(((1 - pooled.sum(dim=1, keepdim=True)).clamp(0, 1), pooled), dim=1)
    entropy = -(target * F.log_softmax(net.decode(code), dim=1)).sum(dim=1).mean()
    return entropy + 0.1 * code_distance(net.of_image(image), code.detach()) + 1e-4 * code.square().mean()
