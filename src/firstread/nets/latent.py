"""Segmentation by way of a code of few numbers ("LI-net", Schlemper et al. 2018).

An autoencoder learns the codes of true masks. A predictor finds the code of every undersampled frame; codes are
interpolated over time, the less sure ones from the surer, and decoded. Every output is therefore a plausible mask. The
abstract gives no weighting in time; the interpolation below is our own form of it.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from firstread.core.errors import SettingError
from firstread.nets.unet import convolution


def interpolate_codes(codes: Float[Tensor, "rows time code"], confidence: Float[Tensor, "rows time"],
                      stiffness: Float[Tensor, ""]) -> Float[Tensor, "rows time code"]:
    """``argmin_z Σ_t w_t |z_t - c_t|² + λ Σ_t |z_{t-1} - 2 z_t + z_{t+1}|²``, circular in time.

    confidence: w > 0; stiffness: λ ≥ 0. Solved as ``(diag(w) + λ DᵀD) z = diag(w) c``. A code that does not change
    stays whatever λ; frames of little confidence follow their neighbours.

    >>> codes = torch.tensor([[[1.0], [9.0], [1.0], [1.0]]])
    >>> sure = torch.tensor([[1.0, 1e-6, 1.0, 1.0]])
    >>> [round(v, 1) for v in interpolate_codes(codes, sure, torch.tensor(10.0)).flatten().tolist()]
    [1.0, 1.0, 1.0, 1.0]
    """
    one = torch.eye(codes.shape[1], dtype=codes.dtype, device=codes.device)
    bend = one.roll(1, dims=0) - 2 * one + one.roll(-1, dims=0)
    return torch.linalg.solve(torch.diag_embed(confidence) + stiffness * bend.mT @ bend, confidence[..., None] * codes)


class Encoder(nn.Module):
    """Images of one size to codes: convolutions, halving the resolution at every width, and one matrix at the end.

    size: (y, x), multiples of ``2 ** len(widths)``; depth: convolutions at each width. With two, these are the layers
    of the way down of :class:`~firstread.nets.unet.UNet`. Raises SettingError for other sizes.
    """

    def __init__(self, *, channels_in: int, code: int, size: tuple[int, int], widths: tuple[int, ...],
                 depth: int = 1) -> None:
        super().__init__()
        self.size = size
        self.scales = nn.ModuleList(
            nn.Sequential(convolution(a, b, dims=2), *(convolution(b, b, dims=2) for _ in range(depth - 1)))
            for a, b in pairwise((channels_in, *widths)))
        y, x = smallest(size, widths)
        self.codes = nn.Linear(widths[-1] * y * x, code)

    def forward(self, images: Float[Tensor, "rows channel y x"]) -> Float[Tensor, "rows code"]:
        if tuple(images.shape[-2:]) != self.size:
            raise SettingError(f"images of {tuple(images.shape[-2:])}", expected=f"{self.size}",
                               remedy="resample to the size that the network was made for")
        for scale in self.scales:
            images = F.max_pool2d(scale(images), 2)
        return self.codes(images.flatten(1))


class MaskAutoencoder(nn.Module):
    """Masks of one size to ``code`` numbers and back.

    classes: background first; size: (y, x); widths: channels at each scale, from fine to coarse.

    >>> net = MaskAutoencoder(classes=4, size=(16, 8), code=6, widths=(8, 8))
    >>> net(torch.zeros(3, 16, 8, dtype=torch.int64)).shape, net.encode(torch.zeros(3, 16, 8, dtype=torch.int64)).shape
    (torch.Size([3, 4, 16, 8]), torch.Size([3, 6]))
    """

    def __init__(self, *, classes: int, size: tuple[int, int], code: int = 64,
                 widths: tuple[int, ...] = (16, 32, 64, 64)) -> None:
        super().__init__()
        self.classes, self.code = classes, code
        self.encoder = Encoder(channels_in=classes, code=code, size=size, widths=widths)
        self.start = (widths[-1], *smallest(size, widths))
        self.first = nn.Linear(code, self.start[0] * self.start[1] * self.start[2])
        self.scales = nn.ModuleList(convolution(a, b, dims=2) for a, b in pairwise((*widths[::-1], widths[0])))
        self.logits = nn.Conv2d(widths[0], classes, 1)

    def encode(self, labels: Int[Tensor, "rows y x"]) -> Float[Tensor, "rows code"]:
        """The codes of class indices."""
        hot = F.one_hot(labels.long(), self.classes).movedim(-1, 1)
        return self.encoder(hot.to(self.first.weight.dtype))

    def decode(self, codes: Float[Tensor, "rows code"]) -> Float[Tensor, "rows classes y x"]:
        """Logits of the masks of these codes."""
        x = F.relu(self.first(codes)).unflatten(1, self.start)
        for scale in self.scales:
            x = scale(F.interpolate(x, scale_factor=2, mode="nearest"))
        return self.logits(x)

    def forward(self, labels: Int[Tensor, "rows y x"]) -> Float[Tensor, "rows classes y x"]:
        return self.decode(self.encode(labels))


class LatentInterpolation(nn.Module):
    """Undersampled cines to the logits of masks, through interpolated codes.

    autoencoder: trained on masks; channels_in, widths: of the predictor; stiffness: first value of the trained λ.

    >>> net = LatentInterpolation(autoencoder=MaskAutoencoder(classes=4, size=(16, 8), code=6, widths=(8, 8)),
    ...                           channels_in=2, widths=(8, 8))
    >>> net(torch.zeros(1, 5, 2, 16, 8)).shape
    torch.Size([1, 5, 4, 16, 8])
    """

    def __init__(self, *, autoencoder: MaskAutoencoder, channels_in: int,
                 widths: tuple[int, ...] = (16, 32, 64, 64), stiffness: float = 0.1) -> None:
        super().__init__()
        if stiffness <= 0:
            raise SettingError(f"stiffness {stiffness}", expected="above zero", remedy="begin at 0.1")
        self.autoencoder = autoencoder
        self.predictor = Encoder(channels_in=channels_in, code=autoencoder.code + 1, size=autoencoder.encoder.size,
                                 widths=widths, depth=2)
        self.log_stiffness = nn.Parameter(torch.tensor(stiffness).log())

    def codes(self, cines: Float[Tensor, "rows time channel y x"]) -> Float[Tensor, "rows time code"]:
        """The interpolated code of every frame."""
        found = self.predictor(cines.flatten(0, 1)).unflatten(0, cines.shape[:2])
        confidence = F.softplus(found[..., -1]) + 1e-3
        return interpolate_codes(found[..., :-1], confidence, self.log_stiffness.exp())

    def forward(self, cines: Float[Tensor, "rows time channel y x"]) -> Float[Tensor, "rows time classes y x"]:
        return self.autoencoder.decode(self.codes(cines).flatten(0, 1)).unflatten(0, cines.shape[:2])


def smallest(size: tuple[int, int], widths: tuple[int, ...]) -> tuple[int, int]:
    """(y, x) after one halving for each width; raises SettingError where it does not come out even."""
    factor = 2 ** len(widths)
    if not widths or min(size) < factor or any(n % factor for n in size):
        raise SettingError(f"{len(widths)} scales for images of {size}", expected=f"multiples of {factor}",
                           remedy="change the field or the number of widths")
    return size[0] // factor, size[1] // factor
