"""The default variational network for multi-coil images (``varnet``), from simulated objects and coils alone.

Each step draws an object that looks like no organ in particular (or a random chest), rendered twice as fine as it is
sampled, 4 to 16 coils of the training family, correlated noise, a mask of 2- to 8-fold, and asks for the magnitude of
the noiseless, fully sampled root sum of squares.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from firstread.acquire.coils import GaussianCoils
from firstread.acquire.mri import encode_lower
from firstread.acquire.noise import correlated_noise, random_covariance
from firstread.acquire.sampling import UniformLines, VariableDensity
from firstread.acquire.slices import random_stacks
from firstread.acquire.textures import random_plane, smooth_field
from firstread.core.geometry import Grid
from firstread.core.keys import Key
from firstread.core.records import KSpace, Rows
from firstread.learn.fit import fit
from firstread.nets.varnet import VariationalNetwork
from firstread.ops.encoding import CartesianEncoding
from firstread.ops.fourier import ifft
from firstread.recipes.files import refuse_data, write_weight
from firstread.reconstruct.problem import Problem, problem_of

SUMMARY = "variational network for multi-coil images, any anatomy"
SEED, STEPS = 0, 1200
LINES, COLUMNS, FINER = (80, 96, 112), 32, 2


@dataclass(frozen=True)
class Example:
    """One plane in hybrid space, cut to some columns, brightness 1; target: the noiseless magnitude."""

    problem: Problem
    target: Float[Tensor, "1 1 1 1 y x"]

    def to(self, device: str) -> Example:
        return Example(self.problem.to(device), self.target.to(device))


def network() -> VariationalNetwork:
    """Four steps of U-Nets of 16, 32 and 48 channels, after least squares."""
    return VariationalNetwork(cascades=4, widths=(16, 32, 48), map_widths=(8, 12, 16), start=10)


def scene(generator: torch.Generator, size: int) -> Complex[Tensor, "y x"]:
    """The object: four in five of no anatomy, else a random chest with a random phase."""
    if float(torch.rand((), generator=generator)) < 0.8:
        return random_plane(generator, size)
    number = int(torch.randint(1 << 30, (1,), generator=generator))
    image, _ = random_stacks(Key(SEED, "varnet_chest"), number, subjects=1, slices=1, size=size, spacing_mm=1.2)
    return torch.polar(image[0, 0].clamp(0, 1.5), 1.5 * smooth_field(generator, size, 4))


def scan(key: Key, step: int) -> tuple[KSpace, Float[Tensor, "1 1 1 1 y x"], slice]:
    """The scan of one step, its noiseless root sum of squares, and the columns to train on."""
    generator = key.generator(step)

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    size = LINES[int(uniform(0, len(LINES)))]
    fine = scene(generator, FINER * size)
    count = int(uniform(4, 17))
    maps = GaussianCoils(count=count)(Grid.from_spacing((1, *fine.shape), (5.0, 1.0, 1.0)), generator)
    clean = encode_lower(maps * fine, (size, size))[None, None]
    truth = ifft(clean).abs().square().sum(dim=2, keepdim=True).sqrt()
    level = float(torch.quantile(truth, 0.9)) / math.exp(uniform(math.log(15), math.log(150)))
    covariance = level**2 * random_covariance(count, uniform(0, 0.5), generator)
    noise = correlated_noise(covariance, (1, size, size), generator)[None, None]
    acceleration = uniform(1.8, 8)
    centre_lines = int(uniform(6, min(16, size / acceleration - 1)))
    comb = UniformLines(acceleration=min(6, round(acceleration)), centre_lines=centre_lines + 6)
    random_lines = VariableDensity(acceleration=acceleration, centre_lines=centre_lines)
    mask = (random_lines if uniform(0, 1) < 0.75 else comb)(1, size, generator)[None, :, None, None, :, None]
    kspace = KSpace(Rows.subjects(1), mask * (clean + noise), Grid.from_spacing((1, size, size), (5.0, 2.0, 2.0)), mask)
    first = int(uniform(0, size - COLUMNS + 1))
    return kspace, truth, slice(first, first + COLUMNS)


def example(key: Key, step: int) -> Example:
    """The example of one step: a function of the step alone."""
    kspace, truth, columns = scan(key, step)
    problem = problem_of(kspace)
    brightness, maps = problem.brightness(), problem.encoding.sensitivities
    encoding = CartesianEncoding(mask=problem.encoding.mask, fourier_axes=problem.encoding.fourier_axes,
                                 sensitivities=None if maps is None else maps[..., columns])
    return Example(Problem(problem.measured[..., columns] / brightness, encoding), truth[..., columns] / brightness)


def loss(net: nn.Module, batch: Example) -> Float[Tensor, ""]:
    """Logarithm of the root mean square error of the magnitude: the PSNR but for constants."""
    image = net(batch.problem.measured, batch.problem.encoding)
    magnitude = (image.real.square() + image.imag.square() + 1e-8).sqrt()
    return 0.5 * (magnitude - batch.target).square().mean().log()


def train(output: Path, device: str = "cpu", steps: int | None = None, data: Path | None = None) -> Path:
    """Train and write ``varnet.safetensors``; interrupted, the same call continues. data: refused."""
    refuse_data(data, "varnet")
    torch.manual_seed(SEED)
    key, net = Key(SEED, "varnet"), network().to(device)
    fit(net, lambda step: example(key, step).to(device), loss, steps=steps or STEPS, seed=SEED,
        checkpoint=output / "varnet.pt", learning_rate=2e-3, warmup=30, weight_decay=1e-5, averaging=0.99, every=25,
        rates={"sensitivities": 0.3})
    return write_weight(net, output / "varnet.safetensors")
