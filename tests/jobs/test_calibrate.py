"""Calibration on one's own readings: what it is made of, and every mistake of a user in one sentence."""

import json

import pytest
import torch
from own_readings import reading, write_readings, write_table

from firstread.core.errors import FirstreadError
from firstread.core.records import Phenotype, Phenotypes, Rows
from firstread.jobs.calibrate import Wish, calibrate_to_file
from firstread.trust.by_name import open_calibration
from firstread.trust.intervals import calibrate


@pytest.fixture
def own(tmp_path):
    """Forty readings, their truth, and the table of it."""
    truth = write_readings(tmp_path / "readings", 40)
    return tmp_path / "readings", truth, write_table(tmp_path / "truth.csv", truth)


def test_quantiles_are_those_of_the_library_on_the_same_numbers(own, tmp_path):
    readings, truth, table = own
    made = calibrate_to_file(readings, table, tmp_path / "own.json", Wish(about="forty of ours"))
    documents = [json.loads((readings / name / "reading.json").read_text()) for name in truth]
    values = torch.tensor([d["phenotypes"]["LVEF"]["value"] for d in documents], dtype=torch.float64)
    spread = torch.tensor([d["basis"]["spread"]["LVEF"] for d in documents], dtype=torch.float64)
    point = Phenotypes(Rows.subjects(40), {"LVEF": Phenotype(values, "%")})
    rows = point.draws(3).rows
    three = values[:, None] + spread[:, None] * torch.tensor([-1.0, 0.0, 1.0])  # whose standard deviation is the spread
    true = torch.tensor([float(f"{ef:.3f}") for ef, _ in truth.values()], dtype=torch.float64)
    wanted = calibrate(point, Phenotypes(rows, {"LVEF": Phenotype(three.flatten(), "%")}), {"LVEF": true}, level=0.9,
                       calibrated_on="")
    for side in ("lower", "upper"):
        assert getattr(made.quantities["LVEF"], side) == pytest.approx(getattr(wanted.quantities["LVEF"], side))
    assert set(made.quantities) == {"LVEF", "LVEDV"} and made.members == 3 and made.calibrated_on == "forty of ours"
    stored = open_calibration(tmp_path / "own.json")
    assert stored.quantities == made.quantities and stored.weights == made.weights and len(stored.cases) == 40


def test_the_guard_knows_ordinary_and_strange_scans(own, tmp_path):
    readings, _, table = own
    novelty = calibrate_to_file(readings, table, tmp_path / "own.json").novelty
    ordinary = torch.tensor([[-1.55, 0.0345, 0.2], [-1.55, 0.0345, 0.21]])
    strange = torch.tensor([[-0.5, 0.0345, 0.2], [-1.55, 0.0345, 0.6]])
    assert novelty.names == ("log_noise", "edges", "log_pixel_mm")
    assert bool((novelty.p_value(ordinary) > 0.05).all()) and bool((novelty.p_value(strange) < 1 / 40).all())
    assert "log_pixel_mm 20.0 sd above" in novelty.reason(strange[1])


def test_groups_are_calibrated_each_by_itself(own, tmp_path):
    readings, truth, _ = own
    rows = ["subject;LVEF;scanner", *(f"{name};{ef};{'A' if i % 2 else 'B'}" for i, (name, (ef, _)) in
                                      enumerate(truth.items()))]
    table = tmp_path / "by.csv"
    table.write_text("\n".join(rows))
    made = calibrate_to_file(readings, table, tmp_path / "by.json", Wish(by="scanner"))
    assert {name: each.quantities["LVEF"].count for name, each in made.calibrations.items()} == {"A": 20, "B": 20}
    one = open_calibration(tmp_path / "by.json", "A")
    assert one.method.endswith("per phenotype in the group scanner = A") and one.novelty.count == 20
    for group, text in ((None, "no group stated"), ("C", r"group C; .* \(scanner\) that was calibrated: A, B")):
        with pytest.raises(FirstreadError, match=text):
            open_calibration(tmp_path / "by.json", group)


def test_a_single_network_has_intervals_of_one_width(tmp_path):
    truth = write_readings(tmp_path / "readings", 25, members=1)
    made = calibrate_to_file(tmp_path / "readings", write_table(tmp_path / "t.csv", truth), tmp_path / "own.json")
    assert made.members == 0 and "on the number alone" in made.method


def test_what_is_left_out_is_said_and_refused_readings_count(own, tmp_path):
    readings, truth, _ = own
    (readings / "p00" / "reading.json").write_text(json.dumps(reading(50.0, 1.0, -1.6, mark="r", refused=True)))
    rows = {name: pair for name, pair in truth.items() if name != "p39"} | {"p77": (50.0, 100.0)}
    table = write_table(tmp_path / "t.csv", rows)
    table.write_text(table.read_text().replace(f"p01,{truth['p01'][0]:.3f}", "p01,NaN").replace(
        f"p02,{truth['p02'][0]:.3f}", "p02,"))
    said = []
    made = calibrate_to_file(readings, table, tmp_path / "own.json", progress=said.append)
    assert made.quantities["LVEF"].count == 37 and made.quantities["LVEDV"].count == 39
    assert made.excluded == {"LVEF": 2}
    text = "\n".join(said)
    assert "without true numbers: p39" in text and "without a reading: p77" in text
    assert "used, though unlike the cases of their present intervals: p00" in text
    assert "LVEF: 37 cases, 2 left out" in text


def changed(readings, name, change):
    file = readings / name / "reading.json"
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


@pytest.mark.parametrize(("change", "text"), [
    (lambda d: d["trail"].append({"stage": "cascade", "weights": "another"}), "readings of different chains: p00"),
    (lambda d: d["trail"].append({"stage": "adapted_cascade", "weights": "another"}), "p01, whose reconstruct"),
    (lambda d: d.update(basis=None), "p01, in which nothing was measured"),
    (lambda d: d["basis"].update(fingerprints=["0-p05-1"]), "the same scan in the readings p01 and p05"),
    (lambda d: d["input"].update(sha256="file 0-p00"), "the same scan in the readings p00 and p01"),
    (lambda d: d.update(schema="another"), "p01, of another form"),
])
def test_readings_that_cannot_calibrate_are_named(own, tmp_path, change, text):
    readings, _, table = own
    changed(readings, "p01", change)
    with pytest.raises(FirstreadError, match=text):
        calibrate_to_file(readings, table, tmp_path / "own.json")
    assert not (tmp_path / "own.json").exists()


@pytest.mark.parametrize(("old", "new", "text"), [
    ("subject,", "patient,", "expected a heading with subject"),
    ("LVEF,LVEDV", "EF,volume", "no phenotype among the columns EF, volume, note"),
    ("LVEDV (mL)", "LVEDV (L)", "LVEDV in L; expected mL"),
    ("LVEDV (mL)", "LVEF", "several columns of t.csv called LVEF"),
    ("p01,", "p00,", "several rows of the subject p00"),
    ("p01,", "p01,fifty", "LVEF of p01: 'fifty"),
    ("p01,", "p01,-", "not below zero"),
    ("p01,", "p01,1,", "5 cells in row 3 of t.csv"),
])
def test_tables_that_are_wrong_say_where(own, tmp_path, old, new, text):
    readings, truth, _ = own
    table = write_table(tmp_path / "t.csv", truth)
    table.write_text(table.read_text().replace(old, new, 1))
    with pytest.raises(FirstreadError, match=text):
        calibrate_to_file(readings, table, tmp_path / "own.json")
    assert [p.name for p in tmp_path.iterdir() if "own" in p.name] == []


def test_fractions_in_the_place_of_per_cent_are_noticed(own, tmp_path):
    readings, truth, _ = own
    table = write_table(tmp_path / "t.csv", {name: (ef / 100, edv) for name, (ef, edv) in truth.items()})
    with pytest.raises(FirstreadError, match=r"LVEF in another unit: by the median 0.0"):
        calibrate_to_file(readings, table, tmp_path / "own.json")


def test_too_few_cases_and_cases_that_trained_are_refused(own, tmp_path):
    readings, truth, table = own
    few = write_table(tmp_path / "few.csv", dict(list(truth.items())[:18]))
    with pytest.raises(FirstreadError, match=r"18 usable cases to calibrate LVEF at level 0.9; expected 19 or more"):
        calibrate_to_file(readings, few, tmp_path / "own.json")
    with pytest.raises(FirstreadError, match="a level of 90; expected a share"):
        Wish(level=90)
    with pytest.raises(FirstreadError, match=r"40 usable cases .* at level 0.96; expected 49 or more"):
        calibrate_to_file(readings, table, tmp_path / "own.json", Wish(level=0.96))
    (tmp_path / "trained.txt").write_text("unknown\n0-p03-1\n")
    with pytest.raises(FirstreadError, match=r"1 of 40 readings are of scans that trained the model \(p03\)"):
        calibrate_to_file(readings, table, tmp_path / "own.json", Wish(trained_on=tmp_path / "trained.txt"))
    with pytest.raises(FirstreadError, match=r"no subject of the table .x. among the readings .p00, p01, p02 and 37"):
        calibrate_to_file(readings, write_table(tmp_path / "x.csv", {"x": (50.0, 90.0)}), tmp_path / "own.json")


def test_an_earlier_file_is_kept_unless_told(own, tmp_path):
    readings, _, table = own
    (tmp_path / "own.json").write_text("earlier")
    with pytest.raises(FirstreadError, match=r"own.json is there already"):
        calibrate_to_file(readings, table, tmp_path / "own.json")
    assert (tmp_path / "own.json").read_text() == "earlier"
    calibrate_to_file(readings, table, tmp_path / "own.json", overwrite=True)
    with pytest.raises(FirstreadError, match="choose another with -o"):
        calibrate_to_file(readings, table, table / "own.json")
    assert open_calibration(tmp_path / "own.json").quantities


def test_p_values_of_exchangeable_cases_are_uniform_or_larger():
    from firstread.trust.full_novelty import full_novelty

    draw = torch.Generator().manual_seed(0)
    mixed, found = torch.tensor([[1.0, 0.8, 0], [0, 1, 0], [0, 0, 3]]).double(), []
    for _ in range(300):
        table = torch.randn(20, 3, generator=draw).double() @ mixed
        novelty = full_novelty(table[:19], ("a", "b", "c"), calibrated_on="…")
        found.append(float(novelty.p_value(table[19:])))
    shares = [sum(p <= level for p in found) / len(found) for level in (0.05, 0.1, 0.2)]
    assert all(abs(share - level) < 2.5 * (level / 300) ** 0.5 for share, level in zip(shares, (0.05, 0.1, 0.2),
                                                                                      strict=True))
