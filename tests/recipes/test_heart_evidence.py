"""The evidence of the heart: what is stored of a subject comes back, and the tables say what the numbers are."""

import json
import math
from dataclasses import replace

import pytest
import torch

from firstread.core.stage import Chain
from firstread.recipes import heart_subjects as subjects
from firstread.recipes.evidence_heart import Job
from firstread.recipes.heart_tables import UNITS, Results, calibrate_on, groups, image_rows, report
from firstread.reconstruct.direct import ZeroFilled
from firstread.trust.intervals import ConformalIntervals

SMALL = subjects.Scanner(matrix=48, spacing_mm=4.0, gap_mm=20.0, frames=3, coils=3, acceleration=3.0)


def results(seed, count, *, error=2.0):
    """Subjects whose members and consensus err normally, with standard deviation ``error``."""
    draw = torch.Generator().manual_seed(seed)
    rows = []
    for index in range(count):
        truth = {name: 50 + 10 * torch.rand((), generator=draw).item() for name in UNITS}
        members = [{n: v + error * torch.randn((), generator=draw).item() for n, v in truth.items()} for _ in range(3)]
        point = {n: sum(m[n] for m in members) / 3 for n in truth}
        image = {"zero-filled": {"PSNR": 20.0, "SSIM": 0.5, "NRMSE": 0.3},
                 "ours": {"PSNR": 30.0, "SSIM": 0.9, "NRMSE": 0.1}}
        overlap = dict.fromkeys(("LV cavity", "LV myocardium", "RV cavity"), 0.9)
        rows.append({"pathology": ("normal", "dilated")[index % 2], "truth": truth, "convention": dict(truth),
                     "readers": dict(truth), "point": point, "members": members, "image": image, "notes": [],
                     "cpu_seconds": 1.0, "dice": {"ED": overlap, "ES": overlap}})
    return Results(rows)


def test_a_subject_comes_back_as_it_was_stored(tmp_path):
    made = subjects.simulate(SMALL, "test", 0)
    subjects.save(tmp_path / "one.npz", made)
    back = subjects.load(tmp_path / "one.npz")
    assert torch.equal(back.kspace.data, made.kspace.data) and torch.equal(back.kspace.mask, made.kspace.mask)
    assert torch.equal(back.labels.data, made.labels.data)
    assert back.kspace.grid.same_as(made.kspace.grid) and back.labels.grid.same_as(made.labels.grid)
    assert back.truth == made.truth and back.pathology == made.pathology
    assert torch.allclose(back.magnitude, made.magnitude, rtol=1e-3, atol=1e-3)
    assert [p.name for p in tmp_path.iterdir()] == ["one.npz"]


def test_families_and_subjects_differ_and_repeat():
    one, again = subjects.simulate(SMALL, "test", 0), subjects.simulate(SMALL, "test", 0)
    assert torch.equal(one.kspace.data, again.kspace.data)
    assert subjects.simulate(SMALL, "calibration", 0).truth != one.truth
    assert SMALL.label() != subjects.Scanner().label() == subjects.Scanner().label()


def test_images_are_compared_with_the_truth_after_one_scale():
    made = subjects.simulate(SMALL, "test", 1)
    again = ZeroFilled().using(reads={"kspace": "kspace"}, writes="image")
    reader = subjects.Reader(Chain(ZeroFilled(), again), Chain(), 1)
    _, errors = subjects.reconstructed(reader, made)
    [found] = subjects.classical_errors(made, [ZeroFilled()]).values()
    assert found == errors["ours"]
    assert errors["ours"] == errors["zero-filled"]
    assert 0 < errors["ours"]["NRMSE"] < 1
    record = ZeroFilled()(made.kspace)
    exact = replace(record, data=3 * made.magnitude[None, :, None])
    assert subjects.image_errors(exact, made.magnitude)["NRMSE"] == pytest.approx(0, abs=1e-6)


def test_calibrated_intervals_cover_and_the_report_says_so(tmp_path):
    calibration = calibrate_on(results(0, 60), 0.9, {"segment": "0123"}, "k-space")
    assert set(calibration.quantities) == set(UNITS) and calibration.weights == {"segment": "0123"}
    reader = subjects.Reader(Chain(), Chain(ZeroFilled()), 3)
    report(tmp_path, results(1, 80), calibration, SMALL, reader, command="the command", status="Not final.")
    text = (tmp_path / "heart.md").read_text()
    assert "everything on this page is simulated" in text.split("\n")[2] and "**Not final.**" in text
    assert "80 subjects" in text and "calibrated on 60 other subjects" in text
    data = json.loads((tmp_path / "heart.json").read_text())
    for row in data["coverage"]:
        assert f"| {row['name']} | {row['unit']} | {round(row['share'] * 80)} of 80" in text
        assert 0.7 < row["share"] <= 1
    assert len(data["subjects"]) == 80
    bias = data["agreement"]["analytic truth"]["LVEF"]["bias"]
    assert bias["lower"] < 0.5 and bias["upper"] > -0.5
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.rstrip().endswith("|")


def test_what_a_subject_lacks_is_left_out_and_counted(tmp_path):
    calibration = calibrate_on(results(0, 60), 0.9, {}, "images")
    tested = results(1, 20)
    tested.rows[3]["point"]["RVEF"] = None
    tested.rows[4]["members"][0]["RVEF"] = None
    report(tmp_path, tested, calibration, SMALL, subjects.Reader(Chain(), Chain(), 3), command="c", status="")
    data = json.loads((tmp_path / "heart.json").read_text())
    assert {row["name"]: row["cases"] for row in data["coverage"]}["RVEF"] == 18
    assert data["agreement"]["analytic truth"]["RVEF"]["subjects"] == 19


def test_images_are_reported_apart(tmp_path):
    calibration = calibrate_on(results(0, 60), 0.9, {"segment": "0123"}, "images")
    report(tmp_path, results(1, 20), calibration, SMALL, subjects.Reader(Chain(), Chain(), 3), command="c", status="",
           source="images")
    text = (tmp_path / "heart-images.md").read_text()
    assert text.startswith("# From images to") and "coils" not in text and "Rician" in text
    assert calibration.calibrated_on.endswith("from images")


def test_a_scanned_image_has_the_noise_of_its_snr():
    made = subjects.simulate(SMALL, "test", 0)
    noisy = subjects.scanned(SMALL, made, 0)[0, :, 0]
    assert torch.equal(noisy, subjects.scanned(SMALL, made, 0)[0, :, 0])
    bright = made.magnitude > made.magnitude.max() / 2  # where Rician noise is nearly normal
    sd = (noisy - made.magnitude)[bright].std().item()
    level = made.magnitude[made.magnitude > 0.1 * made.magnitude.max()].mean().item()
    assert sd == pytest.approx(level / SMALL.snr / 2**0.5, rel=0.2)


def test_groups_and_images_are_means_over_their_subjects():
    tested = results(2, 10)
    del tested.rows[0]["image"]["zero-filled"]
    rows = image_rows(tested)
    assert [(row["name"], row["count"]) for row in rows] == [("zero-filled", 9), ("**this chain**", 10)]
    calibration = calibrate_on(results(0, 60), 0.9, {}, "images")
    found = groups(tested, ConformalIntervals(calibration=calibration)(tested.point(), tested.members()))
    assert {row["name"]: row["count"] for row in found} == {"dilated": 5, "normal": 5}
    error = [row["point"]["LVEF"] - row["truth"]["LVEF"] for row in tested.rows[1::2]]
    assert math.isclose(found[0]["mean"], sum(error) / 5)


def test_a_subject_whose_numbers_are_stored_is_not_simulated_again(tmp_path, monkeypatch):
    job = Job(tmp_path, subjects.Scanner(), None, "measured", 0)
    stored = job.file(subjects.Reader.build(None), "test", 3)
    stored.write_text("{}", encoding="utf-8")
    monkeypatch.setattr(subjects, "simulate", lambda *args: pytest.fail("simulated again"))
    assert job.run("test", 3) == stored
    with pytest.raises(pytest.fail.Exception, match="simulated again"):
        replace(job, classical=4).run("test", 3)
