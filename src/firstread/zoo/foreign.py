"""What was read of a model trained elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

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
