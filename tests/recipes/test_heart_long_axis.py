"""The long-axis weight: a short training, its plan, its use by name."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from firstread.core.errors import SettingError
from firstread.core.keys import Key
from firstread.jobs.segment_predict import predict_to_folder
from firstread.recipes import evaluate_long_axis, heart_long_axis
from firstread.zoo import store


def test_trained_measured_and_used_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(heart_long_axis, "SIZE", 48)
    weight = heart_long_axis.train(tmp_path / "zoo", steps=1)
    assert weight.stat().st_size < 2e6
    monkeypatch.setattr(store, "_HOME", tmp_path / "zoo")
    monkeypatch.setattr(evaluate_long_axis, "SUBJECTS", 4)
    planes = np.random.default_rng(0).random((3, 40, 48)) * 1j
    (tmp_path / "real").mkdir()
    assert evaluate_long_axis.main([str(tmp_path / "zoo"), "--echoes", str(tmp_path / "real")]) == 2
    np.savez(tmp_path / "real" / "x_ch4_3echo.npz", images=planes)
    assert evaluate_long_axis.main([str(tmp_path / "zoo"), "--echoes", str(tmp_path / "real")]) == 0
    card = json.loads((tmp_path / "zoo" / "heart-lax.json").read_text())
    assert set(card["evaluation"]["4-chamber"]) == set(heart_long_axis.PLAN.names[1:])
    assert "| left atrium |" in (tmp_path / "zoo" / "heart-lax.md").read_text()
    assert card["real"]["planes"] == 1 and card["real"]["images"] == 3
    assert all(v is None or 0 <= v <= 1 for v in card["real"]["dice_between_echoes"].values())
    cine = np.random.default_rng(0).random((50, 60, 1, 2)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(cine, np.diag([2.0, 2.0, 8.0, 1.0])), tmp_path / "cine.nii.gz")
    made = predict_to_folder(Path("heart-lax"), [[tmp_path / "cine.nii.gz"]], tmp_path / "out")
    assert nibabel.load(tmp_path / "out" / made["images"][0]["files"][0]).shape == (50, 60, 1, 2)


def test_every_batch_holds_both_views_and_real_data_is_refused(tmp_path):
    images, labels = heart_long_axis.planes(Key(0, "t"), 1, subjects=4, size=48)
    assert len(images) == 4 and bool((labels[:2] == 5).any()) and not bool((labels[2:] == 5).any())
    with pytest.raises(SettingError, match="simulation alone"):
        heart_long_axis.train(tmp_path, data=tmp_path)
