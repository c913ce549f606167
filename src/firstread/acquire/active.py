"""Active acquisition: in every heartbeat the lines that a policy scores highest, given what was measured so far.

    measured, mask ─▶ policy ─▶ scores of lines ─▶ the best ``per_step`` of every frame and slice ─▶ measured, mask …
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Num
from torch import Tensor

from firstread.acquire.lines import top_lines
from firstread.acquire.sampling import Sampling
from firstread.core.errors import SettingError
from firstread.core.keys import Key
from firstread.core.records import KSpace

_GOLDEN = (5**0.5 - 1) / 2  # its multiples are spread evenly over the circle


@runtime_checkable
class Policy(Protocol):
    """Scores of all lines, the higher the sooner, from what was measured so far and nothing else."""

    def __call__(self, measured: KSpace, generator: torch.Generator) -> Float[Tensor, "batch time z lines"]: ...


def measure_lines(full: KSpace, mask: Num[Tensor, "batch time z lines"]) -> KSpace:
    """What a scan of these lines of fully sampled k-space gives, ``y = M k``; differentiable in the mask."""
    full.require_cartesian("a choice of lines")
    whole = mask[:, :, None, :, :, None]
    return replace(full, data=whole * full.data, mask=whole)


def lines_of(kspace: KSpace) -> Float[Tensor, "batch time z lines"]:
    """Which lines were measured, one entry per row, frame, slice and line.

    Raises SettingError where the mask varies along the readout.
    """
    if kspace.mask.shape[-1] != 1:
        raise SettingError(f"a mask of {kspace.mask.shape[-1]} samples along the readout",
                           expected="whole lines along y", remedy="undersample along y alone")
    batch, frames, _, slices, lines, _ = kspace.data.shape
    return kspace.mask[:, :, 0, :, :, 0].float().expand(batch, frames, slices, lines)


def add_lines(mask: Float[Tensor, "batch time z lines"], scores: Float[Tensor, "batch time z lines"], count: int, *,
              spread: float | int = 0) -> Float[Tensor, "batch time z lines"]:
    """``mask`` and the ``count`` best lines of every frame and slice that it lacks.

    spread: in frames. Scores say what each line is worth alone, yet a line that one frame measures is worth little in
    the frames beside it. Above zero, frames choose one after the other (far ones first), and each line chosen lowers
    its score in the frame d away, on the circle of the heartbeat, by the factor ``1 - exp(-d² / (2 spread²))``; scores
    below zero then count as zero.

    >>> add_lines(torch.tensor([[[[1.0, 0, 0]]]]), torch.tensor([[[[9.0, 1, 2]]]]), 1).tolist()
    [[[[1.0, 0.0, 1.0]]]]
    """
    total = int(mask[0, 0, 0].sum()) + count
    if spread <= 0:
        return top_lines(scores, total, kept=mask != 0)
    frames, worth, made = mask.shape[1], scores.clamp_min(0), mask.clone()
    for frame in sorted(range(frames), key=lambda t: t * _GOLDEN % 1):
        made[:, frame] = top_lines(worth[:, frame], total, kept=mask[:, frame] != 0)
        away = (torch.arange(frames, device=mask.device) - frame).abs()
        near = torch.exp(-0.5 * (torch.minimum(away, frames - away) / spread) ** 2)[:, None, None]
        worth = worth * (1 - near * (made - mask)[:, frame, None])
    return made


def acquire_actively(full: KSpace, policy: Policy, *, count: int, start: Sampling, per_step: int = 1,
                     spread: float | int = 0, key: Key | None = None,
                     watch: Callable[[KSpace], None] | None = None) -> KSpace:
    """Measure ``count`` lines of every frame and slice of ``full``, step by step as ``policy`` asks.

    full: fully sampled k-space, from which a simulated scanner answers; the policy sees only what was measured.
    start: the lines measured before the policy is asked, as many in every frame; they count.
    per_step: lines per frame and step, the views of one heartbeat; the last step takes what is left.
    spread: how far apart frames measure the same line in a step (``add_lines``).
    watch: called with the k-space after the start and after every step.

    Raises SettingError where the start alone spends more than the budget, or k-space is not fully sampled.
    """
    have = lines_of(full)
    if bool((have == 0).any()):
        raise SettingError("k-space of which lines are missing", expected="fully sampled k-space to choose lines from",
                           remedy="encode it with FullySampled()")
    key = key if key is not None else Key(0, "acquire_actively")
    batch, frames, slices, lines = have.shape
    mask = torch.stack([_start(start, frames, slices, lines, key.generator(row, 0)) for row in range(batch)]).to(have)
    begun = int(mask[0, 0, 0].sum())
    if bool((mask.sum(dim=-1) != begun).any()):
        raise SettingError("a start of unequal lines per frame", expected="as many in every frame and slice",
                           remedy="begin with a pattern of a fixed number of lines")
    if not begun <= count <= lines or per_step < 1:
        raise SettingError(f"a budget of {count} lines per frame, {per_step} in a step, of {lines} lines after a start "
                           f"with {begun}", expected=f"{begun} to {lines} lines, one or more in a step",
                           remedy="raise the budget or begin with fewer lines")
    measured, step = measure_lines(full, mask), 0
    while True:
        if watch is not None:
            watch(measured)
        left = count - begun - step * per_step
        if left <= 0:
            return measured
        step += 1
        scores = policy(measured, key.generator(step, 1))
        if scores.shape != mask.shape or not bool(torch.isfinite(scores).all()):
            raise SettingError(f"scores of shape {tuple(scores.shape)}, or not finite", expected=f"finite scores of "
                               f"shape {tuple(mask.shape)}", remedy="correct the policy")
        mask = add_lines(mask, scores.detach().to(mask), min(per_step, left), spread=spread)
        measured = measure_lines(full, mask)


def _start(start: Sampling, frames: int, slices: int, lines: int, generator: torch.Generator) -> Tensor:
    """Start lines ``[frames, slices, lines]``: a stored or learned pattern is the same in all slices."""
    if isinstance(start, torch.nn.Module):
        return start(frames, lines, generator)[:, None].expand(frames, slices, lines)
    return start(frames * slices, lines, generator).reshape(frames, slices, lines)
