"""Few lines per frame that together cover the centre of k-space."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from firstread.acquire.sampling import centre, line_probability
from firstread.core.errors import SettingError


class InterleavedLines(nn.Module):
    """Exactly ``count`` lines in every frame, no line common to all; together the frames measure the centre.

    count: lines per frame; together: lines of the centre that are dealt out to the frames, each to one, so that coils
    can be found from the time average (fewer where ``frames * count`` is less). They are part of the count. The other
    lines are drawn frame by frame with :func:`~firstread.acquire.sampling.line_probability`. A module, so that
    ``Encode`` draws one pattern for all slices. Raises SettingError for more lines than there are.

    >>> mask = InterleavedLines(count=2, together=8)(6, 64, torch.Generator().manual_seed(0))
    >>> mask.sum(dim=1).tolist(), int((mask.sum(dim=0) > 0)[28:36].sum())
    ([2.0, 2.0, 2.0, 2.0, 2.0, 2.0], 8)
    """

    def __init__(self, *, count: int, together: int = 8):
        super().__init__()
        if count < 1 or together < 0:
            raise SettingError(f"{count} lines per frame, {together} together", expected="one or more, zero or more",
                               remedy="correct the numbers")
        self.count, self.together = count, together

    def forward(self, frames: int, lines: int, generator: torch.Generator) -> Float[Tensor, "frames lines"]:
        if self.count > lines:
            raise SettingError(f"{self.count} of {lines} lines", expected="at most all lines", remedy="lower `count`")
        dealt = min(self.together, frames * self.count, lines)
        order = torch.randperm(dealt, generator=generator)
        owner = torch.randperm(frames, generator=generator)[torch.arange(dealt) % frames]
        mask = torch.zeros(frames, lines)
        mask[owner, torch.arange(lines)[centre(lines, dealt)][order]] = 1
        probability = line_probability(lines, lines / self.count).expand(frames, lines) * (1 - mask)
        for frame in range(frames):
            missing = self.count - int(mask[frame].sum())
            if missing:
                mask[frame, torch.multinomial(probability[frame], missing, generator=generator)] = 1
        return mask
