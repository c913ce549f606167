"""What the recipes share: files that are there whole or not at all, and the refusal of real data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import nn

from firstread.core.errors import SettingError


def refuse_data(data: Path | None, name: str) -> None:
    """Raise SettingError where real data is given to a recipe that trains on simulation alone."""
    if data is not None:
        raise SettingError(f"data {data.name} for {name}", expected="none: it is trained on simulation alone",
                           remedy="leave --data out")


def write_array(path: Path, **arrays: np.ndarray) -> None:
    """An .npz file that is there whole or not at all."""
    part = path.with_suffix(".part")
    with part.open("wb") as stream:
        np.savez(stream, **arrays)
    part.rename(path)


def write_text(path: Path, text: str) -> None:
    """A text file that is there whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.rename(path)


def write_weight(net: nn.Module, path: Path) -> Path:
    """The parameters of ``net`` in half precision, as a .safetensors file that is there whole or not at all."""
    from safetensors.torch import save_file

    part = path.with_suffix(".part")
    save_file({name: value.half().cpu().contiguous() for name, value in net.state_dict().items()}, part)
    part.rename(path)
    return path
