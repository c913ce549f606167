"""Evidence of the heart's intervals on phantom subjects, by one command:

    python -m firstread.recipes.evidence_intervals -o docs/evidence --subjects 200 --calibration 100 --cache FOLDER

The subjects are those of ``evidence_heart`` and are taken from its cache where it has them. Besides, ``--shifted`` test
subjects are scanned by scanners that the calibration has not seen; of these, ``--adapted`` are read once more by a
reconstruction that is fitted to each scan. Kill it, run it again, and it goes on.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.errors import FirstreadError, InputError, SettingError
from firstread.core.provenance import versions
from firstread.core.records import Features, Phenotypes
from firstread.core.stage import Stage
from firstread.recipes.evidence_heart import LEVEL, Job, in_turn, run_all
from firstread.recipes.heart_subjects import Reader, Scanner
from firstread.recipes.heart_tables import Results
from firstread.recipes.interval_adaptation import AdaptedJob, adaptation_section, adaptation_table, adapted_rows
from firstread.recipes.interval_cohort import NAMES, Cohort, cohort, pooled
from firstread.recipes.interval_heads import drawn, evidential, features_of, laplace
from firstread.recipes.interval_members import members_section
from firstread.recipes.interval_splits import SPLITS, split_section
from firstread.trust.cells import Cell, coverage_cells, coverage_markdown, jointly
from firstread.trust.compare import compare_intervals, comparison_markdown
from firstread.trust.intervals import ConformalIntervals, PlainIntervals, split_calibration
from firstread.trust.mondrian import GroupIntervals, Groups, group_calibration
from firstread.trust.scores import collect_scores
from firstread.trust.shift import ShiftGuard, fit_novelty
from firstread.trust.weighted import WeightedIntervals, fit_ratio

SHIFTS: Mapping[str, Scanner] = {"SNR 12 instead of 30": Scanner(snr=12.0),
                                 "10-fold instead of 6-fold": Scanner(acceleration=10.0),
                                 "4 coils instead of 8": Scanner(coils=4),
                                 "contrast to the power 0.6": Scanner(contrast=0.6)}
PLAIN, ENSEMBLE, GROUPED = "the number alone", "normalized by the ensemble", "normalized, by third of measured EF"
LAPLACE, EVIDENTIAL = "Laplace head", "evidential head"


def made_intervals(calibration: Cohort, test: Cohort) -> dict[str, tuple[Phenotypes, Callable[[str, str], int]]]:
    """Each method's intervals of the test subjects, and how many calibration cases stand behind each."""
    scores, point, members = calibration.scores(ensemble=True), test.results.point(), test.results.members()
    ensemble = split_calibration(scores, level=LEVEL)
    plain = split_calibration(calibration.scores(ensemble=False), level=LEVEL)
    thirds = group_calibration(scores, Groups.terciles("LVEF", scores.number("LVEF")), level=LEVEL)
    heads = {LAPLACE: _headed(laplace, calibration, test), EVIDENTIAL: _headed(evidential, calibration, test)}
    return {PLAIN: (PlainIntervals(calibration=plain)(point), lambda name, group: plain.quantities[name].count),
            ENSEMBLE: (ConformalIntervals(calibration=ensemble)(point, members),
                       lambda name, group: ensemble.quantities[name].count),
            GROUPED: (GroupIntervals(calibration=thirds)(point, members, None), thirds.count), **heads}


def _headed(fitted: Callable[[Features, Mapping[str, Tensor]], Stage], calibration: Cohort, test: Cohort
            ) -> tuple[Phenotypes, Callable[[str, str], int]]:
    """Intervals of a head: the first half of the calibration subjects trains it, the other calibrates."""
    half = len(calibration.features) // 2
    training, rest = calibration.part(0, half), calibration.part(half, len(calibration.features))

    def seen(one: Cohort) -> Features:
        return features_of(one.results, one.features, NAMES)

    head = fitted(seen(training), training.truth())
    scores = collect_scores(*drawn(head, seen(rest)), rest.truth(), calibrated_on="the other half")
    made = split_calibration(scores, level=LEVEL)
    intervals = ConformalIntervals(calibration=made)(*drawn(head, seen(test)))
    return intervals, lambda name, group: made.quantities[name].count


def cells_of(calibration: Cohort, test: Cohort) -> list[tuple[str, Cell]]:
    """Coverage by method: of all, by pathology and by third of the measured EF, p-values adjusted over all cells."""
    rows, truth = test.results.rows, test.truth()
    thirds = Groups.terciles("LVEF", calibration.results.point()["LVEF"].value)
    value = test.results.point()["LVEF"].value
    in_third = [thirds.names[i] if i >= 0 else "not measured" for i in thirds.index(value).tolist()]
    pathology = [row["pathology"].replace("_", " ") for row in rows]
    found: list[tuple[str, Cell]] = []
    for method, (intervals, count) in made_intervals(calibration, test).items():
        groupings = [in_third] if method == GROUPED else [["all"] * len(rows), pathology, in_third]
        found += [(method, cell) for groups in groupings
                  for cell in coverage_cells(intervals, truth, groups, calibrated=count)]
    return list(zip([method for method, _ in found], jointly([cell for _, cell in found]), strict=True))


def shifted_rows(calibration: Cohort, shifted: Mapping[str, Cohort]) -> list[str]:
    """A Markdown row per scanner and phenotype: before weighting, after it, and how many the guard refuses."""
    scores = calibration.scores(ensemble=True)
    plain = ConformalIntervals(calibration=split_calibration(scores, level=LEVEL))
    cut = int(0.4 * len(calibration.features))
    novelty = fit_novelty(calibration.features[:cut], calibration.features[cut:], calibration.names,
                          calibrated_on=scores.calibrated_on)
    guard = ShiftGuard(novelty=novelty, refuse_below=1.001 / len(novelty.calibration), warn_below=0.05)
    lines = []
    for called, target in shifted.items():
        point, members, features = target.results.point(), target.results.members(), target.described()
        before = plain(point, members)
        p = novelty.p_value(target.features)
        refused = torch.isnan(guard(before, features)["LVEF"].lower) & torch.isfinite(before["LVEF"].lower)
        seen = f"{int(refused.sum())}, {int((p < 0.05).sum())} of {len(p)}"
        try:
            ratio = fit_ratio(*(_with_ef(one) for one in (calibration, target)), (*calibration.names, "LVEF"))
            weighted: Phenotypes | None = WeightedIntervals(scores=scores, ratio=ratio, level=LEVEL)(point, members,
                                                                                                   features)
            refusal = ""
        except SettingError as error:
            weighted, refusal = None, f"refused: {error.got.split(' for ')[0]}"
        for name, truth in target.truth().items():
            after = refusal if weighted is None else _covered(weighted, name, truth)
            lines.append(f"| {called} | {name} | {_covered(before, name, truth)} | {after} | {seen} |")
    return lines


def _with_ef(one: Cohort) -> Float[Tensor, "subject feature"]:
    """Image features and the measured ejection fraction; the median of the cohort where it could not be measured."""
    value = one.results.column(lambda row: row["point"].get("LVEF"))
    return torch.cat((one.features, torch.where(torch.isfinite(value), value, value.nanmedian())[:, None]), dim=1)


def _covered(intervals: Phenotypes, name: str, truth: Float[Tensor, " subject"]) -> str:
    cells = coverage_cells(intervals, {name: truth}, ["all"] * len(truth), calibrated=lambda name, group: 10_000)
    if not cells:
        return "no interval"
    [cell] = cells
    return f"{100 * cell.share:.0f} % of {cell.cases}, {cell.width:.1f} {cell.unit}"


def adaptation(calibration: Cohort, shifted: Mapping[str, Cohort], fitted: Mapping[str, Results], steps: int) -> str:
    """Before and after adaptation, of the subjects of each scanner that are in ``fitted``."""
    plain = ConformalIntervals(calibration=split_calibration(calibration.scores(ensemble=True), level=LEVEL))
    table, seconds = [], []
    for called, after in fitted.items():
        done = [row["index"] for row in after.rows]
        before = Results([row for row in shifted[called].results.rows if row["index"] in done])
        made = plain(before.point(), before.members()), plain(after.point(), after.members())
        table += adaptation_table(called, before, after, {called: made}, NAMES)
        seconds += [row["cpu_seconds"] for row in after.rows]
    return adaptation_section(table, steps=steps, seconds=sum(seconds) / len(seconds))


def page(calibration: Cohort, test: Cohort, shifted: Mapping[str, Cohort], *, command: str, status: str,
         fitted: Mapping[str, Results] | None = None, steps: int = 0, splits: int = SPLITS) -> str:
    """The evidence as Markdown; fitted: numbers of the other scanners' subjects after adaptation in ``steps`` steps."""
    methods = {method: [intervals] for method, (intervals, _) in made_intervals(calibration, test).items()}
    cells, scanner = cells_of(calibration, test), Scanner()
    out = [f"{cell.name} ({cell.group}, {method}): {100 * cell.share:.0f} %" for method, cell in cells
                           if not cell.holds]
    verdict = ("Every cell is compatible with nominal coverage." if not out else
               f"Not compatible with nominal coverage: {len(out)} of {len(cells)} cells, {'; '.join(out)}.")
    text = [f"# Intervals of the heart, on simulated subjects\n\n{status}\n" if status else
            "# Intervals of the heart, on simulated subjects\n",
            f"{len(test.results.rows)} test subjects, {len(calibration.results.rows)} calibration subjects, "
            f"{scanner.matrix}² pixels of {scanner.spacing_mm:g} mm, {scanner.frames} frames, {scanner.coils} coils, "
            f"{scanner.acceleration:g}-fold, SNR {scanner.snr:g}; the test family's hearts differ from the calibration "
            f"family's. Nominal {100 * LEVEL:.0f} %. The default weights: one training of "
            f"the reconstruction, three of the segmentation (below).\n\n    {command}\n",
            "## Methods\n\nOn the same subjects; differences with 95 % bootstrap intervals over subjects. The heads "
            "see the measured numbers, the ensemble's spread and image features, and correct the value; half of the "
            "calibration subjects train them, the other half calibrate.\n"]
    for name in NAMES:
        rows = compare_intervals(methods, test.truth()[name], name, baseline=PLAIN)
        text.append(f"{name}\n\n{comparison_markdown(rows, baseline='baseline')}")
    text.append("## Coverage in groups\n\nBand: where the share falls (95 %) if calibration and test subjects are "
                f"exchangeable; p by Holm over all {len(cells)} cells of this page. {verdict}\n")
    text += [f"{method}\n\n{coverage_markdown([cell for of, cell in cells if of == method])}" for method in methods]
    text.append(members_section(calibration, test, level=LEVEL))
    text.append(split_section(pooled(calibration, test), len(calibration.results.rows), level=LEVEL,
                              splits=splits))
    if shifted:
        text.append("## Other scanners\n\nTest subjects scanned otherwise than the calibration subjects: coverage and "
                    "mean width of the ensemble's intervals, the same weighted by the likelihood ratio of image "
                    "features (noise, intensities, edges, motion) and the measured EF, and how many subjects the shift "
                    "guard refuses, and doubts (p < 0.05).\n")
        head = ["| scanner | phenotype | before | weighted | refused, doubted |", "|---|---|---|---|---|"]
        text.append("\n".join([*head, *shifted_rows(calibration, shifted)]) + "\n")
    if fitted:
        text.append(adaptation(calibration, shifted, fitted, steps))
    text.append("Versions: " + ", ".join(f"{name} {number}" for name, number in versions().items()) + ".\n")
    return "\n".join(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m firstread.recipes.evidence_intervals", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the page")
    parser.add_argument("--cache", type=Path, required=True, help="folder of what is stored per subject")
    parser.add_argument("--subjects", type=int, default=200, help="of the test family")
    parser.add_argument("--calibration", type=int, default=100, help="subjects of the calibration family")
    parser.add_argument("--shifted", type=int, default=60, help="test subjects for each other scanner")
    parser.add_argument("--adapted", type=int, default=0, help="of these, read after adaptation too")
    parser.add_argument("--steps", type=int, default=20, help="of an adaptation, at most")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--weights", help="of the segmentation: a default weight's name or a file")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no subject after that, for each scanner")
    parser.add_argument("--status", default="", help="a sentence put on top, for tables that are not final")
    asked = parser.parse_args(argv)
    try:
        if not asked.cache.is_dir():
            raise InputError(f"no folder {asked.cache.name}", expected="a folder for --cache", remedy="make it first")
        if min(asked.subjects, asked.calibration, asked.shifted or 3) < 3:
            raise SettingError(f"{asked.subjects} subjects, {asked.calibration} to calibrate, {asked.shifted} of each "
                               "other scanner", expected="three or more of each, of other scanners none or three",
                               remedy="ask for more")
        reader = Reader.build(asked.weights)

        def cohorts(scanner: Scanner, calibration: int, test: int) -> dict[str, Cohort]:
            job = Job(asked.cache, scanner, asked.weights, "measured", 0)
            run_all(job, in_turn(calibration, test), asked.workers, asked.minutes)
            files = {family: [file for index in range(count) if (file := job.file(reader, family, index)).is_file()]
                     for family, count in (("calibration", calibration), ("test", test))}
            return {family: cohort(scanner, found) for family, found in files.items() if found}

        base = cohorts(Scanner(), asked.calibration, asked.subjects)
        others = {called: made["test"] for called, scanner in SHIFTS.items()
                  if asked.shifted and "test" in (made := cohorts(scanner, 0, asked.shifted))}
        fitted = {called: Results(found) for called in others
                  if (found := _adapted(asked, reader, SHIFTS[called], min(asked.adapted, asked.shifted)))}
        adapting = ["--adapted", str(asked.adapted), "--steps", str(asked.steps)] if fitted else []
        command = "python -m firstread.recipes.evidence_intervals " + shlex.join(
            ["-o", "docs/evidence", "--subjects", str(asked.subjects), "--calibration", str(asked.calibration),
             "--shifted", str(asked.shifted), *adapting, "--cache", "FOLDER"])
        text = page(base["calibration"], base["test"], others, command=command, status=asked.status, fitted=fitted,
                    steps=asked.steps)
        asked.output.mkdir(parents=True, exist_ok=True)
        (asked.output / "intervals.md").write_text(text, encoding="utf-8")
    except FirstreadError as error:
        print(f"evidence_intervals: {error}", file=sys.stderr)
        return 2
    return 0


def _adapted(asked: argparse.Namespace, reader: Reader, scanner: Scanner, count: int) -> list[dict[str, Any]]:
    """Numbers after adaptation of the first subjects of a scanner, as far as time allows."""
    if not count:
        return []
    job = AdaptedJob(asked.cache, scanner, asked.weights, "measured", 0, steps=asked.steps)
    run_all(job, in_turn(0, count), asked.workers, asked.minutes)
    return adapted_rows([job.file(reader, "test", index) for index in range(count)])


if __name__ == "__main__":
    raise SystemExit(main())
