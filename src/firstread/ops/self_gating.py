"""Breathing and heartbeat out of the centre of k-space, which every radial spoke passes (self-gating)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from firstread.core.errors import SettingError, SignalError

RESPIRATORY_HZ, CARDIAC_HZ = (0.1, 0.7), (0.7, 2.5)


def centre_signal(data: Complex[Tensor, "coil shot sample"], places: Float[Tensor, "axis shot sample"], *,
                  width: float = 2.0) -> Float[Tensor, "feature shot"]:
    """Magnitudes of the samples around frequency zero, of every coil: what moves as the body moves.

    width: samples up to so many cycles per field of view from the centre are used. Raises SignalError where shots do
    not pass the centre.
    """
    radius = places.norm(dim=0)
    near = (radius <= width).all(dim=0)
    if not bool(near.any()):
        raise SignalError("shots that do not pass the centre of k-space", expected="samples near frequency zero in "
                          "every shot, at the same place in each", remedy="use radial or spiral data")
    return data[:, :, near].abs().transpose(1, 2).flatten(0, 1)


def without_direction(signal: Float[Tensor, "feature shot"], angles: Float[Tensor, " shot"], *, harmonics: int = 3
                      ) -> Float[Tensor, "feature shot"]:
    """The signal without what depends on the direction of the spoke alone: harmonics of its angle, by least squares.

    Gradient delays make the centre of k-space vary with the angle; at golden angles this is fast, but not always out
    of the band of the heart.
    """
    count = torch.arange(1, harmonics + 1, dtype=signal.dtype, device=signal.device)
    turns = angles.to(signal)[:, None] * count
    model = torch.cat((torch.ones_like(turns[:, :1]), turns.cos(), turns.sin()), dim=1)
    return signal - (model @ torch.linalg.lstsq(model, signal.T).solution).T


def band_passed(signal: Float[Tensor, "feature shot"], step_s: float, band_hz: tuple[float, float]
                ) -> Float[Tensor, "feature shot"]:
    """The signal within a band, edges of a tenth of the width rounded off; no delay (a filter in frequency).

    Raises SettingError for a band that the shots cannot show.
    """
    low, high = band_hz
    if not 0 < low < high or high > 0.5 / step_s or low * step_s * signal.shape[1] < 2:
        raise SettingError(f"a band of {low} to {high} Hz for {signal.shape[1]} shots, {1000 * step_s:.1f} ms apart",
                           expected="a band below half the shot rate, of which two periods were scanned",
                           remedy="scan longer, or correct the band")
    size = signal.shape[1]
    wide = torch.cat((signal.flip(1), signal, signal.flip(1)), dim=1)  # mirrored, so that ends do not ring
    frequency = torch.fft.rfftfreq(3 * size, step_s, dtype=signal.dtype, device=signal.device)
    edge = 0.1 * (high - low)
    gain = ((frequency - low) / edge + 0.5).clamp(0, 1) * ((high - frequency) / edge + 0.5).clamp(0, 1)
    gain = torch.sin(0.5 * math.pi * gain).square()
    return torch.fft.irfft(torch.fft.rfft(wide - wide.mean(1, keepdim=True)) * gain, 3 * size)[:, size:2 * size]


def largest_common(signal: Float[Tensor, "feature shot"], *, alike: float = 0.7) -> Float[Tensor, " shot"]:
    """The first principal component of the largest cluster of features that go together, of standard deviation one.

    Features are clustered by correlation (|r| ≥ alike with the one that has most such neighbours), so that coils that
    see another motion do not blur it. Its sign is that of the feature with the most energy. After Zhang, Cheng, Lai
    et al. 2016 (coil clustering) and Pang et al. 2014 (principal components).
    """
    energy = signal.square().mean(dim=1)
    kept = signal[energy > 1e-3 * energy.amax()]
    if not len(kept) or not bool(energy.amax() > 0):
        raise SignalError("a centre of k-space that does not vary", expected="a moving body", remedy="use longer data")
    unit = kept / kept.norm(dim=1, keepdim=True)
    related = (unit @ unit.T).abs() >= alike
    cluster = kept[related[(related * kept.norm(dim=1)).sum(dim=1).argmax()]]
    component = torch.linalg.svd(cluster, full_matrices=False).Vh[0]
    strongest = cluster[cluster.norm(dim=1).argmax()]
    component = component * torch.sign(component @ strongest)
    return component / component.std()


def gating_signal(data: Complex[Tensor, "coil shot sample"], places: Float[Tensor, "axis=2 shot sample"], step_s: float,
                  band_hz: tuple[float, float], *, width: float = 2.0) -> Float[Tensor, " shot"]:
    """The motion signal of a band from spokes in the order of their acquisition, ``step_s`` apart."""
    far = places[:, :, -1] - places[:, :, 0]
    angles = torch.atan2(far[0], far[1])
    features = without_direction(centre_signal(data, places, width=width), angles)
    return largest_common(band_passed(features, step_s, band_hz))


def bins_of(signal: Float[Tensor, " shot"], count: int) -> Int[Tensor, " shot"]:
    """Shots in ``count`` groups of equal size by the value of the signal: breathing states.

    >>> bins_of(torch.tensor([0.1, 3.0, 0.2, 2.0]), 2).tolist()
    [0, 1, 0, 1]
    """
    if not 1 <= count <= len(signal):
        raise SettingError(f"{count} bins of {len(signal)} shots", expected="one shot or more in each",
                           remedy="use fewer bins")
    rank = signal.argsort().argsort()
    return rank * count // len(signal)


def phases_of(signal: Float[Tensor, " shot"], count: int) -> Int[Tensor, " shot"]:
    """Shots in ``count`` groups by the phase of a cyclic signal from peak to peak: states of the heart's cycle.

    Before the first and after the last peak the phase goes on at the rate of the nearest cycle. Raises SignalError for
    fewer than two peaks.
    """
    inner = signal[1:-1]
    peaks = torch.nonzero((inner > signal[:-2]) & (inner >= signal[2:]) & (inner > 0))[:, 0] + 1
    if len(peaks) < 2 or count < 1:
        raise SignalError(f"{len(peaks)} peaks for {count} phases", expected="two or more, and one phase or more",
                          remedy="scan longer, or check the band")
    shot = torch.arange(len(signal), device=signal.device)
    cycle = (torch.searchsorted(peaks, shot, right=True) - 1).clamp(0, len(peaks) - 2)
    length = peaks[cycle + 1] - peaks[cycle]
    phase = ((shot - peaks[cycle]) / length) % 1.0
    return (phase * count).long().clamp(max=count - 1)
