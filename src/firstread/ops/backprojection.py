"""Filtered backprojection: filters, weights of redundant rays, and backprojection, for parallel and fan beams."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.errors import GeometryError, SettingError
from firstread.core.sinogram import Beam, FanBeam, ParallelBeam

Window = Literal["ramp", "shepp-logan", "cosine", "hamming", "hann"]


def ramp_kernel(bins: int, bin_mm: float) -> Float[Tensor, " lag"]:
    """The band-limited ramp's impulse response at lags ``-(bins - 1) … bins - 1``, in 1/mm² (Kak and Slaney 1988)::

        h(0) = 1 / (4 τ²),   h(n) = -1 / (π n τ)² for odd n,   0 for even n

    >>> [round(v, 4) for v in ramp_kernel(3, 1.0).tolist()]
    [0.0, -0.1013, 0.25, -0.1013, 0.0]
    """
    lag = torch.arange(1 - bins, bins, dtype=torch.float64)
    odd = -1 / (math.pi * lag * bin_mm).square().clamp_min(1e-30)
    return torch.where(lag == 0, 1 / (4 * bin_mm**2), torch.where(lag % 2 != 0, odd, torch.zeros_like(lag)))


def window_values(window: Window, frequency: Float[Tensor, " f"], cutoff: float = 1.0) -> Float[Tensor, " f"]:
    """The window over the ramp at ``frequency`` (shares of the Nyquist frequency), 0 above ``cutoff``.

    >>> window_values("hann", torch.tensor([0.0, 0.5, 1.0]).double()).round(decimals=3).tolist()
    [1.0, 0.5, 0.0]
    """
    if window not in get_args(Window) or not 0 < cutoff <= 1:
        raise SettingError(f"window {window!r} with cutoff {cutoff}", expected=f"one of {', '.join(get_args(Window))}, "
                           "0 < cutoff ≤ 1", remedy="correct the setting")
    f = frequency / cutoff
    values = {"ramp": torch.ones_like(f), "shepp-logan": torch.sinc(f / 2), "cosine": torch.cos(math.pi * f / 2),
              "hamming": 0.54 + 0.46 * torch.cos(math.pi * f), "hann": 0.5 + 0.5 * torch.cos(math.pi * f)}[window]
    return torch.where(f <= 1 + 1e-9, values, torch.zeros_like(f))


def filter_rows(rows: Float[Tensor, "*lead bin"], kernel: Float[Tensor, " lag"], *, window: Window = "ramp",
                cutoff: float = 1.0) -> Float[Tensor, "*lead bin"]:
    """Rows convolved with ``kernel`` (lags from ``-(bins - 1)``) under a window, by padded Fourier transforms."""
    bins = rows.shape[-1]
    size = 1 << (2 * bins - 1).bit_length()
    padded = torch.zeros(size, dtype=torch.float64)
    padded[:bins] = kernel[bins - 1:]
    padded[size - bins + 1:] = kernel[: bins - 1]
    response = torch.fft.rfft(padded).real
    response = response * window_values(window, torch.linspace(0, 1, size // 2 + 1, dtype=torch.float64), cutoff)
    spectrum = torch.fft.rfft(rows, n=size) * response.to(rows.device, rows.dtype)
    return torch.fft.irfft(spectrum, n=size)[..., :bins]


def view_weights(angles_rad: Float[Tensor, " view"]) -> Float[Tensor, " view"]:
    """The share of the half turn, in radians, that each parallel view stands for: half the gaps to its neighbours.

    Angles count modulo π, so views over a whole turn get half the weight; the sum is π.

    >>> view_weights(torch.tensor([0.0, math.pi / 2]).double()).round(decimals=3).tolist()
    [1.571, 1.571]
    """
    turned, order = torch.remainder(angles_rad, math.pi).sort()
    after = torch.cat((turned[1:], turned[:1] + math.pi)) - turned
    weights = torch.empty_like(turned)
    weights[order] = (after + after.roll(1)) / 2
    return weights


def fan_weights(beam: FanBeam) -> Float[Tensor, "view bin"]:
    """What each ray of a fan scan counts, times the step between views: every line of the object counts once.

    Whole turns: one half over their number. From half a turn plus the fan on: Parker's smooth weights (1982), the fan
    taken as wide as the arc allows. Raises GeometryError for other arcs and for steps that are not equal.
    """
    angles, views = beam.angles, len(beam.angles_rad)
    if views < 2:
        raise GeometryError("one view", expected="half a turn and the fan, or more", remedy="give all views")
    steps = angles.diff()
    step = float(steps.mean())
    if not torch.allclose(steps, steps.mean().expand_as(steps), rtol=1e-3) or step <= 0:
        raise GeometryError("fan views at unequal or falling angles", expected="equal rising steps",
                            remedy="sort the views, or use an iterative reconstruction")
    arc = step * views
    if arc > 2 * math.pi - 1.5 * step:
        if abs(arc / (2 * math.pi) - round(arc / (2 * math.pi))) * 2 * math.pi > 1.5 * step:
            raise GeometryError(f"an arc of {math.degrees(arc):.0f}°", expected="a whole number of turns, or less than "
                                "one", remedy="leave out the views beyond a turn")
        return torch.full((views, beam.bins), math.pi / views, dtype=torch.float64)
    half = (step * (views - 1) - math.pi) / 2
    if half < beam.half_fan_rad - beam.bin_mm / beam.detector_mm:
        raise GeometryError(f"an arc of {math.degrees(arc):.0f}°", remedy="use an iterative reconstruction",
                            expected=f"180° and the fan, {math.degrees(math.pi + 2 * beam.half_fan_rad):.0f}°, or more")
    turn, fan = (angles - angles[0])[:, None], beam.fan_rad
    weights = torch.ones(views, beam.bins, dtype=torch.float64)
    first, last = 2 * (half - fan), math.pi - 2 * fan
    rising = torch.sin(math.pi / 4 * turn / (half - fan).clamp_min(1e-9)).square()
    falling = torch.sin(math.pi / 4 * (math.pi + 2 * half - turn) / (half + fan).clamp_min(1e-9)).square()
    weights = torch.where(turn < first, rising, torch.where(turn > last, falling, weights))
    return step * weights


def filtered_backprojection(rows: Float[Tensor, "*lead view bin"], beam: Beam, shape: tuple[int, int],
                            spacing_mm: tuple[float, float], *, window: Window = "ramp", cutoff: float = 1.0
                            ) -> Float[Tensor, "*lead y x"]:
    """The image of line integrals, in their unit over millimetres (Kak and Slaney 1988, ch. 3)::

        parallel      f = Σ_θ Δθ (p * h)(x cos θ + y sin θ)
        curved fan    f = Σ_β Δβ / L²  ((w p R cos γ) * (γ / sin γ)² h)(γ),      L: from source to pixel
        flat fan      f = Σ_β Δβ / U²  ((w p R / sqrt(R² + u²)) * h)(u),         U: depth over R, u: at the centre

    h is the ramp under the window, w the weight of rays measured twice (``fan_weights``).
    window, cutoff: over the ramp. shape: (y, x); spacing_mm: (y, x). Differentiable in the rows.

    >>> beam = ParallelBeam.uniform(views=90, bins=65, bin_mm=1.0)
    >>> disc = 2 * (400 - beam.places_mm**2).clamp_min(0).sqrt().expand(90, 65)
    >>> filtered_backprojection(disc, beam, (9, 9), (1.0, 1.0))[4, 4].round(decimals=2).item()
    1.0
    """
    if isinstance(beam, ParallelBeam):
        weights = view_weights(beam.angles).to(rows)[:, None]
        filtered = filter_rows(rows * weights, beam.bin_mm * ramp_kernel(beam.bins, beam.bin_mm), window=window,
                               cutoff=cutoff)
        return _backproject(filtered, beam, shape, spacing_mm)
    if isinstance(beam, FanBeam):
        return _fan(rows, beam, shape, spacing_mm, window, cutoff)
    raise GeometryError(f"a {type(beam).__name__}", expected="a ParallelBeam or a FanBeam",
                        remedy="use an iterative reconstruction")


def _fan(rows: Tensor, beam: FanBeam, shape: tuple[int, int], spacing: tuple[float, float], window: Window,
         cutoff: float) -> Tensor:
    fan = beam.fan_rad
    weights = fan_weights(beam) * torch.cos(fan)
    if beam.curved:
        step = beam.bin_mm / beam.detector_mm
        lag = torch.arange(1 - beam.bins, beam.bins, dtype=torch.float64) * step
        kernel = ramp_kernel(beam.bins, step) * torch.sinc(lag / math.pi).square().reciprocal()
        weights = weights * beam.source_mm
    else:
        step = beam.bin_mm * beam.source_mm / beam.detector_mm
        kernel = ramp_kernel(beam.bins, step)
    filtered = filter_rows(rows * weights.to(rows), step * kernel, window=window, cutoff=cutoff)
    return _backproject(filtered, beam, shape, spacing)


def _backproject(filtered: Tensor, beam: Beam, shape: tuple[int, int], spacing: tuple[float, float]) -> Tensor:
    """Sum over views of the filtered rows at the place of every pixel, linear between bins, zero beyond them."""
    y, x = ((torch.arange(n, dtype=torch.float64) - (n - 1) / 2) * d for n, d in zip(shape, spacing, strict=True))
    flat = filtered.reshape(-1, *filtered.shape[-2:])
    image = torch.zeros(len(flat), shape[0] * shape[1], dtype=filtered.dtype, device=filtered.device)
    for view, angle in enumerate(beam.angles_rad):
        cos, sin = math.cos(angle), math.sin(angle)
        place, scale = x * cos + (y * sin)[:, None], None
        if isinstance(beam, FanBeam):
            depth = beam.source_mm + x * sin - (y * cos)[:, None]
            if beam.curved:
                scale = (place.square() + depth.square()).reciprocal()
                place = torch.atan2(place, depth) * beam.detector_mm
            else:
                scale = (beam.source_mm / depth).square()
                place = place / depth * beam.detector_mm
        index = ((place - beam.offset_mm) / beam.bin_mm + (beam.bins - 1) / 2 + 1).clamp(0, beam.bins + 0.999)
        low = index.floor()
        right = (index - low).to(flat).flatten()
        number = low.long().flatten().to(flat.device)
        row = torch.nn.functional.pad(flat[:, view], (1, 2))
        values = torch.lerp(row[:, number], row[:, number + 1], right)
        image = image + (values if scale is None else values * scale.to(flat).flatten())
    return image.reshape(*filtered.shape[:-2], *shape)
