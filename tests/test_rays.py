"""Files of rays, `firstread simulate ct|pet` and the reconstruction of their files."""

import json
import math
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import torch

from firstread import cli
from firstread.acquire.ellipses import draw_ellipses, line_integrals, measure_ellipses
from firstread.acquire.uptake import uptake_phantom
from firstread.core.emission import Emission
from firstread.core.errors import FormatError, SettingError, UnsupportedError
from firstread.core.geometry import Grid
from firstread.core.records import Rows
from firstread.core.sinogram import FanBeam, ParallelBeam, Sinogram
from firstread.io.open import detect
from firstread.io.open import read as open_file
from firstread.io.rays import read_rays, write_rays
from firstread.jobs.simulate_rays import ScanSettings

GRID = Grid.from_spacing((2, 8, 9), (4.0, 3.0, 2.5))


def run(monkeypatch, capsys, *arguments: str | Path) -> tuple[int, str]:
    monkeypatch.setattr("sys.argv", ["firstread", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code, capsys.readouterr().err


def rays(kind: str) -> Sinogram | Emission:
    if kind == "CT":
        beam = FanBeam.uniform(views=5, bins=6, bin_mm=9.0, source_mm=300.0, detector_mm=500.0, offset_mm=1.5,
                               curved=False)
        data = torch.rand(1, 2, 1, 2, 5, 6)
        return Sinogram(Rows.subjects(1), data, GRID, beam, 1 + data)
    beam = ParallelBeam.uniform(views=5, bins=6, bin_mm=4.0)
    data = torch.rand(1, 1, 1, 2, 5, 6).round(decimals=1)
    return Emission(Rows.subjects(1), data, GRID, beam, 1 + data, 0 * data)


@pytest.mark.parametrize("kind", ["CT", "PET"])
def test_a_file_of_rays_holds_all_of_the_record(tmp_path, kind):
    path, record = tmp_path / "scan.h5", rays(kind)
    write_rays(path, record)
    assert detect(path) == "rays" and list(open_file(path).case) == ["sinogram" if kind == "CT" else "emission"]
    found = read_rays(path)
    assert found.beam == record.beam and found.grid.same_as(record.grid)
    for name in ("data", "weights") if kind == "CT" else ("data", "factors", "background"):
        torch.testing.assert_close(getattr(found, name), getattr(record, name))


def test_what_is_missing_or_does_not_fit_is_named(tmp_path):
    path = tmp_path / "scan.h5"

    def broken(change) -> Path:
        write_rays(path, rays("CT"))
        with h5py.File(path, "r+") as file:
            change(file)
        return path

    with pytest.raises(FormatError, match="bin_mm"):
        read_rays(broken(lambda f: f.attrs.pop("bin_mm")))
    with pytest.raises(FormatError, match="without data"):
        read_rays(broken(lambda f: f.pop("data")))
    with pytest.raises(FormatError, match="modality 'MR'"):
        read_rays(broken(lambda f: f.attrs.update({"modality": "MR"})))
    with pytest.raises(FormatError, match="without factors"):
        read_rays(broken(lambda f: f.attrs.update({"modality": "PET"})))
    with pytest.raises(UnsupportedError, match="rays/2"):
        read_rays(broken(lambda f: f.attrs.update({"format": "firstread.rays/2"})))

    def other_weights(file):
        del file["weights"]
        file["weights"] = np.ones((2, 2, 5, 7))

    with pytest.raises(FormatError, match="weights of"):
        read_rays(broken(other_weights))
    with pytest.raises(UnsupportedError, match="2 rows"):
        both = Sinogram(Rows.subjects(2), torch.zeros(2, 1, 1, 2, 5, 6), GRID.resize((2, 8, 9)),
                        ParallelBeam.uniform(views=5, bins=6, bin_mm=4.0))
        write_rays(path, both)


def test_data_of_view_and_bin_alone_are_one_slice(tmp_path):
    path = tmp_path / "mine.h5"
    with h5py.File(path, "w") as file:
        file.attrs.update({"format": "firstread.rays/1", "modality": "CT", "beam": "parallel", "bin_mm": 2.0,
                           "image_shape": (1, 4, 4), "spacing_mm": (5.0, 2.0, 2.0)})
        file["angles_rad"], file["data"] = np.linspace(0, math.pi, 3, endpoint=False), np.ones((3, 4))
    assert read_rays(path).data.shape == (1, 1, 1, 1, 3, 4)


def test_simulated_ct_is_reconstructed_and_its_truth_is_the_oracle(tmp_path, monkeypatch, capsys):
    code, _ = run(monkeypatch, capsys, "simulate", "ct", "-o", tmp_path / "sim", "--matrix", "48", "--views", "60",
                  "--photons", "0", "--seed", "3")
    subject = tmp_path / "sim" / "subject-0003"
    truth = nibabel.load(subject / "truth_image.nii.gz").get_fdata()
    about, scan = json.loads((subject / "truth.json").read_text()), read_rays(subject / "rays.h5")
    ellipses = torch.tensor(about["ellipses"], dtype=torch.float64)
    exact = about["water_per_mm"] * measure_ellipses(ellipses, scan.beam)
    torch.testing.assert_close(scan.data[0, 0, 0, 0], exact.float())
    assert code == 0 and scan.weights is None
    for method, worst in (("fbp", 150.0), ("sart", 150.0)):
        code, said = run(monkeypatch, capsys, "reconstruct", subject / "rays.h5", "--method", method, "-o",
                         tmp_path / method)
        made = nibabel.load(tmp_path / method / "image.nii.gz").get_fdata()
        assert code == 0 and made.min() < -900, said  # Hounsfield units keep their sign
        assert np.sqrt(((made - truth) ** 2).mean()) < worst
    page = (tmp_path / "fbp" / "page.html").read_text(encoding="utf-8")
    assert "Line integrals" in page and "60 views" in page and "k-space" not in page


def test_simulated_pet_finds_the_activity_of_the_body_and_of_large_discs(tmp_path, monkeypatch, capsys):
    run(monkeypatch, capsys, "simulate", "pet", "-o", tmp_path / "sim", "--matrix", "64", "--views", "48", "--counts",
        "3e6")
    subject = tmp_path / "sim" / "subject-0000"
    code, said = run(monkeypatch, capsys, "reconstruct", subject / "rays.h5", "-o", tmp_path / "osem")
    assert code == 0, said
    made, truth, labels = (nibabel.load(path).get_fdata() for path in (
        tmp_path / "osem" / "image.nii.gz", subject / "truth_image.nii.gz", subject / "truth_labels.nii.gz"))
    inside = truth == 5000.0
    assert made[inside].mean() == pytest.approx(5000, rel=0.05)
    discs = json.loads((subject / "truth.json").read_text())["discs"]
    big = max((d for d in discs if d["ratio"] > 0), key=lambda d: d["diameter_mm"])
    assert made[labels == big["label"]].mean() > 0.5 * truth[labels == big["label"]].mean()
    cold = next(d for d in discs if d["ratio"] == 0)
    assert made[labels == cold["label"]].mean() < 0.5 * 5000


def test_methods_of_another_modality_and_other_mistakes_are_one_sentence(tmp_path, monkeypatch, capsys):
    path = tmp_path / "scan.h5"
    write_rays(path, rays("PET"))
    for options, words in ((("--method", "fbp"), "fbp' for PET"), (("--method", "cs"), "one of mlem, osem"),
                           (("--regularization", "0.1"), "regularization 0.1")):
        code, said = run(monkeypatch, capsys, "reconstruct", path, "-o", tmp_path / "out", *options)
        assert code == 2 and words in said and not (tmp_path / "out").exists()
    code, said = run(monkeypatch, capsys, "restore", "denoise", path, "-o", tmp_path / "out")
    assert code == 2 and "raw data" in said
    with pytest.raises(SettingError, match="0 views"):
        ScanSettings(views=0).geometry()
    with pytest.raises(SettingError, match="100"):
        uptake_phantom(torch.Generator(), radius_mm=100.0)


def test_the_uptake_phantom_is_what_it_says():
    made = uptake_phantom(torch.Generator().manual_seed(1))
    plane = draw_ellipses(made.activity, Grid.from_spacing((1, 160, 160), (5.0, 2.0, 2.0)))
    assert plane.min() >= -1e-9 and plane.max() <= 8 * made.background_bq_ml + 1e-6
    zero = torch.tensor(0.0)
    assert line_integrals(made.body, zero, zero).item() == pytest.approx(240.0)  # the body is 300 mm by 240 mm
