import errno

import pytest

from firstread.core.errors import OutputError
from firstread.io.folder import check_free, new_folder


def test_appears_whole(tmp_path):
    out = tmp_path / "a" / "out"
    with new_folder(out, marker="m") as work:
        (work / "m").write_text("1")
        assert not out.exists()
    assert (out / "m").read_text() == "1" and [p.name for p in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("x")])
def test_nothing_is_left_when_the_work_breaks_off(tmp_path, error):
    with pytest.raises(type(error)), new_folder(tmp_path / "out", marker="m") as work:
        (work / "m").write_text("half")
        raise error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_one_sentence(tmp_path, number):
    with pytest.raises(OutputError, match="free some space"), new_folder(tmp_path / "out", marker="m"):
        raise OSError(number, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_result_is_kept_unless_replacing_is_asked_for(tmp_path):
    out = tmp_path / "out"
    for text in ("first", "second"):
        with new_folder(out, marker="m", overwrite=text == "second") as work:
            (work / "m").write_text(text)
    assert (out / "m").read_text() == "second"
    with pytest.raises(OutputError, match="--overwrite"), new_folder(out, marker="m"):
        raise AssertionError("not reached")
    assert (out / "m").read_text() == "second"


def test_a_foreign_folder_is_never_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="other files"), new_folder(tmp_path, marker="m", overwrite=True):
        raise AssertionError("not reached")
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match="is a file"), new_folder(tmp_path / "out", marker="m"):
        raise AssertionError("not reached")


def test_a_file_above_the_folder_is_named_before_any_work(tmp_path):
    (tmp_path / "letter").write_text("a file")
    with pytest.raises(OutputError, match="letter is a file"):
        check_free(tmp_path / "letter" / "out", marker="m", overwrite=False)


def test_a_place_that_refuses_in_spite_of_its_permissions_is_found_before_any_work(tmp_path, monkeypatch):
    def refuse(**_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("firstread.io.folder.tempfile.mkdtemp", refuse)
    with pytest.raises(OutputError, match="Read-only"):
        check_free(tmp_path / "out", marker="m", overwrite=False)
    assert list(tmp_path.iterdir()) == []
