"""Random short-axis slices with labels: what the segmentation is trained on (domain randomization, Billot 2023).

Each subject is one random heart in one random thorax, cut into a few neighbouring slices, so that a network can be
shown a slice together with the two beside it. Labels: 0 background, 1 LV cavity (papillary muscles and trabeculae
included), 2 LV myocardium, 3 RV cavity.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from firstread.acquire.slices_anatomy import draw_heart
from firstread.acquire.slices_draws import Draws
from firstread.acquire.slices_paint import render
from firstread.acquire.slices_scan import acquire
from firstread.core.errors import SettingError
from firstread.core.keys import Key
from firstread.ops.intensity import scale_percentiles


def random_stacks(
        key: Key, batch: int, *, subjects: int = 4, slices: int = 4, size: int = 112, spacing_mm: float = 1.5,
) -> tuple[Float[Tensor, "subject slice y x"], UInt8[Tensor, "subject slice y x"]]:
    """Images (scaled so that the 1st and 99th percentile are 0 and 1) and labels of ``subjects`` random hearts.

    A function of the key and the number of the batch alone. size: pixels; spacing_mm: the mean pixel size, varied by
    15 %. Raises SettingError where a size is too small.

    >>> images, labels = random_stacks(Key(0, "doc"), 0, subjects=1, slices=2, size=64)
    >>> images.shape, labels.dtype
    (torch.Size([1, 2, 64, 64]), torch.uint8)
    """
    if min(subjects, slices) < 1 or size < 16:
        raise SettingError(f"{subjects} subjects of {slices} slices of {size} pixels",
                           expected="one or more of each and 16 pixels", remedy="correct the sizes")
    draws = Draws(key.generator(batch), subjects=subjects, slices=slices, size=size)
    plane, heart = draw_heart(draws, spacing_mm=spacing_mm)
    image, labels = render(draws, plane, heart)
    image = acquire(draws, image, plane)
    each = scale_percentiles(image.flatten(0, 1)).reshape(image.shape)
    together = scale_percentiles(image.flatten(1)).reshape(image.shape)
    return torch.where(draws.chance(0.4), each, together), labels
