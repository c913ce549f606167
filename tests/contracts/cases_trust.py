"""One small case for each stage of the room ``trust``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from samples import Contract, blob, soft_heart

from firstread.core.records import Features, Image, Phenotype, Phenotypes, Rows

if TYPE_CHECKING:
    from firstread.trust.scores import Scores


def numbers(*values: float) -> Phenotypes:
    """Ejection fractions of one subject, a row each."""
    found = Phenotype(torch.tensor(values, dtype=torch.float64), "%")
    rows = Rows(torch.zeros(len(values), dtype=torch.int64), torch.zeros(len(values), dtype=torch.int64),
                torch.arange(len(values)))
    return Phenotypes(rows, {"LVEF": found})


def described(*values: float) -> Features:
    """The SNR of one subject."""
    return Features(Rows.subjects(1), torch.tensor([values], dtype=torch.float64), ("SNR",))


def scores() -> Scores:
    """Errors of 80 calibration cases at SNR 0 to 40."""
    from firstread.trust.scores import Scores

    errors = torch.randn(80, generator=torch.Generator().manual_seed(0)).double()
    snr = torch.linspace(0, 40, 80).double()
    return Scores({"LVEF": errors}, {"LVEF": 50 + errors}, {"LVEF": 1.5}, {"LVEF": "%"}, 3, "numbers", {"SNR": snr})


def conformal_intervals() -> Contract:
    from firstread.trust.intervals import Calibration, ConformalIntervals, Quantity

    calibration = Calibration(0.9, 3, "three numbers", {"LVEF": Quantity(-2.0, 2.0, 1.5, 99, "%")})
    return Contract(ConformalIntervals(calibration=calibration),
                    {"point": numbers(60.0), "members": numbers(58.0, 60.0, 63.0)})


def plain_intervals() -> Contract:
    from firstread.trust.intervals import Calibration, PlainIntervals, Quantity

    calibration = Calibration(0.9, 0, "numbers", {"LVEF": Quantity(-2.0, 2.0, 1.5, 99, "%")})
    return Contract(PlainIntervals(calibration=calibration), {"point": numbers(60.0)})


def group_intervals() -> Contract:
    from firstread.trust.mondrian import GroupIntervals, Groups, group_calibration

    calibration = group_calibration(scores(), Groups("SNR", (20.0,), ("low", "high")), level=0.9)
    return Contract(GroupIntervals(calibration=calibration), {"point": numbers(60.0), "features": described(12.0),
                                                              "members": numbers(58.0, 60.0, 63.0)})


def weighted_intervals() -> Contract:
    from firstread.trust.weighted import WeightedIntervals, fit_ratio

    made = scores()
    ratio = fit_ratio(made.number("SNR")[:, None], made.number("SNR")[20:, None], ("SNR",))
    return Contract(WeightedIntervals(scores=made, ratio=ratio, level=0.9),
                    {"point": numbers(60.0), "members": numbers(58.0, 60.0, 63.0), "features": described(12.0)})


def contour_band() -> Contract:
    from firstread.trust.bands import Band, ContourBand

    band = Band(("LV cavity",), 2.0, 3.0, "dice", 0.05, 99, "an example")
    return Contract(ContourBand(band=band), {"labels": soft_heart().harden()})


def dropout_draws() -> Contract:
    from firstread.core.wrap import wrap
    from firstread.trust.draws import DropoutDraws

    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.Dropout(0.3), torch.nn.Conv2d(4, 1, 1))
    image = replace(blob(frames=2), data=blob(frames=2).data.abs())
    stage = wrap(network.eval(), reads=Image, writes=Image, axes="yx", name="denoise")
    return Contract(DropoutDraws(stage=stage, draws=3), {"image": image}, "image")


def mean_over_draws() -> Contract:
    from firstread.trust.draws import MeanOverDraws

    return Contract(MeanOverDraws(), {"members": numbers(58.0, 60.0, 63.0)})


def evidential_head() -> Contract:
    from firstread.trust.evidential import EvidentialHead

    torch.manual_seed(0)
    head = EvidentialHead(head=torch.nn.Linear(1, 4).double(), units={"LVEF": "%"}, centre=(55.0,), scale=(10.0,),
                          draws=3)
    return Contract(head, {"features": described(12.0)})


def laplace_head() -> Contract:
    from firstread.trust.laplace import LaplaceHead, design, fit_posterior

    x = torch.linspace(0, 40, 30).double()[:, None]
    mean, sd = x.mean(0), x.std(0)
    posterior = fit_posterior(design(x, mean, sd), 50 + x[:, 0] / 4 + torch.sin(x[:, 0]))
    head = LaplaceHead(posteriors={"LVEF": posterior}, units={"LVEF": "%"}, mean=mean, sd=sd, draws=3)
    return Contract(head, {"features": described(12.0)}, "features")


def shift_guard() -> Contract:
    from firstread.trust.shift import ShiftGuard, fit_novelty

    x = torch.linspace(0, 40, 300).double()[:, None]
    novelty = fit_novelty(x[::2], x[1::2], ("SNR",), calibrated_on="numbers")
    return Contract(ShiftGuard(novelty=novelty), {"phenotypes": numbers(60.0), "features": described(12.0)})


def describe_image() -> Contract:
    from firstread.trust.describe import DescribeImage

    return Contract(DescribeImage(), {"image": blob()})


CASES: dict[str, Callable[[], Contract]] = {
    "ConformalIntervals": conformal_intervals,
    "PlainIntervals": plain_intervals,
    "GroupIntervals": group_intervals,
    "WeightedIntervals": weighted_intervals,
    "ContourBand": contour_band,
    "DropoutDraws": dropout_draws,
    "MeanOverDraws": mean_over_draws,
    "EvidentialHead": evidential_head,
    "LaplaceHead": laplace_head,
    "ShiftGuard": shift_guard,
    "DescribeImage": describe_image,
}
