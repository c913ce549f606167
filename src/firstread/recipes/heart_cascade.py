"""The default learned reconstruction of heart cines (``heart-cascade``), from simulated dynamic images alone.

Each step draws a moving image (a beating-heart phantom of the training family, or random moving textures), coils of
the training family, noise, an acceleration of 2 to 10 and a number of centre lines (now and
then one frame or one coil alone), and asks the cascade for what the
fully sampled, noiseless measurement would have given with the same estimated coils.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from firstread.acquire.coils import GaussianCoils
from firstread.acquire.heart import heart_subject
from firstread.acquire.noise import correlated_noise, covariance_of, random_covariance, signal_level
from firstread.acquire.sampling import UniformLines, VariableDensity
from firstread.core.geometry import Grid
from firstread.core.keys import Key
from firstread.core.records import KSpace, Rows
from firstread.learn.fit import fit
from firstread.nets.cascade import DeepCascade
from firstread.ops.encoding import CartesianEncoding, combine
from firstread.ops.fourier import fft, ifft
from firstread.reconstruct.problem import Problem, problem_of

SUMMARY = "learned reconstruction of undersampled heart cines"
SEED = 0
STEPS = (600, 800)  # of the parts of the training
SNRS = (8.0, 80.0), (20.0, 100.0)
SIZE, FRAMES, COLUMNS = 96, 12, 24


@dataclass(frozen=True)
class Example:
    """One training example in hybrid space (readout transformed, cut to some columns), brightness 1."""

    problem: Problem
    target: Complex[Tensor, "1 time 1 1 y x"]

    def to(self, device: str) -> Example:
        return Example(self.problem.to(device), self.target.to(device))


def network(second: bool = True) -> DeepCascade:
    """Four blocks of four convolutions after temporal TV; 0.19 TFLOP for a slice of 30 frames of 192 x 160, 8 coils.

    second: as in the second part of the training, with a longer start and damped corrections of what does not move.
    """
    return DeepCascade(cascades=4, depth=4, width=32, kernel="shift", sharing=(2, 32), consistency=0.1, steps=3,
                       variation=0.03 if second else 0.05, iterations=40 if second else 25,
                       steady=0.3 if second else None)


@lru_cache(maxsize=64)
def phantom(number: int) -> Complex[Tensor, "slice time y x"]:
    """Cines of one subject of the training family; the voxels' size varies from subject to subject."""
    spacing = 1.6 + 0.1 * (number % 9)
    subject = heart_subject(seed=number, family="train", matrix=(SIZE, SIZE), spacing_mm=spacing, slices=4,
                            frames=FRAMES)
    return subject.image.data[0, :, 0].movedim(1, 0).contiguous()


def moving_texture(generator: torch.Generator) -> Complex[Tensor, "time y x"]:
    """Random ellipses of random brightness that swell, drift and turn with the cycle, with smooth shading and phase."""
    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    line = torch.linspace(-1, 1, SIZE)
    y, x = line[:, None], line[None, :]
    phase = 2 * math.pi * torch.arange(FRAMES)[:, None, None] / FRAMES
    image = torch.zeros(FRAMES, SIZE, SIZE)
    for _ in range(12):
        beat = torch.sin(phase + uniform(0, 6.28)) * (uniform(0, 0.15) if uniform(0, 1) < 0.6 else 0.0)
        cy, cx = uniform(-0.8, 0.8) + uniform(0, 0.5) * beat, uniform(-0.8, 0.8) + uniform(0, 0.5) * beat
        angle = uniform(0, 3.14) + uniform(0, 1) * beat
        a, b = uniform(0.05, 0.6) * (1 + beat), uniform(0.05, 0.6) * (1 - beat)
        u = (y - cy) * torch.cos(angle) + (x - cx) * torch.sin(angle)
        v = (x - cx) * torch.cos(angle) - (y - cy) * torch.sin(angle)
        inside = torch.sigmoid((1 - torch.sqrt((u / a) ** 2 + (v / b) ** 2 + 1e-6)) * min(a.min(), b.min()) * SIZE)
        image = image + inside * (uniform(0, 1) - image) * uniform(0.5, 1.0)
    shading = _smooth(generator, 6)
    bend = _smooth(generator, 4)
    return torch.polar(image.clamp_min(0) * torch.exp(0.4 * shading), 1.5 * bend)


def example(key: Key, step: int, snr: tuple[float, float] = SNRS[1]) -> Example:
    """The example of one step: a function of the step alone. snr: its range, logarithmically uniform."""
    generator = key.generator(step)

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    if uniform(0, 1) < 0.7:
        pool = phantom(int(uniform(0, 14)))
        cine = pool[int(uniform(0, len(pool)))]
    else:
        cine = moving_texture(generator)
    cine = cine * torch.polar(torch.exp(0.2 * _smooth(generator, 3)), _smooth(generator, 3))
    cine = _turned(cine, int(uniform(0, 16)))
    cine = cine[:1] if uniform(0, 1) < 0.12 else cine
    frames = len(cine)
    acceleration = uniform(2, 10)
    centre_lines = int(uniform(4, min(12, SIZE / acceleration - 1)))
    comb = UniformLines(acceleration=min(6, round(acceleration)), centre_lines=centre_lines + 8)
    random_lines = VariableDensity(acceleration=acceleration, centre_lines=centre_lines)
    sampling = random_lines if uniform(0, 1) < 0.8 else comb
    mask = sampling(frames, SIZE, generator)[None, :, None, None, :, None]
    count = int(uniform(4, 9)) if uniform(0, 1) < 0.9 else 1
    grid = Grid.from_spacing((1, SIZE, SIZE), (8.0, 2.0, 2.0))
    maps = GaussianCoils(count=count)(grid, generator)[None, None]
    clean = fft(maps * cine[None, :, None, None])
    variance = (signal_level(cine.abs()) / math.exp(uniform(math.log(snr[0]), math.log(snr[1])))) ** 2
    covariance = variance * random_covariance(count, uniform(0, 0.5), generator)
    scan = covariance_of(correlated_noise(covariance, (4096,), generator))
    noise = correlated_noise(covariance, (frames, 1, SIZE, SIZE), generator).movedim(1, 0)[None]
    kspace = KSpace(Rows.subjects(1), mask * (clean + noise), grid, mask, noise_covariance=scan[None])
    first = int(uniform(0, SIZE - COLUMNS + 1))
    return cut(kspace, clean, slice(first, first + COLUMNS))


def cut(kspace: KSpace, clean: Complex[Tensor, "1 time coil 1 y x"], columns: slice) -> Example:
    """The problem on some readout columns, and its target: the clean coil images combined with the estimated coils."""
    problem = problem_of(kspace)
    brightness = problem.brightness()
    maps = problem.encoding.sensitivities
    unwhitened = problem_of(replace(kspace, noise_covariance=None)).encoding
    target = combine(ifft(clean, ("x",)), unwhitened)
    encoding = CartesianEncoding(mask=problem.encoding.mask, fourier_axes=problem.encoding.fourier_axes,
                                 sensitivities=None if maps is None else maps[..., columns])
    return Example(Problem(problem.measured[..., columns] / brightness, encoding), target[..., columns] / brightness)


def first_loss(net: DeepCascade, batch: Example) -> Float[Tensor, ""]:
    """Mean modulus of the complex error, smooth at zero."""
    error = net(batch.problem.measured, batch.problem.encoding) - batch.target
    return (error.real.square() + error.imag.square() + 1e-6).sqrt().mean()


def second_loss(net: DeepCascade, batch: Example) -> Float[Tensor, ""]:
    """Logarithm of the root mean square of the complex error: the PSNR but for constants, so no example outweighs."""
    error = net(batch.problem.measured, batch.problem.encoding) - batch.target
    return 0.5 * (error.real.square() + error.imag.square()).mean().log()


def _smooth(generator: torch.Generator, cells: int) -> Float[Tensor, "y x"]:
    """A smooth random field of standard deviation about 1."""
    coarse = torch.randn(1, 1, cells, cells, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=(SIZE, SIZE), mode="bicubic", align_corners=True)[0, 0]


def _turned(cine: Complex[Tensor, "time y x"], way: int) -> Complex[Tensor, "time y x"]:
    """One of sixteen: quarter turns, mirrored, played backwards."""
    cine = torch.rot90(cine, way % 4, dims=(1, 2))
    cine = cine.flip(2) if way & 4 else cine
    return cine.flip(0) if way & 8 else cine


def train(output: Path, device: str = "cpu", steps: int | None = None, data: Path | None = None) -> Path:
    """Train in two parts and write ``heart-cascade.safetensors``; interrupted, the same call continues.

    The first (modulus, noisier) ends half-way through its learning-rate schedule; the second (mean PSNR, less noise)
    goes on from its averaged weights. steps: of both together; data: not used, nothing is mixed in.
    """
    from safetensors.torch import save_file

    torch.manual_seed(SEED)
    key = Key(SEED, "heart_cascade")
    counts = [max(1, round((steps or sum(STEPS)) * count / sum(STEPS))) for count in STEPS]
    begun = network(second=False).to(device)
    fit(begun, lambda step: example(key, step, SNRS[0]).to(device), first_loss, steps=2 * counts[0],
        stop=lambda done: done >= counts[0], seed=SEED, checkpoint=output / "part0.pt", learning_rate=2e-3, warmup=30,
        weight_decay=1e-5, averaging=0.99, every=50)
    net = network().to(device)
    net.load_state_dict(begun.state_dict(), strict=False)
    for part in range(1, len(STEPS)):
        shown = sum(counts[:part])
        fit(net, lambda step, shown=shown: example(key, shown + step, SNRS[1]).to(device), second_loss,
            steps=counts[part], seed=SEED, checkpoint=output / f"part{part}.pt", learning_rate=1.5e-3, warmup=20,
            weight_decay=1e-5, averaging=0.98, every=40)
    path = output / "heart-cascade.safetensors"
    save_file({name: value.half().cpu().contiguous() for name, value in net.state_dict().items()}, path)
    return path
