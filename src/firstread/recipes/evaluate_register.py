"""A trained registration network on pairs that it never saw: ``python -m firstread.recipes.evaluate_register WEIGHT``.

Simulated pairs of known motion (:mod:`firstread.recipes.register_pairs`, another seed). Beside the network: instance
optimization from nothing, a short one from nothing, and the same from the network's velocity. All errors are of the
displacement, in voxels.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from firstread.analyze.register_deformable import Effort, displacement, find_velocity
from firstread.core.errors import FirstreadError, SettingError
from firstread.nets.velocity import VelocityNet
from firstread.recipes.register_pairs import SIZE, Pair, pairs
from firstread.zoo.store import load

SEED, PAIRS, BORDER = 1000, 20, 4
ALONE = Effort(shrink=(2, 1), iterations=(40, 20))
REFINED = Effort(shrink=(1,), iterations=(20,), discrete=False)
Row = dict[str, float]
T = TypeVar("T")


def score(network: nn.Module, number: int) -> Row:
    """One pair: mean errors and seconds; how the network's spread goes with its error (rank correlation, coverage)."""
    from scipy.stats import spearmanr

    pair = pairs(number, seed=SEED, rows=1)
    inner = slice(BORDER, -BORDER)
    wanted = _field(pair.velocity)[..., inner, inner, inner]

    def error(velocity: Tensor) -> Tensor:
        return (_field(velocity)[..., inner, inner, inner] - wanted).norm(dim=1)

    with torch.no_grad():
        (mean, log_variance), seconds = _timed(lambda: network(pair.fixed, pair.moving))
        alone, seconds_alone = _timed(lambda: find_velocity(pair.fixed, pair.moving, effort=ALONE))
        short, seconds_short = _timed(lambda: _refine(pair, torch.zeros_like(mean)))
        refined, seconds_more = _timed(lambda: _refine(pair, mean))
        half = slice(BORDER // 2, -(BORDER // 2))
        apart = (pair.velocity - mean)[..., half, half, half]
        spread = (log_variance / 2).exp()[..., half, half, half]
    sizes = (spread.norm(dim=1).flatten(), apart.norm(dim=1).flatten())
    order = spearmanr(*(size.numpy() for size in sizes)).statistic if float(sizes[0].std()) > 1e-6 else 0.0
    return {"before": float(wanted.norm(dim=1).mean()), "network": float(error(mean).mean()),
            "optimized": float(error(alone).mean()), "shortly": float(error(short).mean()),
            "both": float(error(refined).mean()),
            "rank": float(order), "covered": float((apart.abs() < 1.645 * spread).double().mean()),
            "network s": seconds, "optimized s": seconds_alone, "shortly s": seconds_short,
            "both s": seconds + seconds_more}


def _refine(pair: Pair, start: Tensor) -> Tensor:
    return find_velocity(pair.fixed, pair.moving, effort=REFINED, start=start)


def _field(velocity: Tensor) -> Tensor:
    return displacement(velocity, (SIZE, SIZE, SIZE))


def _timed(run: Callable[[], T]) -> tuple[T, float]:
    started = time.process_time()
    made = run()
    return made, time.process_time() - started


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; prints means with 95 % intervals (pairs resampled, seed 0)."""
    parser = argparse.ArgumentParser(prog="python -m firstread.recipes.evaluate_register", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weight", type=Path, help="register.safetensors")
    parser.add_argument("--pairs", type=int, default=PAIRS)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        if given.pairs < 1:
            raise SettingError(f"{given.pairs} pairs", expected="one or more", remedy="correct --pairs")
        weight = load(given.weight)
        network = VelocityNet.from_weight(weight.card["network"], weight.state)
        rows = [score(network, number) for number in range(given.pairs)]
    except FirstreadError as error:
        print(f"evaluate_register: {error}", file=sys.stderr)
        return 2
    random = np.random.default_rng(0)
    for name in rows[0]:
        values = np.array([row[name] for row in rows])
        draws = random.choice(values, (2000, len(values))).mean(axis=1)
        print(f"{name}: {values.mean():.3f} ({np.quantile(draws, 0.025):.3f} to {np.quantile(draws, 0.975):.3f})")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
