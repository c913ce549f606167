"""Hearts for the phantom's tests."""

import torch

from firstread.acquire.heart_motion import BeatingHeart, Contraction, Moment, Timing
from firstread.acquire.heart_shape import Harmonic, LeftVentricle, Patch, RightVentricle

DOUBLE = torch.float64


def plain_heart(**contraction) -> BeatingHeart:
    """A regular heart with some regional shape."""
    lv = LeftVentricle(26.0, 88.0, 9.0, 6.0, contour=(Harmonic(2, 0.04, 0.3), Harmonic(3, 0.02, 1.0)),
                       thickness=(Harmonic(1, 0.1, 2.0),), patches=(Patch(2.0, 0.4, 0.8, 0.4, 0.3),))
    motion = {"ef": 0.6, "shortening": 0.15, "rv_ef": 0.55, "twist_base_rad": -0.07, "twist_apex_rad": 0.2,
              "regional": (Harmonic(1, 0.15, 0.0),)}
    return BeatingHeart(lv, RightVentricle(), Timing(), Contraction(**{**motion, **contraction}), 170.0)


def systole(heart: BeatingHeart) -> Moment:
    return heart.at(torch.tensor([heart.timing.end_systole], dtype=DOUBLE))


def volume_points(heart: BeatingHeart, *, step_mm: tuple[float, float]) -> torch.Tensor:
    """Voxel centres over the whole heart, spaced by ``step_mm`` along z and in plane, ``[z, y, x, 3]``."""
    x, y = torch.arange(-95, 60, step_mm[1], dtype=DOUBLE), torch.arange(-75, 75, step_mm[1], dtype=DOUBLE)
    z = torch.arange(heart.rv.base_mm + step_mm[0] / 2, heart.lv.outer_length_mm + 2, step_mm[0], dtype=DOUBLE)
    return torch.stack(torch.meshgrid(z, y, x, indexing="ij")[::-1], dim=-1)
