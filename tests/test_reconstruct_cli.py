"""`firstread reconstruct` as a user meets it: every raw format in, image and page out, mistakes in one sentence."""

import json
from dataclasses import replace
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import scipy.io
import torch

from firstread import cli
from firstread.acquire.coils import LoopCoils
from firstread.acquire.mri import Encode
from firstread.acquire.sampling import FullySampled, VariableDensity
from firstread.chains.reconstruct import METHODS, method_of, methods_table, reconstruct_chain
from firstread.core.case import Case
from firstread.core.errors import SettingError
from firstread.core.geometry import Grid
from firstread.core.keys import Key
from firstread.core.records import Image, KSpace, Rows
from firstread.io.ismrmrd import write as write_ismrmrd
from firstread.io.open import detect

SIZE, COILS, FRAMES = 48, 4, 3


@pytest.fixture(scope="module")
def image() -> Image:
    line = torch.linspace(-1, 1, SIZE)
    y, x = line[:, None], line[None]
    frames = [0.4 * ((y / 0.85) ** 2 + (x / 0.9) ** 2 < 1) + 0.6 * (y**2 + (x - 0.2) ** 2 < (0.3 + 0.03 * t) ** 2)
              for t in range(FRAMES)]
    grid = Grid.from_spacing((1, SIZE, SIZE), (8.0, 2.0, 1.5))
    return Image(Rows.subjects(1), torch.stack(frames)[None, :, None, None].float(), grid)


@pytest.fixture(scope="module")
def kspace(image) -> KSpace:
    sampling = VariableDensity(acceleration=2, centre_lines=12)
    return Encode(coils=LoopCoils(count=COILS), sampling=sampling, snr=100.0)(image, Key(0, "encode"))


def run(monkeypatch, capsys, *arguments: str | Path) -> tuple[int, str]:
    """The command line in this process: exit code and what it said."""
    monkeypatch.setattr("sys.argv", ["firstread", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code, capsys.readouterr().err


def files_of(kspace: KSpace, folder: Path) -> dict[str, tuple[Path, list[str]]]:
    """The same scan in every format: path and the options that it needs."""
    array = kspace.data[0, :, :, 0].numpy()  # time, coil, y, x
    still = array[:1]
    made: dict[str, tuple[Path, list[str]]] = {}
    write_ismrmrd(folder / "scan.h5", kspace)
    made["ISMRMRD"] = (folder / "scan.h5", [])
    np.save(folder / "scan.npy", array)
    made["npy"] = (folder / "scan.npy", ["--axes", "time,coil,y,x"])
    scipy.io.savemat(folder / "seven.mat", {"kspace": array.transpose(3, 2, 1, 0), "tr": 3.0}, do_compression=True)
    made["mat 7"] = (folder / "seven.mat", ["--axes", "x,y,coil,time"])
    with h5py.File(folder / "new.mat", "w") as file:  # 7.3: axes reversed, complex as a compound of real and imag
        parts = np.empty(array.shape, dtype=[("real", "<f4"), ("imag", "<f4")])
        parts["real"], parts["imag"] = array.real, array.imag
        file.create_dataset("kspace", data=parts).attrs["MATLAB_class"] = np.bytes_("single")
    made["mat 7.3"] = (folder / "new.mat", ["--axes", "x,y,coil,time"])
    with h5py.File(folder / "fast.h5", "w") as file:
        file["kspace"] = still
    made["fastMRI"] = (folder / "fast.h5", [])
    sizes = [SIZE, SIZE, 1, COILS, *[1] * 6, FRAMES, *[1] * 5]
    (folder / "bart.hdr").write_text("# Dimensions\n" + " ".join(map(str, sizes)) + "\n")
    (folder / "bart.cfl").write_bytes(array.transpose(3, 2, 1, 0).astype("<c8").tobytes(order="F"))
    made["BART"] = (folder / "bart", [])
    return made


def test_every_format_gives_the_same_image(kspace, image, tmp_path, monkeypatch, capsys):
    truth = image.data[0, :, 0, 0].numpy()
    for name, (path, options) in files_of(kspace, tmp_path).items():
        out = tmp_path / f"out {name}"
        code, said = run(monkeypatch, capsys, "reconstruct", path, *options, "--method", "sense", "-o", out)
        assert code == 0, (name, said)
        assert {p.name for p in out.iterdir()} >= {"image.nii.gz", "page.html", "reconstruction.json"}, name
        made = np.atleast_3d(np.squeeze(nibabel.load(out / "image.nii.gz").get_fdata())).T  # time, y, x
        assert np.linalg.norm(made - truth[:len(made)]) < 0.15 * np.linalg.norm(truth[:len(made)]), name
        assert (out / "page.html").stat().st_size < 15_000_000
        assert (out / "dicom").is_dir() == (name == "ISMRMRD"), name  # the only one that states places and header
        found = json.loads((out / "reconstruction.json").read_text())
        assert [s["stage"] for s in found["trail"]] == ["zero_filled", "cgsense"], name


def test_complex_writes_both_parts_of_the_magnitude(kspace, tmp_path, monkeypatch, capsys):
    write_ismrmrd(tmp_path / "scan.h5", kspace)
    code, said = run(monkeypatch, capsys, "reconstruct", tmp_path / "scan.h5", "--method", "zero-filled", "--complex",
                     "-o", tmp_path / "out")
    assert code == 0, said
    whole, real, imaginary = (nibabel.load(tmp_path / "out" / f"{n}.nii.gz").get_fdata()
                              for n in ("image", "image_real", "image_imaginary"))
    np.testing.assert_allclose(np.hypot(real, imaginary), whole, rtol=1e-4, atol=1e-6)
    assert np.abs(imaginary).max() > 0


def test_regularization_reaches_the_stage(kspace, tmp_path, monkeypatch, capsys):
    write_ismrmrd(tmp_path / "scan.h5", kspace)
    run(monkeypatch, capsys, "reconstruct", tmp_path / "scan.h5", "--method", "tv", "--regularization", "0.5", "-o",
        tmp_path / "out")
    found = json.loads((tmp_path / "out" / "reconstruction.json").read_text())
    assert "regularization=0.5" in found["trail"][1]["settings"]


@pytest.mark.parametrize("method", ["tv", "espirit"])
def test_a_regularization_is_chosen_from_the_data_where_none_is_given(kspace, tmp_path, monkeypatch, capsys, method):
    np.save(tmp_path / "a.npy", kspace.data[0, 0, :, 0].numpy())
    code, said = run(monkeypatch, capsys, "reconstruct", tmp_path / "a.npy", "--axes", "coil,y,x", "--method", method,
                     "-o", tmp_path / "out")
    assert code == 0 and "by sure" in said, said
    found = json.loads((tmp_path / "out" / "reconstruction.json").read_text())
    assert any("by sure" in note["text"] for note in found["warnings"])


@pytest.mark.parametrize("name", METHODS)
def test_every_method_of_the_table_runs_on_a_cine_that_suits_it(kspace, image, name):
    taken = kspace
    if name in ("homodyne", "pocs", "grappa"):  # one run of lines; every second
        mask = torch.zeros(1, 1, 1, 1, SIZE, 1)
        mask[..., :SIZE // 2 + 8, :] = 1
        if name == "grappa":
            mask[..., 1::2, :], mask[..., SIZE // 2 - 8:SIZE // 2 + 8, :] = 0, 1
            mask[..., ::2, :] = 1
        sampling = Encode(coils=LoopCoils(count=COILS), sampling=FullySampled(), snr=100.0)
        full = sampling(image, Key(0, "encode"))
        taken = replace(full, data=full.data * mask, mask=mask)
    if name == "gridding":
        with pytest.raises(SettingError, match="--trajectory"):
            method_of(name, taken)
        return
    with torch.inference_mode():
        made = reconstruct_chain(method_of(name, taken))(Case({"kspace": taken}))
    assert set(made) >= {"kspace", "image"}
    assert (made["image"].data.abs() - image.data).norm() < 0.35 * image.data.norm(), name


def radial(kspace_of_point: tuple[float, float], spokes: int = 40, samples: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Places (shot, sample, yx) in cycles per field of view, and two coils' signal of one bright pixel (y, x)."""
    angle = np.pi * np.arange(spokes)[:, None] / spokes
    radius = np.arange(samples) - samples // 2
    places = np.stack([radius * 0.5 * np.sin(angle), radius * 0.5 * np.cos(angle)], axis=-1)
    y, x = kspace_of_point
    signal = np.exp(-2j * np.pi * (places[..., 0] * y + places[..., 1] * x) / 32) / 32
    return places.astype(np.float32), np.stack([signal, 0.5j * signal]).astype(np.complex64)


def test_a_trajectory_puts_a_point_where_it_is_from_npy_and_bart(tmp_path, monkeypatch, capsys):
    places, signal = radial((5.0, -9.0))
    np.save(tmp_path / "places.npy", places)
    np.save(tmp_path / "signal.npy", signal)
    three = np.stack([places[..., 1], places[..., 0], 0 * places[..., 0]])  # x, y, z
    for name, array in (("traj", three.transpose(0, 2, 1)), ("data", signal.transpose(2, 1, 0)[None])):
        sizes = (*array.shape, *[1] * (16 - array.ndim))
        (tmp_path / f"{name}.hdr").write_text("# Dimensions\n" + " ".join(map(str, sizes)) + "\n")
        (tmp_path / f"{name}.cfl").write_bytes(array.astype("<c8").tobytes(order="F"))
    made = []
    for data, where, options in (("signal.npy", "places.npy", ("--axes", "coil,shot,sample")), ("data", "traj", ())):
        out = tmp_path / f"out {data}"
        code, said = run(monkeypatch, capsys, "reconstruct", tmp_path / data, *options, "--trajectory",
                         tmp_path / where, "--matrix", "32,32", "--method", "gridding", "-o", out)
        assert code == 0, said
        made.append(np.squeeze(nibabel.load(out / "image.nii.gz").get_fdata()).T)
    assert np.unravel_index(made[0].argmax(), (32, 32)) == (16 + 5, 16 - 9)
    np.testing.assert_allclose(made[1], made[0], atol=1e-5 * made[0].max())


def test_a_trajectory_that_does_not_fit_is_one_sentence(kspace, tmp_path, monkeypatch, capsys):
    places, signal = radial((0.0, 0.0), spokes=6, samples=16)
    np.save(tmp_path / "signal.npy", signal)
    np.save(tmp_path / "cut.npy", places[:, :-1])
    np.save(tmp_path / "flat.npy", places[..., 0])
    np.save(tmp_path / "places.npy", places)
    np.save(tmp_path / "pixels.npy", places / (2 * np.abs(places).max()))
    base = ("reconstruct", tmp_path / "signal.npy", "--axes", "coil,shot,sample", "-o", tmp_path / "out")
    for extra, words in ((("--trajectory", tmp_path / "cut.npy"), ("(6, 15)", "(6, 16)")),
                         (("--trajectory", tmp_path / "flat.npy"), ("a trajectory of shape",)),
                         (("--trajectory", tmp_path / "none.npy"), ("nothing at none.npy",)),
                         (("--trajectory", tmp_path / "places.npy", "--matrix", "8"), ("matrix", "2 sizes")),
                         (("--trajectory", tmp_path / "pixels.npy"), ("reaches 0.5 from zero", "by the matrix")),
                         (("--trajectory", tmp_path / "places.npy", "--matrix", "4,4"), ("half the matrix of 4 x 4",)),
                         (("--trajectory", tmp_path / "places.npy", "--matrix", "8,a"), ("--matrix '8,a'",)),
                         (("--trajectory", tmp_path / "places.npy", "--method", "grappa"), ("grappa", "trajectory")),
                         ((), ("without its places in k-space", "--trajectory FILE")),
                         (("--trajectory", tmp_path / "places.npy", "--axes", "coil,y,x"), ("coil,shot,sample",))):
        one_sentence(*run(monkeypatch, capsys, *base, *extra), *words)
        assert not (tmp_path / "out").exists()


def test_the_table_names_every_method_once():
    names = [line.split()[0] for line in methods_table().splitlines()]
    assert names == ["cs", *METHODS]


def one_sentence(code: int, said: str, *words: str) -> None:
    lines = [line for line in said.splitlines() if line.startswith("firstread: ")]
    assert code == 2 and len(lines) == 1 and "Traceback" not in said, said
    for word in words:
        assert word in lines[0], lines[0]


def bad_inputs(kspace: KSpace, folder: Path) -> dict[str, tuple[list[str | Path], tuple[str, ...]]]:
    """By name: arguments after `reconstruct`, and words of the one sentence that answers them."""
    good = kspace.data[0, 0, :, 0].numpy()
    made: dict[str, tuple[list[str | Path], tuple[str, ...]]] = {}

    def array(name: str, values: np.ndarray, axes: str | None, *options: str, words: tuple[str, ...]) -> None:
        np.save(folder / f"{len(made)}.npy", values)
        stated = ["--axes", axes] if axes is not None else []
        made[name] = ([folder / f"{len(made)}.npy", *stated, *options], words)

    dead, nan, hollow = good.copy(), good.copy(), good.copy()
    dead[1], nan[0, 3, 3], hollow[:, SIZE // 2 - 4:SIZE // 2 + 4] = 0, np.nan, 0
    array("no axes", good, None, words=("no axes stated", "--axes"))
    array("unknown axes", good, "coil,y,frequency", words=("frequency", "time, coil"))
    array("too few axes", good, "y,x", words=("y,x", "3 different names"))
    array("axes twice", good, "coil,y,y", words=("different",))
    array("an image", np.abs(good), "z,y,x", words=("holds images", "k-space"))
    array("a coil of zero energy", dead, "coil,y,x", words=("coil 2 of 4 without signal",))
    array("nothing but zeros", np.zeros_like(good), "coil,y,x", words=("no measured sample",))
    array("no centre lines", hollow, "coil,y,x", words=("no fully sampled centre along y",))
    array("not a number", nan, "coil,y,x", words=("NaN",))
    array("unknown method", good, "coil,y,x", "--method", "magic", words=("magic", "sense"))
    array("one coil for SENSE", good[:1], "coil,y,x", "--method", "sense", words=("1 coil", "2 coil"))
    array("one frame for time", good, "coil,y,x", "--method", "temporal-tv", words=("1 frame", "2 frame"))
    array("a negative weight", good, "coil,y,x", "--regularization", "-1", words=("regularization -1",))
    array("a weight that is none", good, "coil,y,x", "--regularization", "nan", words=("regularization nan",))
    array("a weight for none", good, "coil,y,x", "--method", "zero-filled", "--regularization", "1",
          words=("regularization 1", "zero-filled"))
    array("a bad spacing", good, "coil,y,x", "--spacing", "1,0,1", words=("spacing",))
    scipy.io.savemat(folder / "two.mat", {"a": good, "b": good})
    made["two variables"] = ([folder / "two.mat", "--axes", "coil,y,x"], ("2 arrays", "--variable"))
    made["no such variable"] = ([folder / "two.mat", "--axes", "coil,y,x", "--variable", "c"], ("'c'", "a 4x48x48"))
    (folder / "cut.mat").write_bytes((folder / "two.mat").read_bytes()[:9000])
    made["a cut .mat"] = ([folder / "cut.mat", "--axes", "coil,y,x"], ("damaged",))
    (folder / "text.mat").write_text("not MATLAB at all")
    made["no .mat"] = ([folder / "text.mat", "--axes", "coil,y,x"], ("damaged",))
    made["nothing there"] = ([folder / "nowhere.h5"], ("nothing at nowhere.h5",))
    return made


def test_bad_input_is_one_sentence_and_leaves_nothing(kspace, tmp_path, monkeypatch, capsys):
    (tmp_path / "in").mkdir()
    for name, (arguments, words) in bad_inputs(kspace, tmp_path / "in").items():
        code, said = run(monkeypatch, capsys, "reconstruct", *arguments, "-o", tmp_path / "out")
        one_sentence(code, said, *words)
        assert [p.name for p in tmp_path.iterdir()] == ["in"], name


def test_an_earlier_result_is_replaced_only_when_asked(kspace, tmp_path, monkeypatch, capsys):
    np.save(tmp_path / "a.npy", kspace.data[0, 0, :, 0].numpy())
    command = ("reconstruct", tmp_path / "a.npy", "--axes", "coil,y,x", "--method", "zero-filled", "-o", tmp_path / "o")
    assert run(monkeypatch, capsys, *command)[0] == 0
    one_sentence(*run(monkeypatch, capsys, *command), "already holds a result", "--overwrite")
    assert run(monkeypatch, capsys, *command, "--overwrite")[0] == 0


def test_a_variable_is_chosen_by_name_and_trailing_axes_may_be_named(kspace, tmp_path, monkeypatch, capsys):
    array = kspace.data[0, 0, :, 0].numpy().transpose(2, 1, 0)
    scipy.io.savemat(tmp_path / "two.mat", {"first": array, "second": 2 * array})
    made = []
    for name in ("first", "second"):
        code, said = run(monkeypatch, capsys, "reconstruct", tmp_path / "two.mat", "--axes", "x,y,coil,z,time",
                         "--variable", name, "--method", "zero-filled", "-o", tmp_path / name)
        assert code == 0, said
        made.append(nibabel.load(tmp_path / name / "image.nii.gz").get_fdata())
    np.testing.assert_allclose(made[1], 2 * made[0], rtol=1e-5)


def test_matlab_files_are_told_by_content(tmp_path):
    scipy.io.savemat(tmp_path / "renamed.bin", {"a": np.ones((3, 3))}, appendmat=False)
    assert detect(tmp_path / "renamed.bin") == "MATLAB"
