"""Cartesian multi-coil encoding, ``y = M F S x``, as a LinearOp."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Complex, Num, Shaped
from torch import Tensor

from firstread.core.errors import SettingError
from firstread.ops.fourier import DIMENSION, dimensions, fft, ifft, uncentre
from firstread.ops.linear import LinearOp


class CartesianEncoding(LinearOp):
    """Image ``[batch, time, 1, z, y, x]`` to k-space ``[batch, time, coil, z, y, x]``: ``y = M F S x``.

    With several sets of maps (soft SENSE, Uecker et al. 2014) the image has one channel per set, and their coil images
    add up: ``y = M F Σ_s S_s x_s``.

    mask: measured samples (1 or 0, or relaxed values between), length 1 on any axis along which it is constant; a
    Fourier axis on which it has length 1 costs no transform in ``gram``.
    sensitivities: coil maps ``S``, ``[batch, set, coil, z, y, x]``; None stands for one coil of sensitivity 1.
    fourier_axes: the axes that ``F`` transforms.

    Differentiable in image, sensitivities and mask; a binary mask that is being learned gets the gradient of
    ``measured_part`` and ``squared``, which reaches the lines that were not measured. After Pruessmann et al. 1999.

    >>> mask = torch.ones(1, 1, 1, 1, 4, 1)
    >>> encoding = CartesianEncoding(mask=mask)
    >>> encoding(torch.ones(1, 2, 1, 1, 4, 4, dtype=torch.complex64))[0, 0, 0, 0, 2, 2].item()
    (4+0j)
    """

    def __init__(self, *, mask: Num[Tensor, "#batch mt 1 mz my mx"] | Bool[Tensor, "#batch mt 1 mz my mx"],
                 sensitivities: Complex[Tensor, "#batch set coil z y x"] | None = None,
                 fourier_axes: Sequence[str] = ("y", "x")):
        dimensions(fourier_axes)
        self.sensitivities = sensitivities
        self.fourier_axes = tuple(fourier_axes)
        real = torch.float32 if sensitivities is None else sensitivities.real.dtype
        self.mask = mask if mask.is_floating_point() else mask.to(real)
        self._mixed = tuple(a for a in self.fourier_axes if self.mask.shape[DIMENSION[a]] > 1)
        self._last = self._mixed == ("y",)
        self._kept: tuple[Tensor, Tensor | None, Tensor | None] | None = None

    @property
    def sets(self) -> int:
        """Sets of coil maps, and channels of the image."""
        return 1 if self.sensitivities is None else self.sensitivities.shape[1]

    def forward(self, x: Complex[Tensor, "batch time set z y x"]) -> Complex[Tensor, "batch time coil z y x"]:
        """``M F S x``."""
        return self.mask * fft(x if self.sensitivities is None else expand(self.sensitivities, x), self.fourier_axes)

    def adjoint(self, y: Complex[Tensor, "batch time coil z y x"]) -> Complex[Tensor, "batch time set z y x"]:
        """``Sᴴ Fᴴ M y``."""
        image = ifft(measured_part(y, self.mask), self.fourier_axes)
        if self.sensitivities is None:
            if image.shape[2] != 1:
                raise SettingError(f"{image.shape[2]} coils without sensitivities", expected="one coil",
                                   remedy="give the sensitivities of the coils")
            return image
        return reduce(self.sensitivities.conj(), image)

    def gram(self, x: Complex[Tensor, "batch time set z y x"]) -> Complex[Tensor, "batch time set z y x"]:
        """``Sᴴ Fᴴ M² F S x`` without shifts, and transformed only along axes on which the mask varies.

        ``Fᴴ M² F`` is a circular convolution: it commutes with shifts, so the uncentred transform with the uncentred
        mask gives the same; along an axis on which M is constant, F cancels. Frames go one by one, lines along y made
        contiguous, so that the coil images of one frame stay in cache.
        """
        mask, maps, conjugate = self._for_gram()
        steps = zip(x.split(1, dim=1), mask.expand(-1, x.shape[1], *[-1] * 4).split(1, dim=1), strict=True)
        return torch.cat([self._gram_of_frame(frame, m, maps, conjugate) for frame, m in steps], dim=1)

    def _gram_of_frame(self, x: Tensor, mask: Tensor, maps: Tensor | None, conjugate: Tensor | None) -> Tensor:
        x = x.transpose(-1, -2).contiguous() if self._last else x
        coils = x if maps is None else expand(maps, x)
        if self._mixed:
            dims = (-1,) if self._last else dimensions(self._mixed)
            measured = torch.fft.fftn(coils, dim=dims, norm="backward").mul_(mask)
            coils = torch.fft.ifftn(measured, dim=dims, norm="forward")
        else:
            coils = coils * mask
        if conjugate is None:
            image = coils
        elif conjugate.shape[1] == 1:
            image = coils.mul_(conjugate).sum(dim=2, keepdim=True)
        else:
            image = reduce(conjugate, coils)
        return image.transpose(-1, -2) if self._last else image

    def _for_gram(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The uncentred squared mask over the scale of two transforms, and the maps; y last where only y is mixed.

        Kept when no gradient is asked.
        """
        if self._kept is not None:
            return self._kept
        size = math.prod(self.mask.shape[DIMENSION[axis]] for axis in self._mixed)
        mask, maps = uncentre(squared(self.mask) / size, self._mixed), self.sensitivities
        if self._last:
            mask = mask.transpose(-1, -2).contiguous()
            maps = None if maps is None else maps.transpose(-1, -2).contiguous()
        made = (mask, maps, None if maps is None else maps.conj().resolve_conj())
        if not any(t is not None and t.requires_grad for t in (self.mask, self.sensitivities)):
            self._kept = made
        return made

    def at_slice(self, number: int) -> CartesianEncoding:
        """The encoding of one slice, where slices are independent. Raises SettingError where z is a Fourier axis."""
        if "z" in self.fourier_axes:
            raise SettingError("one slice of an encoding that couples them", expected="fourier_axes without z",
                               remedy="transform along z first")
        maps = None if self.sensitivities is None else at_slice(self.sensitivities, number)
        return CartesianEncoding(mask=at_slice(self.mask, number), sensitivities=maps, fourier_axes=self.fourier_axes)

    def bound(self) -> float:
        """An upper bound of the largest eigenvalue of ``Aᴴ A``: ``max M² · max_r ‖S(r)ᴴ S(r)‖``.

        The norm of the matrix over sets is bounded by its largest row sum of magnitudes (Gershgorin).
        """
        peak = float((self.mask.detach() ** 2).max())
        if self.sensitivities is None:
            return peak
        maps = self.sensitivities.detach()
        rows = [torch.stack([(a.conj() * b).sum(dim=1).abs() for b in maps.unbind(1)]).sum(dim=0)
                for a in maps.unbind(1)]
        return peak * max(float(row.max()) for row in rows)


def expand(maps: Complex[Tensor, "#batch set coil z y x"], x: Complex[Tensor, "batch time set z y x"]
           ) -> Complex[Tensor, "batch time coil z y x"]:
    """Coil images ``Σ_s S_s x_s``."""
    parts = [maps[:, s : s + 1] * x[:, :, s : s + 1] for s in range(maps.shape[1])]
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(dim=0)


def reduce(conjugate: Complex[Tensor, "#batch set coil z y x"], coils: Complex[Tensor, "batch time coil z y x"]
           ) -> Complex[Tensor, "batch time set z y x"]:
    """``Σ_c S*_{s,c} I_c`` for every set, from the conjugate maps."""
    return torch.cat([(coils * part).sum(dim=2, keepdim=True) for part in conjugate.split(1, dim=1)], dim=2)


def join_sets(x: Complex[Tensor, "batch time set z y x"]) -> Complex[Tensor, "batch time 1 z y x"]:
    """One image of all sets: magnitude ``sqrt(Σ_s |x_s|²)``, phase of the first.

    For sets that are orthonormal over the coils this is the root sum of squares of the coil images.

    >>> join_sets(torch.tensor([3j, 4.0]).reshape(1, 1, 2, 1, 1, 1)).item()
    5j
    """
    first = x[:, :, :1]
    if x.shape[2] == 1:
        return x
    others = x[:, :, 1:].abs().square().sum(dim=2, keepdim=True)
    tiny = torch.finfo(others.dtype).tiny
    size = first.abs()
    phase = torch.where(size > tiny, first / size.clamp_min(tiny), torch.ones_like(first))
    return phase * (size.square() + others).clamp_min(tiny).sqrt()


def at_slice(tensor: Shaped[Tensor, "batch time channel z y x"], number: int
             ) -> Shaped[Tensor, "batch time channel 1 y x"]:
    """One slice, or the tensor itself where it is the same for all.

    >>> at_slice(torch.zeros(1, 1, 1, 3, 2, 2), 1).shape
    torch.Size([1, 1, 1, 1, 2, 2])
    """
    return tensor if tensor.shape[3] == 1 else tensor[:, :, :, number:number + 1]


def measured_part(y: Complex[Tensor, "*axes"], mask: Num[Tensor, "..."]) -> Complex[Tensor, "*axes"]:
    """``M y``, of measurements ``y = M k``.

    For a binary mask ``M y = y``. Where such a mask is being learned this is used before differentiating: the product
    rule on ``M (M k)`` would give ``2 M k``, which is zero on every line that was not measured, where the effect of
    measuring it is ``k``.

    >>> mask = torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 1, 2, 1).requires_grad_()
    >>> k = torch.full((1, 1, 1, 1, 2, 1), 3.0, dtype=torch.complex64)
    >>> measured_part(mask * k, mask).real.sum().backward()
    >>> mask.grad.flatten().tolist()
    [3.0, 3.0]
    """
    return _Measured.apply(y, mask.detach()) if _learned(mask) else mask * y


def squared(mask: Num[Tensor, "*axes"]) -> Num[Tensor, "*axes"]:
    """``M²``, the weight of each sample in least squares; ``M² = M`` is used before differentiating a learned mask.

    >>> mask = torch.tensor([0.0, 1.0]).requires_grad_()
    >>> squared(mask).sum().backward()
    >>> mask.grad.tolist()
    [1.0, 1.0]
    """
    return mask.clone() if _learned(mask) else mask * mask


def _learned(mask: Tensor) -> bool:
    """Whether a mask is binary and asks for a gradient."""
    return mask.requires_grad and bool(((mask == 0) | (mask == 1)).all())


class _Measured(torch.autograd.Function):
    """The product with a mask, whose gradient goes to the measurements whole."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, mask: Tensor) -> Tensor:
        return mask * y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def combine(kspace: Complex[Tensor, "batch time coil z y x"], encoding: CartesianEncoding
            ) -> Complex[Tensor, "batch time set z y x"]:
    """Coil-combined image of k-space taken as fully sampled, ``Σ_c S_c* F⁻¹ k_c / Σ_c |S_c|²``, set by set.

    It is the least-squares image where sets are orthogonal over the coils, as those of ESPIRiT are.
    """
    image = ifft(kspace, encoding.fourier_axes)
    maps = encoding.sensitivities
    if maps is None:
        return image
    energy = maps.abs().square().sum(dim=2)[:, None]
    return reduce(maps.conj(), image) / energy.clamp_min(torch.finfo(energy.dtype).tiny)
