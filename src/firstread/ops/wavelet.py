"""Orthonormal wavelets, Haar and Daubechies with four taps, of any number of axes and any size; cycle spinning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Num
from torch import Tensor

from firstread.core.errors import SettingError
from firstread.ops.linear import LinearOp
from firstread.ops.proximal import soft_threshold

Family = Literal["haar", "daubechies4"]
_R3 = 3**0.5
TAPS: dict[Family, tuple[float, ...]] = {
    "haar": (0.5**0.5, 0.5**0.5),
    "daubechies4": tuple(v / (4 * 2**0.5) for v in (1 + _R3, 3 + _R3, 3 - _R3, 1 - _R3))}


def wavelet(x: Num[Tensor, "*shape"], dims: Sequence[int] = (-2, -1), *, levels: int = 3,
            family: Family = "haar") -> Num[Tensor, "*shape"]:
    """The periodic orthonormal wavelet transform ``W x`` (Mallat 1989), coarse coefficients first along each axis.

    ``c_n = Σ_k h_k x_{2n+k}`` and ``d_n = Σ_k (−1)^k h_{L−1−k} x_{2n+k}`` along each of ``dims``, then again on the
    coarse block. Of an odd length the last sample joins the coarse ones as it is, so that the transform is orthonormal
    at every size. Taps: Haar; Daubechies 1988 with four taps and two vanishing moments.

    >>> wavelet(torch.tensor([1.0, 1.0, 2.0, 4.0]), (0,), levels=1).mul(2**0.5).round().tolist()
    [2.0, 6.0, 0.0, -2.0]
    """
    return _Orthonormal.apply(x, _checked(x, dims, levels, family), levels, TAPS[family], False)


def inverse_wavelet(c: Num[Tensor, "*shape"], dims: Sequence[int] = (-2, -1), *, levels: int = 3,
                    family: Family = "haar") -> Num[Tensor, "*shape"]:
    """``Wᴴ c = W⁻¹ c``.

    >>> x = torch.randn(7, 5)
    >>> torch.allclose(inverse_wavelet(wavelet(x, levels=2), levels=2), x, atol=1e-6)
    True
    """
    return _Orthonormal.apply(c, _checked(c, dims, levels, family), levels, TAPS[family], True)


class WaveletTransform(LinearOp):
    """``W`` as an operator; its Gram is the identity."""

    def __init__(self, *, dims: Sequence[int] = (-2, -1), levels: int = 3, family: Family = "haar"):
        self.dims, self.levels, self.family = tuple(dims), levels, family

    def forward(self, x: Num[Tensor, "*shape"]) -> Num[Tensor, "*shape"]:
        """``W x``."""
        return wavelet(x, self.dims, levels=self.levels, family=self.family)

    def adjoint(self, y: Num[Tensor, "*shape"]) -> Num[Tensor, "*shape"]:
        """``Wᴴ y``."""
        return inverse_wavelet(y, self.dims, levels=self.levels, family=self.family)

    def gram(self, x: Num[Tensor, "*shape"]) -> Num[Tensor, "*shape"]:
        """``x``."""
        return x

    def bound(self) -> float:
        """The largest eigenvalue of ``WᴴW``."""
        return 1.0


def coarse_block(shape: Sequence[int], dims: Sequence[int], levels: int) -> tuple[slice, ...]:
    """Where the coarse coefficients of the last level lie.

    >>> coarse_block((7, 16), (0, 1), 2)
    (slice(0, 2, None), slice(0, 4, None))
    """
    index = [slice(None)] * len(shape)
    for dim in dims:
        index[dim] = slice(0, -(-shape[dim] // 2**levels))
    return tuple(index)


def shrink_details(x: Num[Tensor, "*shape"], threshold: Float[Tensor, "..."], dims: Sequence[int] = (-2, -1), *,
                   levels: int = 3, family: Family = "haar", shift: Sequence[int] | None = None
                   ) -> Num[Tensor, "*shape"]:
    """``argmin_u ½‖u − x‖² + λ ‖details of W T u‖₁`` with ``T`` a circular shift: ``Tᴴ Wᴴ soft_λ(W T x)``.

    Coarse coefficients are left alone. A new random ``shift`` in every iteration of a solver (cycle spinning, Coifman
    and Donoho 1995) takes the blocks of the decimated transform out of the image.
    """
    moved = x if shift is None else x.roll(tuple(shift), tuple(dims))
    coefficients = wavelet(moved, dims, levels=levels, family=family)
    block = coarse_block(x.shape, dims, levels)
    kept = soft_threshold(coefficients, threshold)
    kept[block] = coefficients[block]
    made = inverse_wavelet(kept, dims, levels=levels, family=family)
    return made if shift is None else made.roll(tuple(-s for s in shift), tuple(dims))


def _checked(x: Tensor, dims: Sequence[int], levels: int, family: str) -> tuple[int, ...]:
    if family not in TAPS:
        raise SettingError(f"wavelet {family!r}", expected=f"one of {', '.join(TAPS)}", remedy="correct `family`")
    axes = tuple(d % x.ndim for d in dims if -x.ndim <= d < x.ndim)
    if not axes or len(set(axes)) != len(dims) or levels < 1:
        raise SettingError(f"axes {tuple(dims)} of {x.ndim}, {levels} levels", remedy="correct the setting",
                           expected="different axes of the data, one level or more")
    return axes


class _Orthonormal(torch.autograd.Function):
    """Analysis, or synthesis where ``back``; each is the gradient of the other."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dims: tuple[int, ...], levels: int, taps: tuple[float, ...], back: bool) -> Tensor:
        ctx.settings = (dims, levels, taps, back)
        return (_synthesize if back else _analyse)(x, dims, levels, taps)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        dims, levels, taps, back = ctx.settings
        return _Orthonormal.apply(grad, dims, levels, taps, not back), None, None, None, None


def _analyse(x: Tensor, dims: tuple[int, ...], levels: int, taps: tuple[float, ...]) -> Tensor:
    """Each step reads one buffer and writes the other."""
    result, spare = torch.empty(x.shape, dtype=x.dtype, device=x.device), torch.empty_like(x)
    source = x
    for level in range(levels):
        block = coarse_block(x.shape, dims, level)
        for dim in dims:
            target = spare if source is result or (source is x and len(dims) % 2 == 0) else result
            _split(source[block], target[block], dim, taps)
            source = target
        if source is spare:
            result[block] = spare[block]
            source = result
    return result


def _synthesize(c: Tensor, dims: tuple[int, ...], levels: int, taps: tuple[float, ...]) -> Tensor:
    result, spare = c.clone(memory_format=torch.contiguous_format), torch.empty_like(c)
    for level in reversed(range(levels)):
        block = coarse_block(c.shape, dims, level)
        source, target = result, spare
        for dim in reversed(dims):
            _merge(source[block], target[block], dim, taps)
            source, target = target, source
        if source is spare:
            result[block] = spare[block]
    return result


def _split(x: Tensor, out: Tensor, dim: int, taps: tuple[float, ...]) -> None:
    """Coarse and detail coefficients of one level along one axis."""
    even, odd, coarse, detail, rest = _phases(x, out, dim)
    for made, h in ((coarse, taps), (detail, _mirror(taps))):
        torch.mul(even, h[0], out=made)
        _add_shifted(made, odd, h[1], 0, dim)
        for k in range(1, len(h) // 2):
            _add_shifted(made, even, h[2 * k], k, dim)
            _add_shifted(made, odd, h[2 * k + 1], k, dim)
    if rest is not None:
        rest[1].copy_(rest[0])


def _merge(c: Tensor, out: Tensor, dim: int, taps: tuple[float, ...]) -> None:
    """The adjoint of ``_split``."""
    even, odd, coarse, detail, rest = _phases(out, c, dim)
    mirror = _mirror(taps)
    for made, p in ((even, 0), (odd, 1)):
        torch.mul(coarse, taps[p], out=made)
        _add_shifted(made, detail, mirror[p], 0, dim)
        for k in range(1, len(taps) // 2):
            _add_shifted(made, coarse, taps[2 * k + p], -k, dim)
            _add_shifted(made, detail, mirror[2 * k + p], -k, dim)
    if rest is not None:
        rest[0].copy_(rest[1])


def _mirror(taps: tuple[float, ...]) -> tuple[float, ...]:
    """The filter of the details, ``(−1)^k h_{L−1−k}``."""
    return tuple((-1) ** k * h for k, h in enumerate(reversed(taps)))


def _phases(x: Tensor, c: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor, Tensor, tuple[Tensor, Tensor] | None]:
    """Views: even and odd samples, coarse and detail coefficients, and an odd length's last sample with its place."""
    n = x.shape[dim]
    pairs = n // 2
    index = [slice(None)] * x.ndim
    index[dim] = slice(0, 2 * pairs, 2)
    even = x[tuple(index)]
    index[dim] = slice(1, 2 * pairs, 2)
    odd = x[tuple(index)]
    rest = (x.narrow(dim, n - 1, 1), c.narrow(dim, pairs, 1)) if n % 2 else None
    return even, odd, c.narrow(dim, 0, pairs), c.narrow(dim, n - pairs, pairs), rest


def _add_shifted(out: Tensor, x: Tensor, weight: float, shift: int, dim: int) -> None:
    """``out_n += weight x_{n + shift}``, periodic."""
    n = x.shape[dim]
    first = shift % n if n else 0
    out.narrow(dim, 0, n - first).add_(x.narrow(dim, first, n - first), alpha=weight)
    if first:
        out.narrow(dim, n - first, first).add_(x.narrow(dim, 0, first), alpha=weight)
