"""Published tables from folders laid out as fastMRI's and CMRxRecon's, made here: the real sets are not at hand."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from scipy import ndimage

from firstread import cli
from firstread.acquire.coils import LoopCoils
from firstread.acquire.fastmri_masks import fastmri_mask
from firstread.core.errors import SettingError
from firstread.core.geometry import Grid
from firstread.jobs.evidence import middle, ranking_scores, volume_scores
from firstread.ops.fourier import fft
from firstread.ops.quality import ssim_uniform

COILS = 3


def coil_images(shape: tuple[int, int], frames: int, slices: int) -> torch.Tensor:
    """A moving disc in an ellipse under smooth coils: [frame, slice, coil, y, x]."""
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape), indexing="ij")
    grid = Grid.from_spacing((1, *shape), (8.0, 2.0, 2.0))
    maps = LoopCoils(count=COILS)(grid, torch.Generator().manual_seed(0))[:, 0]
    body = 0.4 * ((y / 0.8) ** 2 + (x / 0.7) ** 2 < 1)
    planes = [[body + 0.5 * (y**2 + (x - 0.05 * z) ** 2 < (0.3 + 0.02 * t) ** 2) for z in range(slices)]
              for t in range(frames)]
    return torch.stack([torch.stack(row) for row in planes])[:, :, None] * maps


def fastmri_folder(folder: Path, volumes: int = 2) -> Path:
    """Volumes [slice, coil, row, column] with fastMRI's names, attributes and reference images."""
    folder.mkdir()
    for number in range(volumes):
        images = coil_images((40, 96), 1, 2)[0] * (1 + number)
        with h5py.File(folder / f"file100000{number}.h5", "w") as file:
            file["kspace"] = fft(images, ("y", "x")).numpy()
            rss = images.abs().square().sum(dim=1).sqrt()
            file["reconstruction_rss"] = middle(rss, (40, 40)).numpy()
            file.attrs["acquisition"] = "CORPD_FBK"
            file.attrs["max"] = float(rss.max())
    return folder


def cmrxrecon_folder(folder: Path, accelerations=(4,)) -> Path:
    """MultiCoil/Cine/TrainingSet as the challenge lays it out, MATLAB 7.3: axes reversed, complex as real and imag."""
    home = folder / "MultiCoil" / "Cine" / "TrainingSet"
    kspace = fft(coil_images((64, 48), 4, 4), ("y", "x")).numpy()  # frame, slice, coil, ky, kx

    def store(path: Path, name: str, values: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "a") as file:
            if np.iscomplexobj(values):
                parts = np.empty(values.shape, dtype=[("real", "<f4"), ("imag", "<f4")])
                parts["real"], parts["imag"] = values.real, values.imag
                values = parts
            file[name] = values

    for patient in ("P001", "P002"):
        store(home / "FullSample" / patient / "cine_sax.mat", "kspace_full", kspace)
        for acceleration in accelerations:
            lines = np.zeros(64)
            lines[::acceleration] = 1
            lines[32 - 12:32 + 12] = 1
            mask = np.repeat(lines[:, None], 48, axis=1)
            where = home / f"AccFactor{acceleration:02d}" / patient
            store(where / "cine_sax.mat", f"kspace_sub{acceleration:02d}", (kspace * mask).astype(np.complex64))
            store(where / "cine_sax_mask.mat", f"mask{acceleration:02d}", mask)
    return folder


def run(monkeypatch, capsys, *arguments: str | Path) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["firstread", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    said = capsys.readouterr()
    return stop.value.code, said.out, said.err


def rows_of(table: str) -> dict[tuple[str, str], list[str]]:
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()
             if line.startswith("| ") and "---" not in line]
    return {(cell[0], cell[1]): cell[2:] for cell in cells[1:]}


def test_fastmri_rows_stand_beside_published_ones(tmp_path, monkeypatch, capsys):
    code, out, said = run(monkeypatch, capsys, "evidence", "fastmri", fastmri_folder(tmp_path / "multicoil_val"),
                          "--method", "zero-filled", "--method", "sense", "--acceleration", "4")
    assert code == 0, said
    rows = rows_of(out)
    zero, sense = (float(rows[(f"Firstread {name}", "4")][2].split()[0]) for name in ("zero-filled", "sense"))
    assert sense > zero + 1.0 and rows[("PromptMR", "4")][2] == "39.71"
    assert ("PromptMR", "8") not in rows and rows[("Firstread sense", "4")][0] == "2"


def test_fully_sampled_volumes_score_as_their_reference(tmp_path):
    from firstread.io.challenges import fastmri_truth
    from firstread.io.rawdata import read_fastmri
    from firstread.reconstruct.direct import root_sum_of_squares

    path = fastmri_folder(tmp_path / "val", 1) / "file1000000.h5"
    truth, acquisition = fastmri_truth(path)
    made = root_sum_of_squares(read_fastmri(path)[0].data)[0, 0, 0]
    error, _, similarity = volume_scores(made, truth)
    assert acquisition == "CORPD_FBK" and error < 1e-10 and similarity > 1 - 1e-6


def test_cmrxrecon_rows(tmp_path, monkeypatch, capsys):
    code, out, said = run(monkeypatch, capsys, "evidence", "cmrxrecon", cmrxrecon_folder(tmp_path / "data"),
                          "--acceleration", "4", "--method", "zero-filled", "--method", "sense")
    assert code == 0, said
    rows = rows_of(out)
    zero, sense = (float(rows[(f"Firstread {name}", "4")][2].split()[0]) for name in ("zero-filled", "sense"))
    assert sense > zero
    assert rows[("vSHARP", "all")][3] == "0.988"


def test_challenge_data_that_are_not_there_are_named(tmp_path, monkeypatch, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "images").mkdir()
    with h5py.File(tmp_path / "images" / "a.h5", "w") as file:
        file["kspace"] = np.ones((1, 2, 8, 8), dtype=np.complex64)
    for arguments, word in ((("fastmri", empty), "no fastMRI volume"), (("cmrxrecon", empty), "no fully sampled cine"),
                            (("fastmri", tmp_path / "images"), "without a fully sampled image"),
                            (("fastmri", fastmri_folder(tmp_path / "v", 1), "--acceleration", "5"), "5-fold"),
                            (("cmrxrecon", cmrxrecon_folder(tmp_path / "c"), "--acceleration", "8"), "AccFactor08")):
        code, _, said = run(monkeypatch, capsys, "evidence", *arguments)
        lines = [line for line in said.splitlines() if line.startswith("firstread: ")]
        assert code == 2 and len(lines) == 1 and word in lines[0], said


@pytest.mark.parametrize("kind", ["random", "equispaced"])
@pytest.mark.parametrize("acceleration", [4, 8])
def test_masks_keep_the_centre_and_the_share(kind, acceleration):
    drawn = [fastmri_mask(368, acceleration, kind=kind, name=f"file{n}.h5") for n in range(40)]
    central = round(368 * {4: 0.08, 8: 0.04}[acceleration])
    first = (368 - central + 1) // 2
    assert all(bool(m[first:first + central].all()) for m in drawn)
    share = torch.stack(drawn).double().mean()
    assert share == pytest.approx(1 / acceleration, rel=0.05)
    assert torch.equal(drawn[3], fastmri_mask(368, acceleration, kind=kind, name="file3.h5"))
    assert not torch.equal(drawn[3], drawn[4])


def test_other_accelerations_are_refused():
    with pytest.raises(SettingError, match="5-fold"):
        fastmri_mask(368, 5)


def test_uniform_ssim_agrees_with_its_definition_at_every_pixel():
    draw = np.random.default_rng(0)
    a = draw.random((24, 20))
    b = a + 0.2 * draw.standard_normal((24, 20))
    mean = [ndimage.uniform_filter(v, 7) for v in (a, b, a * a, b * b, a * b)]
    c1, c2, n = (0.01 * 1.3)**2, (0.03 * 1.3)**2, 49
    sxx, syy, sxy = (n / (n - 1) * (mean[k] - mean[i] * mean[j]) for k, i, j in ((2, 0, 0), (3, 1, 1), (4, 0, 1)))
    values = ((2 * mean[0] * mean[1] + c1) * (2 * sxy + c2)
              / ((mean[0]**2 + mean[1]**2 + c1) * (sxx + syy + c2)))[3:-3, 3:-3]
    made = ssim_uniform(torch.from_numpy(a), torch.from_numpy(b), peak=1.3)
    assert made == pytest.approx(values.mean(), rel=1e-10)


def test_ranking_scores_do_not_depend_on_scale_and_see_the_middle_alone():
    truth = torch.rand(4, 2, 36, 48, generator=torch.Generator().manual_seed(0))
    other = truth.clone()
    other[..., :9, :] = 0  # outside the middle half of y
    other[3] = 0  # a frame that is not looked at
    error, _, similarity = ranking_scores(7 * other, truth)
    assert error < 1e-12 and similarity > 1 - 1e-6
