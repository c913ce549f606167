"""The page of the intervals' evidence: says what holds and what does not, on subjects whose law is known."""

import pytest
import torch

from firstread.core.errors import SettingError
from firstread.recipes.evidence_intervals import (
    ENSEMBLE,
    EVIDENTIAL,
    GROUPED,
    LAPLACE,
    PLAIN,
    adaptation,
    cells_of,
    main,
    page,
)
from firstread.recipes.heart_tables import UNITS, Results
from firstread.recipes.interval_cohort import NAMES, Cohort, pooled
from firstread.recipes.interval_members import members_section
from firstread.recipes.interval_splits import split_section

FEATURES = ("log_noise", "edges")


def made(seed, count, *, low=0.3, times=1.0, noise=0.0):
    """Subjects of two kinds, a share ``low`` weak with errors ``times`` as large; features shifted by noise."""
    draw = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(count):
        weak = torch.rand((), generator=draw).item() < low
        truth = {name: (30 if weak else 60) + 2 * torch.randn((), generator=draw).item() for name in UNITS}
        error = {name: (times if weak else 1) * torch.randn((), generator=draw).item() for name in UNITS}
        point = {name: value + error[name] for name, value in truth.items()}
        members = [{n: v + torch.randn((), generator=draw).item() for n, v in point.items()} for _ in range(3)]
        rows.append({"pathology": "dilated" if weak else "normal", "truth": truth, "point": point, "members": members})
    return Cohort(Results(rows), noise + torch.randn(count, 2, generator=draw).double(), FEATURES)


def test_every_cell_of_exchangeable_subjects_holds_and_the_page_says_so():
    calibration, test = made(0, 90), made(1, 120)
    text = page(calibration, test, {"the same": made(2, 60)}, command="python -m …", status="A trial.",
                splits=3)
    assert "A trial." in text and "Every cell is compatible with nominal coverage." in text
    assert all(name in text for name in (*NAMES, PLAIN, ENSEMBLE, GROUPED, LAPLACE, EVIDENTIAL))
    cells = cells_of(calibration, test)
    assert len(cells) == 4 * (1 + 2 + 3) * 4 + 4 * 3
    assert f"all {len(cells)} cells" in text
    assert text.count("| the same |") == 4 and "refused:" not in text


def test_another_mix_fails_for_all_and_holds_by_third_of_the_measured_value():
    cells = cells_of(made(3, 150, times=5.0), made(4, 300, low=0.9, times=5.0))
    failed = {(method, cell.group) for method, cell in cells if not cell.holds}
    assert (ENSEMBLE, "all") in failed and (PLAIN, "all") in failed
    assert not any(method == GROUPED for method, _ in failed)


def test_an_unlike_scanner_is_refused_by_weighting_and_by_the_guard():
    text = page(made(0, 90), made(1, 60), {"noisy": made(5, 60, noise=9.0)}, command="…", status="", splits=3)
    rows = [line for line in text.splitlines() if line.startswith("| noisy |")]
    assert len(rows) == 4 and all("refused: " in row and "60, 60 of 60" in row for row in rows)


def test_over_splits_of_one_pool_the_mean_coverage_is_nominal():
    text = split_section(pooled(made(0, 60), made(1, 120)), 60, level=0.9, splits=12)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()
            if line.startswith(("| n", "| the"))]
    shares = {(row[0], row[1]): float(row[3].split()[0]) for row in rows}
    assert len(rows) == 3 * len(NAMES) and "180 subjects" in text and len(rows[0][2].split(",")) == 3
    assert all(86 < share < 94.5 for (method, _), share in shares.items() if method != GROUPED)


def test_each_member_is_calibrated_as_if_it_were_alone():
    calibration, test = made(0, 90), made(1, 120)
    for one in (calibration, test):
        for row in one.results.rows:
            row["members"][2] = {name: value + 4 for name, value in row["members"][0].items()}
    text = members_section(calibration, test, level=0.9)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")][1:]
    assert [row[0] for row in rows] == list(NAMES)
    for row in rows:
        errors, shares, widths = ([float(value) for value in cell.rsplit(" ", 1)[0].split(",")] for cell in row[1:])
        assert len(errors) == len(shares) == len(widths) == 3 and all(80 < share < 98 for share in shares[:2])
        assert errors[2] > errors[0] + 1 and widths[2] > widths[0]  # an interval reaches to the value itself


def test_adaptation_is_compared_on_the_same_subjects():
    before, after = made(2, 12), made(2, 12)
    for index, (old, new) in enumerate(zip(before.results.rows, after.results.rows, strict=True)):
        old["index"], new["index"], new["adapted"], new["cpu_seconds"] = index, index, index < 7, 60.0
        new["point"] = {name: value + 3.0 for name, value in new["point"].items()}
    text = adaptation(made(0, 90), {"noisy": before}, {"noisy": Results(after.results.rows[:10])}, 20)
    rows = [line for line in text.splitlines() if line.startswith("| noisy |")]
    assert len(rows) == len(NAMES) and all("| 7 of 10 |" in row and " of 10, " in row for row in rows)
    assert "at most 20 steps" in text and "60 s of one CPU" in text
    change = [float(row.split("|")[8].split()[0]) for row in rows]
    assert all(1 < each < 3 for each in change)


def test_too_few_calibration_subjects_are_named(tmp_path, capsys):
    with pytest.raises(SettingError, match="19 or more"):
        page(made(0, 40), made(1, 60), {}, command="…", status="", splits=3)
    assert main(["-o", str(tmp_path), "--cache", str(tmp_path / "none")]) == 2
    assert "no folder none" in capsys.readouterr().err
    assert main(["-o", str(tmp_path), "--cache", str(tmp_path), "--shifted", "2"]) == 2
    assert "2 of each other scanner" in capsys.readouterr().err
