"""GRAPPA as a stage that fills missing lines of k-space."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Complex
from torch import Tensor

from firstread.core.errors import SettingError, SignalError, UnsupportedError
from firstread.core.records import KSpace, Note
from firstread.core.stage import Stage
from firstread.ops.fourier import DIMENSION, fft, ifft
from firstread.ops.grappa import Offsets, apply_kernel, fit_kernel, plan
from firstread.reconstruct.calibration import run_through_centre, time_mean
from firstread.reconstruct.problem import check


class Grappa(Stage):
    """Fill the lines that were not measured by 2-D kernels over lines and readout, for any pattern of lines per frame.

    lines: source lines of a kernel, half of them on each side; readout: samples of each along the readout, odd.
    regularization: of the fit, relative to the mean eigenvalue of its normal equations.
    calibration_lines: the most centre lines that the kernels are fitted on. They are found by themselves: the run of
        lines through the zero frequency that were measured in at least one frame, each the mean over those frames, so
        that frames with interleaved lines calibrate each other (TGRAPPA, Breuer et al. 2005).

    Reads a KSpace, writes KSpace "grappa" whose mask holds measured and filled lines; lines too far from measured ones
    for the calibration region, and beyond the ends of a partial acquisition, stay empty. Combine with ``ZeroFilled``.
    Differentiable, through the fit of the kernels too. After Griswold et al. 2002.

    Raises SignalError for no measured centre, SettingError for kernels larger than the calibration region or one coil,
    UnsupportedError where more than one axis is undersampled.
    """

    result = "grappa"

    def __init__(self, *, lines: int = 4, readout: int = 5, regularization: float | int = 1e-3,
                 calibration_lines: int = 48):
        super().__init__()
        if lines < 2 or lines % 2 or readout < 1 or readout % 2 == 0 or regularization < 0 or calibration_lines < 3:
            raise SettingError(f"{lines} source lines, {readout} readout samples, regularization {regularization}, "
                               f"{calibration_lines} calibration lines", expected="an even number of lines, an odd "
                               "number of samples, λ ≥ 0, 3 calibration lines or more", remedy="correct the setting")
        self.lines, self.readout, self.regularization = lines, readout, regularization
        self.calibration_lines = calibration_lines

    def forward(self, kspace: KSpace) -> KSpace:
        kspace.require_cartesian("GRAPPA")
        check(kspace)
        if kspace.data.shape[2] < 2:
            raise SettingError("one coil for GRAPPA", expected="two coils or more",
                               remedy="use compressed sensing (SpatialTV), or Homodyne for a partial acquisition")
        phase = undersampled_axis(kspace)
        if phase is None:
            return kspace
        readout = "x" if phase != "x" else "y"
        others = tuple(a for a in kspace.fourier_axes if a not in (phase, readout))
        mean, _ = time_mean(kspace)
        order = (0, *(6 + DIMENSION[a] for a in ("z", "y", "x") if a not in (phase, readout)), 1, 2,
                 6 + DIMENSION[phase], 6 + DIMENSION[readout])

        def arranged(data: Tensor) -> Tensor:
            data = ifft(data, others)
            return (data if readout in kspace.fourier_axes else fft(data, (readout,))).permute(order)

        data, mean = arranged(kspace.data), arranged(mean)
        mask = (kspace.mask != 0).permute(order).expand(data.shape[0], data.shape[1], data.shape[2], 1, -1, 1)
        rows, known = [], []
        for row in range(data.shape[0]):
            made = [self._fill(data[row, s], mean[row, s, 0], mask[row, s, :, 0, :, 0]) for s in range(data.shape[1])]
            rows.append(torch.stack([filled for filled, _ in made]))
            known.append(torch.stack([lines for _, lines in made]))
        back = [order.index(d) for d in range(6)]
        filled, lines = torch.stack(rows).permute(back), torch.stack(known)[:, :, :, None, :, None].permute(back)
        filled = fft(filled if readout in kspace.fourier_axes else ifft(filled, (readout,)), others)
        left = int((~lines).sum())
        made = replace(kspace, data=filled, mask=lines.to(kspace.mask.dtype))
        return made if left == 0 else made.noted(Note(
            "grappa_unfilled", f"GRAPPA left {left} of {lines.numel()} lines empty: too far from measured ones for "
            "the calibration region, or outside the measured part of k-space.", "info"))

    def _fill(self, frames: Complex[Tensor, "time coil line sample"], mean: Complex[Tensor, "coil line sample"],
              measured: Bool[Tensor, "time line"]) -> tuple[Complex[Tensor, "time coil line sample"],
                                                            Bool[Tensor, "time line"]]:
        """One slice: the filled frames and which of their lines are known."""
        calibration = self._calibration(mean, measured.any(dim=0))
        coils, room, samples = calibration.shape
        positions = samples - self.readout + 1
        least = {n: max(1, -(-n * self.readout * coils // positions)) for n in range(1, self.lines + 1)}
        kernels: dict[Offsets, Tensor] = {}
        made, known = [], measured.clone()
        for frame, data in enumerate(frames):
            groups = plan(measured[frame], lines=self.lines, room=room, least=least)
            if not groups and not bool(measured[frame].all()):
                raise SettingError(f"GRAPPA kernels of {self.readout} samples of {coils} coils larger than the "
                                   f"calibration region of {room} lines × {samples} samples",
                                   expected="one source line and its target inside, with as many places as unknowns",
                                   remedy="acquire more centre lines, lower `readout`, or compress the coils")
            for offsets, lines in groups.items():
                if offsets not in kernels:
                    kernels[offsets] = fit_kernel(calibration, offsets, readout=self.readout,
                                                  regularization=self.regularization)
                values = apply_kernel(frames[frame], kernels[offsets], offsets, lines, readout=self.readout)
                where = torch.tensor(lines, device=data.device)
                data = data.index_copy(1, where, values)
                known[frame, where] = True
            made.append(data)
        return torch.stack(made), known

    def _calibration(self, mean: Complex[Tensor, "coil line sample"], measured: Bool[Tensor, " line"]
                     ) -> Complex[Tensor, "coil run sample"]:
        start, stop = run_through_centre(measured)
        if stop - start < 2:
            raise SignalError(f"{stop - start} measured lines at the centre of k-space",
                              expected="a fully sampled centre, in one frame or in all together",
                              remedy="acquire centre lines, or give coil maps and use CGSense")
        if self.readout > mean.shape[-1]:
            raise SettingError(f"a kernel of {self.readout} samples along a readout of {mean.shape[-1]}",
                               expected="a kernel shorter than the readout", remedy="lower `readout`")
        first = max(start, measured.shape[0] // 2 - self.calibration_lines // 2)
        return mean[:, first : min(stop, first + self.calibration_lines)]


def undersampled_axis(kspace: KSpace) -> str | None:
    """The one Fourier axis along which lines are missing; None where nothing is.

    Raises UnsupportedError for more than one.
    """
    found = []
    for axis in kspace.fourier_axes:
        mask = kspace.mask != 0
        if bool((mask != mask.narrow(DIMENSION[axis], 0, 1)).any()):
            found.append(axis)
    if len(found) > 1:
        raise UnsupportedError(f"samples missing along {' and '.join(found)}", expected="lines missing along one axis",
                               remedy="use CGSense or SpatialTV (--method sense or tv)")
    return found[0] if found else None
