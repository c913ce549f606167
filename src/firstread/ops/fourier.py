"""The one Fourier transform of the house: centred, orthonormal, zero frequency at ``N // 2``.

Data has the six axes ``[batch, time, channel, z, y, x]`` (or only the last of them); axes are named.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Complex, Num, Shaped
from torch import Tensor

from firstread.core.errors import SettingError

DIMENSION = {"z": -3, "y": -2, "x": -1}


def dimensions(axes: Sequence[str]) -> tuple[int, ...]:
    """Tensor dimensions of named axes.

    >>> dimensions(("y", "x"))
    (-2, -1)
    """
    unknown = [a for a in axes if a not in DIMENSION]
    if unknown or len(set(axes)) != len(axes):
        raise SettingError(f"axes {tuple(axes)}", expected="different ones of 'z', 'y', 'x'",
                           remedy="name each axis to transform once")
    return tuple(DIMENSION[a] for a in axes)


def fft(data: Num[Tensor, "*axes"], axes: Sequence[str] = ("y", "x")) -> Complex[Tensor, "*axes"]:
    """Image to k-space: ``X[k] = N^(-1/2) Σ_n x[n] exp(-2πi (k - N//2)(n - N//2) / N)`` along each named axis.

    >>> fft(torch.ones(1, 4, dtype=torch.complex64), axes=("x",)).abs().tolist()
    [[0.0, 0.0, 2.0, 0.0]]
    """
    return _centred(data, dimensions(axes), torch.fft.fftn)


def ifft(data: Num[Tensor, "*axes"], axes: Sequence[str] = ("y", "x")) -> Complex[Tensor, "*axes"]:
    """K-space to image: the inverse, and the adjoint, of ``fft``.

    >>> image = torch.randn(3, 5, dtype=torch.complex64)
    >>> torch.allclose(ifft(fft(image)), image, atol=1e-6)
    True
    """
    return _centred(data, dimensions(axes), torch.fft.ifftn)


def uncentre(data: Shaped[Tensor, "*axes"], axes: Sequence[str]) -> Shaped[Tensor, "*axes"]:
    """Zero frequency from ``N // 2`` to the first place, along the named axes."""
    return torch.fft.ifftshift(data, dim=dimensions(axes)) if axes else data


def _centred(data: Tensor, dims: tuple[int, ...], transform: Callable[..., Tensor]) -> Tensor:
    """For even N a shift by N/2 changes the sign of every other sample on the other side: one product."""
    even = tuple(d for d in dims if data.shape[d] % 2 == 0)
    odd = tuple(d for d in dims if data.shape[d] % 2 == 1 and data.shape[d] > 1)
    if not dims:
        return data
    signs, constant = _signs(data, even)
    data = data * signs if even else data
    data = torch.fft.ifftshift(data, dim=odd) if odd else data
    data = transform(data, dim=dims, norm="ortho")
    data = torch.fft.fftshift(data, dim=odd) if odd else data
    return data * (constant * signs) if even else data


def _signs(data: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, float]:
    """The checkerboard ``(-1)^n`` over ``dims`` and the constant ``Π (-1)^(N/2)``."""
    real = data.real.dtype if data.is_complex() else torch.get_default_dtype()
    if data.dtype in (torch.float32, torch.float64):
        real = data.dtype
    signs = torch.ones((), dtype=real, device=data.device)
    constant = 1.0
    for d in dims:
        n = data.shape[d]
        line = torch.ones(n, dtype=real, device=data.device)
        line[1::2] = -1
        signs = signs * line.reshape(-1, *[1] * (-d - 1))
        constant *= -1.0 if (n // 2) % 2 else 1.0
    return signs, constant
