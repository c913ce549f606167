"""Which lines to measure next: those that carry the disagreement of reconstructions into a measured number."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from firstread.core.errors import SettingError
from firstread.ops.fourier import fft


@dataclass(frozen=True, eq=False)
class NextLines:
    """New lines, the same in all slices, and what they promise.

    mask: ``[frames, lines]``, the new ones alone; sd: of the number between the draws, to first order; sd_after: the
    same if all draws agreed on the new lines, and sd_random if they agreed on as many lines taken at random.
    """

    mask: Float[Tensor, "frames lines"]
    sd: float
    sd_after: float
    sd_random: float


def line_contributions(image: Complex[Tensor, "batch time 1 z y x"], toward: Complex[Tensor, "batch time 1 z y x"]
                       ) -> Float[Tensor, "batch time z y"]:
    """What each line of an image brings into a number of gradient g, ``Re Σ_x (F g)* (F x)``; all together ``Re gᴴ x``.

    >>> x = torch.ones(1, 1, 1, 1, 2, 2, dtype=torch.complex64)
    >>> line_contributions(x, x).flatten().tolist()
    [0.0, 4.0]
    """
    return (fft(toward).conj() * fft(image)).real.sum(dim=-1)[:, :, 0]


def fewest_lacking(measured: Float[Tensor, "time z lines"]) -> int:
    """How many lines the frame that lacks the fewest still lacks in some slice.

    >>> fewest_lacking(torch.tensor([[[1.0, 0.0, 1.0]], [[0.0, 0.0, 1.0]]]))
    1
    """
    return int((measured == 0).any(dim=1).sum(dim=1).min())


def next_lines(contributions: Float[Tensor, "draw time z lines"], measured: Float[Tensor, "time z lines"], count: int,
               *, generator: torch.Generator) -> NextLines:
    """The ``count`` lines per frame whose contributions differ most between draws, of those that some slice lacks.

    Lines are taken by their own variance ``Var_d Σ_z (1 - M) c`` in every frame, the same in all slices; frames that no
    draw touches take those of the largest mean over the others. Then what is left is ``Var_d`` of the sum over all
    other lines. First order, and as if the draws agreed on a measured line; that more lines also help frames beside
    their own is left out.

    Raises SettingError for fewer than two draws, or more lines than some frame still lacks.
    """
    frames, _, lines = measured.shape
    lacking, fewest = (measured == 0).any(dim=1), fewest_lacking(measured)
    if len(contributions) < 2 or not 1 <= count <= fewest:
        raise SettingError(f"{len(contributions)} draws, {count} of {lines} lines", remedy="ask for fewer lines"
                           if fewest else "nothing is left to measure", expected="two draws or more, and at most the "
                           f"{fewest} lines that every frame still lacks in some slice")
    contributions = contributions.detach().double()  # a choice has no gradient
    open_lines = (contributions * (1 - measured)).sum(dim=2)
    whole = contributions.sum(dim=(1, 2, 3))

    def best(scores: Float[Tensor, "time lines"]) -> Float[Tensor, "time lines"]:
        rows = scores.masked_fill(~lacking, -torch.inf).topk(count, dim=1).indices
        return torch.zeros(frames, lines, dtype=torch.float64).scatter(1, rows, 1.0)

    own = open_lines.var(dim=0)
    untouched = (own == 0).all(dim=1, keepdim=True)
    chosen = best(torch.where(untouched, own.mean(dim=0), own))
    chance = [best(torch.rand(frames, lines, generator=generator).double()) for _ in range(32)]
    left = [(whole - (open_lines * some).sum(dim=(1, 2))).var() for some in chance]
    after = (whole - (open_lines * chosen).sum(dim=(1, 2))).var()
    return NextLines(chosen.float(), float(whole.std()), float(after.sqrt()), float(torch.stack(left).mean().sqrt()))
