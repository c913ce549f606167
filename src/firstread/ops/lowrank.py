"""Low rank of dynamic images: space times time, in blocks or whole (Casorati matrices), by their singular values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Complex, Float, Num
from torch import Tensor

from firstread.core.errors import SettingError
from firstread.ops.proximal import singular_value_threshold, soft_threshold


def shrink_rank(x: Num[Tensor, "batch time channel z y x"], threshold: Float[Tensor, "#batch 1 1 1 1 1"], *,
                block: int | None = None, shift: Sequence[int] = (0, 0)) -> Num[Tensor, "batch time channel z y x"]:
    """``argmin_u ½‖u − x‖² + λ Σ_b ‖u_b‖_*`` with one matrix, time by pixels, for every block of ``block²`` pixels.

    The nuclear norm of blocks is that of locally low rank (Trzasko and Manduca 2011), that of whole planes (block
    None) the one of Otazo et al. 2015. shift: where blocks begin (y, x), circular; smaller blocks fill what is left at
    the end, so that every pixel lies in one block at every size.

    >>> still = torch.ones(1, 4, 1, 1, 6, 6)
    >>> made = shrink_rank(still, torch.tensor(0.4).reshape(1, 1, 1, 1, 1, 1), block=2)
    >>> torch.allclose(made, torch.full_like(still, 0.9))
    True
    """
    if block is not None and block < 1:
        raise SettingError(f"blocks of {block} pixels", expected="one or more", remedy="correct `block`")
    if block is None:
        return _of_blocks(x, threshold, (x.shape[-2], x.shape[-1]))
    moved = x.roll(tuple(shift), (-2, -1)) if any(shift) else x
    made = torch.empty_like(moved)
    for rows, columns, size in _tiles(x.shape[-2], x.shape[-1], block):
        made[..., rows, columns] = _of_blocks(moved[..., rows, columns], threshold, size)
    return made.roll(tuple(-s for s in shift), (-2, -1)) if any(shift) else made


def nuclear_norm(x: Num[Tensor, "batch time channel z y x"], *, block: int | None = None) -> Float[Tensor, " batch"]:
    """``Σ_b ‖x_b‖_*`` per batch row, from the eigenvalues of the Gram matrices.

    >>> round(nuclear_norm(torch.ones(1, 4, 1, 1, 6, 6), block=2).item(), 3)
    36.0
    """
    total = torch.zeros(x.shape[0], dtype=x.real.dtype, device=x.device)
    y, width = x.shape[-2:]
    for rows, columns, size in [(slice(None), slice(None), (y, width))] if block is None else _tiles(y, width, block):
        matrices = _to_matrices(x[..., rows, columns], size)
        total = total + torch.linalg.eigvalsh(matrices @ matrices.mH).clamp_min(0).sqrt().flatten(1).sum(dim=1)
    return total


def noise_norm(pixels: int, frames: int) -> float:
    """Largest singular value to expect of a matrix of unit complex noise, ``sqrt(pixels) + sqrt(frames)``.

    >>> noise_norm(64, 36)
    14.0
    """
    return pixels**0.5 + frames**0.5


def shrink_temporal_frequencies(x: Complex[Tensor, "batch time channel z y x"], threshold: Float[Tensor, "..."]
                                ) -> Complex[Tensor, "batch time channel z y x"]:
    """``argmin_u ½‖u − x‖² + λ ‖F_t u‖₁`` with the orthonormal transform along time."""
    return torch.fft.ifft(soft_threshold(torch.fft.fft(x, dim=1, norm="ortho"), threshold), dim=1, norm="ortho")


def _tiles(height: int, width: int, block: int) -> Iterator[tuple[slice, slice, tuple[int, int]]]:
    """Regions that whole blocks of one size fill: the inner part, and the strips that are left."""
    for rows, tall in _parts(height, block):
        for columns, wide in _parts(width, block):
            yield rows, columns, (tall, wide)


def _parts(length: int, block: int) -> list[tuple[slice, int]]:
    inner, rest = length // block * block, length % block
    return [*([(slice(0, inner), block)] if inner else []), *([(slice(inner, length), rest)] if rest else [])]


def _to_matrices(x: Tensor, size: tuple[int, int]) -> Tensor:
    """``[batch, time, channel, z, y, x]`` to ``[batch, channel, z, y / block, x / block, time, block²]``."""
    tall, wide = size
    split = x.unflatten(-1, (x.shape[-1] // wide, wide)).unflatten(-3, (x.shape[-2] // tall, tall))
    return split.permute(0, 2, 3, 4, 6, 1, 5, 7).flatten(-2)


def _of_blocks(x: Tensor, threshold: Tensor, size: tuple[int, int]) -> Tensor:
    made = singular_value_threshold(_to_matrices(x, size), threshold[..., None])
    return made.unflatten(-1, size).permute(0, 5, 1, 2, 3, 6, 4, 7).reshape(x.shape)
