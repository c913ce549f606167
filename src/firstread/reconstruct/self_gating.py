"""Self-gating: shots along a trajectory sorted into states of breathing or of the heart, by the data alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from firstread.core.batched import concatenate
from firstread.core.errors import SettingError, UnsupportedError
from firstread.core.records import KSpace, Note
from firstread.core.stage import Stage
from firstread.ops.self_gating import CARDIAC_HZ, RESPIRATORY_HZ, bins_of, gating_signal, phases_of

Motion = Literal["respiratory", "cardiac"]


class SelfGate(Stage):
    """K-space along a trajectory whose frames are states of breathing, or phases of the heart's cycle.

    The shots of all frames, in the order of their acquisition, are sorted by the magnitude of the centre of k-space:
    freed of the spoke's direction, band-passed, its largest cluster of coils joined by principal components
    (:func:`~firstread.ops.self_gating.gating_signal`). Groups that are smaller than the largest end in shots whose mask
    is zero.

    shot_s: time from shot to shot. motion: ``respiratory`` (states of equal size, by the value of the signal) or
        ``cardiac`` (phases from peak to peak). count: of the states. band_hz: None for 0.1 to 0.7 or 0.7 to 2.5 Hz.

    Reads a KSpace with a trajectory in the plane and one slice, writes the KSpace "gated". Differentiable in the data
    (the sorting is taken as constant).
    """

    result = "gated"

    def __init__(self, *, shot_s: float, motion: Motion = "respiratory", count: int = 4,
                 band_hz: tuple[float, float] | None = None):
        super().__init__()
        if shot_s <= 0 or count < 1 or motion not in ("respiratory", "cardiac"):
            raise SettingError(f"{shot_s} s from shot to shot, {count} states of {motion!r}",
                               expected="above zero, one or more, 'respiratory' or 'cardiac'",
                               remedy="correct the setting")
        self.shot_s, self.motion, self.count = shot_s, motion, count
        self.band_hz = band_hz or (RESPIRATORY_HZ if motion == "respiratory" else CARDIAC_HZ)

    def forward(self, kspace: KSpace) -> KSpace:
        if kspace.trajectory is None or kspace.trajectory.shape[2] != 2 or kspace.data.shape[3] != 1:
            raise UnsupportedError("Cartesian or 3D k-space, or several slices, for self-gating",
                                   expected="one slice along a trajectory in the plane",
                                   remedy="give radial data, slice by slice")
        rows = ((kspace.select(torch.tensor([row])), own) for row, own in enumerate(kspace.trajectory))
        return concatenate([self._row(one, own) for one, own in rows])

    def _row(self, kspace: KSpace, trajectory: Tensor) -> KSpace:
        frames = kspace.data.shape[1]
        data = kspace.data[0, :, :, 0].movedim(0, 1).flatten(1, 2)
        places = trajectory.expand(frames, *trajectory.shape[1:]).movedim(0, 1).flatten(1, 2)
        with torch.no_grad():
            signal = gating_signal(data.detach(), places.detach(), self.shot_s, self.band_hz)
            sort = bins_of if self.motion == "respiratory" else phases_of
            state = sort(signal, self.count)
        shots, used = grouped(state, self.count)
        mask = used.to(data.real)[None, :, None, None, :, None]
        gated = data[:, shots].movedim(0, 1)[None, :, :, None] * mask
        note = Note("self_gated", f"{data.shape[1]} shots were sorted into {self.count} {self.motion} states of "
                    f"{int(used.sum(1).min())} to {int(used.sum(1).max())} shots by the centre of k-space.", "info")
        return replace(kspace, data=gated, mask=mask, trajectory=places[:, shots].movedim(0, 1)[None], times_s=None,
                       cycle_s=None).noted(note)


def grouped(state: Int[Tensor, " shot"], count: int) -> tuple[Int[Tensor, "state most"], Tensor]:
    """Numbers of the shots of every state, filled up with shot 0, and which of them count.

    >>> grouped(torch.tensor([1, 0, 1]), 2)[0].tolist(), grouped(torch.tensor([1, 0, 1]), 2)[1].tolist()
    ([[1, 0], [0, 2]], [[True, False], [True, True]])
    """
    own = [torch.nonzero(state == s)[:, 0] for s in range(count)]
    most = max(len(o) for o in own)
    shots = torch.stack([torch.cat((o, o.new_zeros(most - len(o)))) for o in own])
    return shots, torch.arange(most, device=state.device) < torch.tensor([len(o) for o in own])[:, None]
