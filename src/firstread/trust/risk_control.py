"""Conformal risk control: the smallest setting whose expected loss on a new case is at most a stated risk.

Each calibration case has a loss at every setting λ of a ladder, bounded by B and falling (or flat) as λ grows. With

    λ̂ = min { λ : (sum_i L_i(λ) + B) / (n + 1) <= risk }

the expected loss of an exchangeable new case is at most ``risk``. With a loss of 0 or 1 it is split conformal.
Source: Angelopoulos, Bates, Fisch, Lei and Schuster 2024 (ICLR), theorem 1.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from firstread.core.errors import SettingError, SignalError


def smallest_risk_set(risk: float, bound: float = 1.0) -> int:
    """The smallest n for which a risk can be controlled at all, ``bound / (n + 1) <= risk``.

    >>> smallest_risk_set(0.1), smallest_risk_set(0.05)
    (9, 19)
    """
    if not 0 < risk < bound:
        raise SettingError(f"a risk of {risk}", expected=f"between 0 and the largest loss, {bound}",
                           remedy="write a mean loss of 5 % as 0.05")
    return math.ceil(bound / risk - 1 - 1e-9)


def controlled_setting(losses: Float[Tensor, "case setting"], settings: Float[Tensor, " setting"], risk: float, *,
                       bound: float = 1.0) -> float:
    """The smallest of ascending ``settings`` with ``(sum of losses + bound) / (n + 1) <= risk``.

    losses: of each calibration case at each setting, in [0, bound], not rising along settings. Raises SettingError
    where there are too few cases (says the smallest number), where a loss rises, or where no setting is enough;
    SignalError for NaN.

    >>> losses = torch.tensor([1.0, 0.0]).expand(19, 2).clone()
    >>> controlled_setting(losses, torch.tensor([1.0, 2.0]), 0.05)
    2.0
    """
    n = len(losses)
    if n < smallest_risk_set(risk, bound):
        raise SettingError(f"{n} calibration cases for a risk of {risk}",
                           expected=f"{smallest_risk_set(risk, bound)} or more",
                           remedy="calibrate on more cases, or allow a larger risk")
    if not bool(torch.isfinite(losses).all()) or float(losses.min()) < 0 or float(losses.max()) > bound + 1e-6:
        raise SignalError("losses that are no numbers or out of range", expected=f"losses from 0 to {bound}",
                          remedy="leave out cases that could not be measured, and count them")
    if bool((settings.diff() <= 0).any()) or bool((losses.diff(dim=1) > 1e-6).any()):
        raise SettingError("settings that do not ascend, or a loss that rises along them",
                           expected="ascending settings and losses that fall or stay",
                           remedy="order the settings, or take the largest loss from each setting on (monotone_losses)")
    bounds = (losses.double().sum(dim=0) + bound) / (n + 1)
    enough = (bounds <= risk + 1e-12).nonzero().flatten()
    if len(enough) == 0:
        raise SettingError(f"a mean loss of {float(bounds[-1]):.3g} at the largest setting, {float(settings[-1]):.3g}",
                           expected=f"{risk} or less", remedy="offer larger settings, or allow a larger risk")
    return float(settings[enough[0]])


def monotone_losses(losses: Float[Tensor, "case setting"]) -> Float[Tensor, "case setting"]:
    """The largest loss from each setting on, ``max over l' >= l of L(l')``: makes any loss one that can be controlled.

    >>> monotone_losses(torch.tensor([[0.5, 0.1, 0.3, 0.0]])).tolist() == torch.tensor([[0.5, 0.3, 0.3, 0.0]]).tolist()
    True
    """
    return losses.flip(1).cummax(dim=1).values.flip(1)


def missed_share(truth: Bool[Tensor, "*space"], outer: Bool[Tensor, "setting *space"]) -> Float[Tensor, " setting"]:
    """False-negative rate, ``|T \\ outer| / |T|``: what of the truth lies beyond the outer contour; 0 for no truth.

    >>> outer = torch.tensor([[1, 0, 0], [1, 1, 0]]).bool()
    >>> missed_share(torch.tensor([1, 1, 0]).bool(), outer).tolist()
    [0.5, 0.0]
    """
    beyond = (truth & ~outer).flatten(1).sum(dim=1).double()
    return beyond / max(1, int(truth.sum()))


def claimed_share(truth: Bool[Tensor, "*space"], inner: Bool[Tensor, "setting *space"],
                  predicted: Bool[Tensor, "*space"]) -> Float[Tensor, " setting"]:
    """What the inner contour claims wrongly, in shares of the prediction, ``|inner \\ T| / |prediction|``; 0 for none.

    >>> inner = torch.tensor([[1, 1], [0, 1]]).bool()
    >>> claimed_share(torch.tensor([0, 1]).bool(), inner, torch.tensor([1, 1]).bool()).tolist()
    [0.5, 0.0]
    """
    beyond = (inner & ~truth).flatten(1).sum(dim=1).double()
    return beyond / max(1, int(predicted.sum()))


def band_dice_loss(truth: Bool[Tensor, "*space"], inner: Bool[Tensor, "setting *space"],
                   outer: Bool[Tensor, "setting *space"]) -> Float[Tensor, " setting"]:
    """What a reader who corrects only between the two contours must still lose of Dice, ``1 - Dice(T, T')``.

    ``T' = (T | inner) & outer`` is the best such correction; the loss falls as the band widens. 0 for two empty masks.

    >>> inner, outer = torch.tensor([[1, 0, 0, 0]]).bool(), torch.tensor([[1, 1, 0, 0]]).bool()
    >>> band_dice_loss(torch.tensor([0, 1, 1, 0]).bool(), inner, outer).tolist()
    [0.5]
    """
    best = ((truth | inner) & outer).flatten(1)
    both = (best & truth.flatten()).sum(dim=1).double()
    total = best.sum(dim=1).double() + truth.sum().double()
    return torch.where(total > 0, 1 - 2 * both / total.clamp_min(1), torch.zeros_like(total))


def distant_share(distances_mm: Float[Tensor, " point"],
                  margins_mm: Float[Tensor, " setting"]) -> Float[Tensor, " setting"]:
    """Share of surface points farther than each margin, from their distances to the other surface; 0 for no points.

    >>> distant_share(torch.tensor([0.5, 1.5, 2.5, 3.5]), torch.tensor([1.0, 3.0])).tolist()
    [0.75, 0.25]
    """
    far = (distances_mm.abs()[:, None] > margins_mm[None]).sum(dim=0).double()
    return far / max(1, distances_mm.numel())


def exceeds(shares: Float[Tensor, "*any"], tolerance: float) -> Float[Tensor, "*any"]:
    """1 where a loss is above ``tolerance``, else 0: controls the share of cases that fail instead of the mean loss.

    >>> exceeds(torch.tensor([0.01, 0.2]), 0.05).tolist()
    [0.0, 1.0]
    """
    return (shares > tolerance).to(shares.dtype)
