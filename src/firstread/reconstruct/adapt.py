"""Adaptation at test time: the measured lines of one scan fit the reconstruction network to it, or it stays as it was.

Self-supervision by lines (Yaman et al. 2020; of one scan with lines kept for stopping: Yaman et al. 2022)::

    measured lines ─┬▶ trained on: again and again split in lines that are given and lines that must be predicted
                    ├▶ stopping: the step is kept at which these are predicted best
                    └▶ verdict:  unless these are predicted better than before, all is rolled back

The lines around the zero frequency are always given. All formulas act on k-space of one scan.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from firstread.core.batched import concatenate
from firstread.core.errors import SettingError
from firstread.core.keys import Key
from firstread.core.records import Image, KSpace, Note
from firstread.core.stage import Stage
from firstread.nets.cascade import DeepCascade
from firstread.ops.encoding import CartesianEncoding, at_slice
from firstread.reconstruct.problem import Problem, image_from, problem_of

FEWEST, PATIENCE = 8, 2  # lines of a verdict; checks without a better prediction


@dataclass(frozen=True)
class Adaptation:
    """What came of it.

    steps: after how many steps the parameters are kept; tried: how many were taken; before, after: mean error on the
    verdict's lines of the network as it was and as it became (or would have become); standard_error: of the difference.
    """

    steps: int
    tried: int
    before: float
    after: float
    standard_error: float
    rolled_back: bool


class TooFewLinesError(SettingError):
    """A scan has too few lines for a verdict on its adaptation."""


def hold_out(lines: Bool[Tensor, "1 mt 1 mz my 1"], share: float | int, generator: torch.Generator, *, centre: int = 4
             ) -> Bool[Tensor, "1 mt 1 mz my 1"]:
    """A random ``share`` of these lines, none of the ``centre`` lines on either side of the zero frequency.

    >>> held = hold_out(torch.ones(1, 2, 1, 1, 32, 1) > 0, 0.5, torch.Generator().manual_seed(0))
    >>> int(held.sum()), bool(held[..., 12:20, :].any())
    (24, False)
    """
    away = (torch.arange(lines.shape[-2]) - lines.shape[-2] // 2 + 0.5).abs() > centre
    where = (lines & away[:, None].to(lines.device)).flatten().nonzero().flatten()
    held = torch.zeros(lines.numel(), dtype=torch.bool, device=lines.device)
    held[where[torch.randperm(len(where), generator=generator)[:round(share * len(where))].to(where.device)]] = True
    return held.reshape(lines.shape)


def line_errors(predicted: Complex[Tensor, "1 time coil z y x"], measured: Complex[Tensor, "1 time coil z y x"],
                lines: Bool[Tensor, "1 mt 1 mz my 1"]) -> Float[Tensor, " lines"]:
    """Error of each of these lines over their mean length, half in the 2-norm and half in the 1-norm.

        e_l = ½ (‖p_l - y_l‖₂ / mean_l ‖y_l‖₂ + ‖p_l - y_l‖₁ / mean_l ‖y_l‖₁),  norms over coils and readout

    >>> y = torch.ones(1, 1, 1, 1, 2, 4, dtype=torch.complex64)
    >>> line_errors(0 * y, y, torch.ones(1, 1, 1, 1, 2, 1, dtype=torch.bool)).tolist()
    [1.0, 1.0]
    """
    every = lines.expand(-1, measured.shape[1], 1, measured.shape[3], -1, 1)[0, :, 0, ..., 0]
    away, true = (k[0].movedim(1, -1)[every].flatten(1) for k in (predicted - measured, measured))
    tiny = torch.finfo(true.real.dtype).tiny
    power = [torch.view_as_real(k).square().sum(dim=-1) + tiny for k in (away, true)]
    two, one = ([p.sum(dim=1).sqrt() for p in power], [p.sqrt().sum(dim=1) for p in power])
    return (two[0] / two[1].mean() + one[0] / one[1].mean()) / 2


def predict(network: DeepCascade, problem: Problem, given: Bool[Tensor, "1 mt 1 mz my 1"]
            ) -> Complex[Tensor, "1 time coil z y x"]:
    """All samples of the scan, from the image that the network makes of the ``given`` lines alone."""
    whole = problem.encoding
    part = CartesianEncoding(mask=given * whole.mask, sensitivities=whole.sensitivities,
                             fourier_axes=whole.fourier_axes)
    return whole(network(part.mask * problem.measured, part))


def adapt(network: DeepCascade, problem: Problem, generator: torch.Generator, *, steps: int,
          learning_rate: float | int = 3e-4, held: float = 0.15, predicted: float = 0.4, check_every: int = 5
          ) -> tuple[DeepCascade, Adaptation]:
    """A copy of ``network`` fitted to the lines of one scan, and what came of it; rolled back it is an exact copy.

    steps: of Adam, each on one slice; held: share of the lines kept for stopping, and as many for the verdict;
    predicted: share of the others that a step predicts from the rest. Every ``check_every`` steps the lines kept for
    stopping are predicted; twice in a row without a better prediction ends it. The verdict: the mean gain over lines
    must exceed 1.645 standard errors (one-sided 5 %, taking lines as independent, which those of neighbouring frames
    are not quite).

    Raises SettingError for shares outside their range, TooFewLinesError for fewer than 8 lines to hold out.
    """
    if steps < 1 or check_every < 1 or learning_rate <= 0 or not (0 < held < 0.5 and 0 < predicted < 1):
        raise SettingError(f"{steps} steps, rate {learning_rate}, {held} held out, {predicted} predicted",
                           expected="steps and rate above zero, held below 0.5, predicted between 0 and 1",
                           remedy="correct the settings")
    measured = (problem.encoding.mask != 0).any(dim=-1, keepdim=True)
    frames, slices, rows = (problem.measured.shape[axis] for axis in (1, 3, 4))
    measured = measured.expand(-1, frames, -1, slices, rows, -1)  # a mask may be the same for all of them
    stopping = hold_out(measured, held, generator)
    verdict = hold_out(measured & ~stopping, held / (1 - held), generator)
    if int(verdict.sum()) < FEWEST:
        raise TooFewLinesError(f"{int(verdict.sum())} lines to hold out", expected=f"{FEWEST} or more",
                               remedy="adapt to scans with more lines or frames, or do not adapt")
    given = measured & ~stopping & ~verdict
    adapted = copy.deepcopy(network)
    optimizer = torch.optim.Adam(adapted.parameters(), lr=learning_rate)
    first = _held_out(network, problem, given, stopping, verdict)
    found, state, kept, waited, step = first, network.state_dict(), 0, 0, 0
    while step < steps and waited < PATIENCE:
        for _ in range(min(check_every, steps - step)):
            _step(adapted, optimizer, problem, given, predicted, generator)
            step += 1
        now = _held_out(adapted, problem, given, stopping, verdict)
        better = bool(now[0].mean() < found[0].mean())
        waited = 0 if better else waited + 1
        if better or kept == 0:
            found, state, kept = now, copy.deepcopy(adapted.state_dict()), step
    gain = first[1] - found[1]
    error = float(gain.std()) / len(gain) ** 0.5
    helped = bool(found[0].mean() < first[0].mean()) and float(gain.mean()) > 1.645 * error
    adapted.load_state_dict(state if helped else network.state_dict())
    return adapted, Adaptation(kept if helped else 0, step, float(first[1].mean()), float(found[1].mean()), error,
                               not helped)


def _step(network: DeepCascade, optimizer: torch.optim.Optimizer, problem: Problem, given: Tensor, predicted: float,
          generator: torch.Generator) -> None:
    """One step of Adam: predict a share of the given lines of one slice from the others."""
    if "z" not in problem.encoding.fourier_axes and problem.measured.shape[3] > 1:
        number = int(torch.randint(problem.measured.shape[3], (1,), generator=generator))
        problem = Problem(at_slice(problem.measured, number), problem.encoding.at_slice(number))
        given = at_slice(given, number)
    wanted = hold_out(given, predicted, generator)
    optimizer.zero_grad()
    line_errors(predict(network, problem, given & ~wanted), problem.measured, wanted).mean().backward()
    optimizer.step()


@torch.no_grad()
def _held_out(network: DeepCascade, problem: Problem, given: Tensor, *held: Tensor) -> list[Tensor]:
    """Errors on the lines of each set that is held out, predicted from the given ones."""
    made = predict(network, problem, given)
    return [line_errors(made, problem.measured, lines) for lines in held]


class AdaptedCascade(Stage):
    """``Cascade`` whose network each scan fits to itself before it reconstructs it (:func:`adapt`).

    network: a trained ``DeepCascade``; each row of the batch adapts a copy of its own, it itself stays as it is.
    steps: the most steps of a scan; learning_rate, held, predicted, check_every: of :func:`adapt`.

    A note says for every row how many steps were kept, the error on held-out lines before and after, or that all was
    rolled back, or that there were too few lines to tell. The coils' sensitivities come from all measured lines, before
    and after alike. The gradient takes the
    adapted parameters as constants. Reads a KSpace, writes the complex Image "reconstruction".
    """

    result = "reconstruction"

    def __init__(self, *, network: DeepCascade, steps: int = 40, learning_rate: float = 3e-4, held: float = 0.15,
                 predicted: float = 0.4, check_every: int = 5, calibration_lines: int = 32):
        super().__init__()
        self.network = network
        self.steps, self.learning_rate, self.held, self.predicted = steps, learning_rate, held, predicted
        self.check_every, self.calibration_lines = check_every, calibration_lines

    def settings(self) -> str:
        """The network's size and the stage's own settings."""
        sizes = ", ".join(f"{name}={value!r}" for name, value in self.network.settings().items())
        return f"{sizes}, {super().settings()}"

    def forward(self, kspace: KSpace, key: Key) -> Image:
        made = []
        for row, generator in enumerate(key.generators(kspace.rows)):
            one = kspace.select(torch.tensor([row]))
            problem = problem_of(one, calibration_lines=self.calibration_lines)
            brightness = torch.ones((), device=one.data.device)
            if self.network.consistency is not None:
                brightness = problem.brightness()
            scaled = replace(problem, measured=problem.measured / brightness)
            try:
                with torch.inference_mode(False), torch.enable_grad():
                    network, found = adapt(self.network, _apart(scaled), generator, steps=self.steps, held=self.held,
                                           learning_rate=self.learning_rate, predicted=self.predicted,
                                           check_every=self.check_every)
                note = note_of(found)
            except TooFewLinesError as reason:
                network, note = copy.deepcopy(self.network), Note(
                    "adaptation_rolled_back", f"The reconstruction was not adapted to this scan: {reason.got}, "
                    f"{reason.expected} are needed.", "info")
            image = image_from(one, brightness * network.requires_grad_(False)(scaled.measured, scaled.encoding))
            made.append(image.noted(note))
        return concatenate(made).noted(*(note for image in made for note in image.notes))


def note_of(found: Adaptation) -> Note:
    """One sentence for the reader of the images."""
    errors = f"error on held-out lines {found.before:.3f} before, {found.after:.3f} after"
    if found.rolled_back:
        return Note("adaptation_rolled_back", f"The reconstruction was not adapted to this scan: {found.tried} steps "
                    f"did not help ({errors}) and were rolled back.", "info")
    return Note("adapted", f"The reconstruction was adapted to this scan in {found.steps} steps ({errors}).", "info")


def _apart(problem: Problem) -> Problem:
    """A copy that nothing recorded outside reaches."""
    whole = problem.encoding
    maps = None if whole.sensitivities is None else whole.sensitivities.detach().clone()
    return Problem(problem.measured.detach().clone(), CartesianEncoding(
        mask=whole.mask.detach().clone(), sensitivities=maps, fourier_axes=whole.fourier_axes))
