"""Where to train."""

from __future__ import annotations

import torch

from firstread.core.errors import SettingError


def usable_device(name: str) -> str:
    """``name``, where this installation of torch can put tensors there.

    Raises SettingError for a device that it does not know or see.

    >>> usable_device("cpu")
    'cpu'
    """
    try:
        torch.empty(1, device=name).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        seen = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
        raise SettingError(f"device {name!r}", expected=f"one that this torch can use: {', '.join(seen)}",
                           remedy="name one of these, or install torch for that device") from error
    return name
