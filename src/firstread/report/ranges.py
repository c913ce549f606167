"""Reference ranges of Petersen et al. 2017 (UK Biobank), by sex, absolute and per body surface.

Source: Petersen SE, Aung N, Sanghvi MM, et al. Reference ranges for cardiac structure and function using
cardiovascular magnetic resonance (CMR) in Caucasians from the UK Biobank population cohort. J Cardiovasc Magn Reson
2017;19:18, doi:10.1186/s12968-017-0327-9. 368 men and 432 women, 45 to 74 years, healthy, 1.5 T, contours by hand,
papillary muscles counted as cavity.

What stands here, and how far it was checked:

- ``LIMITS``: below the lower and above the upper one a value is abnormal at every age from 45 to 74. The tables
  themselves could not be had; the numbers come from a public program that quotes them. They agree with what other
  public programs quote from the same paper: the mean ± 1.96 SD of LVEDV, LVESV and LVSV (both sexes; the limits lie
  within 11 mL of it), and the women's inner normal zones of both ventricles (all inside the limits).
- ``MEAN_SD``: printed in the paper's abstract; the range is the 95 % prediction interval
  ``mean ± 1.96 sd sqrt(1 + 1 / n)``.
- Left out, because no source could be found to check them: LV mass in grams, RV ejection fraction. Not in the paper:
  cardiac output, heart rate, wall thickness.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Sex = Literal["F", "M"]

CITATION = "Petersen et al., J Cardiovasc Magn Reson 2017;19:18 (UK Biobank, 368 men and 432 women, 45–74 years)"
COUNT = {"F": 432, "M": 368}

LIMITS: dict[Sex, dict[str, tuple[int, int]]] = {
    "M": {"LVEDV": (93, 232), "LVESV": (34, 103), "LVSV": (49, 140),
          "RVEDV": (99, 260), "RVESV": (34, 135), "RVSV": (54, 140)},
    "F": {"LVEDV": (80, 175), "LVESV": (25, 73), "LVSV": (47, 110),
          "RVEDV": (83, 192), "RVESV": (26, 95), "RVSV": (47, 107)},
}
LIMITS_PER_M2: dict[Sex, dict[str, tuple[int, int]]] = {
    "M": {"LVEDV": (52, 117), "LVESV": (19, 52), "LVSV": (28, 70),
          "RVEDV": (55, 128), "RVESV": (19, 67), "RVSV": (30, 69)},
    "F": {"LVEDV": (50, 101), "LVESV": (16, 43), "LVSV": (29, 63),
          "RVEDV": (51, 110), "RVESV": (16, 55), "RVSV": (29, 61)},
}
MEAN_SD: dict[Sex, dict[str, tuple[int, int]]] = {"M": {"LVEF": (58, 5)}, "F": {"LVEF": (61, 5)}}
MEAN_SD_PER_M2: dict[Sex, dict[str, tuple[int, int]]] = {"M": {"LVM": (53, 9)}, "F": {"LVM": (42, 7)}}

WHY_ABSENT = {
    "LVM": "LV mass in grams could not be checked against the source",
    "RVEF": "RV ejection fraction could not be checked against the source",
    "LVCO": "not in the source",
    "HR": "not in the source",
}


@dataclass(frozen=True)
class Range:
    """The range in which healthy people of one sex lie; ``basis`` says how its ends are defined."""

    lower: float
    upper: float
    basis: Literal["abnormal beyond, at every age from 45 to 74", "95 % prediction interval"]

    def place(self, value: float) -> Literal["below", "within", "above"]:
        """Where ``value`` lies.

        >>> Range(93.0, 232.0, "95 % prediction interval").place(240.0)
        'above'
        """
        return "below" if value < self.lower else "above" if value > self.upper else "within"


def prediction_interval(mean: float, sd: float, count: int) -> Range:
    """Where one more healthy person lies with 95 %: ``mean ± 1.96 sd sqrt(1 + 1 / count)``, rounded to whole units.

    >>> prediction_interval(58.0, 5.0, 368)
    Range(lower=48.0, upper=68.0, basis='95 % prediction interval')
    """
    half = 1.96 * sd * (1 + 1 / count) ** 0.5
    return Range(float(round(mean - half)), float(round(mean + half)), "95 % prediction interval")


def reference_range(name: str, sex: Sex | None, *, per_m2: bool = False) -> Range | None:
    """The range of phenotype ``name`` for ``sex``, in its own unit or per m² of body surface; None where none is known.

    >>> reference_range("LVEDV", "F")
    Range(lower=80.0, upper=175.0, basis='abnormal beyond, at every age from 45 to 74')
    >>> reference_range("LVEDV", None) is None
    True
    """
    if sex is None:
        return None
    limits = (LIMITS_PER_M2 if per_m2 else LIMITS)[sex].get(name)
    if limits is not None:
        return Range(float(limits[0]), float(limits[1]), "abnormal beyond, at every age from 45 to 74")
    mean_sd = (MEAN_SD_PER_M2 if per_m2 else MEAN_SD)[sex].get(name)
    return None if mean_sd is None else prediction_interval(float(mean_sd[0]), float(mean_sd[1]), COUNT[sex])
