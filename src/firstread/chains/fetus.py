"""The fetus chain: stacks of slices of a moving fetus to one volume.

    stacks, mask (of the part that moves as one) ─▶ volume
"""

from __future__ import annotations

from collections.abc import Callable

from firstread.core.stage import Chain
from firstread.restore.slices import Method, SliceToVolume


def fetus_chain(*, resolution_mm: float = 0.8, method: Method = "voxels", iterations: int = 4, robust: bool = True,
                bias: bool = True, patch_mm: float = 0.0, progress: Callable[[str], None] | None = None) -> Chain:
    """The chain of ``firstread restore slices``; arguments as those of SliceToVolume.

    >>> print(fetus_chain().describe())
    slice_to_volume(stacks: Image, mask: HardLabels) -> volume
    """
    stage = SliceToVolume(resolution_mm=resolution_mm, method=method, iterations=iterations, robust=robust, bias=bias,
                          patch_mm=patch_mm, progress=progress)
    return Chain(stage.using(reads={"stacks": "stacks", "mask": "mask"})).eval()
