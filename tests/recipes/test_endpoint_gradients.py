"""How alike the pull of subjects on the mask is, by hand and in miniature."""

import json

import pytest
import torch

from firstread.io import pattern
from firstread.recipes import endpoint_gradients
from firstread.recipes.endpoint_gradients import agreement, main, moved, rows_of


def test_agreement_by_hand():
    one, other = torch.tensor([[1.0, 0.0], [5.0, 0.0]]), torch.tensor([[1.0, 0.0], [-2.0, 0.0]])
    assert agreement(one) == pytest.approx(1) and agreement(other) == pytest.approx(-1)
    random = torch.randn(40, 2000, generator=torch.Generator().manual_seed(0))
    assert abs(agreement(random)) < 0.01, "nothing in common"
    image, contours, ef = rows_of(8.0, [{"image": one, "contours": other, "EF": 3 * one}])
    assert (image.loss, contours.loss, ef.loss) == ("image", "contours", "EF")
    assert ef.norm[0] == pytest.approx(9) and ef.with_image[0] == pytest.approx(1)
    assert contours.with_image[0] == pytest.approx(-1)


def test_moved_lines_by_hand(tmp_path):
    mask = torch.zeros(2, 8)
    mask[:, :4] = 1
    pattern.write(tmp_path / "fine-tuned-8-seed0.json", mask)
    mask[0, 3], mask[0, 6] = 0, 1
    pattern.write(tmp_path / "joint-8-seed0.json", mask)
    assert moved(tmp_path, "joint", 8.0, seeds=1) == [12.5]


def test_the_page_in_miniature_and_what_is_missing(tmp_path, capsys):
    out = tmp_path / "out"
    (out / "endpoint-lines").mkdir(parents=True)
    mask = (torch.arange(48) < 12).float().repeat(4, 1)
    for arm in ("fine-tuned", "learned-mask"):
        pattern.write(out / "endpoint-lines" / f"{arm}-4-seed0.json", mask)
    asked = ["-o", str(out), "--work", str(tmp_path / "work"), "--accelerations", "4", "--subjects", "2", "--seeds",
             "1", "--matrix", "48", "24", "--spacing", "5", "--patch", "64", "--frames", "4", "--slices", "2"]
    assert main(asked) == 2 and "joint-4-seed0.json" in capsys.readouterr().err
    pattern.write(out / "endpoint-lines" / "joint-4-seed0.json", mask.roll(1, dims=1))
    assert main(asked) == 0
    page = (out / "endpoint-gradients.md").read_text()
    rows = json.loads((out / "endpoint-gradients.json").read_text())
    assert [row["loss"] for row in rows] == list(endpoint_gradients.LOSSES.values())
    assert rows[0]["with_image"] == pytest.approx([1.0]) and all(row["norm"][0] > 0 for row in rows)
    assert "| 4 | 0 (0 to 0) | 8 (8 to 8) |" in page and "--matrix 48 24" in page
    assert main([*asked[:8], "--subjects", "1"]) == 2
