"""Partial Fourier as stages that fill the unmeasured end of k-space: homodyne detection and POCS."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

import torch
from jaxtyping import Complex
from torch import Tensor

from firstread.core.errors import SettingError, SignalError
from firstread.core.records import KSpace
from firstread.core.stage import Stage
from firstread.ops.fourier import DIMENSION, fft, ifft
from firstread.ops.partial_fourier import homodyne, pocs, symmetric_reach
from firstread.reconstruct.calibration import run_through_centre
from firstread.reconstruct.grappa import undersampled_axis
from firstread.reconstruct.problem import check


class _PartialFourier(Stage, ABC):
    """K-space with one unmeasured end to whole k-space, coil by coil and frame by frame."""

    result = "filled"

    def forward(self, kspace: KSpace) -> KSpace:
        kspace.require_cartesian("partial Fourier")
        check(kspace)
        axis = undersampled_axis(kspace)
        if axis is None:
            return kspace
        dim = DIMENSION[axis]
        first, last = measured_part(kspace, axis)
        others = tuple(a for a in kspace.fourier_axes if a != axis)
        lines = ifft(kspace.data, others).movedim(dim, -2)
        filled = fft(self._images(lines, first, last), ("y",)).movedim(-2, dim)
        return replace(kspace, data=fft(filled, others), mask=torch.ones_like(kspace.mask.narrow(dim, 0, 1)))

    @abstractmethod
    def _images(self, lines: Complex[Tensor, "batch time coil a line b"], first: int, last: int
                ) -> Complex[Tensor, "batch time coil a line b"]:
        """The images of ``line`` filled from those measured, ``first`` to ``last``."""


class Homodyne(_PartialFourier):
    """Fill the unmeasured end of k-space by homodyne detection (Noll, Nishimura and Macovski 1991).

    Each coil image is ``Re(e^{-iφ} F⁻¹ W y) e^{iφ}``: measured lines count twice where their conjugates are missing
    (W), φ is the phase of the lines measured on both sides. One transform; right where the phase varies slowly, and
    measured lines change where it does not (POCS keeps them).

    Reads a KSpace whose measured lines are one run through the zero frequency, the same in all frames and rows; writes
    the whole KSpace "filled". After ``Grappa`` where lines inside are missing. Raises SettingError for gaps inside,
    SignalError where nothing was measured beyond the zero frequency.
    """

    def _images(self, lines: Tensor, first: int, last: int) -> Tensor:
        return homodyne(lines, first, last)


class POCS(_PartialFourier):
    """Fill the unmeasured end of k-space by projection onto convex sets (Haacke, Lindskog and Lin 1991).

    In turn: the phase of each coil image becomes that of its symmetric centre, measured lines become as measured.

    iterations, tolerance: stop when the images change by less than ``tolerance`` of their norm.
    Reads and writes as ``Homodyne``.
    """

    def __init__(self, *, iterations: int = 20, tolerance: float | int = 1e-4):
        super().__init__()
        if iterations < 1 or tolerance < 0:
            raise SettingError(f"{iterations} iterations, tolerance {tolerance}",
                               expected="one iteration or more, tolerance ≥ 0", remedy="correct the setting")
        self.iterations, self.tolerance = iterations, tolerance

    def _images(self, lines: Tensor, first: int, last: int) -> Tensor:
        return pocs(lines, first, last, iterations=self.iterations, tolerance=self.tolerance)


def measured_part(kspace: KSpace, axis: str) -> tuple[int, int]:
    """First and last measured line along ``axis``, all lines between them measured.

    Raises SettingError for gaps between them, SignalError where one side of the zero frequency has no line.
    """
    mask = (kspace.mask != 0).movedim(DIMENSION[axis], -1).flatten(0, -2)
    every, some = mask.all(dim=0), mask.any(dim=0)
    start, stop = run_through_centre(every)
    if not bool((every == some).all()) or int(some.sum()) > stop - start:
        raise SettingError(f"lines missing along {axis} within the measured part, or other ones in other frames",
                           expected="one run of lines through the zero frequency, in all frames",
                           remedy="fill the gaps with Grappa first, or use CGSense")
    if symmetric_reach(every.shape[0], start, stop - 1) < 1:
        raise SignalError(f"lines {start} to {stop - 1} of {every.shape[0]}",
                          expected="lines on both sides of the zero frequency, which give the phase",
                          remedy="acquire more than half of k-space, or use ZeroFilled")
    return start, stop - 1
