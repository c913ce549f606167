"""The moving heart of one slice, frame by frame, on the fine pixels around it."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from firstread.acquire.heart_detail import Chamber, Detail, Papillary
from firstread.acquire.heart_motion import BeatingHeart, Moment
from firstread.acquire.heart_shape import harmonic_sum
from firstread.acquire.heart_tissue import BINS, CODE
from firstread.acquire.heart_torso import pixels_near

PROFILE = (0.21, 0.29, 0.29, 0.21)
"""Weights of the four sub-slices: a slice profile with soft edges."""
SIDE = 3

_BELOW = ("blood", "trabeculae", "myocardium", "venous blood", "trabeculae", "myocardium", "fat", "vessel wall", "air")
_ABOVE = ("fat", "fat", "fat", "venous blood", "trabeculae", "myocardium", "fat", "vessel wall", "air")
OUTSIDE = len(_BELOW) - 1
_CODES = {True: torch.tensor([CODE[n] for n in _BELOW]), False: torch.tensor([CODE[n] for n in _ABOVE])}
"""Tissue of each shell under and above the base of the left ventricle."""
_PACKED = {True: torch.tensor([1.0, 1, 64, 4096, 4096, 0, 0, 0, 0]),
           False: torch.tensor([0.0, 0, 0, 4096, 4096, 0, 0, 0, 0])}
"""Label of each shell as a count: LV cavity 1, LV myocardium 64, RV cavity 4096; 36 of each fit into one number."""


class HeartWindow:
    """One slice of the moving heart.

    curves: the nested radii of ``heart_detail.shell_radii`` for this slice's sub-slices; left: whether the left
    ventricle is there, ``[t, s]``; x, y: heart coordinates of the window's fine pixels; bins: their off-resonance;
    around: signal of what lies behind the heart, per sub-slice.
    """

    def __init__(self, heart: BeatingHeart, detail: Detail, moment: Moment, curves: Float[Tensor, "8 t s n"],
                 left: Bool[Tensor, "t s"], places_mm: list[float], x: Float[Tensor, "h w"], y: Float[Tensor, "h w"],
                 bins: Integer[Tensor, "h w"], around: Float[Tensor, "s h w"]):
        self.heart, self.detail, self.moment, self.places_mm = heart, detail, moment, places_mm
        self.shape, self.rays = x.shape, curves.shape[-1]
        self.x, self.y, self.bins, self.around = x.flatten(), y.flatten(), bins.flatten(), around.flatten(1)
        self.curves, self.left = curves.float(), left
        turn = torch.remainder(torch.atan2(self.y, self.x), 2 * math.pi)
        self.ray = (turn * (self.rays / (2 * math.pi))).int().clamp(max=self.rays - 1)
        self.radius = torch.hypot(self.x, self.y)

    def frame(self, t: int, table: Float[Tensor, "tissues bins"],
              flow: float) -> tuple[Float[Tensor, "h w"], Integer[Tensor, "y x"]]:
        """Signal of the fine pixels, the slice profile applied, and labels of the voxels, at frame ``t``."""
        rows = table.clone()
        rows[CODE["blood"]] *= flow
        signal, packed = torch.zeros_like(self.radius), torch.zeros_like(self.radius)
        for s, weight in enumerate(PROFILE):
            shell = torch.zeros(self.radius.shape, dtype=torch.int32)
            for curve in self.curves[:, t, s]:
                shell += self.radius >= curve.index_select(0, self.ray)
            under = bool(self.left[t, s])
            tissue = _CODES[under].index_select(0, shell)
            if under:
                self._papillaries(tissue, shell, t, s)
            else:
                self._chambers(tissue, shell, s)
            signal += weight * torch.where(shell == OUTSIDE, self.around[s], rows.take(tissue * BINS + self.bins))
            packed += _PACKED[under].index_select(0, shell)
        return signal.reshape(self.shape), majority(packed.reshape(self.shape))

    def _papillaries(self, tissue: Tensor, shell: Tensor, t: int, s: int) -> None:
        """Discs of muscle in both cavities; their volume is kept while the ventricles get shorter."""
        stretch, active = self.moment.stretch[t].item(), self.moment.activation[t].item()
        outer, con = self.heart.lv.outer_length_mm, self.heart.contraction
        level = (outer - (outer - self.places_mm[s]) / stretch) / self.heart.lv.length_mm
        twist = active * (con.twist_base_rad + (con.twist_apex_rad - con.twist_base_rad) * level)
        cavity = shell < 2
        for p in self.detail.papillaries:
            away = p.distance * self._curve(1, t, s, p.angle_rad + twist)
            self._disc(tissue, cavity, p, p.angle_rad + twist, away, level, stretch)
        right = (shell == 3) | (shell == 4)
        for p in self.detail.rv_muscles:
            septal, free = (self._curve(c, t, s, p.angle_rad) for c in (2, 4))
            away = septal + p.distance * (free - septal)
            self._disc(tissue, right, p, p.angle_rad, away, level, stretch)

    def _curve(self, curve: int, t: int, s: int, angle: float) -> float:
        return float(self.curves[curve, t, s, int(angle % (2 * math.pi) * self.rays / (2 * math.pi)) % self.rays])

    def _disc(self, tissue: Tensor, room: Tensor, p: Papillary, angle: float, away: float, level: float,
              stretch: float) -> None:
        square = p.radius_mm**2 * _inside_levels(p, level) / stretch
        if square == 0:
            return
        cx, cy = away * math.cos(angle), away * math.sin(angle)
        near = pixels_near(self.x.view(self.shape), self.y.view(self.shape), cx, cy, math.sqrt(square) + 1)
        if near is not None:
            distance = (self.x.view(self.shape)[near] - cx) ** 2 + (self.y.view(self.shape)[near] - cy) ** 2
            tissue.view(self.shape)[near][(distance < square) & room.view(self.shape)[near]] = CODE["myocardium"]

    def _chambers(self, tissue: Tensor, shell: Tensor, s: int) -> None:
        """Atria and great vessels above the base, each painted over those before."""
        room = (shell < 3) | (shell == 6)
        for chamber in self.detail.chambers:
            edge = self._chamber_edge(chamber, self.places_mm[s])
            tissue[(edge < chamber.wall_mm) & room] = CODE["vessel wall"]
            tissue[(edge < 0) & room] = CODE["venous blood" if chamber.venous else "blood"]

    def _chamber_edge(self, chamber: Chamber, z_mm: float) -> Float[Tensor, " p"]:
        dx = self.x - chamber.centre_mm[0] - chamber.drift[0] * z_mm
        dy = self.y - chamber.centre_mm[1] - chamber.drift[1] * z_mm
        return torch.hypot(dx, dy) - chamber.radius_mm * (1 + harmonic_sum(chamber.outline, torch.atan2(dy, dx)))


def _inside_levels(p: Papillary, level: float) -> float:
    """Cross-section of a papillary muscle at ``level`` as a share of its largest; zero beyond its ends."""
    half = (p.levels[1] - p.levels[0]) / 2
    return min(1.0, max(0.0, 2 * (level - p.levels[0]) * (p.levels[1] - level) / half**2))


def majority(packed: Float[Tensor, "h w"]) -> Integer[Tensor, "y x"]:
    """The class of most of the 36 sub-voxels of each voxel (the lower one where two are equal)."""
    height, width = packed.shape
    sums = packed.reshape(height // SIDE, SIDE, width // SIDE, SIDE).sum(dim=(1, 3)).int()
    counts = [sums & 63, (sums >> 6) & 63, sums >> 12]
    most = SIDE * SIDE * len(PROFILE) - sum(counts)
    label = torch.zeros_like(sums)
    for number, count in enumerate(counts, start=1):
        label = torch.where(count > most, number, label)
        most = torch.maximum(most, count)
    return label.to(torch.uint8)
