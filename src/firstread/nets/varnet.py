"""End-to-end variational network for multi-coil MRI (Sriram et al. 2020): k-space is refined step by step, each step a
gradient step of data consistency plus a network's correction; the coil sensitivities are learned too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Complex, Float, Num
from torch import Tensor, nn

from firstread.core.errors import SettingError
from firstread.nets.unet import UNet
from firstread.ops.encoding import CartesianEncoding, expand, measured_part, reduce
from firstread.ops.fourier import fft, ifft
from firstread.ops.solve import solve

RIDGE = 1e-2  # of the least squares that it may begin with, for images of brightness one


def soft_consistency(kspace: Complex[Tensor, "*axes"], measured: Complex[Tensor, "*axes"], mask: Num[Tensor, "..."],
                     step: Float[Tensor, ""]) -> Complex[Tensor, "*axes"]:
    """A gradient step on ``½‖M k - y‖²``: ``k - η M (k - y)``; with η = 1 the measured samples are restored exactly.

    >>> k, y, m = torch.zeros(2) + 0j, torch.ones(2) + 0j, torch.tensor([1.0, 0.0])
    >>> soft_consistency(k, y, m, torch.tensor(0.25)).real.tolist()
    [0.25, 0.0]
    """
    return kspace - step * (mask * kspace - measured_part(measured, mask))


def unit_maps(maps: Complex[Tensor, "*axes coil z y x"]) -> Complex[Tensor, "*axes coil z y x"]:
    """Maps over their root sum of squares, ``Σ_c |S_c|² = 1`` where there is a coil at all."""
    energy = torch.view_as_real(maps).square().sum(dim=(-5, -1)).unsqueeze(-4)
    return maps / (energy + torch.finfo(energy.dtype).eps ** 2).sqrt()


class _Correction(nn.Module):
    """A U-Net on planes whose last layer is zero at first: it begins by changing nothing."""

    def __init__(self, *, channels_in: int, channels_out: int, widths: tuple[int, ...]):
        super().__init__()
        self.unet = UNet(channels_in=channels_in, channels_out=channels_out, widths=widths)
        nn.init.zeros_(self.unet.logits.weight)
        nn.init.zeros_(self.unet.logits.bias)

    def forward(self, planes: Float[Tensor, "plane channel y x"]) -> Complex[Tensor, "plane y x"]:
        return torch.view_as_complex(self.unet(planes).movedim(1, -1).contiguous())


class SensitivityNetwork(nn.Module):
    """Coil maps refined by one U-Net for all coils, ``S = N(S⁰ + U(S⁰, |x⁰|))``, N the root sum of squares to one.

    ``S⁰`` are the maps of the fully sampled centre lines, ``x⁰`` the zero-filled image, which says where there is
    signal to trust. Sriram et al. give the network the centre's coil images themselves.
    """

    def __init__(self, *, widths: tuple[int, ...]):
        super().__init__()
        self.correction = _Correction(channels_in=3, channels_out=2, widths=widths)

    def forward(self, maps: Complex[Tensor, "batch 1 coil z y x"], signal: Float[Tensor, "batch 1 1 z y x"]
                ) -> Complex[Tensor, "batch 1 coil z y x"]:
        parts = torch.view_as_real(maps)
        planes = torch.stack((parts[..., 0], parts[..., 1], signal.expand_as(parts[..., 0])), dim=4)
        change = self.correction(planes.flatten(0, 3)).reshape(maps.shape)
        return unit_maps(maps + change)


class VariationalNetwork(nn.Module):
    """Measurements of many coils in, complex image out: ``k ← k - η_t M (k - y) + F E U_t(R F⁻¹ k)``, t = 1 … cascades.

    E and R expand to and reduce from coils by learned sensitivities; U_t are U-Nets. The result is ``R F⁻¹ k``, whose
    magnitude is the root sum of squares of the coils' images where the sensitivities explain them.

    cascades: steps t; widths: channels of U_t at each scale; map_widths: of the network for the sensitivities.
    start: where it begins: lines that were not measured are those of least squares with the first sensitivities, after
        so many conjugate gradients; 0 begins with zeros there, as published.

    >>> net = VariationalNetwork(cascades=1, widths=(8, 8), map_widths=(4, 4))
    >>> maps = torch.full((1, 1, 4, 1, 8, 8), 0.5 + 0j)
    >>> encoding = CartesianEncoding(mask=torch.ones(1, 1, 1, 1, 8, 1), sensitivities=maps)
    >>> image = torch.ones(1, 2, 1, 1, 8, 8, dtype=torch.complex64)
    >>> torch.allclose(net(encoding(image), encoding), image, atol=1e-5)
    True
    """

    def __init__(self, *, cascades: int = 6, widths: tuple[int, ...] = (16, 32, 48),
                 map_widths: tuple[int, ...] = (8, 12, 16), start: int = 0):
        super().__init__()
        if cascades < 1 or start < 0:
            raise SettingError(f"{cascades} cascades after {start} conjugate gradients",
                               expected="one or more, zero or more", remedy="correct the numbers")
        self.cascades, self.widths, self.map_widths = cascades, tuple(widths), tuple(map_widths)
        self.start = start
        self.sensitivities = SensitivityNetwork(widths=self.map_widths)
        self.corrections = nn.ModuleList(
            _Correction(channels_in=2, channels_out=2, widths=self.widths) for _ in range(cascades))
        self.steps = nn.Parameter(torch.ones(cascades))

    @classmethod
    def from_weight(cls, settings: Mapping[str, Any], state: Mapping[str, Tensor]) -> VariationalNetwork:
        """The network of a weight file: its card's ``network`` and its parameters."""
        net = cls(cascades=int(settings["cascades"]), widths=tuple(settings["widths"]),
                  map_widths=tuple(settings["map_widths"]), start=int(settings["start"]))
        net.load_state_dict(dict(state))
        return net.eval()

    def settings(self) -> dict[str, Any]:
        """What ``from_weight`` needs besides the parameters."""
        return {"cascades": self.cascades, "widths": list(self.widths), "map_widths": list(self.map_widths),
                "start": self.start}

    def maps(self, measured: Complex[Tensor, "batch time coil z y x"], encoding: CartesianEncoding
             ) -> Complex[Tensor, "batch 1 coil z y x"]:
        """The learned sensitivities, from the first ones that ``encoding`` holds; one coil stays as it is."""
        first = encoding.sensitivities
        if first is None:
            shape = (measured.shape[0], 1, 1, *measured.shape[-3:])
            return torch.ones(shape, dtype=measured.dtype, device=measured.device)
        signal = encoding.adjoint(measured).abs().mean(dim=1, keepdim=True)
        return self.sensitivities(unit_maps(first), signal)

    def forward(self, measured: Complex[Tensor, "batch time coil z y x"], encoding: CartesianEncoding
                ) -> Complex[Tensor, "batch time 1 z y x"]:
        """The image, in the units of the measurements, which are to be of brightness about one."""
        maps, axes, mask = self.maps(measured, encoding), encoding.fourier_axes, encoding.mask
        kspace = self._begin(measured, encoding)
        image = reduce(maps.conj(), ifft(kspace, axes))
        for step, correction in zip(self.steps, self.corrections, strict=True):
            planes = torch.view_as_real(image[:, :, 0]).movedim(-1, 3)
            change = torch.stack([_frame(correction, frame) for frame in planes.unbind(1)], dim=1)[:, :, None]
            kspace = soft_consistency(kspace, measured, mask, step) + fft(expand(maps, change), axes)
            image = reduce(maps.conj(), ifft(kspace, axes))
        return image

    def _begin(self, measured: Tensor, encoding: CartesianEncoding) -> Tensor:
        """The measured samples, and between them what least squares of weight ``RIDGE`` expects."""
        first = encoding.sensitivities
        if self.start == 0 or first is None:
            return measured
        image = solve(lambda x: encoding.gram(x) + RIDGE * x, encoding.adjoint(measured), iterations=self.start,
                      tolerance=0.0, systems=3)
        expected = fft(expand(first, image), encoding.fourier_axes)
        return expected + measured_part(measured, encoding.mask) - encoding.mask * expected


def _frame(correction: _Correction, frame: Float[Tensor, "batch z 2 y x"]) -> Complex[Tensor, "batch z y x"]:
    """All planes of one frame together; frames go one after the other, so that memory stays bounded."""
    return correction(frame.flatten(0, 1)).unflatten(0, frame.shape[:2])
