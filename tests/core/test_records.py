import pytest
import torch

from firstread.core.batched import concatenate
from firstread.core.case import Case
from firstread.core.errors import FirstreadError, MissingRecordError, SettingError
from firstread.core.geometry import Grid
from firstread.core.keys import Key
from firstread.core.records import HardLabels, Image, Note, Phenotype, Phenotypes, Rows, SoftLabels


def image(batch=2) -> Image:
    grid = Grid.from_spacing((2, 2, 2), (1.0, 1.0, 1.0), batch=batch)
    return Image(Rows.subjects(batch), torch.arange(batch * 8.0).reshape(batch, 1, 1, 2, 2, 2), grid)


def test_draws_are_copies_of_the_same_subject():
    drawn = image().draws(3)
    assert drawn.rows.subject.tolist() == [0, 0, 0, 1, 1, 1]
    assert drawn.rows.draw.tolist() == [0, 1, 2, 0, 1, 2]
    torch.testing.assert_close(drawn.data[1], drawn.data[0])
    assert drawn.grid.affine.shape[0] == 6


def test_select_and_concatenate_are_inverse():
    whole = image(3)
    again = concatenate([whole.select(torch.tensor([0])), whole.select(torch.tensor([1, 2]))])
    torch.testing.assert_close(again.data, whole.data)
    assert again.rows.subject.tolist() == [0, 1, 2]


def test_map_reaches_every_tensor_and_changes_nothing_in_place():
    ejection = Phenotype(torch.tensor([60.0]), "%", torch.tensor([55.0]), torch.tensor([65.0]))
    numbers = Phenotypes(Rows.subjects(1), {"LVEF": ejection})
    doubled = numbers.map(lambda t: t * 2)
    assert doubled["LVEF"].value.item() == 120 and doubled["LVEF"].lower.item() == 110
    assert numbers["LVEF"].value.item() == 60


def test_labels_soft_and_hard():
    data = torch.softmax(torch.randn(1, 1, 4, 2, 3, 3), dim=2)
    soft = SoftLabels(Rows.subjects(1), data, Grid.from_spacing((2, 3, 3), (1.0, 1.0, 1.0)), ("a", "b", "c", "d"))
    hard = soft.harden()
    assert isinstance(hard, HardLabels) and hard.data.shape == (1, 1, 1, 2, 3, 3)
    torch.testing.assert_close(hard.soften().harden().data, hard.data)
    torch.testing.assert_close(hard.top_probability, data.max(2, keepdim=True).values)


def test_wrong_axes_are_refused():
    with pytest.raises(Exception, match="data"):
        Image(Rows.subjects(1), torch.zeros(1, 2, 3), Grid.from_spacing((1, 2, 3), (1.0, 1.0, 1.0)))


def test_phenotype_has_a_value_or_a_reason():
    with pytest.raises(SettingError):
        Phenotype(None, "mL")
    assert Phenotype(None, "mL", reason="single frame").reason == "single frame"


def test_case_is_frozen_and_names_what_it_lacks():
    case = Case({"sax": image()})
    more = case.adding("other", image())
    assert list(case) == ["sax"] and list(more) == ["sax", "other"]
    with pytest.raises(MissingRecordError, match="sax"):
        case["lax"]
    assert case.get("lax") is None and case.get("sax") is case["sax"]


def test_notes_are_collected_once():
    note = Note("gap", "a slice is missing")
    case = Case({"a": image().noted(note), "b": image().noted(note, note)})
    assert case.notes == (note,)


def test_key_depends_on_row_and_stage_not_on_order():
    rows = Rows.subjects(3)
    whole = Key(1, "noise").normal(rows, (4,))
    part = Key(1, "noise").normal(rows.select(torch.tensor([2])), (4,))
    torch.testing.assert_close(whole[2:], part)
    assert not torch.equal(whole, Key(1, "mask").normal(rows, (4,)))
    assert not torch.equal(whole[0], whole[1])


def test_errors_teach_and_survive_pickling():
    import pickle

    error = pickle.loads(pickle.dumps(SettingError("x = 3", expected="x in 0 … 1", remedy="choose a smaller x")))
    assert isinstance(error, FirstreadError) and str(error) == "x = 3; expected x in 0 … 1; choose a smaller x."
