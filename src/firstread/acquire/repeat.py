"""The same scan measured again: a parametric bootstrap of the receiver noise."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Complex
from torch import Tensor

from firstread.acquire.noise import correlated_noise
from firstread.core.errors import SignalError
from firstread.core.keys import Key
from firstread.core.records import KSpace, Note
from firstread.core.stage import Stage

NO_SCAN = Note("noise_from_edges", "The file has no noise scan; the noise was estimated at the edges of the readout, "
               "where some signal is left: it is rather over- than underestimated.")


class RepeatNoise(Stage):
    """Measured samples with new noise of the scan's covariance added, ``y* = y + M n,  n ~ CN(0, Ψ)``.

    Reconstructed, the draws spread about as much as scans of the same patient in the same position would (to first
    order in the noise). What the lines that were never measured hide does not show in this spread.
    Ψ: ``noise_covariance``; where the scan has none, of the outermost samples of the readout (``edge_covariance``), and
    a note says so. One draw per row, from its (subject, part, draw). Source: Efron and Tibshirani 1993, chapter 6.
    """

    result = "kspace.again"

    def forward(self, kspace: KSpace, key: Key) -> KSpace:
        known = kspace.noise_covariance is not None
        covariance = kspace.noise_covariance if known else edge_covariance(kspace)
        noise = torch.stack([correlated_noise(matrix.cpu(), (kspace.data.shape[1], *kspace.data.shape[3:]), generator)
                             for matrix, generator in zip(covariance, key.generators(kspace.rows), strict=True)])
        again = kspace.data + kspace.mask * noise.movedim(1, 2).to(kspace.data)
        made = replace(kspace, data=again)
        return made if known else made.noted(NO_SCAN)


def edge_covariance(kspace: KSpace, *, share: float = 0.06) -> Complex[Tensor, "batch coil coil"]:
    """``Ψ = mean n nᴴ`` over the measured samples in the outermost ``share`` of the readout, half on either side.

    Raises SignalError where fewer samples than twice the coils are there.
    """
    kspace.require_cartesian("the noise at the edges of the readout")
    width = max(1, round(share * kspace.data.shape[-1] / 2))
    found = []
    for data, mask in zip(kspace.data.detach(), kspace.mask.detach() != 0, strict=True):
        edges = [torch.cat((t[..., :width], t[..., -width:]), dim=-1)
                 for t in (data, mask[:, :1].expand(data.shape[0], 1, *data.shape[2:]))]
        samples = edges[0].movedim(1, 0)[:, edges[1][:, 0]]
        if samples.shape[1] < 2 * samples.shape[0]:
            raise SignalError(f"{samples.shape[1]} samples at the edges of the readout of {samples.shape[0]} coils",
                              expected="a noise scan, or twice as many samples as coils",
                              remedy="give the noise covariance of the scan")
        found.append(samples @ samples.mH / samples.shape[1])
    return torch.stack(found)
