"""One joint training step beside its stages' own steps, and its peak memory with and without checkpointing:
``python bench/joint_step.py -o bench/results/joint_step.md``.

The chain is that of ``firstread train endpoint``: learned mask, cascade, segmentation, ejection fraction, with the
default networks. Own step of a stage: forward on inputs without graph, its own loss (of the mask: a random slope at
k-space), and backward to its parameters. CPU seconds of one thread, so that other work on the machine counts less; the
two are timed in turn. Memory: peak resident set of a process that makes one step, less what it held before the step.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from datetime import date
from pathlib import Path

import torch

from firstread.core.case import Case
from firstread.core.geometry import Grid
from firstread.core.keys import Key
from firstread.core.records import HardLabels, Image, Phenotype, Phenotypes, Rows
from firstread.core.stage import Chain
from firstread.learn.joint import accumulate, freeze
from firstread.learn.objectives import Objective
from firstread.recipes.endpoint import NAMES, Setting, chain_of, first_parts, objective_of
from firstread.recipes.endpoint_pool import Stack

CHECKPOINTED = {"none": (), "cascade": ("reconstruction",),
                "all": ("kspace", "reconstruction", "labels.members", "phenotypes"),
                "blocks": (), "blocks-and-labels": ("labels.members",)}


def beating_disc(stack: Stack) -> Case:
    """A ring that contracts in a body, as image and labels."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, stack.lines) * stack.lines / 2 * stack.spacing_mm,
                          torch.linspace(-1, 1, stack.columns) * stack.columns / 2 * stack.spacing_mm, indexing="ij")
    r = (y**2 + x**2).sqrt()
    inner = 25 - 6 * torch.sin(torch.pi * torch.arange(stack.frames) / stack.frames)[:, None, None]
    cavity, ring = r < inner, (r >= inner) & (r < 34)
    image = (0.4 + 0.6 * cavity - 0.2 * ring) * torch.polar(torch.ones_like(r), 0.01 * x)
    grid = Grid.from_spacing((stack.slices, stack.lines, stack.columns), (24.0, stack.spacing_mm, stack.spacing_mm))
    space = (1, stack.frames, 1, stack.slices, stack.lines, stack.columns)
    data = image[None, :, None, None].expand(space).to(torch.complex64).contiguous()
    labels = (cavity + 2 * ring).to(torch.uint8)[None, :, None, None].expand(space).contiguous()
    truth = Phenotypes(Rows.subjects(1), {"LVEF": Phenotype(torch.tensor([55.0], dtype=torch.float64), "%")})
    return Case({"truth.image": Image(Rows.subjects(1), data, grid), "truth.phenotypes": truth,
                 "truth.labels": HardLabels(Rows.subjects(1), labels, grid, NAMES)})


def own_steps(chain: Chain, case: Case, done: Case, objective: Objective) -> dict[str, float]:
    """CPU seconds of each stage's own step; ``done``: what the chain makes of the case, without graph."""
    encode, cascade, segment, function = chain.steps
    slope = torch.randn_like(done["kspace"].data)
    found, seconds = Case({**case, **done}), {}

    def timed(name: str, step) -> None:
        begun = time.process_time()
        step()
        seconds[name] = time.process_time() - begun

    def loss(number: int, result: str, record) -> torch.Tensor:
        return objective.terms[number].sum_over_subjects(Case({**found, result: record}))

    labels = done["labels.members"].map(lambda t: t.detach().clone().requires_grad_(t.dtype == torch.float32))
    key = Key(case.seed, encode.name)
    timed("mask and k-space", lambda: (encode(case["truth.image"], key).data * slope).real.sum().backward())
    timed("cascade", lambda: loss(0, "reconstruction", cascade(done["kspace"])).backward())
    timed("segmentation", lambda: loss(1, "labels.members", segment(done["reconstruction"])).backward())
    timed("ejection fraction", lambda: loss(2, "phenotypes", function(labels)).backward())
    return seconds


def resident_mb(line: str) -> float:
    """``VmRSS`` (now) or ``VmHWM`` (peak) of this process; Linux. (A child's ``ru_maxrss`` begins at its parent's.)"""
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(row.split()[1]) for row in text.splitlines() if row.startswith(line)) / 1024


def built(setting: Setting, *, learned: bool = True) -> tuple[Chain, Case, Objective]:
    """Chain, case and losses; learned: whether the mask is trained."""
    chain = chain_of(first_parts(setting, seed=0), setting).train()
    return chain if learned else freeze(chain, "kspace"), beating_disc(setting.stack), objective_of(setting)


def memory_of(setting: Setting, checkpointed: str) -> None:
    """Print what one step adds to the peak of this process."""
    chain, case, objective = built(replace(setting, blockwise=checkpointed.startswith("blocks")))
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak begins anew
    before = resident_mb("VmRSS")
    begun = time.process_time()
    accumulate(chain, [case], objective, recompute=CHECKPOINTED[checkpointed])
    print(f"{resident_mb('VmHWM') - before:.0f} {time.process_time() - begun:.3f}")


def timings(setting: Setting, repeats: int) -> tuple[list[float], list[float], list[dict[str, float]]]:
    """CPU seconds of the joint step, of the same with the mask frozen, and of the own steps, in turn.

    The first round is not counted.
    """
    chain, case, objective = built(setting)
    frozen = built(setting, learned=False)[0]
    with torch.no_grad():
        done = chain(case)
    joint, fixed, own = [], [], []
    for _ in range(repeats + 1):
        for model, seconds in ((chain, joint), (frozen, fixed)):
            begun = time.process_time()
            accumulate(model, [case], objective)
            seconds.append(time.process_time() - begun)
        own.append(own_steps(chain, case, done, objective))
    return joint[1:], fixed[1:], own[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, help="write the page there")
    parser.add_argument("--lines", type=int, default=96)
    parser.add_argument("--columns", type=int, default=48)
    parser.add_argument("--frames", type=int, default=6)
    parser.add_argument("--slices", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", choices=sorted(CHECKPOINTED), help="one step in this process, print MB and CPU s")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    setting = Setting(stack=Stack(lines=asked.lines, columns=asked.columns, frames=asked.frames, slices=asked.slices,
                                  spacing_mm=2.4), acceleration=6.0)
    if asked.memory:
        memory_of(setting, asked.memory)
        return
    joint, fixed, own = timings(setting, asked.repeats)
    sums = [sum(parts.values()) for parts in own]
    ratios = [whole / parts for whole, parts in zip(joint, sums, strict=True)]
    without = [whole / parts for whole, parts in zip(fixed, sums, strict=True)]
    sizes = ["--lines", asked.lines, "--columns", asked.columns, "--frames", asked.frames, "--slices", asked.slices]
    command = ["bench/joint_step.py", *map(str, sizes)]
    print("joint over own:", ratios, without, file=sys.stderr, flush=True)
    rows = []
    for name in CHECKPOINTED:
        out = subprocess.run([sys.executable, *command, "--memory", name], check=True, capture_output=True, text=True)
        added, seconds = out.stdout.split()
        rows.append(f"| {name} | {added} | {float(seconds):.2f} |")
    parts = "\n".join(f"| {name}, own step | {statistics.median(o[name] for o in own):.3f} |" for name in own[0])
    page = f"""# One joint training step

{__doc__.split(chr(10) * 2, 1)[1].strip()}

{asked.frames} frames of {asked.slices} slices of {asked.lines} x {asked.columns}, {setting.coils} coils, \
{setting.iterations} iterations of temporal TV before the cascade; one thread; torch {torch.__version__}; \
{date.today()}; a shared, busy machine: read the ratios and the megabytes, not the seconds. Command: \
`python {' '.join(command)} --repeats {asked.repeats}`.

| step | CPU s, median of {len(joint)} |
|---|---|
{parts}
| sum of the own steps | {statistics.median(sums):.3f} |
| **joint** | {statistics.median(joint):.3f} |
| joint, mask frozen | {statistics.median(fixed):.3f} |

Joint over the sum, round by round: median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f} \
(aim: at most 1.15); with the mask frozen {statistics.median(without):.2f}, {min(without):.2f} to {max(without):.2f}. A
trained mask costs the gradient through temporal TV, coil estimation and data consistency, which the cascade's own
step does not need: there the measurements are constants.

| stages checkpointed | memory added by one step, MB | CPU s (one step, the first of its process) |
|---|---|---|
{chr(10).join(rows)}

Checkpointing whole stages cannot lower the peak below what the largest stage needs for its own gradient; here that is
the cascade. Checkpointing the blocks inside it does lower the peak.
"""
    print(page)
    if asked.output:
        asked.output.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
