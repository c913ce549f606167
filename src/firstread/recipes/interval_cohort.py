"""Subjects of one family and scanner as the tables of intervals take them: numbers and features of the images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.geometry import Grid
from firstread.core.records import Features, Image, Rows
from firstread.recipes.heart_subjects import Scanner
from firstread.recipes.heart_tables import Results
from firstread.recipes.interval_splits import Pool
from firstread.trust.describe import DescribeImage
from firstread.trust.scores import Scores, collect_scores

NAMES = ("LVEF", "LVEDV", "LVM", "WT_Global")


@dataclass(frozen=True, eq=False)
class Cohort:
    """Subjects of one family and scanner: their numbers, and features of their images ``[subject, feature]``."""

    results: Results
    features: Float[Tensor, "subject feature"]
    names: tuple[str, ...]

    def described(self) -> Features:
        return Features(Rows.subjects(len(self.features)), self.features, self.names)

    def truth(self) -> dict[str, Float[Tensor, " subject"]]:
        every = self.results.truth()
        return {name: every[name] for name in NAMES}

    def part(self, start: int, end: int) -> Cohort:
        """Some of the subjects."""
        return Cohort(Results(self.results.rows[start:end]), self.features[start:end], self.names)

    def scores(self, *, ensemble: bool) -> Scores:
        about = f"simulation: {len(self.results.rows)} phantom hearts, from k-space"
        return collect_scores(self.results.point(), self.results.members() if ensemble else None, self.truth(),
                              calibrated_on=about, features=self.described())


def pooled(first: Cohort, second: Cohort) -> Pool:
    """All subjects of two cohorts, for splits of them."""
    both = Cohort(Results([*first.results.rows, *second.results.rows]), torch.cat((first.features, second.features)),
                  first.names)
    return Pool(both.results.point(), both.results.members(), both.truth(), both.scores(ensemble=True),
                both.scores(ensemble=False))


def cohort(scanner: Scanner, files: Sequence[Path]) -> Cohort:
    """Numbers and image features of the subjects whose numbers are in ``files``; the images lie beside them."""
    rows, described, names = [], [], ()
    for file in files:
        rows.append(json.loads(file.read_text(encoding="utf-8")))
        with np.load(file.with_name(f"{file.stem[:-8]}.image.npz")) as stored:  # without the label of the measurement
            data = torch.from_numpy(stored["image"])
        spacing = (scanner.slice_thickness_mm + scanner.gap_mm, scanner.spacing_mm, scanner.spacing_mm)
        grid = Grid.from_spacing((data.shape[3], data.shape[4], data.shape[5]), spacing)
        found = DescribeImage()(Image(Rows.subjects(), data, grid))
        described.append(found.data[0])
        names = found.names
    return Cohort(Results(rows), torch.stack(described), names)
