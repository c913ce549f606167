"""Siemens raw data, in files made here with twixtools' writer (no scanner's file is at hand): k-space and place."""

import builtins

import numpy as np
import pytest
import torch

from firstread.core.errors import FormatError, InputError, UnsupportedError
from firstread.io.open import read

twixtools = pytest.importorskip("twixtools")

from raw_files import centred_image  # noqa: E402
from twixtools.mdb import Mdb_local  # noqa: E402

BASE, LINES, COILS = 16, 12, 3


def protocol(**changes: str) -> str:
    """The part of a protocol that places the image."""
    entries = {"sKSpace.lBaseResolution": BASE, "sKSpace.lPhaseEncodingLines": LINES, "sKSpace.ucDimension": "0x2",
               "sKSpace.lPartitions": 1, "sKSpace.ucTrajectory": "0x1", "sSliceArray.lSize": 1,
               "sSliceArray.asSlice[0].dReadoutFOV": 320.0, "sSliceArray.asSlice[0].dPhaseFOV": 240.0,
               "sSliceArray.asSlice[0].dThickness": 8.0} | changes
    return "### ASCCONV BEGIN ###\n" + "".join(f"{k} = {v}\n" for k, v in entries.items()) + "\n### ASCCONV END ###"


def header(text: str) -> np.ndarray:
    parts = b"".join(name + b"\0" + len(body).to_bytes(4, "little") + body for name, body in (
        (b"Meas", b'<ParamLong."lPatientSex"> { 1 }\n<ParamString."tPatientName"> { "Doe" }'),
        (b"MeasYaps", text.encode())))
    parts = (12000 + 8 + len(parts)).to_bytes(4, "little") + (2).to_bytes(4, "little") + parts + bytes(12000)
    return np.frombuffer(parts, dtype="S1")


def readout(values: np.ndarray, *, line: int, frame: int = 0, piece: int = 0, flags: tuple[str, ...] = (),
            quaternion=(1.0, 0.0, 0.0, 0.0), position=(10.0, 20.0, 30.0)):
    made = Mdb_local(values.astype(np.complex64))
    made.mdh.Counter.Lin, made.mdh.Counter.Phs, made.mdh.Counter.Sli = line, frame, piece
    made.mdh.CenterCol, made.mdh.CenterLin = values.shape[1] // 2, LINES // 2
    made.mdh.PMUTimeStamp = 10 * frame
    sag, cor, tra = position
    made.mdh.SliceData.SlicePos.Sag, made.mdh.SliceData.SlicePos.Cor = sag, cor
    made.mdh.SliceData.SlicePos.Tra = tra
    made.mdh.SliceData.Quaternion[:] = quaternion
    for flag in flags:
        made.add_flag(flag)
    return made


def write(path, kspace: np.ndarray, *, text: str | None = None, noise: np.ndarray | None = None, step: int = 1,
          **placed):
    """kspace [frame, coil, line, column], every ``step``-th line of it."""
    scans = []
    if noise is not None:
        scans.append({"hdr_str": header(protocol()), "mdb": [readout(noise, line=0, flags=("NOISEADJSCAN",))]})
    lines = [readout(frame[:, line], line=line, frame=t, **placed) for t, frame in enumerate(kspace)
             for line in range(0, LINES, step)]
    scans.append({"hdr_str": header(text or protocol()), "mdb": lines})
    twixtools.write_twix(scans, str(path))
    return path


@pytest.fixture
def kspace() -> np.ndarray:
    draw = np.random.default_rng(0)
    return draw.standard_normal((2, COILS, LINES, 2 * BASE)) + 1j * draw.standard_normal((2, COILS, LINES, 2 * BASE))


def test_the_image_is_that_of_the_readouts_without_oversampling(kspace, tmp_path):
    made = read(write(tmp_path / "meas.dat", kspace))
    found = made.case["kspace"]
    expected = centred_image(torch.from_numpy(kspace).to(torch.complex64))[..., BASE // 2:BASE // 2 + BASE]
    assert made.kind == "twix" and found.data.shape == (1, 2, COILS, 1, LINES, BASE)
    torch.testing.assert_close(centred_image(found.data)[0, :, :, 0], expected, atol=1e-5, rtol=1e-5)
    assert made.person.sex == "F" and made.person.name is None
    assert read(tmp_path / "meas.dat", identify=True).person.name == "Doe"


def test_missing_lines_are_zero_in_data_and_mask(kspace, tmp_path):
    found = read(write(tmp_path / "meas.dat", kspace, step=2)).case["kspace"]
    assert found.mask[0, 0, 0, 0, :, 0].tolist() == [line % 2 == 0 for line in range(LINES)]
    assert bool((found.data[..., 1::2, :] == 0).all())


def test_pixels_lie_where_the_quaternion_says(kspace, tmp_path):
    half = np.sqrt(0.5)
    write(tmp_path / "meas.dat", kspace, quaternion=(half, half, 0.0, 0.0))  # a quarter turn about x
    grid = read(tmp_path / "meas.dat").case["kspace"].grid
    phase, reading, normal = grid.affine[0, :3, 1], grid.affine[0, :3, 0], grid.affine[0, :3, 2]
    torch.testing.assert_close(phase, torch.tensor([20.0, 0, 0]).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(reading, torch.tensor([0, 0, 20.0]).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(normal, torch.tensor([0, -8.0, 0]).double(), atol=1e-5, rtol=0)
    middle = grid.to_mm(torch.tensor([[BASE // 2, LINES // 2, 0]]).double())[0]
    torch.testing.assert_close(middle, torch.tensor([10.0, 20.0, 30.0]).double(), atol=1e-4, rtol=0)


def test_the_noise_scan_of_an_earlier_measurement_is_used(kspace, tmp_path):
    draw = np.random.default_rng(1)
    noise = 3 * (draw.standard_normal((COILS, 4000)) + 1j * draw.standard_normal((COILS, 4000)))
    found = read(write(tmp_path / "meas.dat", kspace, noise=noise)).case["kspace"]
    expected = torch.from_numpy(noise @ noise.conj().T / 4000).to(torch.complex64)
    torch.testing.assert_close(found.noise_covariance[0], expected, atol=1e-3, rtol=1e-3)
    assert read(write(tmp_path / "other.dat", kspace)).case["kspace"].noise_covariance is None


def test_what_cannot_be_read_is_said(kspace, tmp_path):
    write(tmp_path / "meas.dat", kspace)
    whole = (tmp_path / "meas.dat").read_bytes()
    for name, content in (("text", b"hello " * 100), ("short", b"\0" * 5), ("zeros", bytes(20000)),
                          ("cut", whole[:len(whole) - 9000]), ("head", whole[:11000]),
                          ("noise", np.random.default_rng(0).bytes(30000))):
        (tmp_path / f"{name}.dat").write_bytes(content)
        with pytest.raises(FormatError):
            read(tmp_path / f"{name}.dat")
    write(tmp_path / "spiral.dat", kspace, text=protocol(**{"sKSpace.ucTrajectory": "0x4"}))
    with pytest.raises(UnsupportedError, match="not Cartesian"):
        read(tmp_path / "spiral.dat")
    write(tmp_path / "bare.dat", kspace, text="nothing")
    with pytest.raises(FormatError, match="matrix"):
        read(tmp_path / "bare.dat")
    write(tmp_path / "epi.dat", kspace, flags=("PHASCOR",))
    with pytest.raises(UnsupportedError, match="EPI"):
        read(tmp_path / "epi.dat")


def test_damaged_bytes_never_hang_or_crash(kspace, tmp_path):
    write(tmp_path / "meas.dat", kspace[:1])
    whole = bytearray((tmp_path / "meas.dat").read_bytes())
    draw = np.random.default_rng(2)
    for _ in range(60):
        damaged = bytearray(whole)
        for place in draw.integers(0, len(whole), 20):
            damaged[place] = draw.integers(256)
        (tmp_path / "d.dat").write_bytes(damaged)
        try:
            read(tmp_path / "d.dat")
        except InputError:
            continue
        except Exception as error:
            assert type(error).__module__ == "firstread.core.errors", repr(error)


def test_without_the_package_the_remedy_is_named(kspace, tmp_path, monkeypatch):
    write(tmp_path / "meas.dat", kspace)
    real = builtins.__import__

    def absent(name, *arguments, **named):
        if name.startswith("twixtools"):
            raise ImportError(name)
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(InputError, match=r"pip install 'firstread\[twix\]'"):
        read(tmp_path / "meas.dat")
