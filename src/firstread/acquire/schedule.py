"""A scan-time budget in heartbeats: how many lines per frame, in which beat each, and what short beats leave out.

Segmented cine with prospective triggering: after each R wave, ``views`` lines of frame 0 are measured, then of frame 1,
and so on; the next beat brings the next lines of every frame. One line takes TR. Source: Atkinson and Edelman 1991.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from firstread.core.errors import SettingError
from firstread.core.records import Note


def views_per_segment(rr_s: float | int, tr_s: float | int, frames: int, *, delay_s: float | int = 0.0,
                      margin: float | int = 0.1) -> int:
    """Lines of each frame in one heartbeat, ``⌊((1 - margin) RR - delay) / (frames TR)⌋``.

    margin: share of the R-R interval that is left free, so that somewhat shorter beats lose nothing; delay_s: from the
    R wave to the first line. Raises SettingError where not even one line of every frame fits.

    >>> views_per_segment(0.8, 0.003, 20)
    12
    """
    if min(rr_s, tr_s) <= 0 or frames < 1 or delay_s < 0 or not 0 <= margin < 1:
        raise SettingError(f"R-R {rr_s} s, TR {tr_s} s, {frames} frames, delay {delay_s} s, margin {margin}",
                           expected="times above zero, one frame or more, a margin from 0 to below 1",
                           remedy="correct the numbers")
    room = (1 - margin) * rr_s - delay_s
    views = math.floor(room / (frames * tr_s) + 1e-9)
    if views < 1:
        raise SettingError(f"{frames} frames of one {1000 * tr_s:g} ms line in {1000 * room:g} ms of a heartbeat",
                           expected="room for one line of every frame", remedy="use fewer frames or a shorter TR")
    return views


def lines_per_frame(heartbeats: int, rr_s: float | int, tr_s: float | int, frames: int, *, dummy_beats: int = 1,
                    spare_beats: int = 0, delay_s: float | int = 0.0, margin: float | int = 0.1) -> int:
    """Lines of every frame that ``heartbeats`` per slice pay for, ``(beats - dummy - spare) views``.

    dummy_beats: without data, until the magnetization is steady; spare_beats: kept to repeat what short beats cut off.
    Raises SettingError where no beat is left.

    >>> lines_per_frame(8, 0.8, 0.003, 20)
    84
    """
    left = heartbeats - dummy_beats - spare_beats
    if min(dummy_beats, spare_beats) < 0 or left < 1:
        raise SettingError(f"{heartbeats} heartbeats with {dummy_beats} dummy and {spare_beats} spare ones",
                           expected="one heartbeat or more for data", remedy="raise the number of heartbeats")
    return left * views_per_segment(rr_s, tr_s, frames, delay_s=delay_s, margin=margin)


def frame_times_s(frames: int, views: int, tr_s: float | int, *, delay_s: float | int = 0.0
                  ) -> Float[Tensor, " frames"]:
    """The middle of every frame after the R wave, ``delay + (t + 1/2) views TR``.

    >>> [round(t, 3) for t in frame_times_s(2, 10, 0.004).tolist()]
    [0.02, 0.06]
    """
    return delay_s + (torch.arange(frames, dtype=torch.float64) + 0.5) * views * tr_s


def require_equal_lines(mask: Num[Tensor, "frames lines"]) -> int:
    """The number of lines per frame; raises SettingError for a mask that is not of ones and zeros, and where frames
    differ, since beats bring each frame as many.

    >>> require_equal_lines(torch.tensor([[1, 0, 1], [0, 1, 1]]))
    2
    """
    if bool(((mask != 0) & (mask != 1)).any()):
        raise SettingError("a mask with values between 0 and 1", expected="ones and zeros: a line is measured or not",
                           remedy="give the pattern that is measured")
    counts = (mask != 0).sum(dim=1)
    if bool((counts != counts[0]).any()) or int(counts[0]) < 1:
        raise SettingError(f"{int(counts.min())} to {int(counts.max())} lines per frame",
                           expected="the same number in every frame, one or more",
                           remedy="choose the lines of every frame with the same budget")
    return int(counts[0])


def centre_out(mask: Num[Tensor, "frames lines"]) -> Int[Tensor, "frames count"]:
    """The measured lines of every frame, those next to the zero frequency first (then what is lost is far out).

    >>> centre_out(torch.tensor([[1, 0, 1, 1, 0, 1]])).tolist()
    [[3, 2, 5, 0]]
    """
    count, lines = require_equal_lines(mask), mask.shape[1]
    distance = (2 * (torch.arange(lines) - lines // 2)).abs() + (torch.arange(lines) < lines // 2)
    ranked = torch.where(mask != 0, distance.to(mask.device), 4 * lines)
    return ranked.argsort(dim=1, stable=True)[:, :count]


@dataclass(frozen=True, eq=False)
class TriggeredScan:
    """What a triggered scan measured.

    mask: ``[frames, lines]``; order: rows (beat, frame, line) in the order of measurement; after_r_s: when each began
    after its R wave; missing: rows (frame, line) that were planned and not measured.
    """

    mask: Float[Tensor, "frames lines"]
    order: Int[Tensor, "acquisitions 3"]
    after_r_s: Float[Tensor, " acquisitions"]
    missing: Int[Tensor, "left 2"]

    @property
    def beats(self) -> int:
        """Heartbeats from the first to the last one with data."""
        return int(self.order[:, 0].max()) + 1 if len(self.order) else 0

    @property
    def notes(self) -> tuple[Note, ...]:
        """What a reader of the images must know: lines that short beats left out."""
        if not len(self.missing):
            return ()
        frames = self.missing[:, 0].unique().tolist()
        named = ", ".join(str(f + 1) for f in frames)
        return (Note("short_beats", f"Heartbeats were shorter than planned: {len(self.missing)} lines of frame "
                     f"{named} of {self.mask.shape[0]} were not measured."),)


def triggered_scan(mask: Num[Tensor, "frames lines"], rr_s: Sequence[float], *, tr_s: float | int, views: int,
                   delay_s: float | int = 0.0) -> TriggeredScan:
    """Measure ``mask`` in heartbeats of the lengths ``rr_s`` and no more (dummy beats not among them).

    Line v of frame t begins ``delay + (t views + v) TR`` after the R wave, in every beat, so that a frame always shows
    the same time after the R wave. What has not ended when the next R wave comes is cut off; its frame measures it in
    its next turn, before its other lines, as long as heartbeats are left; what is left then is ``missing``.
    """
    if views < 1 or not len(rr_s) or not all(0 < r < math.inf for r in rr_s) or tr_s <= 0 or delay_s < 0:
        raise SettingError(f"{views} views, TR {tr_s} s, {len(rr_s)} heartbeats", expected="one view and one heartbeat "
                           "or more, times above zero", remedy="correct the numbers")
    waiting = [lines[::-1] for lines in centre_out(mask).tolist()]
    order: list[tuple[int, int, int]] = []
    after: list[float] = []
    for beat, length in enumerate(rr_s):
        for frame, lines in enumerate(waiting):
            for view in range(min(views, len(lines))):
                begin = delay_s + (frame * views + view) * tr_s
                if begin + tr_s <= length + 1e-9:
                    order.append((beat, frame, lines.pop()))
                    after.append(begin)
    left = [(frame, line) for frame, lines in enumerate(waiting) for line in reversed(lines)]
    measured = torch.zeros(mask.shape)
    done = torch.tensor(order, dtype=torch.int64).reshape(-1, 3)
    measured[done[:, 1], done[:, 2]] = 1
    return TriggeredScan(measured, done, torch.tensor(after, dtype=torch.float64),
                         torch.tensor(left, dtype=torch.int64).reshape(-1, 2))
