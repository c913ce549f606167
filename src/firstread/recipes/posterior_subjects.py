"""One subject of the evidence of posterior draws: where the truth lies among them, pixel by pixel and for the EF."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from firstread.acquire.heart_population import Family
from firstread.acquire.repeat import RepeatNoise
from firstread.analyze.consensus import Harden
from firstread.analyze.segment import Segment
from firstread.chains.heart import SEGMENTATION
from firstread.chains.trained import networks_of
from firstread.core.case import Case
from firstread.core.stage import Chain
from firstread.measure.cardiac import CardiacFunction
from firstread.recipes.heart_subjects import Scanner, Simulated, simulate
from firstread.reconstruct.espirit import Espirit
from firstread.reconstruct.iterative import TemporalTV
from firstread.reconstruct.posterior import Posterior
from firstread.zoo.store import load

SCANNER = Scanner(matrix=80, spacing_mm=2.4, gap_mm=6.0)
POSTERIOR, TV = "posterior draws", "temporal TV, its noise repeated"
ENSEMBLE = "temporal TV, ensemble of segmentations"


@dataclass(frozen=True, eq=False)
class Methods:
    """What is compared: coil maps by ESPIRiT for all; the draws; temporal TV; the members of the segmentation."""

    posterior: Posterior
    draws: int
    segments: Sequence[Segment]
    espirit: Espirit = field(default_factory=lambda: Espirit(kernel=5))
    tv: TemporalTV = field(default_factory=TemporalTV)

    @classmethod
    def build(cls, posterior: Posterior, draws: int) -> Methods:
        """With the default segmentation."""
        return cls(posterior, draws, [Segment(networks=[network]) for network in networks_of(load(SEGMENTATION))])


def ranks(truth: Float[Tensor, "*shape"], draws: Float[Tensor, "draw *shape"]) -> Int[Tensor, "*shape"]:
    """How many draws lie below the truth, 0 … k: uniform where the truth is as one of the draws.

    >>> ranks(torch.tensor([0.5]), torch.tensor([[0.0], [1.0]])).tolist()
    [1]
    """
    return (draws < truth).sum(dim=0)


def pixel_numbers(truth: Float[Tensor, "*shape"], draws: Float[Tensor, "draw *shape"], where: Bool[Tensor, "*shape"]
                  ) -> dict[str, Any]:
    """Histogram of the ranks in a region, error of the draws' mean, of one draw, and their standard deviation (rms)."""
    true, seen = truth[where], draws[:, where]
    mean = seen.mean(dim=0)
    return {"ranks": torch.bincount(ranks(true, seen), minlength=len(draws) + 1).tolist(),
            "error": (mean - true).square().mean().sqrt().item(),
            "error_of_one": (seen[0] - true).square().mean().sqrt().item(),
            "spread": seen.var(dim=0).mean().sqrt().item(), "width": (seen.amax(0) - seen.amin(0)).mean().item()}


def regions(made: Simulated, reach: int = 4) -> dict[str, Bool[Tensor, "time z y x"]]:
    """The heart with ``reach`` pixels around it in any frame; all that is brighter than a tenth of the brightest."""
    heart = (made.labels.data[0, :, 0] > 0).any(dim=0).float()
    near = F.max_pool2d(heart[:, None], 2 * reach + 1, stride=1, padding=reach)[:, 0] > 0
    bright = made.magnitude > 0.1 * torch.quantile(made.magnitude.flatten()[::7], 0.99)
    return {"heart": near.expand(made.magnitude.shape), "body": bright}


def ejection_fractions(images: Float[Tensor, "draw time z y x"], made: Simulated, segments: Sequence[Segment]
                       ) -> list[float]:
    """LVEF in percent of every image; image i is read by member ``i mod M`` alone."""
    values = [0.0] * len(images)
    for number, segment in enumerate(segments):
        for index in range(number, len(images), len(segments)):
            case = Chain(segment, Harden(), CardiacFunction(warn=False).using(reads={"labels": "labels.hard"}))(
                Case({"image": made.as_image(images[index][None, :, None])}))
            values[index] = case["phenotypes"]["LVEF"].value.item()
    return values


@torch.no_grad()
def drawn(methods: Methods, made: Simulated, seed: int) -> tuple[Float[Tensor, "draw time z y x"], float]:
    """Magnitudes of the posterior draws, and the seconds of CPU that they took."""
    begun = time.process_time()
    case = Chain(methods.espirit, methods.posterior)(Case({"kspace": made.kspace}, seed=seed), samples=methods.draws)
    return case[methods.posterior.writes].data[:, :, 0].abs(), time.process_time() - begun


@torch.no_grad()
def measured(methods: Methods, family: Family, index: int, *, rivals: bool) -> dict[str, Any]:
    """Everything that the tables need of one subject. rivals: draws of temporal TV too, which cost the most."""
    made = simulate(SCANNER, family, index)
    draws, seconds = drawn(methods, made, index)
    images: dict[str, Tensor] = {POSTERIOR: draws}
    with_maps = methods.espirit(made.kspace)
    single = methods.tv(with_maps).data[0, :, 0].abs()
    if rivals:
        chain = Chain(methods.espirit.using(reads={"kspace": "kspace"}), RepeatNoise(), methods.tv)
        case = chain(Case({"kspace": made.kspace}, seed=index), samples=methods.draws)
        images[TV] = case["reconstruction"].data[:, :, 0].abs()
    found = regions(made)
    pixels = {method: {region: pixel_numbers(made.magnitude, stack, where) for region, where in found.items()}
              for method, stack in images.items()}
    members = len(methods.segments)
    fractions = {POSTERIOR: ejection_fractions(draws, made, methods.segments),
                 ENSEMBLE: ejection_fractions(single.expand(members, *single.shape), made, methods.segments)}
    return {"truth": made.truth["LVEF"], "pathology": made.pathology, "pixels": pixels, "LVEF": fractions,
            "seconds": seconds, "tv_error": {region: (single - made.magnitude)[where].square().mean().sqrt().item()
                                             for region, where in found.items()}}


def intervals_raw(rows: Sequence[Mapping[str, Any]], method: str, level: float) -> Float[Tensor, "subject 2"]:
    """Where one more draw would fall: ``mean ± t_{k-1} sd sqrt(1 + 1/k)``, clipped to 0 … 100 %."""
    from scipy.stats import t

    values = torch.tensor([row["LVEF"][method] for row in rows], dtype=torch.float64)
    count = values.shape[1]
    reach = float(t.ppf((1 + level) / 2, count - 1)) * (1 + 1 / count) ** 0.5 * values.std(dim=1)
    mean = values.mean(dim=1)
    return torch.stack((mean - reach, mean + reach), dim=1).clamp(0, 100)
