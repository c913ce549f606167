"""Centre lines of hard masks, and the overlap of tubes that is told by them."""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt32
from torch import Tensor

from firstread.core.errors import SettingError
from firstread.ops.overlap import bounding_box


def skeleton(mask: Bool[Tensor, "*space"]) -> Bool[Tensor, "*space"]:
    """Curves one voxel thin through the middle of a mask, of the same pieces, tunnels and holes.

    Voxels without which nothing changes its topology (simple points; 26 neighbours inside, 6 outside; 8 and 4 in a
    plane) and that do not end a curve are taken away from the six sides in turn, in eight subfields whose voxels do
    not touch, until none is left. Two or three axes; axes of length one are left out. Sources: Bertrand and Malandain
    1994 (simple points), Bertrand and Aktouf 1994 (subfields).

    >>> skeleton(torch.ones(3, 7, dtype=torch.bool)).int().tolist()
    [[0, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0]]
    """
    shape = [size for size in mask.shape if size > 1]
    if len(shape) > 3 or not mask.ndim:
        raise SettingError(f"a mask of {len(shape)} axes", expected="two or three", remedy="give one volume at a time")
    volume = mask.detach().cpu().numpy().reshape([1] * (3 - len(shape)) + shape)
    made = np.zeros_like(volume)
    box = bounding_box(volume)
    if box is not None:
        padded = np.pad(volume[box], 1)
        _thin(padded, sides=[axis for axis in range(3) if volume.shape[axis] > 1])
        made[box] = padded[1:-1, 1:-1, 1:-1]
    return torch.from_numpy(made).reshape(mask.shape).to(mask.device)


def centreline_dice(first: Bool[Tensor, "*space"], second: Bool[Tensor, "*other"]) -> float:
    """clDice: the harmonic mean of each skeleton's share within the other mask; NaN where a mask is empty.

        clDice = 2 T P / (T + P),    P = |S_first ∩ second| / |S_first|,    T = |S_second ∩ first| / |S_second|

    Source: Shit et al. 2021.

    >>> tube = torch.zeros(5, 9).bool(); tube[1:4] = True
    >>> centreline_dice(tube, tube), round(centreline_dice(tube, tube & (torch.arange(9) < 4)), 4)
    (1.0, 0.6154)
    """
    if not (bool(first.any()) and bool(second.any())):
        return float("nan")
    lines = skeleton(first), skeleton(second)
    shares = [int((line & mask).sum()) / int(line.sum()) for line, mask in zip(lines, (second, first), strict=True)]
    return 2 * shares[0] * shares[1] / sum(shares) if sum(shares) else 0.0


def _thin(volume: Bool[np.ndarray, "z y x"], *, sides: list[int]) -> None:
    """Take simple points away from ``volume`` (with an empty margin of one voxel), in place."""
    strides = np.array([volume.shape[1] * volume.shape[2], volume.shape[2], 1])
    around = np.array(_places()) @ strides
    flat, removable = volume.reshape(-1), _Removable()
    fresh = np.flatnonzero(flat)  # whose neighbours have changed since they were looked at
    while len(fresh):
        taken = []
        for step in [side for axis in sides for side in (-strides[axis], strides[axis])]:
            border = fresh[flat[fresh] & ~flat[fresh + step]]
            field = sum((place % 2) << bit for bit, place in enumerate(np.unravel_index(border, volume.shape)))
            for number in range(8):
                points = border[field == number]
                gone = points[removable(flat[points[:, None] + around])]
                flat[gone] = False
                taken.append(gone)
        touched = np.zeros_like(flat)
        touched[np.concatenate(taken)[:, None] + around] = True
        fresh = np.flatnonzero(touched & flat)


class _Removable:
    """Simple points that do not end a curve; each pattern of neighbours is looked at once."""

    def __init__(self) -> None:
        self.patterns, self.answers = np.zeros(1, dtype=np.uint32), np.zeros(1, dtype=bool)

    def __call__(self, near: Bool[np.ndarray, "n 26"]) -> Bool[np.ndarray, " n"]:
        codes = np.packbits(near, axis=1, bitorder="little").view(np.uint32)[:, 0]
        new = np.unique(codes[self.patterns[self._places(codes)] != codes])
        if len(new):
            patterns = np.concatenate((self.patterns, new))
            answers = np.concatenate((self.answers, (new & (new - np.uint32(1)) != 0) & simple_points(new)))
            order = np.argsort(patterns)
            self.patterns, self.answers = patterns[order], answers[order]
        return self.answers[self._places(codes)]

    def _places(self, codes: UInt32[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        return np.minimum(np.searchsorted(self.patterns, codes), len(self.patterns) - 1)


def simple_points(near: UInt32[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Whether a voxel can change sides without a change of topology, by its 26 neighbours (bits in index order).

    So it is where those inside are one piece (26 neighbours), and those outside among the 18 that share a face or an
    edge are one piece of face neighbours that touches the voxel.

    >>> simple_points(np.array([0, 1, 1 | 1 << 25], dtype=np.uint32)).tolist()
    [False, True, False]
    """
    touching, facing, face = _adjacency()
    outside = ~near & np.bitwise_or.reduce(facing)
    return _one_piece(near, near, touching) & _one_piece(outside, outside & face, facing)


def _one_piece(present: UInt32[np.ndarray, " n"], wanted: UInt32[np.ndarray, " n"], links: UInt32[np.ndarray, " 26"]
               ) -> Bool[np.ndarray, " n"]:
    """Whether all that is wanted hangs together by what is present, and there is some."""
    whole = np.zeros(len(present), dtype=bool)
    rows = np.flatnonzero(wanted)
    reached = wanted[rows] & -wanted[rows]  # the lowest bit
    while len(rows):
        grown = reached.copy()
        for bit, near in enumerate(links):
            grown |= (reached >> np.uint32(bit) & np.uint32(1)) * near
        grown &= present[rows]
        full, stopped = wanted[rows] & ~grown == 0, grown == reached
        whole[rows[full]] = True
        rows, reached = rows[~full & ~stopped], grown[~full & ~stopped]
    return whole


@lru_cache
def _places() -> list[tuple[int, ...]]:
    return [place for place in product((-1, 0, 1), repeat=3) if any(place)]


@lru_cache
def _adjacency() -> tuple[UInt32[np.ndarray, " 26"], UInt32[np.ndarray, " 26"], np.uint32]:
    """For each neighbour, which others touch it and which share a face with it (among the 18 nearer ones); the six."""
    places = np.array(_places())
    apart = np.abs(places[:, None] - places[None])
    size = np.abs(places).sum(axis=1)
    near = size <= 2
    bits = np.uint32(1) << np.arange(26, dtype=np.uint32)
    touching, facing = apart.max(axis=2) == 1, (apart.sum(axis=2) == 1) & near[:, None] & near
    return (touching * bits).sum(axis=1, dtype=np.uint32), (facing * bits).sum(axis=1, dtype=np.uint32), \
        (bits * (size == 1)).sum(dtype=np.uint32)
