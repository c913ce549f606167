"""The study on real images in miniature: the middle of k-space, patients never on both sides, it resumes."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from firstread.core.errors import InputError, SettingError
from firstread.ops.fourier import fft
from firstread.recipes import study_endpoint_acdc
from firstread.recipes.acdc_pool import band, resized, store_patients
from firstread.recipes.endpoint import Setting
from firstread.recipes.endpoint_pool import Stack, case_of
from firstread.recipes.study_endpoint_acdc import Study, main, report, run

STACK = Stack(lines=48, columns=32, frames=2, slices=2)


@pytest.fixture(scope="module")
def patients(tmp_path_factory):
    """Three made-up patients of four slices, a ring with its cavity and a neighbour, smaller in systole."""
    folder = tmp_path_factory.mktemp("patients")
    y, x = np.mgrid[:64, :56] - 28
    for number in (1, 2, 3):
        arrays = {}
        for phase, size in (("ed", 10 + number), ("es", 6 + number)):
            radius = np.hypot(y, x)
            label = np.where(radius < size, 3, np.where(radius < size + 4, 2, 0))
            label[(np.hypot(y, x + 20) < 6) & (label == 0)] = 1
            arrays[f"{phase}_label"] = np.repeat(label[None], 4, axis=0).astype(np.uint8)
            arrays[f"{phase}_image"] = np.repeat(np.array([0.1, 0.6, 0.3, 0.9])[label][None], 4, axis=0).astype("f2")
        np.savez(folder / f"patient{number:03d}.npz", **arrays)
    return folder


def test_the_band_is_the_middle_of_kspace_and_keeps_intensities():
    image = torch.rand(2, 30, 24, generator=torch.Generator().manual_seed(0)) + 1
    small = band(image, (20, 16))
    torch.testing.assert_close(fft(small), fft(image.to(torch.complex64))[..., 5:25, 4:20] * (320 / 720)**0.5)
    torch.testing.assert_close(small.abs().mean(), image.mean(), rtol=0.02, atol=0)


def test_labels_are_those_that_cover_most_of_a_pixel():
    labels = torch.tensor([[0, 0, 3, 3], [0, 0, 3, 3], [2, 2, 1, 1], [2, 2, 1, 1]])[None, None]
    assert resized(labels, (2, 2)).tolist() == [[[[0, 3], [2, 1]]]]


def test_a_patient_keeps_its_ejection_fraction(patients, tmp_path):
    paths = store_patients(tmp_path, patients, STACK)
    case = case_of(paths[0], seed=0)
    assert case["truth.image"].data.shape == (1, 2, 1, 2, 48, 32) and case["truth.image"].data.is_complex()
    expected = 100 * (1 - (7 / 11)**2)
    assert case["truth.phenotypes"]["LVEF"].value.item() == pytest.approx(expected, abs=6)
    with pytest.raises(InputError, match="ask for fewer"):
        store_patients(tmp_path / "more", patients, Stack(lines=80, columns=32, frames=2, slices=2))
    with pytest.raises(InputError, match="patientNNN"):
        store_patients(tmp_path, tmp_path / "none", STACK)


def test_every_patient_is_read_by_what_others_trained(patients, tmp_path, monkeypatch):
    trained, scanned = {}, []
    mask = (torch.arange(STACK.lines) % 4 == 0).float().repeat(STACK.frames, 1)

    def train(folder, *, arm, setting, pool, steps, seed, device):
        trained[arm, folder.name] = [path.name[:10] for path in pool]
        folder.mkdir(parents=True, exist_ok=True)
        return SimpleNamespace(pattern=lambda: mask)

    def numbers(parts, setting, case, *, coils, sampling):
        assert torch.equal(sampling.mask.float(), mask), "what was exported is scanned with"
        scanned.append(parts)
        return {"NRMSE": 0.1, "LVEF": 50.0 + len(scanned), "LVEF true": 52.0,
                **{f"Dice {name}": 0.9 for name in ("LV cavity", "LV myocardium", "RV cavity")}}

    monkeypatch.setattr(study_endpoint_acdc, "train_arm", train)
    monkeypatch.setattr(study_endpoint_acdc, "numbers_of", numbers)
    study = Study(Setting(stack=STACK), ("separate", "fine-tuned", "joint"), folds=3, seeds=2, steps=1)
    made = run(study, patients, tmp_path, device="cpu")
    assert trained["joint", "seed1-fold0"] == ["patient002", "patient003"] and len(scanned) == 3 * 3 * 2
    assert [len(seed) for seed in made["joint"]] == [3, 3] and all(n for seed in made["joint"] for n in seed)
    monkeypatch.setattr(study_endpoint_acdc, "numbers_of", lambda *args, **named: pytest.fail("read again"))
    again = run(study, patients, tmp_path, device="cpu")
    assert json.dumps(again) == json.dumps(made)
    page = report(study, made, command="the command")
    assert "| joint − fine-tuned |" in page and "| joint − separate |" in page and "Semi-simulated" in page
    with pytest.raises(SettingError, match="fewer folds"):
        run(Study(Setting(stack=STACK), ("separate", "joint"), folds=4, seeds=1, steps=1), patients, tmp_path,
            device="cpu")


def test_a_mistake_is_one_sentence(tmp_path, capsys):
    assert main([str(tmp_path), "-o", str(tmp_path / "o"), "--work", str(tmp_path / "w")]) == 2
    assert "no patients in" in capsys.readouterr().err
