"""Stored weights: read with their cards, and damage said in a sentence."""

import pytest
import torch
from safetensors.torch import save_file

from firstread.core.errors import FormatError, InputError
from firstread.zoo.store import load


def test_a_card_or_a_weight_that_is_damaged_is_one_sentence(tmp_path):
    path = tmp_path / "mine.safetensors"
    save_file({"w": torch.ones(2, dtype=torch.float16)}, path)
    assert load(path).card == {} and load(path).state["w"].dtype == torch.float32
    path.with_suffix(".json").write_text("{")
    with pytest.raises(FormatError, match=r"mine\.json, which is no JSON"):
        load(path)
    path.with_suffix(".json").unlink()
    path.write_bytes(path.read_bytes()[:9])
    with pytest.raises(FormatError, match=r"mine\.safetensors"):
        load(path)
    with pytest.raises(InputError, match="no weight"):
        load("nobody")
