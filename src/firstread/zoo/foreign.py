"""What was read of a model trained elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from firstread.core.errors import FormatError
from firstread.core.preparation import Activation, Preparation


@dataclass(frozen=True, eq=False)
class ForeignModel:
    """kind: of files; networks: in eval mode, folds of one model; names: of the classes, background first;
    preparation: how they see an image; activation, regions: what their outputs are; differentiable: whether torch can
    see into them.
    """

    kind: Literal["nnU-Net", "MONAI bundle", "TorchScript", "ONNX"]
    networks: Sequence[nn.Module]
    names: tuple[str, ...]
    preparation: Preparation
    activation: Activation = "softmax"
    regions: tuple[int, ...] = ()
    differentiable: bool = True

    def with_windows(self, *, overlap: float | None, mirror: bool) -> ForeignModel:
        """The same with another overlap of windows, or without mirrored copies."""
        plan = replace(self.preparation, overlap=self.preparation.overlap if overlap is None else overlap,
                       mirror=self.preparation.mirror if mirror else ())
        return replace(self, preparation=plan)


def require_finite(network: nn.Module, name: str) -> nn.Module:
    """The network again, if all its weights are numbers; name: of its file.

    Raises FormatError for a weight that is NaN or infinite: what it says would be no answer, and look like one.

    >>> require_finite(nn.Linear(2, 1), "net.pt")
    Linear(in_features=2, out_features=1, bias=True)
    """
    for part, value in network.state_dict().items():
        if isinstance(value, torch.Tensor) and value.is_floating_point() and not bool(torch.isfinite(value).all()):
            bad = int((~torch.isfinite(value)).sum())
            raise FormatError(f"{name}, in whose weights {bad} of {value.numel()} values of {part} are no numbers",
                              expected="finite weights", remedy="take another checkpoint: this training has failed, or "
                              "the file is damaged")
    return network
