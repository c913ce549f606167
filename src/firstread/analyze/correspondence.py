"""What belongs to what in two images, without learning: SIFT matches, optical flow, circles and lines (Hough).

Planes are numbers in any unit; places are pixels (y, x).
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from firstread.analyze.classical import needed
from firstread.core.errors import SettingError, SignalError


def sift_matches(first: Float[Tensor, "y x"], second: Float[Tensor, "height width"], *, ratio: float = 0.75
                 ) -> Float[Tensor, "match 2 2"]:
    """Places (y, x) of the same detail in both planes: ``[match, plane, axis]``, the surest first.

    A match is kept where the nearest descriptor is nearer than ``ratio`` times the second nearest, and the best one
    back. None gives a tensor of no rows. Source: Lowe 2004, by OpenCV. Raises SettingError for a ratio outside 0 … 1,
    SignalError for values that are no numbers.
    """
    if not 0 < ratio <= 1:
        raise SettingError(f"a ratio of {ratio}", expected="above 0, up to 1", remedy="correct it")
    cv2 = needed("cv2")
    finder = cv2.SIFT_create()
    found = [finder.detectAndCompute(_bytes(plane), None) for plane in (first, second)]
    if any(len(keypoints) < 2 for keypoints, _ in found):
        return torch.zeros(0, 2, 2)
    matcher = cv2.BFMatcher()
    there, back = (matcher.knnMatch(found[a][1], found[1 - a][1], k=2) for a in (0, 1))
    best_back = {match[0].queryIdx: match[0].trainIdx for match in back if match}
    kept = sorted((m[0] for m in there if len(m) == 2 and m[0].distance < ratio * m[1].distance
                   and best_back.get(m[0].trainIdx) == m[0].queryIdx), key=lambda m: m.distance)
    places = [[found[0][0][m.queryIdx].pt[::-1], found[1][0][m.trainIdx].pt[::-1]] for m in kept]
    return torch.tensor(places, dtype=torch.float32).reshape(-1, 2, 2)


def similarity_of(matches: Float[Tensor, "match 2 2"], *, tolerance_px: float = 2.0, trials: int = 500, seed: int = 0
                  ) -> tuple[Float[Tensor, "2 3"], Float[Tensor, " match"]]:
    """Rotation, scale and shift that take the first places to the second, and which matches fit (1) or not (0).

    By random samples of two matches, the one that fits most within ``tolerance_px``, then least squares over these
    (Fischler and Bolles 1981). Raises SignalError for fewer than two matches.

    >>> places = torch.tensor([[0.0, 0.0], [0.0, 4.0], [3.0, 0.0]])
    >>> matrix, fits = similarity_of(torch.stack((places, places + 1), dim=1))
    >>> (matrix.round() + 0).tolist(), fits.tolist()
    ([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]], [1.0, 1.0, 1.0])
    """
    if len(matches) < 2:
        raise SignalError(f"{len(matches)} matches", expected="two or more", remedy="take images with more detail")
    # as complex numbers a similarity is q = a p + b
    p, q = (torch.complex(matches[:, k, 0].double(), matches[:, k, 1].double()) for k in (0, 1))
    generator = torch.Generator().manual_seed(seed)
    best = torch.zeros(len(matches), dtype=torch.bool)
    for _ in range(trials):
        i, j = torch.randperm(len(matches), generator=generator)[:2].tolist()
        if p[i] == p[j]:
            continue
        a = (q[i] - q[j]) / (p[i] - p[j])
        fits = (a * (p - p[i]) + q[i] - q).abs() <= tolerance_px
        best = fits if fits.sum() > best.sum() else best
    if best.sum() < 2:
        best = torch.ones_like(best)
    middle = p[best].mean(), q[best].mean()
    away = p[best] - middle[0]
    a = (away.conj() * (q[best] - middle[1])).sum() / away.abs().square().sum().clamp(min=1e-30)
    b = middle[1] - a * middle[0]
    rows = [[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]]
    return torch.stack([torch.stack(row) for row in rows]), best.double()


def optical_flow(frames: Float[Tensor, "time y x"]) -> Float[Tensor, "step 2 y x"]:
    """Displacement (y, x) in pixels of every pixel of each frame to its place in the next.

    By dense inverse search (Kroeger et al. 2016) in OpenCV, on 8 bits of the common range. Raises SettingError for
    fewer than two frames, SignalError for values that are no numbers.
    """
    if len(frames) < 2:
        raise SettingError(f"{len(frames)} frames", expected="two or more", remedy="give a series")
    cv2 = needed("cv2")
    planes = _bytes(frames)
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flows = [search.calc(one, two, None) for one, two in pairwise(planes)]
    return torch.from_numpy(np.stack(flows)).movedim(-1, 1).flip(1)


def hough_circles(edges: Float[Tensor, "y x"], radii_px: tuple[float, ...], *, count: int = 1
                  ) -> Float[Tensor, "circle 4"]:
    """The ``count`` circles that most edge pixels lie on: centre y, x, radius, share of the circle seen.

    edges: above zero where there is one (:class:`~firstread.analyze.classical.Edges`). Source: Duda and Hart 1972, by
    scikit-image. Raises SettingError without radii.
    """
    if not radii_px or min(radii_px) < 1:
        raise SettingError(f"radii {radii_px}", expected="some of one pixel or more", remedy="give radii to look for")
    transform = needed("skimage.transform")
    radii = np.round(radii_px).astype(int)
    votes = transform.hough_circle((edges > 0).cpu().numpy(), radii)
    shares, x, y, radius = transform.hough_circle_peaks(votes, radii, total_num_peaks=count)
    return torch.from_numpy(np.stack([y, x, radius, shares], axis=1).astype(np.float64))


def hough_lines(edges: Float[Tensor, "y x"], *, count: int = 1) -> Float[Tensor, "line 3"]:
    """The ``count`` straight lines that most edge pixels lie on: angle of the normal (rad), distance (px), pixels.

        x cos(angle) + y sin(angle) = distance

    Source: Duda and Hart 1972, by scikit-image.
    """
    transform = needed("skimage.transform")
    angles = np.linspace(-math.pi / 2, math.pi / 2, 360, endpoint=False)
    votes, angle, distance = transform.hough_line((edges > 0).cpu().numpy(), theta=angles)
    number, angle, distance = transform.hough_line_peaks(votes, angle, distance, num_peaks=count)
    return torch.from_numpy(np.stack([angle, distance, number], axis=1).astype(np.float64))


def _bytes(planes: Tensor) -> np.ndarray:
    """8 bits from the smallest to the largest value."""
    values = planes.detach().cpu().numpy().astype(np.float32)
    if not np.isfinite(values).all():
        raise SignalError("an image with values that are no numbers", expected="finite values",
                          remedy="repair the image first")
    low, high = values.min(), values.max()
    return np.round((values - low) * (255 / max(float(high - low), 1e-30))).astype(np.uint8)
