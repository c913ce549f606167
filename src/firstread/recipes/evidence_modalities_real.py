"""Real pairs of two kinds of image: ``python -m firstread.recipes.evidence_modalities_real NV FAIR --work FOLDER``.

NV: a folder with NIfTI files of the public repository neurolabusc/niivue-images (chris_t1, chris_PD, chris_MRA, pcasl,
fmri_pitch, MR_Gd, spm152, CT_pitch); FAIR: the folder ``kernel/data`` of the public repository C4IR/FAIR.m. ``--peers
PYTHON``: an interpreter that has SimpleITK, antspyx and itk-elastix, which then do the same. ``--work``: a folder that
keeps what was measured, so that a second call goes on.

Nobody knows the true placement of these pairs. What can be known:

    scatter     the moving image is moved by known rigid maps R_k; the answer T_k must be R_k T: how far the R_k^-1 T_k
                lie from their median, place by place in the body, and which share does within 2 mm
    round       A on B, then B on A; three images of one man: A to B to C against A to C
    agreement   between our answer and those of others
    landmarks   set by hand, where there are any
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from firstread.analyze.register import First, Register, unit_range
from firstread.core.errors import FirstreadError, InputError
from firstread.core.geometry import Grid, Transform
from firstread.core.records import Image
from firstread.ops.rigid import about
from firstread.ops.rigid import exponential as rigid
from firstread.ops.warp import apply, jacobian_determinant
from firstread.recipes import modalities_peers
from firstread.recipes.files import write_text
from firstread.recipes.real_pairs import PAIRS, Kind, Pair, hand_marks, read_image

SEEDS, PEER_SEEDS, NEAR = 10, 4, 2.0  # of volumes, which take others long; of slices, others too do all
TOOLS = ("SimpleITK", "ANTs", "elastix")
ROUND = ("perfusion (ASL) on T1", "PD on T1", "perfusion (ASL) on PD")
DEFORMED: dict[str, First] = {"PD on T1": "rigid", "T1 on the MNI152 template": "affine", "PET on CT, slice": "rigid",
                              "T2 on T1, slice": "rigid"}
Row = dict[str, Any]
Found = dict[str, list]
"""``matrices`` (fixed to moving millimetres, None where a tool gave up) and ``seconds``, one for each start; of others
their ``version``, of ours the codes of its warnings, ``notes``."""


def known_move(seed: int, *, flat: bool) -> Float[Tensor, "6"]:
    """A twist of 5 to 20 degrees about, and 5 to 20 mm along, random axes; of a slice: in its plane."""
    g = torch.Generator().manual_seed(300 + seed)
    angle, way = (5 + 15 * torch.rand(2, generator=g, dtype=torch.float64)).tolist()
    axis, direction = torch.randn(2, 3, generator=g, dtype=torch.float64)
    if flat:
        axis, direction = axis.sign() * torch.tensor([0.0, 0.0, 1.0]), direction * torch.tensor([1.0, 1.0, 0.0])
    return torch.cat((axis / axis.norm() * math.radians(angle), direction / direction.norm() * way))


def body(image: Image, count: int = 2000) -> Float[Tensor, "n 3"]:
    """Places spread over what is brighter than a tenth, in millimetres."""
    places = image.grid.points_mm()[0][unit_range(image.data) > 0.1]
    return places[::max(1, len(places) // count)]


def at(matrices: Float[Tensor, "k 4 4"], places: Float[Tensor, "n 3"]) -> Float[Tensor, "k n 3"]:
    """Where each matrix takes each place."""
    return places @ matrices[:, :3, :3].transpose(1, 2) + matrices[:, None, :3, 3]


def starts(moving: Image, found: Float[Tensor, "4 4"], centre: Float[Tensor, "3"]
           ) -> tuple[Float[Tensor, "k 4 4"], Float[Tensor, "k 4 4"]]:
    """Affines of the moving image: its own, then aligned and moved by known maps; and what brings each answer to where
    the first one is."""
    own, flat = moving.grid.affine[0], moving.grid.shape[0] == 1
    back = torch.linalg.inv(found)
    moves = [about(rigid(known_move(seed, flat=flat)), centre) @ back for seed in range(SEEDS)]
    return torch.stack([own, *(move @ own for move in moves)]), torch.stack(
        [torch.eye(4, dtype=torch.float64), *(torch.linalg.inv(move) for move in moves)])


def by_firstread(fixed: Image, moving: Image, affines: Float[Tensor, "k 4 4"], kind: Kind) -> Found:
    """The answers of :class:`~firstread.analyze.register.Register` from each start."""
    found: Found = {"matrices": [], "seconds": [], "notes": []}
    for affine in affines:
        grid = Grid(affine[None], moving.grid.shape, frame=moving.grid.frame)
        started = time.process_time()
        try:
            made = Register(kind=kind)(fixed, replace(moving, grid=grid))
            matrix, notes = made.forward.matrix[0].tolist(), [note.code for note in made.notes]
        except FirstreadError as error:
            matrix, notes = None, [str(error)]
        found["matrices"].append(matrix)
        found["seconds"].append(time.process_time() - started)
        found["notes"].append(notes)
    return found


def by_peer(tool: str, python: Path, fixed: Image, moving: Image, affines: Float[Tensor, "k 4 4"], kind: str,
            work: Path) -> Found:
    """The answers of another program, in a process of its own."""
    task = work / "task.npz"
    np.savez(task, fixed=fixed.data[0, 0, 0].numpy(), moving=moving.data[0, 0, 0].numpy(),
             fixed_affine=fixed.grid.affine[0].numpy(), moving_affines=affines.numpy(), kind=kind,
             flat=fixed.grid.shape[0] == 1)
    threads = {name: "1" for name in ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")}
    done = subprocess.run([str(python), modalities_peers.__file__, tool, str(task)], env={**os.environ, **threads},
                          capture_output=True, text=True, check=False)
    answer = task.with_suffix(f".{tool}.json")
    if done.returncode or not answer.is_file():
        last = (done.stderr.strip() or "no answer").splitlines()[-1]
        raise InputError(f"{tool} with {python.name}, which failed: {last[:200]}",
                         expected="an environment that has the three programs", remedy="see --peers")
    found: Found = json.loads(answer.read_text())
    answer.unlink()
    return found


def folder_of(pair: Pair, work: Path) -> Path:
    """Where what was measured of a pair is kept."""
    return work / "".join(c if c.isalnum() else "_" for c in pair.name)


def measure(pair: Pair, homes: dict[str, Path], work: Path, peers: Path | None) -> dict[str, Found]:
    """Answers of each program for a pair, kept in ``work``: first the files as they are, then the known moves. The
    entry ``back`` is our answer with the two images exchanged."""
    fixed, moving = (read_image(homes[pair.home], stem) for stem in (pair.fixed, pair.moving))
    home = folder_of(pair, work)
    home.mkdir(parents=True, exist_ok=True)

    def once(name: str, make: Callable[[], Found]) -> Found:
        path = home / f"{name}.json"
        if not path.is_file():
            write_text(path, json.dumps(make()))
        found: Found = json.loads(path.read_text())
        print(f"{pair.name}, {name}: {np.mean(found['seconds']):.1f} s", file=sys.stderr)
        return found

    begin = once("start", lambda: by_firstread(fixed, moving, moving.grid.affine, pair.kind))
    affines, _ = starts(moving, torch.tensor(begin["matrices"][0], dtype=torch.float64), body(fixed).mean(dim=0))
    few = affines if fixed.grid.shape[0] == 1 else affines[:1 + PEER_SEEDS]
    kept = {"start": begin, "Firstread": once("Firstread", lambda: by_firstread(fixed, moving, affines, pair.kind)),
            "back": once("back", lambda: by_firstread(moving, fixed, fixed.grid.affine, pair.kind))}
    if peers is None:
        return kept
    return kept | {tool: once(tool, partial(by_peer, tool, peers, fixed, moving, few, pair.kind, home))
                   for tool in TOOLS}


def placed(fixed: Image, moving: Image, found: dict[str, Found]) -> dict[str, Tensor]:
    """Where each answer of each program takes the places of the body, brought back to the files' own headers; NaN where
    there is no answer."""
    nothing = [[math.nan] * 4] * 4
    matrices = {name: torch.tensor([m or nothing for m in given["matrices"]], dtype=torch.float64)
                for name, given in found.items() if name != "back"}
    _, home_again = starts(moving, matrices.pop("start")[0], body(fixed).mean(dim=0))
    return {tool: at(home_again[:len(each)] @ each, body(fixed)) for tool, each in matrices.items()}


def scatter(seen: Float[Tensor, "k n 3"]) -> Float[Tensor, " k"]:
    """How far each answer lies from the median of all, place by place; infinite without an answer.

    >>> scatter(torch.tensor([[[0.0, 0, 0]], [[0, 0, 0]], [[3, 4, 0]]])).tolist()
    [0.0, 0.0, 5.0]
    """
    middle = seen.nanmedian(dim=0).values
    return (seen - middle).norm(dim=-1).mean(dim=1).nan_to_num(math.inf)


def summary(pair: Pair, homes: dict[str, Path], found: dict[str, Found]) -> Row:
    """What the page says of a pair: scatter of each program, its distance from ours, way back, stretch, warnings."""
    fixed, moving = (read_image(homes[pair.home], stem) for stem in (pair.fixed, pair.moving))
    seen, places = placed(fixed, moving, found), body(fixed)
    ours = seen["Firstread"]
    middle = {tool: each.nanmedian(dim=0).values for tool, each in seen.items()}
    there, back = (torch.tensor(found[name]["matrices"][0], dtype=torch.float64) for name in ("Firstread", "back"))
    stretch = torch.linalg.svdvals(there[:3, :3])
    return {"pair": pair,
            "scatter": {tool: scatter(each)[1:].tolist() for tool, each in seen.items()},
            "apart": {tool: float((each - middle["Firstread"]).norm(dim=-1).mean()) for tool, each in middle.items()},
            "seconds": {tool: float(np.mean(found[tool]["seconds"])) for tool in seen},
            "version": {tool: found[tool].get("version", "") for tool in seen},
            "moved": float((ours[0] - places).norm(dim=-1).mean()),
            "back": float((at((back @ there)[None], places)[0] - places).norm(dim=-1).mean()),
            "stretch": (float(stretch.min()), float(stretch.max())),
            "notes": sorted({code for codes in found["Firstread"]["notes"] for code in codes}),
            "noted": sum(bool(codes) for codes in found["Firstread"]["notes"])}


def round_of_three(homes: dict[str, Path], work: Path, tools: Sequence[str]) -> dict[str, float]:
    """T1 to PD to ASL against T1 to ASL, files as they are: mean distance in the body, mm."""
    direct, first, second = (next(p for p in PAIRS if p.name == name) for name in ROUND)
    places = body(read_image(homes[direct.home], direct.fixed))
    answers = {}
    for tool in tools:
        a, b, c = (torch.tensor(json.loads((folder_of(p, work) / f"{tool}.json").read_text())["matrices"][0],
                                dtype=torch.float64) for p in (direct, first, second))
        answers[tool] = float((at(a[None], places) - at((c @ b)[None], places)).norm(dim=-1).mean())
    return answers


def hands(homes: dict[str, Path], work: Path, tools: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Error at the seven landmarks of the hands, mean and most, mm."""
    pair = next(p for p in PAIRS if p.fixed == "hands-R")
    fixed, moving = (read_image(homes[pair.home], stem) for stem in (pair.fixed, pair.moving))
    here, there = hand_marks(fixed.grid)
    found = {"before": Transform.identity()}
    for tool in tools:
        answer = json.loads((folder_of(pair, work) / f"{tool}.json").read_text())["matrices"][0]
        found[f"{tool}, affine"] = Transform(torch.tensor([answer], dtype=torch.float64))
    found["Firstread, rigid"] = Register(kind="rigid")(fixed, moving).forward
    for metric in ("auto", "mi", "ngf"):
        found[f"Firstread, deformable, {metric}"] = Register(metric=metric)(fixed, moving).forward
    off = {name: (apply(transform, here) - there).norm(dim=-1) for name, transform in found.items()}
    return {name: (float(each.mean()), float(each.max())) for name, each in off.items()}


def deformed(homes: dict[str, Path]) -> dict[str, Row]:
    """A deformation after the linear map: how far it moves the body beyond that, folds, least and most of the Jacobian
    there, similarity before and after."""
    rows = {}
    for name, first in DEFORMED.items():
        pair = next(p for p in PAIRS if p.name == name)
        fixed, moving = (read_image(homes[pair.home], stem) for stem in (pair.fixed, pair.moving))
        started = time.process_time()
        found = Register(first=first)(fixed, moving)
        seconds = time.process_time() - started
        places = body(fixed)[None]
        linear = Transform(found.forward.matrix)
        moved = (apply(found.forward, places) - apply(linear, places)).norm(dim=-1)
        grown = jacobian_determinant(found.forward, fixed.grid)[0]
        inside = grown[unit_range(fixed.data) > 0.1]
        rows[name] = {"first": first, "metric": found.metric,
                      "before": float(found.before), "after": float(found.after), "moved": float(moved.mean()),
                      "most": float(moved.max()), "folds": int((grown <= 0).sum()),
                      "least": float(inside.min()), "largest": float(inside.max()), "seconds": seconds,
                      "unit": pair.unit}
    return rows


def near(values: Sequence[float]) -> str:
    """``within 2 of all; median (most)``.

    >>> near([0.0, 1.0, 5.0])
    '2 of 3; 1.0 (5.0)'
    """
    text = [("none" if math.isinf(v) else f"{v:.1f}" if v >= 0.95 else f"{v:.2f}") for v in (
        float(np.median(values)), max(values))]
    return f"{sum(v <= NEAR for v in values)} of {len(values)}; {text[0]} ({text[1]})"


def page(rows: Sequence[Row], around: dict[str, float], marks: dict[str, tuple[float, float]],
         bent: dict[str, Row]) -> str:
    """The page in Markdown."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    tools = list(rows[0]["scatter"])
    shown = [row | {"cells": [near(row["scatter"][tool]) for tool in tools],
                    "noted": f"{row['noted']} of {SEEDS + 1}: {', '.join(row['notes'])}" if row["noted"] else "none"}
             for row in rows]
    versions = ", ".join(f"{tool} {rows[0]['version'][tool]}" for tool in tools if rows[0]["version"][tool])
    environment = Environment(loader=PackageLoader("firstread.recipes", "."), undefined=StrictUndefined,
                              trim_blocks=True, keep_trailing_newline=True)
    return environment.get_template("real_pairs.md.jinja").render(
        rows=shown, tools=tools, others=[tool for tool in tools if tool != "Firstread"], versions=versions, seeds=SEEDS,
        peer_seeds=PEER_SEEDS, near=f"{NEAR:g}", around=around, marks=marks, bent=bent)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write ``registration-real-pairs.md``; 2 with one sentence where something is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("nv", type=Path, help="files of neurolabusc/niivue-images")
    parser.add_argument("fair", type=Path, help="kernel/data of C4IR/FAIR.m")
    parser.add_argument("--peers", type=Path, help="a Python with SimpleITK, antspyx and itk-elastix")
    parser.add_argument("--work", type=Path, required=True, help="keeps what was measured")
    parser.add_argument("--only", nargs="+", metavar="PAIR", help="measure these pairs and write no page")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/evidence"))
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    homes = {"nv": given.nv, "fair": given.fair}
    try:
        written = () if given.only else (given.output,)
        if missing := [str(home) for home in (given.nv, given.fair, *written) if not home.is_dir()]:
            raise InputError(f"no folder {', '.join(missing)}", expected="those of the two repositories' files, and "
                             "one for the page", remedy="correct them, -o for that of the page")
        if unknown := sorted({*(given.only or ())} - {pair.name for pair in PAIRS}):
            raise InputError(f"no pair {', '.join(unknown)}", expected="; ".join(pair.name for pair in PAIRS),
                             remedy="correct --only")
        rows = []
        for pair in PAIRS:
            if not given.only or pair.name in given.only:
                rows.append(summary(pair, homes, measure(pair, homes, given.work, given.peers)))
        if not given.only:
            tools = list(rows[0]["scatter"])
            write_text(given.output / "registration-real-pairs.md", page(
                rows, round_of_three(homes, given.work, tools), hands(homes, given.work, tools), deformed(homes)))
    except FirstreadError as error:
        print(f"evidence_modalities_real: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
