"""Slice-to-volume reconstruction on moving heads of known truth: ``python -m firstread.recipes.evidence_slices``.

    python -m firstread.recipes.evidence_slices --cache FOLDER [-o docs/evidence] [--svrtk FOLDER] [--brain FILE.npz]

Simulated heads, and a real brain with simulated motion (--brain), in stacks of thick slices with gaps, drop-outs and
outliers; and SVRTK's own simulated stacks beside its results (--svrtk). Each case is stored in the cache: kill it, run
it again, and it goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from firstread.acquire.head_stacks import Protocol
from firstread.core.errors import FirstreadError, InputError
from firstread.recipes.evidence_slices_svrtk import compared, svrtk_section
from firstread.recipes.files import write_text
from firstread.recipes.slices_cases import SEVERITIES, SPACING_MM, Head, moving, phantom, real_brain, scores
from firstread.restore.slices import SliceToVolume

PROTOCOL = Protocol(pixel_mm=1.25)
RESOLUTION_MM = 1.2
ARMS = {"EM weights": SliceToVolume(resolution_mm=RESOLUTION_MM),
        "all count alike": SliceToVolume(resolution_mm=RESOLUTION_MM, robust=False),
        "neural field": SliceToVolume(resolution_mm=RESOLUTION_MM, method="field")}
COLUMNS = (("mm", "pose mm", 2), ("degrees", "degrees", 2), ("PSNR volume", "PSNR dB", 1), ("NCC volume", "NCC", 3),
           ("seconds", "CPU s", 0))
BEFORE = (("mm before", "pose mm", 2), ("degrees before", "degrees", 2))
Found = Mapping[tuple[str, str], Sequence[dict[str, float]]]


def case_scores(head: Head, severity: str, arm: str, seed: int) -> dict[str, float]:
    """All numbers of one seed."""
    stacks, mask = moving(head, severity, seed, PROTOCOL)
    return scores(head, stacks, mask, ARMS[arm])


def spread(values: Sequence[float], digits: int) -> str:
    """Mean and, in brackets, the lowest and the highest.

    >>> spread([1.0, 2.0, 3.0], 1)
    '2.0 [1.0, 3.0]'
    """
    return f"{sum(values) / len(values):.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


def share(hits: int, of: int) -> str:
    """A proportion and its 95 % interval (Wilson 1927).

    >>> share(9, 10)
    '9/10 = 0.90 [0.60, 0.98]'
    """
    if of == 0:
        return "0/0"
    z, p = 1.96, hits / of
    middle, half = p + z * z / (2 * of), z * math.sqrt(p * (1 - p) / of + z * z / (4 * of * of))
    low, high = ((middle + sign * half) / (1 + z * z / of) for sign in (-1, 1))
    return f"{hits}/{of} = {p:.2f} [{low:.2f}, {high:.2f}]"


def table(found: Found) -> str:
    """Markdown: motion and method down, mean [lowest, highest] over seeds; exclusions pooled over seeds."""
    heads = [title for _, title, _ in COLUMNS]
    lines = ["| motion | method | " + " | ".join(heads) + " | precision of exclusion | recall |",
             "|---" * (len(heads) + 4) + "|"]
    for severity in dict.fromkeys(s for s, _ in found):
        rows = next(rows for (s, _), rows in found.items() if s == severity)
        for name in ("template", "average"):
            cells = [spread([r[key] for r in rows], digits) for key, _, digits in BEFORE]
            cells += [spread([r[f"{kind} {name}"] for r in rows], digits) for kind, digits in (("PSNR", 1), ("NCC", 3))]
            title = "one stack, as it came" if name == "template" else "mean of the stacks, as they came"
            lines.append(f"| {severity} | {title} | {' | '.join(cells)} | – | – | – |")
        for (s, arm), rows in found.items():
            if s != severity:
                continue
            cells = [spread([r[key] for r in rows], digits) for key, _, digits in COLUMNS]
            right, wrong, kept = (int(sum(r[k] for r in rows)) for k in
                                  ("excluded rightly", "excluded wrongly", "faults kept"))
            out = ["–", "–"] if arm == "all count alike" else [share(right, right + wrong), share(right, right + kept)]
            lines.append(f"| {severity} | {arm} | {' | '.join(cells + out)} |")
    return "\n".join(lines)


def page(simulated: Found, brain: Found, svrtk: str, seeds: range, alike: range) -> str:
    """The page."""
    motions = "; ".join(f"{name}: drift {m.drift_mm:g} mm and {m.drift_deg:g}° within a stack, {m.jumps} jumps of "
                        f"{m.jump_mm:g} mm and {m.jump_deg:g}°, {m.between_mm:g} mm and {m.between_deg:g}° between "
                        "stacks (standard deviations along and about each axis)" for name, m in SEVERITIES.items())
    parts = [
        "# Slice-to-volume reconstruction", "",
        "Made by `python -m firstread.recipes.evidence_slices`. **Simulated** motion; nothing here is a moving fetus.",
        "", f"{PROTOCOL.stacks} stacks (axial, coronal, sagittal, twice, each tilted) of {PROTOCOL.thickness_mm:g} mm "
        f"slices with gaps of {PROTOCOL.gap_mm:g} mm and pixels of {PROTOCOL.pixel_mm:g} mm, interleaved; the slice "
        f"profile is flat with cosine flanks, not the Gaussian that is assumed; Rician noise of {PROTOCOL.noise:g} of "
        f"the brightest signal, a bias field per stack, {100 * PROTOCOL.drop_outs:.0f} % of slices with signal lost "
        f"and {100 * PROTOCOL.outliers:.0f} % spoilt by motion within them. Motion: {motions}. A mask of the brain "
        f"lies on the first stack. Volume of {RESOLUTION_MM:g} mm.", "",
        f"Cells: mean [lowest, highest] of {len(seeds)} seeds ({', '.join(map(str, seeds))}: other heads and other "
        f"motion; the heads of seed 0 were looked at while the method and its iterations were chosen, and are "
        f"{'among these' if 0 in seeds else 'left out here'}); exclusions pooled over seeds with Wilson's 95 % "
        "interval. Pose: mean distance of 25 points of a slice from the truth, one rigid offset of all slices removed, "
        "unspoilt slices that show the brain. PSNR (peak: largest true value) and NCC: in the brain on a 1 mm "
        "lattice, after that offset and one factor. Time: one thread, processor time, on a machine that others "
        "used.", "",
        "## Simulated heads", "", f"Rendered at {SPACING_MM:g} mm.", "", table(simulated), ""]
    if brain:
        parts += ["## A real brain, moved by simulation", "", "One adult's T1 scan shrunk to half its size (0.5 mm), "
                  "cut into slices like the heads above; seeds are of the motion alone" +
                  ("" if alike == seeds else f" (all count alike: {', '.join(map(str, alike))} only)") + ".", "",
                  table(brain), ""]
    return "\n".join(parts) + ("\n" + svrtk if svrtk else "")


def collected(kind: str, seeds: range, cache: Path, arms: Sequence[str], brain: Path | None = None) -> Found:
    """Every case of a kind of head, from the cache where it is there."""
    found: dict[tuple[str, str], list[dict[str, float]]] = {(s, arm): [] for s in SEVERITIES for arm in arms}
    for seed in seeds:
        head: Head | None = None
        for severity, arm in found:
            file = cache / f"{kind}-{severity}-{arm.replace(' ', '-')}-{seed}.json"
            if not file.is_file():
                if head is None:
                    head = phantom(seed) if brain is None else real_brain(brain)
                write_text(file, json.dumps(case_scores(head, severity, arm, seed)))
            found[severity, arm].append(json.loads(file.read_text(encoding="utf-8")))
            print(f"\r{kind}: seed {seed}, {severity}, {arm}        ", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m firstread.recipes.evidence_slices", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder of what is stored per case")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/evidence"))
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--first-seed", type=int, default=1, help="0 is the one the method was chosen on")
    parser.add_argument("--brain-alike", type=int, help="of the real brain without robust statistics: fewer seeds")
    parser.add_argument("--svrtk", type=Path, help="folder of SVRTK's test data")
    parser.add_argument("--brain", type=Path, help=".npz of a brain: vol and seg, 1 mm")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        fewer = given.seeds if given.brain_alike is None else given.brain_alike
        if not 1 <= fewer <= given.seeds:
            raise InputError(f"{given.seeds} seeds, {fewer} of them all alike",
                             expected="one seed or more, and of these one or more",
                             remedy="correct --seeds and --brain-alike")
        seeds = range(given.first_seed, given.first_seed + given.seeds)
        alike = seeds[:fewer]
        given.cache.mkdir(parents=True, exist_ok=True)
        given.output.mkdir(parents=True, exist_ok=True)
        simulated = collected("head", seeds, given.cache, tuple(ARMS))
        brain: dict[tuple[str, str], Sequence[dict[str, float]]] = {}
        if given.brain:
            found = {**collected("brain", seeds, given.cache, ("EM weights",), given.brain),
                     **collected("brain", alike, given.cache, ("all count alike",), given.brain)}
            brain = {key: found[key] for key in sorted(found, key=lambda key: list(SEVERITIES).index(key[0]))}
        svrtk = svrtk_section(compared(given.svrtk, given.cache)) if given.svrtk else ""
        write_text(given.output / "slices.md", page(simulated, brain, svrtk, seeds, alike))
    except FirstreadError as error:
        print(f"evidence_slices: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
