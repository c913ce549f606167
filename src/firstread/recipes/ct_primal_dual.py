"""The learned primal-dual network for fan-beam CT (``ct-primal-dual``), trained on simulated ellipses alone.

Each step draws ellipses, the number of views and the dose; their exact line integrals, averaged over the width of a
bin, get the noise of that dose. A few minutes on one CPU core.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from firstread.acquire.ct import low_dose
from firstread.acquire.ellipses import draw_ellipses, measure_ellipses, random_ellipses
from firstread.core.geometry import Grid
from firstread.core.keys import Key
from firstread.core.records import Rows
from firstread.core.sinogram import FanBeam
from firstread.learn.fit import fit
from firstread.nets.primal_dual import PrimalDualNetwork
from firstread.ops.attenuation import WATER_PER_MM
from firstread.ops.projection import Projection
from firstread.recipes.files import refuse_data, write_weight
from firstread.reconstruct.primal_dual import ScaledProjection, learned_attenuation

SUMMARY = "learned primal-dual reconstruction of fan-beam CT, from ellipses alone"
SEED, STEPS, SIZE, PIXEL_MM = 0, 300, 64, 5.0
VIEWS, PHOTONS = (16, 24, 32, 48, 64), (3e3, 1e6)


@dataclass(frozen=True)
class Example:
    """One slice, attenuation relative to water, and its noisy line integrals in mm of water."""

    integrals: Float[Tensor, "1 1 view bin"]
    projection: ScaledProjection
    target: Float[Tensor, "1 1 y x"]

    def to(self, device: str) -> Example:
        return Example(self.integrals.to(device), self.projection, self.target.to(device))


def network() -> PrimalDualNetwork:
    """Three iterations with memories of four channels."""
    return PrimalDualNetwork(iterations=3, memory=4, width=16)


def grid() -> Grid:
    """The slice: 64 x 64 pixels in a field of 320 mm."""
    return Grid.from_spacing((1, SIZE, SIZE), (5.0, PIXEL_MM, PIXEL_MM))


def beam(views: int) -> FanBeam:
    """A scanner with the distances of a clinical one and 88 bins of 3.8 mm at the centre."""
    return FanBeam.uniform(views=views, bins=88, bin_mm=6.7, source_mm=540.0, detector_mm=950.0)


@lru_cache(maxsize=len(VIEWS))
def projection(views: int) -> ScaledProjection:
    """The projection of a scan of ``views``, made once."""
    return ScaledProjection(Projection.of(beam(views), grid()))


def scan(ellipses: Float[Tensor, "ellipse 6"], key: Key, number: int, views: int, photons: float
         ) -> tuple[Float[Tensor, "1 1 view bin"], Float[Tensor, "1 1 view bin"]]:
    """Noisy line integrals, without unit, of ellipses whose values are relative to water; and their weights."""
    clean = measure_ellipses(ellipses, beam(views)).float() * WATER_PER_MM
    rows = Rows.subjects(1)
    rows = Rows(rows.subject + number, rows.part, rows.draw)
    data, weights = low_dose(clean[None, None, None, None], rows, key, photons, 5.0)
    return data.flatten(0, 3)[:, None], weights.flatten(0, 3)[:, None]


def example(key: Key, step: int) -> Example:
    """The example of one step: a function of the step alone."""
    generator = key.generator(step)

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    views = VIEWS[int(uniform(0, len(VIEWS)))]
    photons = math.exp(uniform(*(math.log(v) for v in PHOTONS)))
    ellipses = random_ellipses(generator, uniform(100, 155), count=int(uniform(3, 30)))
    ellipses[0, 0] = uniform(0.7, 1.2)
    integrals = scan(ellipses, key, step, views, photons)[0] / WATER_PER_MM
    return Example(integrals, projection(views), draw_ellipses(ellipses, grid()).float()[None, None])


def loss(net: nn.Module, batch: Example) -> Float[Tensor, ""]:
    """Logarithm of the root mean square error: the PSNR but for constants."""
    made = learned_attenuation(net, batch.integrals, batch.projection)
    return 0.5 * ((made - batch.target).square().mean() + 1e-8).log()


def train(output: Path, device: str = "cpu", steps: int | None = None, data: Path | None = None) -> Path:
    """Train and write ``ct-primal-dual.safetensors``; interrupted, the same call continues. data: refused."""
    refuse_data(data, "ct-primal-dual")
    torch.manual_seed(SEED)
    key, net = Key(SEED, "ct_primal_dual"), network().to(device)
    fit(net, lambda step: example(key, step).to(device), loss, steps=steps or STEPS, seed=SEED,
        checkpoint=output / "ct-primal-dual.pt", learning_rate=4e-3, warmup=20, weight_decay=1e-5, averaging=0.98,
        every=25)
    return write_weight(net, output / "ct-primal-dual.safetensors")
