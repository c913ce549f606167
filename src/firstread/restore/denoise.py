"""Denoising: total variation, local PCA of a series, and by a trained network."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.errors import SettingError, SignalError
from firstread.core.records import Image, Note
from firstread.core.stage import Stage
from firstread.nets.denoise import ScaledDenoiser
from firstread.ops.noise import local_pca, noise_level
from firstread.ops.rician import rician_noise_level, signal_of_mean
from firstread.ops.variation import PLANE, minimize_total_variation

RICIAN = Note("rician_bias", "Noise of magnitude images is not of mean zero: what is dark stays up to 1.25 times the "
              "noise level too bright after denoising; denoise complex images where there are some, or correct it "
              "(--rician).", "info")


def check_finite(image: Image) -> None:
    """Refuse values that are no numbers."""
    if not bool(torch.isfinite(torch.view_as_real(image.data.detach() + 0j)).all()):
        raise SignalError("an image with values that are no numbers", expected="finite values",
                          remedy="repair the image or its reconstruction")


def noted(image: Image) -> Image:
    """The image, with the note on Rician bias where it looks like a magnitude."""
    return image.noted(RICIAN) if is_magnitude(image) else image


def is_magnitude(image: Image) -> bool:
    """Whether an image is real and nowhere negative."""
    return not image.data.is_complex() and bool((image.data.detach() >= 0).all())


def levels(image: Image, stated: float | None) -> Float[Tensor, "batch time channel z"]:
    """The noise level of every plane: as stated, or estimated."""
    lead = image.data.shape[:4]
    if stated is not None:
        return torch.full(lead, float(stated), dtype=image.data.real.dtype, device=image.data.device)
    return noise_level(image.data.detach().flatten(0, 3)).reshape(lead)


def _check_level(noise: float | None) -> None:
    if noise is not None and noise < 0:
        raise SettingError(f"a noise level of {noise}", expected="zero or more, or None to estimate it",
                           remedy="give the standard deviation of the noise")


class DenoiseTV(Stage):
    """In-plane total variation, ``min_u ½‖u - x‖² + c σ TV(u)`` (Rudin, Osher and Fatemi 1992).

    noise: σ, of each part of complex images; None estimates it in every plane. strength: c.
    Reads an Image, writes the Image "denoised". Differentiable.
    """

    result = "denoised"

    def __init__(self, *, noise: float | int | None = None, strength: float | int = 1.0, iterations: int = 60):
        super().__init__()
        _check_level(noise)
        if strength < 0 or iterations < 1:
            raise SettingError(f"strength {strength}, {iterations} iterations", expected="zero or more, one or more",
                               remedy="correct the setting")
        self.noise, self.strength, self.iterations = noise, strength, iterations

    def forward(self, image: Image) -> Image:
        check_finite(image)
        weight = self.strength * levels(image, self.noise)[..., None, None]
        made = minimize_total_variation(lambda x: x, image.data, weight, bound=1.0, dims=PLANE,
                                        iterations=self.iterations)
        return replace(noted(image), data=made)


class DenoisePCA(Stage):
    """MP-PCA (Veraart et al. 2016): components of local windows over the frames that are noise, left out, per slice.

    window: pixels along y and x. Needs two frames or more. Reads an Image, writes the Image "denoised". No gradient.
    """

    result = "denoised"
    differentiable = False

    def __init__(self, *, window: int = 5):
        super().__init__()
        if window < 2:
            raise SettingError(f"a window of {window}", expected="2 pixels or more", remedy="correct `window`")
        self.window = window

    @torch.no_grad()
    def forward(self, image: Image) -> Image:
        check_finite(image)
        made = torch.empty_like(image.data)
        for b, c, z in torch.cartesian_prod(*(torch.arange(image.data.shape[d]) for d in (0, 2, 3))).reshape(-1, 3):
            made[b, :, c, z] = local_pca(image.data[b, :, c, z], window=self.window)[0]
        return replace(noted(image), data=made)


class CorrectRician(Stage):
    """Denoised magnitudes as signals: the A whose mean magnitude ``E|A + n|`` is the denoised value (ops.rician).

    For what a method made of a magnitude image that estimates its mean (total variation, local PCA, Noise2Self), not
    for a network that was trained to take the bias away.

    noise: σ of each part before the magnitude was taken; None estimates it in every plane of ``image``.
    Reads the Images ``image`` (as it came) and ``denoised``, writes the Image "corrected". Differentiable. Raises
    SignalError for images that are no magnitudes. After Koay and Basser, J. Magn. Reson. 179:317 (2006).
    """

    result = "corrected"

    def __init__(self, *, noise: float | int | None = None):
        super().__init__()
        _check_level(noise)
        self.noise = noise

    def forward(self, image: Image, denoised: Image) -> Image:
        check_finite(image)
        if not is_magnitude(image) or denoised.data.is_complex():
            raise SignalError("an image that is complex or below zero somewhere", expected="magnitudes",
                              remedy="leave the correction out: noise of complex images has no bias")
        if self.noise is None:
            level = rician_noise_level(image.data.detach().flatten(0, 3)).reshape(image.data.shape[:4])
        else:
            level = levels(image, self.noise)
        made = signal_of_mean(denoised.data, level[..., None, None])
        return replace(denoised, data=made, notes=tuple(n for n in denoised.notes if n.code != RICIAN.code))


class Denoise(Stage):
    """By a trained network that is told the noise level (``nets.denoise.ScaledDenoiser``), plane by plane.

    noise: σ, of each part of complex images; None estimates it in every plane. A network of two channels sees real and
    imaginary part (zero for real images), one of one channel real images or magnitudes. Reads an Image, writes the
    Image "denoised". Differentiable.
    """

    result = "denoised"

    def __init__(self, *, network: ScaledDenoiser, noise: float | int | None = None):
        super().__init__()
        _check_level(noise)
        self.network, self.noise = network, noise

    def settings(self) -> str:
        """The network's size and the noise level."""
        sizes = ", ".join(f"{name}={value!r}" for name, value in self.network.settings().items())
        return f"{sizes}, noise={self.noise!r}"

    def forward(self, image: Image) -> Image:
        check_finite(image)
        data = image.data.abs() if image.data.is_complex() and self.network.channels == 1 else image.data
        planes = data.flatten(0, 3)
        level = levels(image, self.noise).flatten()
        parts = torch.view_as_real(planes + 0j).movedim(-1, 1) if self.network.channels == 2 else planes[:, None]
        made = self.network(parts, level)
        if self.network.channels == 2:
            whole = torch.view_as_complex(made.movedim(1, -1).contiguous())
            made = whole if image.data.is_complex() else whole.real
        else:
            made = made[:, 0]
        return replace(image, data=made.reshape(data.shape))
