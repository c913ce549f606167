"""The truth of one phantom subject, from its formulas."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.acquire.heart_motion import BeatingHeart
from firstread.acquire.heart_population import Pathology, Targets
from firstread.acquire.heart_regional import regional_values
from firstread.acquire.heart_shape import MYOCARDIAL_DENSITY_G_ML, myocardium_ml
from firstread.core.records import Phenotype, Phenotypes, Rows

UNITS = {"LVEDV": "mL", "LVESV": "mL", "LVSV": "mL", "LVEF": "%", "LVCO": "L/min", "LVM": "g", "RVEDV": "mL",
         "RVESV": "mL", "RVSV": "mL", "RVEF": "%"}


@dataclass(frozen=True, eq=False)
class HeartTruth:
    """Analytic values of one subject.

    values: by phenotype name, in ``UNITS`` (end-systole is the least volume of the whole cycle, not of the frames);
    lv_volume_ml, rv_volume_ml: at the frames; phases: of the frames, 0 to 1; parameters: all that the heart was
    built from.
    """

    pathology: Pathology
    sex: str
    heart_rate: float
    values: dict[str, float]
    phases: Float[Tensor, " t"]
    lv_volume_ml: Float[Tensor, " t"]
    rv_volume_ml: Float[Tensor, " t"]
    parameters: dict[str, Any]

    def __getitem__(self, name: str) -> float:
        return self.values[name]

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, for ``truth.json``."""
        return {"pathology": self.pathology, "sex": self.sex, "heart_rate": self.heart_rate,
                "values": {name: {"value": value, "unit": unit_of(name)} for name, value in self.values.items()},
                "phases": self.phases.tolist(), "LV_volume_ml": self.lv_volume_ml.tolist(),
                "RV_volume_ml": self.rv_volume_ml.tolist(), "parameters": self.parameters}

    def phenotypes(self) -> Phenotypes:
        """The same as a record (without intervals: the truth has none)."""
        values = {name: Phenotype(torch.tensor([value], dtype=torch.float64), unit_of(name))
                  for name, value in self.values.items()}
        curves = {"LV_volume_ml": self.lv_volume_ml[None], "RV_volume_ml": self.rv_volume_ml[None]}
        return Phenotypes(Rows.subjects(1), values, curves)


def unit_of(name: str) -> str:
    """Unit of a phenotype of the truth."""
    if name in UNITS:
        return UNITS[name]
    return "mm" if name.startswith("WT") else "%"


def heart_truth(heart: BeatingHeart, targets: Targets, phases: Float[Tensor, " t"]) -> HeartTruth:
    """All values of ``heart``."""
    edv, rvedv = heart.lvedv_ml, heart.rvedv_ml
    ef, rvef = heart.contraction.ef, heart.contraction.rv_ef
    values = {"LVEDV": edv, "LVESV": edv * (1 - ef), "LVSV": edv * ef, "LVEF": 100 * ef,
              "LVCO": edv * ef * targets.heart_rate / 1000, "LVM": myocardium_ml(heart.lv) * MYOCARDIAL_DENSITY_G_ML,
              "RVEDV": rvedv, "RVESV": rvedv * (1 - rvef), "RVSV": rvedv * rvef, "RVEF": 100 * rvef}
    values |= regional_values(heart)
    parameters = {"lv": asdict(heart.lv), "rv": asdict(heart.rv), "timing": asdict(heart.timing),
                  "contraction": asdict(heart.contraction)}
    return HeartTruth(targets.pathology, targets.sex, targets.heart_rate, values, phases, heart.lv_volume_ml(phases),
                      heart.rv_volume_ml(phases), parameters)


