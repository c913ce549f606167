"""Readings as ``firstread read`` writes them, as far as calibration looks at them, with numbers of a known law."""

from __future__ import annotations

import json
from pathlib import Path

import torch

WEIGHTS = {"segment": "5e9" * 5 + "a"}


def reading(value: float, spread: float, noise: float, *, mark: str, weights: dict[str, str] | None = None,
            members: int = 3, refused: bool = False, stage: str = "segment") -> dict:
    """One document: an LVEF, its spread over the ensemble, an image of this noise."""
    used = WEIGHTS if weights is None else weights
    trail = [{"stage": name, "settings": "", "weights": made, "seconds": 1.0, "peak_memory_mb": 1.0}
             for name, made in ({stage: None} | used).items()]
    absent = {"value": None, "unit": "mL", "reason": "no spacing"}
    return {"schema": "firstread.reading/1", "input": {"name": "NIfTI input", "kind": "NIfTI", "sha256": f"file {mark}",
                                                       "stated": {}},
            "phenotypes": {"LVEF": {"value": value, "unit": "%"}, "LVEDV": {"value": 2 * value, "unit": "mL"},
                           "LVESV": absent, "HR": {"value": 60.0, "unit": "1/min"}},
            "basis": {"members": members, "spread": {"LVEF": spread, "LVEDV": spread} if members > 1 else {},
                      "features": {"log_noise": noise, "edges": 0.05 + noise / 100, "log_pixel_mm": 0.2},
                      "fingerprints": [f"{mark}-0", f"{mark}-1"]},
            "warnings": [{"code": "shifted_input", "text": "", "severity": "warning"}] if refused else [],
            "trail": trail}


def write_readings(folder: Path, count: int, *, seed: int = 0, **options) -> dict[str, tuple[float, float]]:
    """``count`` readings in folders ``p00`` …; the true LVEF and LVEDV of each."""
    draw = torch.Generator().manual_seed(seed)
    truth = {}
    for i in range(count):
        true, error, spread, noise = (torch.rand(4, generator=draw) * torch.tensor([40.0, 6.0, 2.0, 0.3])).tolist()
        name = f"p{i:02d}"
        (folder / name).mkdir(parents=True)
        document = reading(30 + true + error - 3, 1 + spread, -1.7 + noise, mark=f"{seed}-{name}", **options)
        (folder / name / "reading.json").write_text(json.dumps(document))
        truth[name] = (30 + true, 60 + 2 * true)
    return truth


def write_table(path: Path, truth: dict[str, tuple[float, float]], *, heading: str = "subject,LVEF,LVEDV (mL),note",
                extra: str = "by hand") -> Path:
    rows = [f"{name},{ef:.3f},{edv:.3f},{extra}" for name, (ef, edv) in truth.items()]
    path.write_text("\n".join([heading, *rows]) + "\n")
    return path
