"""Schlemper's comparison: ``python -m firstread.recipes.evidence_schlemper -o docs/evidence --realdata FOLDER``.

Cines and images of one combined coil, Cartesian lines kept at random, 2- to 11-fold. Every method on every item under
the same mask; results are kept in ``schlemper.json`` as they come, so that an interrupted run goes on. Writes
``schlemper.md``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.errors import FirstreadError, FormatError, InputError
from firstread.core.records import KSpace
from firstread.core.stage import Stage
from firstread.nets.cascade import DeepCascade, d5_c5_from_arrays, d5_c10_s
from firstread.nets.crnn import crnn_from_state
from firstread.ops.quality import psnr, ssim
from firstread.recipes.files import write_text
from firstread.recipes.heart_d5_c5_s import network as smaller_network
from firstread.recipes.schlemper_data import (
    CINE,
    PHANTOM,
    SINGLE,
    Item,
    phantoms,
    real_cines,
    real_images,
    undersampled,
)
from firstread.reconstruct.cascade import Cascade
from firstread.reconstruct.direct import ZeroFilled
from firstread.reconstruct.iterative import SpatialTV, TemporalTV
from firstread.reconstruct.recurrent import Recurrent
from firstread.reconstruct.sparse import LocallyLowRank, LowRankPlusSparse
from firstread.zoo.store import load

ACCELERATIONS = (2.0, 4.0, 6.0, 8.0, 11.0)
OURS, SHARED, SMALLER = "default cascade (ours)", "D5-C10(S)", "D5-C5(S), 32 channels (ours)"
PUBLISHED, RECURRENT = "D5-C5 (published weights)", "CRNN (published weights)"
DYNAMIC = ("temporal TV", "locally low rank", "low rank plus sparse")
CLASSICAL = ("spatial TV", *DYNAMIC)


def methods(realdata: Path | None, recurrent: Path | None, shared: Path | None, smaller: Path | None
            ) -> dict[str, Stage]:
    """What is compared; networks whose weights are not at hand are left out."""
    weight = load("heart-cascade")
    found: dict[str, Stage] = {"zero-filled": ZeroFilled(), "spatial TV": SpatialTV(), "temporal TV": TemporalTV(),
                               "locally low rank": LocallyLowRank(), "low rank plus sparse": LowRankPlusSparse()}
    found[OURS] = Cascade(network=DeepCascade.from_weight(weight.card["network"], weight.state))
    if realdata is not None:
        with np.load(realdata / "deep_cascade" / "d5_c5.npz") as arrays:
            found[PUBLISHED] = Cascade(network=d5_c5_from_arrays(arrays))
    if shared is not None:
        network = d5_c10_s()
        network.load_state_dict(load(shared).state)
        found[SHARED] = Cascade(network=network.eval())
    if smaller is not None:
        network = smaller_network()
        network.load_state_dict(load(smaller).state)
        found[SMALLER] = Cascade(network=network.eval())
    if recurrent is not None:
        state = torch.load(recurrent, map_location="cpu", weights_only=True)
        found[RECURRENT] = Recurrent(network=crnn_from_state(state))
    return found


def errors(stage: Stage, kspace: KSpace, reference: Float[Tensor, "time y x"]) -> dict[str, float]:
    """Errors of the magnitude against a reference whose maximum is 1, which is the peak, and CPU seconds."""
    begun = time.process_time()
    with torch.no_grad():
        made: Tensor = stage(kspace).data[0, :, 0, 0].abs()
    seconds = time.process_time() - begun
    error = float((made - reference).double().square().mean())
    return {"psnr_db": psnr(made, reference, peak=1.0), "ssim": ssim(made, reference, peak=1.0), "mse_e3": 1e3 * error,
            "seconds": seconds}


def suits(method: str, item: Item) -> bool:
    """Methods that share between frames are for cines."""
    return len(item.image) > 1 or method not in (*DYNAMIC, RECURRENT, SHARED, SMALLER)


def collect(items: Sequence[Item], stages: Mapping[str, Stage], accelerations: Sequence[float], path: Path,
            settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All cells, those that ``path`` already holds not again. Raises FormatError where it was made otherwise."""
    cells: list[dict[str, Any]] = []
    if path.is_file():
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["settings"] != dict(settings):
            raise FormatError(f"{path.name} made with {stored['settings']}", expected=f"{dict(settings)}",
                              remedy="choose another output folder, or remove it")
        cells = stored["cells"]
    done = {(c["data"], c["item"], c["acceleration"], c["method"]) for c in cells}
    for method, stage in stages.items():
        for item in items:
            for acceleration in accelerations:
                place = {"data": item.data, "item": item.name, "acceleration": acceleration, "method": method}
                if tuple(place.values()) in done or not suits(method, item):
                    continue
                found = errors(stage, undersampled(item, acceleration), item.image.abs())
                cells.append(place | {name: round(value, 5) for name, value in found.items()})
                write_text(path, json.dumps({"settings": dict(settings), "cells": cells}, indent=0) + "\n")
    return cells


def table(cells: Sequence[Mapping[str, Any]], data: str, stages: Sequence[str]) -> list[str]:
    """Rows of mean [lowest, highest] over the items; what was not measured says so."""
    chosen = [c for c in cells if c["data"] == data]
    lines = ["| fold | method | PSNR dB | SSIM | MSE, 10⁻³ | CPU s |", "|---|---|---|---|---|---|"]
    for acceleration in sorted({c["acceleration"] for c in chosen}):
        for method in stages:
            rows = [c for c in chosen if (c["acceleration"], c["method"]) == (acceleration, method)]
            if rows:
                parts = [_cell([r["psnr_db"] for r in rows], 2), _cell([r["ssim"] for r in rows], 3),
                         _cell([r["mse_e3"] for r in rows], 3), f"{np.mean([r['seconds'] for r in rows]):.1f}"]
                lines.append(f"| {acceleration:g} | {method} | {' | '.join(parts)} |")
    return lines


def gaps(cells: Sequence[Mapping[str, Any]], data: str) -> list[str]:
    """By acceleration: methods from best to worst by mean PSNR, and the best network over the best classical one."""
    lines = []
    chosen = [c for c in cells if c["data"] == data]
    for acceleration in sorted({c["acceleration"] for c in chosen}):
        mean: dict[str, float] = {}
        for method in dict.fromkeys(c["method"] for c in chosen):
            values = [c["psnr_db"] for c in chosen if (c["acceleration"], c["method"]) == (acceleration, method)]
            if values:
                mean[method] = float(np.mean(values))
        order = sorted(mean, key=lambda m: -mean[m])
        network = next((m for m in order if m not in CLASSICAL and m != "zero-filled"), None)
        classical = next((m for m in order if m in CLASSICAL), None)
        line = f"- {acceleration:g}-fold: {' > '.join(order)}"
        if network and classical:
            line += f"; {network} over {classical}: {mean[network] - mean[classical]:+.2f} dB"
        lines.append(line + ".")
    return lines


def _cell(values: Sequence[float], digits: int) -> str:
    low, high = min(values), max(values)
    extent = f" [{low:.{digits}f}, {high:.{digits}f}]" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{extent}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m firstread.recipes.evidence_schlemper")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/evidence"))
    parser.add_argument("--realdata", type=Path, help="folder with deep_cascade/, cine/ and kellman/")
    parser.add_argument("--crnn", type=Path, help="the authors' parameters of CRNN-MRI, a .pth file")
    parser.add_argument("--d5-c10-s", type=Path, help="a trained D5-C10(S), a .safetensors file")
    parser.add_argument("--d5-c5-s", type=Path, help="a trained D5-C5(S), a .safetensors file")
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--subjects", type=int, default=1)
    parser.add_argument("--slices", type=int, default=2, help="of the real cine")
    parser.add_argument("--accelerations", type=float, nargs="+", default=list(ACCELERATIONS))
    given = parser.parse_args(arguments)
    if given.realdata is not None and not (given.realdata / "deep_cascade").is_dir():
        raise InputError(f"--realdata {given.realdata}", expected="a folder with deep_cascade/, cine/ and kellman/",
                         remedy="give that folder, or leave it out")
    items = phantoms(subjects=given.subjects, frames=given.frames, size=given.size)
    if given.realdata is not None:
        items += real_cines(given.realdata / "cine" / "sc_n_3_slices.npz", slices=given.slices)
        items += real_images(given.realdata / "kellman")
    stages = methods(given.realdata, given.crnn, given.d5_c10_s, given.d5_c5_s)
    settings = {"frames": given.frames, "size": given.size, "subjects": given.subjects, "slices": given.slices}
    given.output.mkdir(parents=True, exist_ok=True)
    cells = collect(items, stages, given.accelerations, given.output / "schlemper.json", settings)
    write_text(given.output / "schlemper.md", report(cells, stages, settings))
    print((given.output / "schlemper.md").read_text(encoding="utf-8"))
    return 0


def report(cells: Sequence[Mapping[str, Any]], stages: Mapping[str, Stage], settings: Mapping[str, Any]) -> str:
    """The page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    groups = []
    for data in (PHANTOM, CINE, SINGLE):
        items = {c["item"] for c in cells if c["data"] == data}
        if items:
            groups.append({"name": data, "count": len(items), "table": "\n".join(table(cells, data, list(stages))),
                           "order": "\n".join(gaps(cells, data))})
    absent = [name for name in (PUBLISHED, RECURRENT, SHARED, SMALLER) if name not in stages]
    page = Environment(loader=PackageLoader("firstread.recipes", "."), undefined=StrictUndefined, autoescape=False,
                       trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    return page.get_template("schlemper.md.jinja").render(groups=groups, absent=absent,
                                                                 small=SMALLER if SMALLER in stages else "", **settings)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except FirstreadError as problem:
        print(f"evidence_schlemper: {problem}", file=sys.stderr)
        sys.exit(2)
