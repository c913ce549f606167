"""Denoising beside classical methods on simulated hearts: ``python -m firstread.recipes.evidence_denoise``.

    python -m firstread.recipes.evidence_denoise [-o docs/evidence] [--weight denoise] [--realdata FOLDER]

Hearts of the test family, which no weight was trained on; with ``--realdata`` also a real brain. Peers (scikit-image)
are measured where they are installed. Takes minutes.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from firstread.acquire.heart import heart_subject
from firstread.core.errors import FirstreadError, InputError
from firstread.core.geometry import Grid
from firstread.core.keys import Key
from firstread.core.provenance import weights_hash
from firstread.core.records import Image, KSpace, Rows
from firstread.nets.denoise import ScaledDenoiser
from firstread.ops.fourier import ifft
from firstread.ops.quality import psnr
from firstread.recipes.files import write_text
from firstread.reconstruct.sensitivities import estimate_sensitivities
from firstread.restore.denoise import Denoise, DenoisePCA, DenoiseTV
from firstread.restore.noise2self import Noise2Self
from firstread.zoo.store import load

LEVELS, HEARTS, FRAMES, SIZE, FIRST_SEED = (0.05, 0.1, 0.2), 6, 8, 64, 9500
Method = Callable[[Image, Key], Image]
Rowed = dict[str, list[float]]


@lru_cache
def clean_heart(number: int) -> Image:
    """The middle slice of a test heart as a series, complex, its 99th percentile 1."""
    made = heart_subject(seed=FIRST_SEED + number, family="test", matrix=(SIZE, SIZE), spacing_mm=320 / SIZE, slices=3,
                         slice_thickness_mm=8.0, gap_mm=20.0, frames=FRAMES)
    data = made.image.data[:, :, :, 1:2].to(torch.complex64)
    data = data / torch.quantile(data.abs(), 0.99)
    return Image(Rows.subjects(1), data, Grid.from_spacing((1, SIZE, SIZE), (8.0, 320 / SIZE, 320 / SIZE)))


def brain_image(path: Path) -> Image:
    """The brain with 16 coils combined to one complex image, its 99th percentile 1 (its own noise is part of it)."""
    kspace = torch.from_numpy(np.load(path))[None, None, :, None]
    grid = Grid.from_spacing((1, *kspace.shape[-2:]), (5.0, 2.3, 2.3))
    maps = estimate_sensitivities(KSpace(Rows.subjects(1), kspace, grid, torch.ones(1, 1, 1, 1, 1, 1)),
                                  calibration_lines=24)
    data = (maps.conj() * ifft(kspace)).sum(2, keepdim=True) / maps.abs().square().sum(2, keepdim=True).clamp(min=1e-6)
    return Image(Rows.subjects(1), data / torch.quantile(data.abs(), 0.99), grid)


def methods(level: float, weight: str | Path | None) -> dict[str, Method]:
    """What is compared at one noise level, which all but MP-PCA and Noise2Self are told."""
    tv, pca, own = DenoiseTV(noise=level), DenoisePCA(), Noise2Self(steps=200, width=16, depth=4)
    found: dict[str, Method] = {"total variation": lambda image, _: tv(image)}
    if importlib.util.find_spec("skimage") is not None:
        found["non-local means"] = lambda image, _: _planes(image, lambda plane: _nlm(plane, level))
        found["wavelets"] = lambda image, _: _planes(image, lambda plane: _wavelets(plane, level))
    found |= {"MP-PCA": lambda image, _: pca(image), "Noise2Self": own}
    if weight is not None:
        loaded = load(weight)
        network = Denoise(network=ScaledDenoiser.from_weight(loaded.card["network"], loaded.state), noise=level)
        found["network"] = lambda image, _: network(image)
    return found


def _nlm(parts: np.ndarray, level: float) -> np.ndarray:
    """scikit-image's fast non-local means at the strength its documentation advises, parts as channels."""
    from skimage.restoration import denoise_nl_means

    return denoise_nl_means(parts, patch_size=5, patch_distance=6, h=0.8 * level, sigma=level, fast_mode=True,
                            channel_axis=-1)


def _wavelets(parts: np.ndarray, level: float) -> np.ndarray:
    """scikit-image's BayesShrink, averaged over shifts."""
    from skimage.restoration import cycle_spin, denoise_wavelet

    return cycle_spin(parts, func=denoise_wavelet, max_shifts=(3, 3, 0), channel_axis=None, workers=1,
                      func_kw={"sigma": level, "channel_axis": -1, "wavelet": "sym4", "rescale_sigma": False})


def _planes(image: Image, denoise: Callable[[np.ndarray], np.ndarray]) -> Image:
    """A function of ``[y, x, part]`` on every plane."""
    parts = torch.view_as_real(image.data.flatten(0, 3)).numpy()
    made = torch.from_numpy(np.stack([denoise(plane) for plane in parts]).astype(np.float32))
    return replace(image, data=torch.view_as_complex(made).reshape(image.data.shape))


def noisy(clean: Image, level: float, key: Key) -> Image:
    """White complex noise of ``level`` in each part."""
    noise = torch.view_as_complex(torch.randn((*clean.data.shape, 2), generator=key.generator()))
    return replace(clean, data=clean.data + level * noise)


@torch.no_grad()
def scored(clean: Image, given: Image, tried: dict[str, Method], key: Key) -> tuple[dict[str, float], dict[str, float]]:
    """PSNR (dB, of magnitudes, peak 1) and processor time in ms per frame, by method."""
    found, spent = {"as it came": _psnr(given, clean)}, {}
    for name, method in tried.items():
        before = time.process_time()
        made = method(given, key)
        spent[name] = 1e3 * (time.process_time() - before) / given.data.shape[1]
        found[name] = _psnr(made, clean)
    return found, spent


def hearts(weight: str | Path | None) -> tuple[dict[float, Rowed], Rowed]:
    """PSNR by level and method, a value for each heart; and times by method."""
    table: dict[float, Rowed] = {}
    times: Rowed = {}
    for level in LEVELS:
        for number in range(HEARTS):
            key = Key(number, f"evidence_denoise/{level}")
            clean = clean_heart(number)
            found, spent = scored(clean, noisy(clean, level, key), methods(level, weight), key)
            for name, value in found.items():
                table.setdefault(level, {}).setdefault(name, []).append(value)
            for name, value in spent.items():
                times.setdefault(name, []).append(value)
    return table, times


def brain_rows(path: Path, weight: str | Path | None) -> dict[float, dict[str, float]]:
    """PSNR on the brain by level and method; one frame, so without MP-PCA."""
    clean, table = brain_image(path), {}
    for level in LEVELS:
        key = Key(0, f"evidence_denoise/brain/{level}")
        tried = {name: method for name, method in methods(level, weight).items() if name != "MP-PCA"}
        table[level] = scored(clean, noisy(clean, level, key), tried, key)[0]
    return table


def _psnr(image: Image, clean: Image) -> float:
    return psnr(image.data.abs()[0, :, 0, 0], clean.data.abs()[0, :, 0, 0], peak=1.0)


def interval(values: Sequence[float], digits: int = 1) -> str:
    """Mean and Student's 95 % interval over subjects.

    >>> interval([20.0, 21.0, 22.0])
    '21.0 (18.5 to 23.5)'
    """
    from scipy.stats import t

    mean, count = float(np.mean(values)), len(values)
    half = float(t.ppf(0.975, count - 1) * np.std(values, ddof=1)) / math.sqrt(count)
    return f"{mean:.{digits}f} ({mean - half:.{digits}f} to {mean + half:.{digits}f})"


def page(table: dict[float, Rowed], times: Rowed, brain: dict[float, dict[str, float]] | None, about: str) -> str:
    """The page in Markdown."""
    names = list(next(iter(table.values())))
    lines = ["# Denoising, simulated", "", "Made by `python -m firstread.recipes.evidence_denoise`. Mean over subjects "
             "with Student's 95 % interval in brackets.", "",
             f"Simulated: {HEARTS} hearts of the phantom's test family (seeds from {FIRST_SEED}), one slice of "
             f"{SIZE} x {SIZE} pixels in {FRAMES} frames, white complex noise of the level stated (of each part, "
             "relative to the 99th percentile). PSNR in dB of the magnitude, peak 1. MP-PCA uses all frames together, "
             "the others each frame alone. All but MP-PCA and Noise2Self are told the level; Noise2Self (200 steps) "
             "sees no other data than the noisy series. Non-local means and wavelets (BayesShrink, averaged over "
             "shifts) are scikit-image's, real and imaginary part as channels; BM3D was left out, its licence forbids "
             f"commercial use. {about}", "",
             "| noise | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    lines += [f"| {level} | " + " | ".join(interval(rows[name]) for name in names) + " |"
              for level, rows in table.items()]
    lines += ["| CPU ms per frame | – | " + " | ".join(f"{np.mean(times[name]):.0f}" for name in names[1:]) + " |"]
    if brain is not None:
        names = list(next(iter(brain.values())))
        lines += ["", "Semi-simulated: noise added to one real brain image (16 coils combined, one frame), whose own "
                  "noise counts as image; one subject, so no interval.", "",
                  "| noise | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
        lines += [f"| {level} | " + " | ".join(f"{row[name]:.1f}" for name in names) + " |"
                  for level, row in brain.items()]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m firstread.recipes.evidence_denoise", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/evidence"))
    parser.add_argument("--realdata", type=Path, help="folder with kspace/brain_16coil.npy")
    parser.add_argument("--weight", help="a default weight's name or a .safetensors file; left out: no network")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        brain = None if given.realdata is None else given.realdata / "kspace" / "brain_16coil.npy"
        if not given.output.is_dir() or (brain is not None and not brain.is_file()):
            raise InputError(f"output {given.output}, real data {given.realdata}", expected="folders that are there",
                             remedy="make them first")
        about = "No network was given."
        if given.weight is not None:
            loaded = load(given.weight)
            net = ScaledDenoiser.from_weight(loaded.card["network"], loaded.state)
            about = (f"Network: `{loaded.name}`, {loaded.card['steps']} training steps on {loaded.card['data']}, "
                     f"weights {weights_hash(net)}.")
        table, times = hearts(given.weight)
        found = None if brain is None else brain_rows(brain, given.weight)
        write_text(given.output / "denoising.md", page(table, times, found, about))
    except FirstreadError as error:
        print(f"evidence_denoise: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
