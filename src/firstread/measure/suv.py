"""Standardized uptake values: activity relative to dose and body."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from firstread.core.errors import GeometryError, InputError, SettingError, UnsupportedError
from firstread.core.records import Image, Labels, Phenotype, Phenotypes, SoftLabels
from firstread.core.stage import Stage
from firstread.measure.pet_header import PetHeader, Sex

Kind = Literal["bw", "lbm", "lbm-janma", "bsa"]
TYPES = {"BW": "bw", "LBM": "lbm", "LBMJAMES128": "lbm", "LBMJANMA": "lbm-janma", "BSA": "bsa"}
UNITS: dict[Kind, str] = {"bw": "g/mL", "lbm": "g/mL", "lbm-janma": "g/mL", "bsa": "cm²/mL"}
PEAK_ML = 1.0


def decayed(dose_bq: float, seconds: float, half_life_s: float) -> float:
    """What is left of a dose, ``D 2^(-t / T½)``.

    >>> decayed(400e6, 6586.2, 6586.2)
    200000000.0
    """
    if not dose_bq > 0 or not half_life_s > 0 or seconds < 0:
        raise SettingError(f"{dose_bq} Bq over {seconds} s, half-life {half_life_s} s",
                           expected="dose and half-life above zero, time of zero or more", remedy="correct the header")
    return dose_bq * 2 ** (-seconds / half_life_s)


def lean_body_mass_kg(weight_kg: float, height_m: float, sex: Sex, *, janmahasatian: bool = False) -> float:
    """James (1976), height in cm: ``1.10 w - 128 (w/h)²`` for men, ``1.07 w - 148 (w/h)²`` for women; Janmahasatian
    et al. (2005): ``9270 w / (6680 + 216 BMI)``, ``9270 w / (8780 + 244 BMI)``.

    >>> round(lean_body_mass_kg(80.0, 1.80, "M"), 2), round(lean_body_mass_kg(60.0, 1.65, "F"), 2)
    (62.72, 44.63)
    """
    if janmahasatian:
        fixed, slope = (6680, 216) if sex == "M" else (8780, 244)
        return 9270 * weight_kg / (fixed + slope * weight_kg / height_m**2)
    gain, loss = (1.10, 128) if sex == "M" else (1.07, 148)
    return gain * weight_kg - loss * (weight_kg / (100 * height_m)) ** 2


def body_surface_m2(weight_kg: float, height_m: float) -> float:
    """Du Bois and Du Bois (1916), height in cm: ``0.007184 w^0.425 h^0.725``.

    >>> round(body_surface_m2(70.0, 1.70), 3)
    1.81
    """
    return 0.007184 * weight_kg**0.425 * (100 * height_m) ** 0.725


def suv_factor(header: PetHeader, kind: Kind = "bw") -> float:
    """What pixels (rescaled by slope and intercept) are multiplied with to give the standardized uptake value::

        SUV = C · body / D,   body: weight in g, lean body mass in g, or body surface in cm²

    Raises InputError naming what the header lacks, UnsupportedError for another unit or kind.

    >>> header = PetHeader(unit="BQML", dose_bq=370e6, half_life_s=6586.2, decay_s=3600.0, weight_kg=70.0)
    >>> round(5000 * suv_factor(header), 3)
    1.382
    """
    if kind not in get_args(Kind):
        raise SettingError(f"SUV of kind {kind!r}", expected=f"one of {', '.join(get_args(Kind))}",
                           remedy="correct the kind")
    if header.unit in ("GML", "CM2ML") or (header.unit == "CNTS" and header.counts_to_uptake is not None):
        present = "bw" if header.unit == "CNTS" else TYPES.get(header.uptake_type)
        if present is None:
            raise UnsupportedError(f"pixels of SUV type {header.uptake_type}", expected=f"one of {', '.join(TYPES)}",
                                   remedy="use the series in Bq/mL")
        own = 1.0 if header.counts_to_uptake is None else header.counts_to_uptake
        return own if present == kind else own * _body(header, kind) / _body(header, present)
    if header.unit not in ("BQML", "CNTS") or (header.unit == "CNTS" and header.counts_to_bq_ml is None):
        raise UnsupportedError(f"pixels in {header.unit}", remedy="use the series in Bq/mL",
                               expected="BQML, GML, CM2ML, or CNTS with Philips' factors")
    dose, half_life, seconds = (_stated(header, name) for name in ("dose_bq", "half_life_s", "decay_s"))
    scale = header.counts_to_bq_ml if header.unit == "CNTS" and header.counts_to_bq_ml is not None else 1.0
    return scale * _body(header, kind) / decayed(dose, seconds, half_life)


def _body(header: PetHeader, kind: str) -> float:
    """Grams or square centimetres of the patient."""
    weight = _stated(header, "weight_kg")
    if kind == "bw":
        return 1000 * weight
    height = _stated(header, "height_m")
    if not 0.3 <= height <= 2.5:
        raise InputError(f"a patient {height} m high", expected="0.3 to 2.5 m",
                         remedy="state the height (PatientSize) in metres")
    if kind == "bsa":
        return 10_000 * body_surface_m2(weight, height)
    if header.sex is None:
        raise InputError("a PET header without the patient's sex", expected="M or F for lean body mass",
                         remedy="add PatientSex, or use SUV by body weight")
    return 1000 * lean_body_mass_kg(weight, height, header.sex, janmahasatian=kind == "lbm-janma")


def _stated(header: PetHeader, name: str) -> float:
    value = getattr(header, name)
    if value is None:
        raise InputError(f"a PET header without {name}", expected="it to be stated",
                         remedy="add it to the header, or give a PetHeader of your own")
    return value


class StandardizedUptake(Stage):
    """Activity to standardized uptake, ``SUV = C · body / D`` (``suv_factor``).

    header: of the series; kind: by body weight, lean body mass (James or Janmahasatian) or body surface.

    Reads an Image in the header's unit, writes the Image "suv" in g/mL (cm²/mL by body surface).
    """

    result = "suv"

    def __init__(self, *, header: PetHeader, kind: Kind = "bw"):
        super().__init__()
        self.header, self.kind = header, kind
        self.factor = suv_factor(header, kind)

    def forward(self, image: Image) -> Image:
        return replace(image, data=image.data * self.factor)


class UptakeInRegions(Stage):
    """SUVmax, SUVmean, SUVpeak, volume and total uptake of every class but the first, in each batch row.

    SUVpeak: the largest mean over a sphere of 1 mL whose centre is in the region (Wahl et al., PERCIST, 2009).
    unit: of the image.

    Reads an Image of uptake and Labels on its grid (one frame each), writes the Phenotypes "uptake".
    """

    result = "uptake"
    differentiable = False

    def __init__(self, *, unit: str = "g/mL"):
        super().__init__()
        self.unit = unit

    def forward(self, image: Image, labels: Labels) -> Phenotypes:
        if image.data.shape[1:3] != (1, 1) or labels.data.shape[1] != 1 or not image.grid.same_as(labels.grid):
            raise GeometryError(f"an image of {tuple(image.data.shape)} and labels of {tuple(labels.data.shape)}",
                                expected="one frame, one channel, one grid",
                                remedy="resample the labels onto the image's grid")
        hard = (labels.harden() if isinstance(labels, SoftLabels) else labels).data[:, 0, 0]
        values = image.data[:, 0, 0].double()
        peaks = torch.stack([sphere_mean(row, spacing) for row, spacing in zip(values, image.grid.spacing_mm.tolist(),
                                                                              strict=True)])
        found: dict[str, Phenotype] = {}
        for index, name in enumerate(labels.names[1:], start=1):
            inside = hard == index
            count = inside.flatten(1).sum(dim=1)
            if bool((count == 0).any()):
                found |= {f"{what} {name}": Phenotype(None, unit, reason=f"no {name} in some rows") for what, unit in
                          (("SUVmax", self.unit), ("SUVmean", self.unit), ("SUVpeak", self.unit), ("volume", "mL"))}
                continue
            largest, peak = (torch.where(inside, v, -math.inf).flatten(1).amax(dim=1) for v in (values, peaks))
            mean = torch.where(inside, values, 0).flatten(1).sum(dim=1) / count
            found |= {f"SUVmax {name}": Phenotype(largest, self.unit), f"SUVmean {name}": Phenotype(mean, self.unit),
                      f"SUVpeak {name}": Phenotype(peak, self.unit),
                      f"volume {name}": Phenotype(count * image.grid.voxel_ml, "mL")}
        return Phenotypes(image.rows, found, notes=image.notes)


def sphere_mean(volume: Tensor, spacing_mm: list[float], *, volume_ml: float = PEAK_ML, finer: int = 5) -> Tensor:
    """Mean over a sphere about every voxel of ``[z, y, x]``, voxels counted by the share that is inside.

    >>> round(sphere_mean(torch.ones(9, 9, 9).double(), [4.0, 4.0, 4.0])[4, 4, 4].item(), 6)
    1.0
    """
    radius = (3000 * volume_ml / (4 * math.pi)) ** (1 / 3)
    places = []
    for step in spacing_mm:
        reach = math.ceil(radius / step)
        fine = (torch.arange((2 * reach + 1) * finer, dtype=volume.dtype) + 0.5) / finer - reach - 0.5
        places.append(fine * step)
    z, y, x = places
    inside = (z[:, None, None] ** 2 + y[:, None] ** 2 + x**2 <= radius**2).to(volume.dtype)
    weights = torch.nn.functional.avg_pool3d(inside[None, None], finer)
    weights = weights / weights.sum()
    reaches = [n // 2 for n in reversed(weights.shape[2:]) for _ in range(2)]
    padded = torch.nn.functional.pad(volume[None, None], reaches, mode="replicate")
    return torch.nn.functional.conv3d(padded, weights)[0, 0]
