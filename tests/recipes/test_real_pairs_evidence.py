"""Evidence on real pairs: known moves are undone, landmarks read as FAIR draws them, the page written; bad folders."""

import pytest
import torch

from firstread.acquire.head import head_phantom
from firstread.core.errors import InputError
from firstread.core.geometry import Grid
from firstread.core.records import Image, Rows
from firstread.recipes import evidence_modalities_real as real
from firstread.recipes.real_pairs import PAIRS, hand_marks, read_image


@pytest.fixture(scope="module")
def head() -> Image:
    data, _ = head_phantom(seed=0, spacing_mm=8.0)
    return Image(Rows.subjects(1), data[None, None, None], Grid.from_spacing(tuple(data.shape), (8.0, 8.0, 8.0)))


def test_an_answer_that_undoes_the_move_is_where_the_first_was(head):
    eye = torch.eye(4, dtype=torch.float64)
    affines, _ = real.starts(head, eye, real.body(head).mean(dim=0))
    moves = affines @ torch.linalg.inv(head.grid.affine[0])
    found = {"start": {"matrices": [eye.tolist()]}, "ours": {"matrices": moves.tolist()},
             "none": {"matrices": [None] * len(moves)}}
    seen = real.placed(head, head, found)
    assert real.scatter(seen["ours"]).max() < 1e-6 and real.scatter(seen["none"]).isinf().all()
    far = (moves[1:, :3, :3].diagonal(dim1=1, dim2=2).sum(dim=1) - 1) / 2
    assert (far.acos().rad2deg() > 4.9).all() and (far.acos().rad2deg() < 20.1).all()
    assert real.near([0.5, float("inf")]) == "1 of 2; none (none)"


def test_our_answer_is_measured_with_its_warnings(head):
    found = real.by_firstread(head, head, head.grid.affine, "rigid")
    assert torch.allclose(torch.tensor(found["matrices"][0]), torch.eye(4), atol=0.05) and found["notes"] == [[]]


def test_landmarks_lie_where_fair_draws_them():
    one, two = hand_marks(Grid.from_spacing((1, 128, 128), (1.0, 250 / 128, 200 / 128)))
    assert one.shape == two.shape == (1, 7, 3)
    assert 35 < float((one - two).norm(dim=-1).mean()) < 37  # the two hands lie apart by this much


def test_the_page(head):
    row = {"pair": PAIRS[0], "scatter": {"Firstread": [0.1, 3.0], "ANTs": [0.2]},
           "apart": {"Firstread": 0.0, "ANTs": 1.0}, "seconds": {"Firstread": 1.0, "ANTs": 2.0},
           "version": {"Firstread": "", "ANTs": "9"}, "moved": 1.0, "back": 0.5,
           "stretch": (1.0, 1.0), "notes": ["ambiguous"], "noted": 1}
    bent = {"a": {"first": "rigid", "metric": "mi", "before": 0.1, "after": 0.2, "moved": 1.0, "most": 2.0, "folds": 0,
                  "least": 0.5, "largest": 2.0, "seconds": 1.0, "unit": "mm"}}
    text = real.page([row], {"Firstread": 1.0}, {"before": (1.0, 2.0)}, bent)
    assert "| PD on T1 | one man | rigid | 1 of 2; 1.6 (3.0) | 1 of 1; 0.20 (0.20) |" in text
    assert "1 of 11: ambiguous" in text and "ANTs 9." in text


def test_bad_input(tmp_path, capsys):
    with pytest.raises(InputError, match="no file chris_t1"):
        read_image(tmp_path, "chris_t1")
    assert real.main([str(tmp_path), str(tmp_path / "none"), "--work", str(tmp_path)]) == 2
    assert real.main([str(tmp_path), str(tmp_path), "--work", str(tmp_path), "-o", str(tmp_path)]) == 2
    assert "no file chris_t1" in capsys.readouterr().err
    assert real.main([str(tmp_path), str(tmp_path), "--work", str(tmp_path), "--only", "PD on T1", "PD on T2"]) == 2
    assert "no pair PD on T2; expected PD on T1; " in capsys.readouterr().err
    assert not real.known_move(0, flat=True)[[0, 1, 5]].any()  # a slice stays in its plane
