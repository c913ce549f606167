"""firstread track: labels follow a beating ring, its strain has the right sign, and bad input is one sentence."""

import csv
import json

import pytest
import torch
from typer.testing import CliRunner

from firstread.cli import app
from firstread.core.errors import GeometryError, InputError, SettingError
from firstread.core.geometry import Grid
from firstread.core.records import Image, Rows
from firstread.io.nifti import read, write_image
from firstread.jobs.track import TrackSettings, track_to_folder
from firstread.nets.velocity import VelocityNet
from firstread.ops.regions import dice
from firstread.recipes.files import write_weight

INNER = (8.0, 7.0, 6.0, 7.0)
GRID = Grid.from_spacing((2, 48, 48), (8.0, 1.5, 1.5))


def ring(inner: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A picture of bright blood in a dark ring of constant area, and labels: 1 blood, 2 ring."""
    y, x = torch.meshgrid(torch.arange(48) - 23.5, torch.arange(48) - 23.5, indexing="ij")
    r, outer = (x**2 + y**2).sqrt(), (inner**2 + 13.0**2 - INNER[0] ** 2) ** 0.5
    blood, body = torch.sigmoid(2 * (inner - r)), torch.sigmoid(2 * (outer - r))
    picture = 0.5 + 0.5 * blood - 0.35 * (body - blood) + 0.02 * torch.sin(0.9 * x) * torch.sin(0.7 * y)
    return picture, (r < outer).float() + (r < outer).float() * (r >= inner).float()


def save(path, frames):
    data = torch.stack(frames)[None, :, None, None].expand(1, len(frames), 1, *GRID.shape)
    times = None if len(frames) == 1 else torch.arange(len(frames), dtype=torch.float64)[None, :, None] * 0.2
    write_image(path, Image(Rows.subjects(1), data.contiguous(), GRID, times))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cine")
    pictures, labels = zip(*(ring(inner) for inner in INNER), strict=True)
    return save(folder / "cine.nii.gz", pictures), save(folder / "all.nii.gz", labels), save(
        folder / "first.nii.gz", labels[:1])


def test_labels_of_one_frame_reach_all_others(files, tmp_path):
    cine, everything, first = files
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["track", str(cine), "--labels", str(first), "-o", str(out), "--fields"])
    assert done.exit_code == 0, done.output
    made, truth = (read(path).data for path in (out / "labels.nii.gz", everything))
    assert made.shape == truth.shape and torch.equal(made[:, 0].float(), truth[:, 0].float())
    for value in (1, 2):
        before = dice(truth[:, 0] == value, truth[:, 2] == value)
        after = dice(made[:, 2] == value, truth[:, 2] == value)
        assert after > 0.9 and after > before + 0.05
    with (out / "motion.csv").open() as stream:
        rows = {(int(row["frame"]), row["label"]): row for row in csv.DictReader(stream)}
    muscle, blood = rows[2, "label 2"], rows[2, "label 1"]
    assert float(muscle["time_s"]) == pytest.approx(0.4) and blood["radial"] == ""
    assert float(muscle["circumferential"]) < -0.03 and float(muscle["radial"]) > 0.05
    assert float(blood["volume"]) == pytest.approx(36 / 64, abs=0.12)
    assert float(muscle["volume"]) == pytest.approx(1.0, abs=0.12)
    document = json.loads((out / "track.json").read_text())
    assert document["reference_frame"] == 0 and document["in_plane"] and document["folded"] == 0
    assert len(list((out / "fields").iterdir())) == len(INNER)
    page = (out / "page.html").read_text()
    assert "label 2" in page and "http" not in page.replace("http-equiv", "")


def test_labels_of_more_frames_are_compared_with(files, tmp_path):
    cine, everything, _ = files
    report = track_to_folder(cine, everything, tmp_path / "out", TrackSettings(frame=2, periodic=False))
    assert report.motion.reference == 2 and set(report.overlap) == {0, 1, 3}
    assert all(after > before for found in report.overlap.values() for before, after in found.values())


def test_without_labels_the_whole_image_is_followed(files, tmp_path):
    report = track_to_folder(files[0], None, tmp_path / "out")
    assert report.labels is None and report.motion.grid.shape == GRID.shape
    assert [row.label for row in report.rows] == ["image"] * len(INNER)


def test_frames_that_are_all_alike_are_drawn_too(files, tmp_path):
    picture, labels = ring(8.0)
    cine = save(tmp_path / "still.nii.gz", [picture] * 3)
    track_to_folder(cine, files[2], tmp_path / "out")
    assert "NaN" not in (tmp_path / "out" / "page.html").read_text()
    assert (read(tmp_path / "out" / "labels.nii.gz").data[:, 2, 0, 0] == labels).all()


def test_a_network_gives_motion_and_its_spread(files, tmp_path):
    out, weight = tmp_path / "out", motion_weight(tmp_path / "own.safetensors")
    done = CliRunner().invoke(app, ["track", str(files[0]), "--labels", str(files[2]), "--weights", str(weight), "-o",
                                    str(out)])
    assert done.exit_code == 0, done.output
    spread = read(out / "spread.nii.gz").data
    assert spread.shape[1] == len(INNER) and spread[:, 0].abs().max() == 0 and float(spread[:, 1:].min()) > 0
    with (out / "motion.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert all(float(row["spread_mm"]) > 0 for row in rows if row["frame"] != "0")
    document = json.loads((out / "track.json").read_text())
    assert "spread.nii.gz" in document["files"] and any("own" in name for name in document["input_sha256"])
    page = (out / "page.html").read_text()
    assert "How sure it is" in page and "spread, mm" in page
    plain = track_to_folder(files[0], files[2], tmp_path / "plain")
    assert plain.motion.spread_mm is None and not (tmp_path / "plain" / "spread.nii.gz").exists()
    assert "How sure it is" not in (tmp_path / "plain" / "page.html").read_text()


def test_weights_of_something_else_are_refused(files, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match="heart-sax, which is no network of motion"):
        track_to_folder(files[0], None, out, TrackSettings(weights="heart-sax"))
    with pytest.raises(InputError, match="no weight 'nothing'"):
        track_to_folder(files[0], None, out, TrackSettings(weights="nothing"))
    assert not out.exists()


@pytest.mark.parametrize(("changed", "said"), [
    ({"network": 3}, "which is no network of motion"),
    ({"network": {"widths": [4, 16], "dims": 2, "spacing_mm": 1.5}}, "parameters are not those"),
    ({"network": {"widths": 4, "dims": 2, "spacing_mm": 1.5}}, "parameters are not those"),
    ({"network": {"widths": [4, 8], "dims": 2, "spacing_mm": "x"}}, "parameters are not those"),
    ({"spread_factor_after_steps": -2}, "spread factor of -2; expected a number above zero"),
    ({"spread_factor_after_steps": "much"}, "spread factor of 'much'; expected a number above zero")])
def test_a_card_that_does_not_fit_is_refused(files, tmp_path, changed, said):
    weight = motion_weight(tmp_path / "own.safetensors")
    card = weight.with_suffix(".json")
    card.write_text(json.dumps(json.loads(card.read_text()) | changed))
    with pytest.raises(InputError, match=said):
        track_to_folder(files[0], None, tmp_path / "out", TrackSettings(weights=str(weight)))
    assert not (tmp_path / "out").exists()


def motion_weight(path):
    """A network of motion that knows nothing, with its card."""
    net = VelocityNet(widths=(4, 8), dims=2, spacing_mm=1.5)
    path.with_suffix(".json").write_text(json.dumps({"network": net.settings(), "spread_factor_after_steps": 1.5}))
    return write_weight(net, path)


def test_bad_input(files, tmp_path):
    cine, _, first = files
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"first\.nii\.gz of 1 frame and 1 channel"):
        track_to_folder(first, None, out)
    with pytest.raises(InputError, match="holds no labels"):
        track_to_folder(cine, cine, out)
    with pytest.raises(SettingError, match="frame 9 of a series of 4"):
        track_to_folder(cine, first, out, TrackSettings(frame=9))
    with pytest.raises(SettingError, match="frame 9 of a series of 4"):
        track_to_folder(cine, None, out, TrackSettings(frame=9))
    empty = save(tmp_path / "empty.nii.gz", [torch.zeros(48, 48)] * 4)
    with pytest.raises(InputError, match="labels that are all zero"):
        track_to_folder(cine, empty, out)
    with pytest.raises(InputError, match=r"no labels in frame 2; expected labels in the frame that is followed \(0\)"):
        track_to_folder(cine, save(tmp_path / "one.nii.gz", [ring(8.0)[1], *[torch.zeros(48, 48)] * 3]), out,
                        TrackSettings(frame=2))
    three = save(tmp_path / "three.nii.gz", [torch.ones(48, 48)] * 3)
    with pytest.raises(GeometryError, match="of 3 frames for a series of 4"):
        track_to_folder(cine, three, out)
    other = tmp_path / "other.nii.gz"
    write_image(other, Image(Rows.subjects(1), torch.ones(1, 1, 1, 2, 8, 8), Grid.from_spacing((2, 8, 8), (8.0, 1, 1))))
    with pytest.raises(GeometryError, match="the labels, with"):
        track_to_folder(cine, other, out)
    assert not out.exists()
