"""The evidence of registration, small."""

import torch

from firstread.acquire.head import head_phantom
from firstread.core.geometry import Grid
from firstread.core.records import Image, Rows
from firstread.recipes import evidence_modalities, evidence_registration


def test_the_page_says_what_was_measured():
    row = {"before": 6.0, "error": 0.5, "p95": 1.25, "inverse": 0.125, "folds": 0.0, "seconds": 4.0,
           "dice before": 0.5, "dice": 0.875, "all back": 0.02, "most back": 0.5}
    heart = {"seconds": 4.0, "folds": 0.0, "folds in heart": 0.0}
    heart |= {f"{name}{when}": 0.75 for name in ("RV", "myocardium", "LV") for when in ("", " before", " onward")}
    text = evidence_registration.page({"scan, rigid": [row, row], "scan, deformable": [row, row | {"most back": 0.75}]},
                                      {"before": 0.6, "after": 0.9, "folds": 0.0, "seconds": 1.0, "all back": 0.01,
                                       "most back": 0.25}, [heart, heart])
    assert "scan, deformable: 0.020 and 0.75." in text and "0.010 mm on average, 0.25 at most" in text
    assert "0.50 (0.50 to 0.50)" in text and "0.875 (0.875 to 0.875)" in text and "0.750 (0.750 to 0.750)" in text
    assert "semi-simulated" in text and "pixels are the unit" in text


def test_the_known_map_is_no_flow_of_one_velocity_and_does_not_fold():
    from firstread.ops.velocity import jacobian_determinant

    field = evidence_registration.two_flows((24, 24, 24), 0)
    assert jacobian_determinant(field).min() > 0 and 1 < field.norm(dim=1).mean() < 8


def test_missing_data_is_one_sentence(tmp_path, capsys):
    assert evidence_registration.main([str(tmp_path), "-o", str(tmp_path)]) == 2
    assert "real data" in capsys.readouterr().err


def test_another_kind_of_image_is_registered_and_written_down():
    data, brain = head_phantom(seed=0, spacing_mm=5.0)
    grid = Grid.from_spacing(tuple(data.shape), (5.0,) * 3)
    volume = Image(Rows.subjects(1), data[None, None, None], grid)
    rows = {kind: [evidence_modalities.known_rigid(volume, brain, 0, kind=kind)] for kind in evidence_modalities.KINDS}
    assert all(row[0]["error"] < 0.5 * row[0]["before"] and row[0]["dice"] > row[0]["dice before"]
               for row in rows.values())
    coarse, its_grid = evidence_modalities.pet_like(data, grid, 0)
    assert tuple(coarse.shape) == its_grid.shape
    ramp = evidence_modalities.other_contrast(torch.linspace(0, 1, 20).expand(8, 8, 20), 0).mean(dim=(0, 1))
    assert float(ramp.diff().max()) > 0.05 and float(ramp.diff().min()) < -0.05  # neither rises nor falls
    assert "| PET-like |" in evidence_modalities.page(rows)
