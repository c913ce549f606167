"""The command line as a user meets it: one sentence, exit code 2, nothing half-written."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest


def firstread(*arguments: str | Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "firstread.cli", *map(str, arguments)], capture_output=True, text=True)


def test_help_names_the_verbs_and_loads_no_torch():
    code = ("import sys, firstread.cli\n"
            "try: firstread.cli.app(['--help'])\n"
            "except SystemExit: assert 'torch' not in sys.modules and 'numpy' not in sys.modules")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for verb in ("read", "demo", "simulate", "train", "zoo"):
        assert verb in done.stdout


@pytest.mark.parametrize("arguments", [("read",), ("read", "x"), ("read", "x", "-o", "y", "--nonsense"), ("paint",)])
def test_usage_errors_are_one_sentence(arguments):
    done = firstread(*arguments)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1 and "Traceback" not in done.stderr


def test_a_missing_input_is_one_sentence_and_leaves_nothing(tmp_path):
    done = firstread("read", tmp_path / "nothing.nii.gz", "-o", tmp_path / "out")
    said = [line for line in done.stderr.splitlines() if line.startswith("firstread: ")]
    assert done.returncode == 2 and len(said) == 1 and "Traceback" not in done.stderr, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_freed_memory_is_kept_where_the_allocator_can():
    said = subprocess.run([sys.executable, "-c", "from firstread.cli.allocator import keep_freed_memory as keep; "
                           "print(keep())"], capture_output=True, text=True, check=True).stdout
    assert said.strip() == str(hasattr(ctypes.CDLL(None), "mallopt"))


@pytest.mark.parametrize("verb", [(), ("read",), ("restore", "bias"), ("simulate", "heart")])
def test_help_is_plain_text(verb):
    shown = firstread(*verb, "--help").stdout
    assert "Usage:" in shown and "\\" not in shown and "\x1b" not in shown


def test_help_says_what_arguments_are():
    assert "Name of the recipe." in firstread("train", "--help").stdout, "some versions of click drop it"


@pytest.mark.parametrize("arguments, job, left", [
    (("segment", "train", "data", "-o", "model"), "segment_train.train_segmenter", "is kept in the output folder"),
    (("segment", "evaluate", "a", "b", "-o", "out"), "segment_evaluate.evaluate_to_folder", "nothing half-written"),
])
def test_control_c_is_exit_code_130_and_says_what_is_left(arguments, job, left, monkeypatch, capsys):
    from firstread import cli

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"firstread.jobs.{job}", interrupted)
    monkeypatch.setattr("sys.argv", ["firstread", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    said = capsys.readouterr().err
    assert stop.value.code == 130 and left in said and said.count("firstread:") == 1
