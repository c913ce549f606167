"""Policies of active acquisition: random, planned, by disagreement, by a network; the oracle."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from firstread.acquire.active import lines_of, measure_lines
from firstread.acquire.sampling import line_probability
from firstread.core.errors import SettingError
from firstread.core.records import Image, KSpace
from firstread.ops.fourier import fft

Reconstruct = Callable[[KSpace], Image]
Endpoint = Callable[[Image], Tensor]
Loss = Callable[[KSpace], Tensor]


class RandomLines:
    """Lines at random, dense in the centre: without replacement, with ``line_probability``.

    Scores ``p_k / e_k`` with exponential noise e: their largest are such a draw (Efraimidis and Spirakis 2006).
    """

    def __init__(self, *, acceleration: float | int = 6):
        self.acceleration = acceleration

    def __call__(self, measured: KSpace, generator: torch.Generator) -> Float[Tensor, "batch time z lines"]:
        shape = lines_of(measured).shape
        uniform = torch.rand(shape, generator=generator).clamp(1e-12, 1 - 1e-7)
        return (line_probability(shape[-1], self.acceleration) / -uniform.log()).float()


class PlannedLines:
    """Lines in an order that was fixed before: nothing that is measured changes it.

    ranking: ``[frames, lines]``, or one row for all frames; the higher the sooner (a learned mask's logits …).
    """

    def __init__(self, *, ranking: Float[Tensor, "frames lines"]):
        self.ranking = ranking.detach()

    def __call__(self, measured: KSpace, generator: torch.Generator) -> Float[Tensor, "batch time z lines"]:
        batch, frames, slices, lines = lines_of(measured).shape
        if self.ranking.shape[1] != lines or self.ranking.shape[0] not in (1, frames):
            raise SettingError(f"a ranking of {tuple(self.ranking.shape)} for {frames} frames of {lines} lines",
                               expected="the same frames and lines, or one frame for all", remedy="rank these lines")
        return self.ranking[None, :, None].expand(batch, frames, slices, lines)


def line_disagreement(images: Complex[Tensor, "member batch time 1 z y x"],
                      toward: Complex[Tensor, "batch time 1 z y x"] | None = None) -> Float[Tensor, "batch time z y"]:
    """How much reconstructions disagree on each line: ``Σ_x Var_m (F x_m)``, the variance over members m.

    toward: a direction g of image space, such as an endpoint's gradient; then ``Var_m Re Σ_x (F g)* (F x_m)``, the
    variance that the line brings into the endpoint, to first order.

    >>> line_disagreement(torch.ones(3, 1, 1, 1, 1, 4, 4, dtype=torch.complex64)).abs().max().item()
    0.0
    """
    lines = fft(images)
    if toward is None:
        return (lines - lines.mean(dim=0)).abs().square().mean(dim=0).sum(dim=-1)[:, :, 0]
    shares = (fft(toward).conj() * lines).real.sum(dim=-1)
    return shares.var(dim=0, correction=0)[:, :, 0]


class Disagreement:
    """Query by committee: the lines on which several reconstructions of what was measured disagree most.

    members: reconstructions that differ (methods, strengths, weights of an ensemble).
    endpoint: a number per row from an image; lines then count by the disagreement that they bring into the endpoint
        (``line_disagreement`` toward its gradient at the members' mean). None stands for the image itself.
    """

    def __init__(self, *, members: Sequence[Reconstruct], endpoint: Endpoint | None = None):
        if len(members) < 2:
            raise SettingError(f"{len(members)} reconstructions", expected="two or more, to disagree",
                               remedy="add a reconstruction with another setting")
        self.members, self.endpoint = tuple(members), endpoint

    def __call__(self, measured: KSpace, generator: torch.Generator) -> Float[Tensor, "batch time z lines"]:
        with torch.no_grad():
            made = [member(measured) for member in self.members]
        images = torch.stack([image.data for image in made])
        if self.endpoint is None:
            return line_disagreement(images)
        with torch.enable_grad():
            mean = images.mean(dim=0).requires_grad_()
            image = Image(made[0].rows, mean, made[0].grid, made[0].times_s, made[0].cycle_s)
            (toward,) = torch.autograd.grad(self.endpoint(image).sum(), mean)
        return line_disagreement(images, toward)


class ScoringNetwork:
    """A small network that scores lines from the current reconstruction, trained on the gains of an oracle.

    network: ``line_features`` to log scores (``nets.lines.LineScorer``); reconstruct: of what was measured.
    """

    def __init__(self, *, network: nn.Module, reconstruct: Reconstruct):
        self.network, self.reconstruct = network, reconstruct

    @torch.no_grad()
    def __call__(self, measured: KSpace, generator: torch.Generator) -> Float[Tensor, "batch time z lines"]:
        features = line_features(self.reconstruct(measured).data, lines_of(measured))
        return self.network(features).exp()


def line_features(image: Complex[Tensor, "batch time 1 z y x"], mask: Float[Tensor, "batch time z y"]
                  ) -> Float[Tensor, "batch features time z y"]:
    """What is known of every line: log energy of the image and of its change over time, mask, mask over time, place.

    Energies ``Σ_x |F x|²`` are relative to their mean over frames and lines; place is ``|k| / N``.
    """
    energy = fft(image).abs().square().sum(dim=-1)[:, :, 0]
    change = fft(image - image.mean(dim=1, keepdim=True)).abs().square().sum(dim=-1)[:, :, 0]
    scale = energy.mean(dim=(1, 3), keepdim=True).clamp_min(torch.finfo(energy.dtype).tiny)
    place = (torch.arange(mask.shape[-1]) - mask.shape[-1] // 2).abs() / mask.shape[-1]
    return torch.stack(((energy / scale + 1e-6).log(), (change / scale + 1e-6).log(), mask,
                        mask.mean(dim=1, keepdim=True).expand_as(mask), place.to(mask).expand_as(mask)), dim=1)


def line_gains(full: KSpace, mask: Float[Tensor, "batch time z lines"], loss: Loss
               ) -> Float[Tensor, "batch time z lines"]:
    """How fast ``loss`` falls with the least-squares weight of every line, ``-∂L/∂w`` at the measured lines.

    First order, and exact in the limit of a small weight (``ops.encoding.measured_part``); loss: of the k-space that
    these lines give, a scalar.
    """
    with torch.enable_grad():
        weight = mask.detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(loss(measure_lines(full, weight)), weight)
    return -slope


class GreedyOracle:
    """Greedy with the truth in hand: the lines along which the loss falls fastest. An upper mark, not a policy to use.

    full: the fully sampled k-space; loss: of the k-space measured, for images or for an endpoint, such as
        ``lambda kspace: (chain(kspace)["phenotypes"]["LVEF"].value - truth).square().sum()``.
    """

    def __init__(self, *, full: KSpace, loss: Loss):
        self.full, self.loss = full, loss

    def __call__(self, measured: KSpace, generator: torch.Generator) -> Float[Tensor, "batch time z lines"]:
        return line_gains(self.full, lines_of(measured), self.loss)
