"""Advice: from a reading alone, from the scan; what is written, and what is refused."""

import json
from pathlib import Path

import pytest
from small_heart import by_brightness, small_heart, small_scan
from typer.testing import CliRunner

from firstread import cli
from firstread.advise import Question, advise, advise_case, advise_to_folder
from firstread.core.case import Case
from firstread.core.errors import InputError
from firstread.core.stage import Chain
from firstread.io import pattern
from firstread.read import Settings
from firstread.reconstruct.direct import ZeroFilled
from firstread.report.advice import advice_text

EF = {"value": 55.0, "unit": "%", "interval": [49.0, 61.0], "level": 0.9, "method": "m", "calibrated_on": "simulation"}


def reading(folder: Path, **changes: object) -> Path:
    """A folder with a reading that another program might have written."""
    document = {"schema": "firstread.reading/1", "phenotypes": {"LVEF": EF}, "trail": [], "seed": 0,
                "input": {"name": "Doe^Jane.h5", "kind": "ISMRMRD", "sha256": "0" * 64},
                "warnings": [{"code": "few_slices", "text": "4 slices show the LV.", "severity": "warning"}], **changes}
    folder.mkdir()
    (folder / "reading.json").write_text(json.dumps(document))
    return folder


def blank() -> dict:
    return {"schema": "firstread.advice/1", "endpoint": "LVEF", "input": {}, "interval": {**EF, "seen": None},
            "quality": [], "design": None, "shares": {}, "slices": [], "frames": [], "lines": None, "cannot_tell": []}


def test_a_reading_alone_gives_its_quality_checks_and_says_what_is_missing(tmp_path):
    advice = advise_to_folder(reading(tmp_path / "r"), tmp_path / "a")
    assert advice.document["quality"][0]["stage"] == "acquisition" and advice.lines is None
    assert "--input" in advice.document["cannot_tell"][0]
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["advice.json", "advice.md"]
    written = (tmp_path / "a" / "advice.json").read_text() + (tmp_path / "a" / "advice.md").read_text()
    assert "Doe" not in written and "90 % interval 49.0 to 61.0" in written


def test_a_scan_gives_shares_slices_frames_and_lines(tmp_path):
    chain = Chain(ZeroFilled().using(writes="image"), by_brightness())
    advice = advise_case(Case({"kspace": small_scan()}), chain, Question(draws=2, lines=2), blank())
    document = advice.document
    stages = [entry["stage"] for entry in document["shares"]["LVEF"]["stages"]]
    assert stages == ["measurement noise", "reconstruction method", "segmentation"]
    assert sum(entry["share"] for entry in document["slices"]) == pytest.approx(1, abs=0.01)
    assert sum(entry["share"] for entry in document["frames"]) == pytest.approx(1, abs=0.01)
    assert 0 < document["interval"]["seen"] <= 1
    assert advice.lines.mask.sum(dim=1).tolist() == [2.0] * 4
    assert document["lines"]["sd_after"] < document["lines"]["sd"]
    assert "falls from" in advice_text(document)
    worse = {**document, "lines": {**document["lines"], "sd_after": 2 * document["lines"]["sd"]}}
    assert "does not fall" in advice_text(worse) and "falls from" not in advice_text(worse)
    assert "first-order share" in advice.text and json.dumps(document, allow_nan=False)
    for name in ("next.json", "next.cfl", "next.h5"):
        pattern.write(tmp_path / name, advice.lines.mask)
        assert pattern.read(tmp_path / name).mask.tolist() == (advice.lines.mask != 0).tolist()


def test_images_say_that_the_stages_before_them_cannot_be_told():
    document = advise_case(Case({"image": small_heart()}), Chain(by_brightness()), Question(), blank()).document
    assert [e["stage"] for e in document["shares"]["LVEDV"]["stages"]] == ["segmentation"]
    assert document["lines"] is None and "not raw signal" in document["cannot_tell"][0]
    assert "cannot tell" in advice_text(document)


def test_what_the_reading_stated_is_not_asked_again():
    stated = {"axes": "time,coil,y,x", "spacing_mm": [8.0, 1.5, 1.5], "series": "2", "adapt": 10}
    assert Settings(**{**stated, "spacing_mm": (8.0, 1.5, 1.5)}).stated() == stated
    filled = Settings(series="3", seed=4).filled(stated)
    assert (filled.axes, filled.spacing_mm, filled.series, filled.seed) == ("time,coil,y,x", (8.0, 1.5, 1.5), "3", 4)
    assert Settings(series="Doe^Jane heart", weights="/home/doe/mine.safetensors").stated() == {}


def test_another_scan_than_the_one_read_is_refused(tmp_path):
    (tmp_path / "other.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(InputError, match="not what was read"):
        advise(reading(tmp_path / "r"), tmp_path / "other.npy")


@pytest.mark.parametrize("arguments", [["nothing"], ["r", "--endpoint", "LVM"], ["r", "--draws", "1"], ["broken"],
                                       ["r", "--input", "nothing.h5"]])
def test_mistakes_are_one_sentence_and_exit_code_2(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    reading(tmp_path / "r")
    reading(tmp_path / "broken", schema="something/1")
    monkeypatch.setattr("sys.argv", ["firstread", "advise", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("firstread: ")]
    assert ended.value.code == 2 and len(said) == 1 and not (tmp_path / "advice").exists()


def test_the_command_prints_the_advice(tmp_path):
    done = CliRunner().invoke(cli.app, ["advise", str(reading(tmp_path / "r")), "-o", str(tmp_path / "a")])
    assert done.exit_code == 0 and done.output.startswith("# Advice on LVEF")
