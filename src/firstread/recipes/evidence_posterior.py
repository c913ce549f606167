"""Posterior draws of the reconstruction on simulated subjects, by one command:

    python -m firstread.recipes.evidence_posterior -o docs/evidence

Is the truth as one of the draws, pixel by pixel and for the ejection fraction? ``--cache FOLDER`` keeps what is done of
each subject: kill it, run it again, and it goes on. Writes ``posterior.md`` and ``posterior.json``.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.chains.posterior import posterior
from firstread.core.errors import FirstreadError, SettingError
from firstread.core.provenance import versions
from firstread.core.records import Phenotype, Phenotypes, Rows
from firstread.recipes.evidence_heart import in_turn
from firstread.recipes.files import write_text
from firstread.recipes.heart_tables import mean_of
from firstread.recipes.posterior_subjects import (
    ENSEMBLE,
    POSTERIOR,
    SCANNER,
    TV,
    Methods,
    intervals_raw,
    measured,
)
from firstread.trust.conformal import coverage_band, covered, interval_score, smallest_calibration
from firstread.trust.intervals import ConformalIntervals, calibrate

LEVEL = 0.8
LEAST = smallest_calibration((1 + LEVEL) / 2)
Found = Sequence[Mapping[str, Any]]


def inside(row: Mapping[str, Any], method: str, region: str, left_out: int = 0) -> float:
    """Share of a subject's pixels between the lowest and the highest draw, after ``left_out`` at either end.

    >>> row = {"pixels": {"m": {"heart": {"ranks": [1, 3, 4, 2]}}}}
    >>> inside(row, "m", "heart")
    0.7
    """
    counts = row["pixels"][method][region]["ranks"]
    return sum(counts[1 + left_out : len(counts) - 1 - left_out]) / sum(counts)


def nominal(draws: int, left_out: int = 0) -> float:
    """What :func:`inside` is where the truth is as one of the draws: ``(k - 1 - 2 m) / (k + 1)``.

    >>> nominal(4)
    0.6
    """
    return (draws - 1 - 2 * left_out) / (draws + 1)


def pixel_table(rows: Found, draws: int) -> list[str]:
    """Markdown: coverage, error and spread by method and region; means over subjects with 95 % bootstrap intervals."""
    cuts = [m for m in (0, 1) if nominal(draws, m) > 0]
    heads = [f"inside, nominal {100 * nominal(draws, m):.0f} %" for m in cuts]
    lines = ["| method | region | subjects | " + " | ".join(heads) + " | error of the mean | error of one draw | "
             "spread / error |", "|---|---|---|" + "---|" * (len(cuts) + 3)]
    for method in (POSTERIOR, TV):
        having = [row for row in rows if method in row["pixels"]]
        for region in ("heart", "body") if having else ():
            numbers = [row["pixels"][method][region] for row in having]
            shares = [_mean([100 * inside(row, method, region, m) for row in having]) + " %" for m in cuts]
            ratio = _mean([n["spread"] * (1 + 1 / draws) ** 0.5 / n["error"] for n in numbers], digits=2)
            errors = [_mean([n[key] for n in numbers], digits=3) for key in ("error", "error_of_one")]
            lines.append(f"| {method} | {region} | {len(having)} | {' | '.join((*shares, *errors, ratio))} |")
    return lines


def numbers_of(rows: Found, method: str) -> tuple[Phenotypes, Phenotypes]:
    """The mean over the draws of each subject, and every draw."""
    values = torch.tensor([row["LVEF"][method] for row in rows], dtype=torch.float64)
    point = Phenotypes(Rows.subjects(len(rows)), {"LVEF": Phenotype(values.mean(dim=1), "%")})
    return point, Phenotypes(point.draws(values.shape[1]).rows, {"LVEF": Phenotype(values.flatten(), "%")})


def conformal(calibration: Found, test: Found, method: str) -> Float[Tensor, "subject 2"]:
    """Normalized split conformal intervals of the test subjects, the spread over the draws as the expected error."""
    truth = {"LVEF": torch.tensor([row["truth"] for row in calibration], dtype=torch.float64)}
    made = calibrate(*numbers_of(calibration, method), truth, level=LEVEL, calibrated_on="simulation")
    found = ConformalIntervals(calibration=made)(*numbers_of(test, method))["LVEF"]
    assert found.lower is not None and found.upper is not None
    return torch.stack((found.lower, found.upper), dim=1)


def fraction_table(calibration: Found, test: Found) -> list[str]:
    """Markdown: ejection fractions by method, with intervals from the draws alone and conformal ones."""
    truth = torch.tensor([row["truth"] for row in test], dtype=torch.float64)
    lines = ["| draws | error, points | interval | covered | width, points | interval score |",
             "|---|---|---|---|---|---|"]
    for method in (POSTERIOR, ENSEMBLE):
        point, _ = numbers_of(test, method)
        value = point["LVEF"].value
        assert value is not None
        error = _mean((value - truth).abs().tolist())
        made = {"from the draws alone": intervals_raw(test, method, LEVEL)}
        if len(calibration) >= LEAST:
            made[f"conformal, {len(calibration)} calibration subjects"] = conformal(calibration, test, method)
        for name, ends in made.items():
            lower, upper = ends.unbind(dim=1)
            hits = int(covered(truth, lower, upper).sum())
            score = interval_score(truth, lower, upper, LEVEL).tolist()
            lines.append(f"| {method} | {error} | {name} | {hits} of {len(test)} {_binomial(hits, len(test))} | "
                         f"{_mean((upper - lower).tolist())} | {_mean(score)} |")
    return lines


def page(calibration: Found, test: Found, *, command: str, settings: str) -> str:
    """The evidence as Markdown."""
    draws = len(test[0]["LVEF"][POSTERIOR])
    band = coverage_band(len(calibration), len(test), LEVEL) if calibration else (math.nan, math.nan)
    return TEXT.format(
        command=command, tests=len(test), calibrations=len(calibration), draws=draws, scanner=SCANNER,
        settings=settings, pixels="\n".join(pixel_table(test, draws)), level=100 * LEVEL,
        fractions="\n".join(fraction_table(calibration, test)), low=100 * band[0], high=100 * band[1],
        seconds=_mean([row["seconds"] for row in test]), tv_error=_mean([row["tv_error"]["heart"] for row in test], 3),
        versions=", ".join(f"{name} {number}" for name, number in versions().items()))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m firstread.recipes.evidence_posterior", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the page")
    parser.add_argument("--cache", type=Path, help="folder of what is stored per subject; none by default")
    parser.add_argument("--subjects", type=int, default=20, help="of the test family")
    parser.add_argument("--calibration", type=int, default=12, help="subjects of the calibration family")
    parser.add_argument("--rivals", type=int, default=4, help="test subjects with draws of temporal TV")
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--weights", default="heart-prior", help="a default weight's name or a .safetensors file")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no subject after that")
    given = parser.parse_args(arguments)
    try:
        if min(given.subjects, given.draws - 1) < 1 or 0 < given.calibration < LEAST:
            raise SettingError(f"{given.subjects} subjects, {given.calibration} to calibrate, {given.draws} draws",
                               expected=f"a subject, none or {LEAST} to calibrate, two draws, or more",
                               remedy="raise the number")
        methods = Methods.build(posterior(given.weights), given.draws)
        with TemporaryDirectory() as spare:
            rows = _run(methods, given, given.cache or Path(spare))
    except FirstreadError as error:
        print(f"evidence_posterior: {error}", file=sys.stderr)
        return 2
    sizes = ["--subjects", len(rows["test"]), "--calibration", len(rows["calibration"]), "--draws", given.draws,
             "--rivals", given.rivals]
    command = "python -m firstread.recipes.evidence_posterior -o docs/evidence " + shlex.join(map(str, sizes))
    given.output.mkdir(parents=True, exist_ok=True)
    settings = methods.posterior.settings()
    text = page(rows["calibration"], rows["test"], command=command, settings=settings)
    write_text(given.output / "posterior.md", text)
    write_text(given.output / "posterior.json", json.dumps({"command": command, "settings": settings, **rows}) + "\n")
    print(text)
    return 0


def _run(methods: Methods, given: argparse.Namespace, cache: Path) -> dict[str, list[dict[str, Any]]]:
    torch.set_num_threads(1)
    cache.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    rows: dict[str, list[dict[str, Any]]] = {"calibration": [], "test": []}
    for family, index in in_turn(given.calibration, given.subjects):
        file = cache / f"{family}-{index:04d}-{given.draws}.json"
        if not file.is_file():
            if time.monotonic() - begun > 60 * given.minutes and rows["test"]:
                continue
            row = measured(methods, family, index, rivals=family == "test" and index < given.rivals)
            write_text(file, json.dumps(row))
            print(f"{family} {index}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
        rows[family].append(json.loads(file.read_text(encoding="utf-8")))
    return rows


def _mean(values: Sequence[float], digits: int = 1) -> str:
    return mean_of(torch.tensor(values, dtype=torch.float64)).text(digits)


def _binomial(hits: int, cases: int) -> str:
    from scipy.stats import binomtest

    exact = binomtest(hits, cases).proportion_ci(0.95)
    return f"= {100 * hits / cases:.0f} % [{100 * exact.low:.0f}, {100 * exact.high:.0f}]"


TEXT = """# Posterior draws of the reconstruction, on simulated subjects

    {command}

{tests} test subjects of the phantom's test family (other shapes, textures and coils than the training's) and
{calibrations} calibration subjects, simulated: {scanner.matrix}² pixels of {scanner.spacing_mm:g} mm, {scanner.frames}
frames, {scanner.coils} coils, {scanner.acceleration:g}-fold, SNR {scanner.snr:g}; coil maps estimated by ESPIRiT. Every
subject is drawn {draws} times, seeded by its number. One training of the prior (seed 0).
Start, spread and misfit were chosen on the first two of the calibration subjects.

Settings: {settings}.

## Pixel by pixel

Magnitudes against the noiseless truth. Where the truth is as one of the k draws, it lies between the lowest and the
highest in (k - 1) / (k + 1) of the pixels, between the second ones in (k - 3) / (k + 1). Errors: root mean square, the
image's brightness being about 1.6. Spread / error: 1 where the draws scatter as the truth does about their mean. Heart:
within four pixels of it in any frame. Means over subjects with 95 % bootstrap intervals over subjects.

{pixels}

Repeated noise shows what another scan of the same lines would change, not what the missing lines hide. One
reconstruction by temporal TV has an error of {tv_error} in the heart.

## Ejection fraction

Nominal {level:.0f} %. From the draws alone: mean ± t · standard deviation. Conformal: normalized split conformal, the
spread over the draws plus a floor as the scale; calibrated on the calibration family, so that coverage need not be
exact on the test family: if both were one, the share would fall within {low:.0f} to {high:.0f} % (95 %). Covered: with
the exact 95 % interval of the share. Each draw is read by one member of the segmentation in turn; temporal TV once by
every member.

{fractions}

{draws} draws of a subject take {seconds} s of one CPU thread.

Versions: {versions}.
"""

if __name__ == "__main__":
    raise SystemExit(main())
