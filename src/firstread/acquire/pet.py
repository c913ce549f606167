"""The PET scanner as a stage: activity and attenuation in, coincidences out."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.emission import Emission
from firstread.core.errors import GeometryError, SettingError, SignalError
from firstread.core.keys import Key
from firstread.core.records import Image, Rows
from firstread.core.sinogram import ParallelBeam
from firstread.core.stage import Stage
from firstread.ops.attenuation import attenuation_at_511
from firstread.ops.projection import Projection


class ScanPET(Stage):
    """Activity to prompt coincidences: ``y ~ Poisson(f A a + b)``, ``f = c exp(-A μ)``, slice by slice.

    beam: the lines of response, parallel after sorting. counts: expected true coincidences in all of a batch row,
    which sets c (time times sensitivity); None for no noise and c = 1.
    randoms: expected, as a share of the trues, equal on all lines; scatter: as a share of the trues, the trues blurred
    along the detector with a Gaussian of ``scatter_mm`` standard deviation. Both are handed on as known background.

    Reads an Image of activity (Bq/mL), and one of the CT in HU (``ct``) where there is one; writes the Emission
    "emission". Differentiable in the activity; noise counts as constant.

    Raises SignalError for negative activity or none, GeometryError for a CT on another grid.
    """

    result = "emission"

    def __init__(self, *, beam: ParallelBeam, counts: float | None = 1e6, randoms: float = 0.3, scatter: float = 0.3,
                 scatter_mm: float = 60.0):
        super().__init__()
        if (counts is not None and not counts > 0) or randoms < 0 or scatter < 0 or not scatter_mm > 0:
            raise SettingError(f"{counts} counts, randoms {randoms}, scatter {scatter} over {scatter_mm} mm",
                               expected="counts and width above zero, shares of zero or more",
                               remedy="use None for no noise")
        self.beam, self.counts, self.randoms = beam, counts, randoms
        self.scatter, self.scatter_mm = scatter, scatter_mm

    def settings(self) -> str:
        """The geometry and the constructor's other arguments."""
        return f"{self.beam.summary}, {super().settings()}"

    def forward(self, activity: Image, key: Key, ct: Image | None = None) -> Emission:
        data = activity.data
        if data.is_complex() or not bool((data.detach() >= 0).all()) or not bool((data.detach() > 0).any()):
            raise SignalError("activity that is negative, complex, NaN or nowhere", expected="Bq/mL, zero or more",
                              remedy="give the scanner an activity image")
        projection = Projection.of(self.beam, activity.grid)
        survive = torch.ones_like(projection(data[:, :1, :1].detach()))
        if ct is not None and ct is not activity:  # a chain gives the only image of a case to both
            if not ct.grid.same_as(activity.grid):
                raise GeometryError("a CT on another grid than the activity", expected="one grid for both",
                                    remedy="resample the CT onto the grid of the activity")
            survive = torch.exp(-projection(attenuation_at_511(ct.data[:, :1, :1].to(data.dtype))))
        trues = survive * projection(data)
        total = trues.detach().flatten(1).sum(dim=1)[:, None, None, None, None, None]
        scale = torch.ones_like(total) if self.counts is None else self.counts / total
        factors, trues = scale * survive, scale * trues
        randoms = self.randoms * trues.detach().flatten(1).mean(dim=1).reshape(scale.shape)
        background = randoms + self.scatter * spread(trues.detach(), self.scatter_mm / self.beam.bin_mm)
        expected = trues + background
        if self.counts is not None:
            expected = expected + (_drawn(expected.detach(), activity.rows, key) - expected.detach())
        return Emission(activity.rows, expected, activity.grid, self.beam, factors, background,
                        source=activity.source, notes=activity.notes)


def spread(rays: Float[Tensor, "*lead view bin"], width: float) -> Float[Tensor, "*lead view bin"]:
    """Rays blurred along the detector by a Gaussian of ``width`` bins; what leaves the detector is lost.

    >>> spread(torch.tensor([[0.0, 1.0, 0.0]]), 0.1).round().tolist()
    [[0.0, 1.0, 0.0]]
    """
    reach = max(1, min(rays.shape[-1] - 1, round(4 * width)))
    offset = torch.arange(-reach, reach + 1, dtype=rays.dtype, device=rays.device)
    weights = torch.exp(-0.5 * (offset / width).square())
    flat = rays.reshape(-1, 1, rays.shape[-1])
    return torch.nn.functional.conv1d(flat, (weights / weights.sum())[None, None], padding=reach).reshape(rays.shape)


def _drawn(expected: Tensor, rows: Rows, key: Key) -> Tensor:
    drawn = [torch.poisson(row.cpu(), generator=generator)
             for row, generator in zip(expected, key.generators(rows), strict=True)]
    return torch.stack(drawn).to(expected)
