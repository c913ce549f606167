"""What a data set of images and labels is like, in numbers: the fingerprint that a plan is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from firstread.core.geometry import Grid

SCHEMA = "firstread.segment-fingerprint/1"
_FEW = 20000  # voxels that quantiles are taken from


@dataclass(frozen=True)
class CaseFacts:
    """One case. shape and spacing_mm: (z, y, x) as stored, spacing in voxels where mm is False; frames: of a series;
    voxels: by label value; intensity: of each channel minimum, 0.5 %, mean, sd, 99.5 %, maximum, over labelled voxels
    (over all where none is labelled)."""

    name: str
    patient: str
    shape: tuple[int, int, int]
    frames: int
    spacing_mm: tuple[float, float, float]
    mm: bool
    voxels: dict[int, int]
    intensity: tuple[dict[str, float], ...]

    @property
    def voxel_ml(self) -> float:
        z, y, x = self.spacing_mm
        return z * y * x / 1000


def case_facts(name: str, patient: str, image: Float[Tensor, "time channel z y x"],
               label: Integer[Tensor, "time z y x"], grid: Grid) -> CaseFacts:
    """Facts of one case from its voxels."""
    values, counts = torch.unique(label, return_counts=True)
    z, y, x = image.shape[-3:]
    spacing = grid.spacing_mm[0].tolist()
    labelled = label > 0
    intensity = []
    for channel in image.unbind(1):
        picked = channel[labelled] if bool(labelled.any()) else channel.flatten()
        picked = picked[:: max(1, len(picked) // _FEW)].double()
        low, high = torch.quantile(picked, torch.tensor([0.005, 0.995], dtype=torch.float64)).tolist()
        intensity.append({"minimum": float(channel.min()), "low": low, "mean": float(picked.mean()),
                          "sd": float(picked.std(correction=0)), "high": high, "maximum": float(channel.max())})
    voxels = dict(zip((int(v) for v in values), (int(n) for n in counts), strict=True))
    return CaseFacts(name, patient, (z, y, x), image.shape[0], (spacing[0], spacing[1], spacing[2]), grid.has_mm,
                     voxels, tuple(intensity))


def fingerprint(cases: Sequence[CaseFacts], *, names: Mapping[int, str] | None = None,
                modalities: Sequence[str] = ()) -> dict[str, Any]:
    """The fingerprint as plain values. names: of label values, where the data set states them."""
    values = sorted({v for case in cases for v in case.voxels} | set(names or {}) | {0})
    classes = []
    for value in values:
        per_case = [sum_ml(case, value) for case in cases]
        classes.append({"value": value, "name": (names or {}).get(value, "background" if value == 0 else str(value)),
                        "cases": sum(1 for case in cases if case.voxels.get(value, 0) > 0),
                        "patients": len({c.patient for c in cases if c.voxels.get(value, 0) > 0}),
                        "median_volume": _median([v for v in per_case if v > 0])})
    channels = len(cases[0].intensity)
    return {
        "schema": SCHEMA, "cases": len(cases), "patients": len({case.patient for case in cases}),
        "modalities": list(modalities) or ["unknown"] * channels,
        "millimetres": all(case.mm for case in cases),
        "volume_unit": "ml per frame" if all(case.mm for case in cases) else "voxels per frame",
        "shape": _triple([case.shape for case in cases]), "spacing": _triple([case.spacing_mm for case in cases]),
        "intensity": [{key: _median([case.intensity[c][key] for case in cases]) for key in cases[0].intensity[c]}
                      for c in range(channels)],
        "classes": classes,
        "each": [{**asdict(case), "voxels": {str(k): v for k, v in case.voxels.items()}} for case in cases]}


def sum_ml(case: CaseFacts, value: int) -> float:
    """Volume of a label value per frame, in ml where the case has millimetres, else in voxels."""
    return case.voxels.get(value, 0) / case.frames * (case.voxel_ml if case.mm else 1)


def _triple(rows: Sequence[tuple[float, ...]]) -> dict[str, list[float]]:
    table = torch.tensor(rows, dtype=torch.float64)
    return {"median": [round(v, 4) for v in table.quantile(0.5, dim=0).tolist()],
            "smallest": [round(v, 4) for v in table.amin(0).tolist()],
            "largest": [round(v, 4) for v in table.amax(0).tolist()]}


def _median(values: Sequence[float]) -> float | None:
    return float(f"{torch.tensor(values, dtype=torch.float64).quantile(0.5).item():.5g}") if values else None
