"""Ways of choosing lines on phantom hearts: what is learned on training subjects, and what each way then measures."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from firstread.acquire.active import Policy, acquire_actively, add_lines, lines_of, measure_lines
from firstread.acquire.coils import GaussianCoils, LoopCoils
from firstread.acquire.heart_population import Family
from firstread.acquire.mri import Encode
from firstread.acquire.policies import (
    Disagreement,
    GreedyOracle,
    PlannedLines,
    RandomLines,
    ScoringNetwork,
    line_features,
    line_gains,
)
from firstread.acquire.sampling import FullySampled, LearnedMask, StoredMask, VariableDensity, centre
from firstread.core.keys import Key
from firstread.core.records import KSpace
from firstread.io import pattern
from firstread.nets.lines import LineScorer
from firstread.recipes.endpoint_pool import Stack, case_of, store_all
from firstread.reconstruct.iterative import TemporalTV

FIXED = ("greedy on average", "learned")
POLICIES = ("random", *FIXED, "active: disagreement", "active: network", "oracle greedy")


@dataclass(frozen=True)
class Study:
    """What is scanned and how, under one seed; budgets are lines per frame, the fixed ``centre_lines`` among them.

    training: subjects that fixed patterns and the network are learned from; steps: of a learned pattern.
    """

    stack: Stack = field(default_factory=lambda: Stack(lines=160, columns=44, frames=8, slices=2, spacing_mm=2.5))
    coils: int = 4
    snr: float = 30.0
    centre_lines: int = 4
    budgets: tuple[int, ...] = (10, 20, 40)
    per_step: int = 2
    spread: float = 3.0
    training: int = 4
    steps: int = 5
    seed: int = 0

    def label(self) -> str:
        """Short text that differs where any setting does."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:8]


@dataclass(frozen=True, eq=False)
class Subject:
    """Fully sampled k-space with noise, the noiseless magnitude, the true ejection fraction, and the row's seed."""

    full: KSpace
    magnitude: Tensor
    fraction: float
    seed: int


def draw(study: Study, work: Path, family: Family, number: int) -> Subject:
    """Subject ``number`` of the pool; coils and noise are of the study's seed, and training and test differ in both."""
    seed = 1000 * study.seed + number
    path = store_all(work / "subjects", study.stack, family, number + 1)[number]
    case = case_of(path, seed=seed)
    coils = GaussianCoils(count=study.coils) if family == "train" else LoopCoils(count=study.coils)
    encode = Encode(sampling=FullySampled(), coils=coils, snr=study.snr)
    full = encode(case["truth.image"], Key(seed, f"study_lines {family}"))
    value = case["truth.phenotypes"]["LVEF"].value
    return Subject(full, case["truth.image"].data.abs(), float("nan") if value is None else float(value), seed)


def reconstruction(strength: float = 0.03) -> TemporalTV:
    """The reconstruction that lines are chosen with."""
    return TemporalTV(regularization=strength, iterations=20)


def image_loss(subject: Subject) -> Callable[[KSpace], Tensor]:
    """Squared error of the magnitude over that of a zero image."""
    reconstruct = reconstruction()
    return lambda kspace: ((reconstruct(kspace).data.abs() - subject.magnitude).square().sum()
                           / subject.magnitude.square().sum())


def start_of(study: Study) -> StoredMask:
    """The centre lines of every frame."""
    mask = torch.zeros(1, study.stack.lines)
    mask[:, centre(study.stack.lines, study.centre_lines)] = 1
    return StoredMask(mask=mask)


def greedy_ranking(study: Study, subjects: Sequence[Subject]) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """A fixed order of lines ``[frames, lines]``: greedy on the mean gain of all subjects and slices.

    After Gözcü et al. 2018. Also every step's features and gains, which the scoring network is trained on.
    """
    mask = start_of(study)(study.stack.frames, study.stack.lines, torch.Generator())[None, :, None]
    ranking, pairs, reconstruct = torch.zeros(study.stack.frames, study.stack.lines), [], reconstruction()
    for step in range((max(study.budgets) - study.centre_lines) // study.per_step):
        gains = []
        for subject in subjects:
            whole = mask.expand(1, study.stack.frames, study.stack.slices, study.stack.lines)
            gains.append(line_gains(subject.full, whole, image_loss(subject)))
            with torch.no_grad():
                image = reconstruct(measure_lines(subject.full, whole)).data
            pairs.append((line_features(image, whole), gains[-1]))
        mean = torch.stack(gains).mean(dim=(0, 3))[:, :, None]
        before, mask = mask, add_lines(mask, mean, study.per_step, spread=study.spread)
        ranking += (mask - before)[0, :, 0] * (100.0 - step)
        print(f"\rgreedy step {step + 1}", end="", file=sys.stderr, flush=True)
    return ranking, pairs


def trained_mask(study: Study, subjects: Sequence[Subject], count: int) -> Tensor:
    """The k-t pattern of ``count`` lines after training from a random one, straight through the reconstruction.

    Each step goes down the mean loss of all subjects, scaled so that the line of largest gradient moves by two; the
    best pattern that was met on the way is kept, which may be the start.
    """
    lines, frames, slices = study.stack.lines, study.stack.frames, study.stack.slices
    draw_lines = VariableDensity(acceleration=lines / count, centre_lines=study.centre_lines)
    start = draw_lines(frames, lines, Key(study.seed, "trained_mask").generator(count, 0))
    learned = LearnedMask(lines=lines, count=count, centre_lines=study.centre_lines, frames=frames,
                          relaxation="budget", start=start)
    best, least = start, float("inf")
    for step in range(study.steps + 1):
        learned.logits.grad, total = None, 0.0
        for subject in subjects:
            mask = learned(frames, lines, torch.Generator())
            loss = image_loss(subject)(measure_lines(subject.full, mask[None, :, None].expand(1, -1, slices, -1)))
            loss.backward()
            total += loss.item() / len(subjects)
        if total < least:
            best, least = mask.detach(), total
        print(f"\r{count} lines, step {step}: loss {total:.4f}", end="", file=sys.stderr, flush=True)
        slope = learned.logits.grad
        assert slope is not None
        with torch.no_grad():
            learned.logits -= 2 * slope / slope.abs().max()
    return best


def trained_network(study: Study, pairs: Sequence[tuple[Tensor, Tensor]], steps: int = 400) -> LineScorer:
    """A network that tells the oracle's gains from the features: mean squared error of their logarithms."""
    torch.manual_seed(study.seed)
    network = LineScorer()
    features = torch.cat([f for f, _ in pairs])
    gains = torch.cat([g for _, g in pairs]).clamp_min(0)
    wanted = (gains / gains.amax(dim=(1, 3), keepdim=True) + 1e-3).log()
    free = features[:, 2] == 0
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for step in range(steps):
        pick = torch.randint(len(features), (8,), generator=Key(study.seed, "trained_network").generator(step, 0))
        loss = (network(features[pick]) - wanted[pick])[free[pick]].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


def learn(study: Study, work: Path, folder: Path, patterns: Path) -> None:
    """Store what is learned: a ranking and a network in the cache, a pattern file per fixed policy and budget."""
    subjects = [draw(study, work, "train", number) for number in range(study.training)]
    ranking, pairs = greedy_ranking(study, subjects)
    begin = start_of(study)(study.stack.frames, study.stack.lines, torch.Generator())[None, :, None]
    for count in study.budgets:
        greedy = add_lines(begin, ranking[None, :, None], count - study.centre_lines)[0, :, 0]
        pattern.write(pattern_file(study, patterns, FIXED[0], count), greedy)
        pattern.write(pattern_file(study, patterns, FIXED[1], count), trained_mask(study, subjects, count))
    torch.save(trained_network(study, pairs).state_dict(), folder / "network.part")
    (folder / "network.part").rename(folder / "network.pt")


def pattern_file(study: Study, patterns: Path, name: str, count: int) -> Path:
    """Where the exported mask of a fixed policy lies."""
    return patterns / f"{name.replace(' ', '-')}-{count}-seed{study.seed}.json"


def scans(study: Study, name: str, subject: Subject, network: nn.Module, patterns: Path) -> list[KSpace]:
    """What policy ``name`` measures at every budget; fixed ones scan the masks that were exported, read from file."""
    if name in FIXED:
        masks = [StoredMask(mask=pattern.read(pattern_file(study, patterns, name, count)).mask)
                 for count in study.budgets]
        return [acquire_actively(subject.full, PlannedLines(ranking=mask.mask), count=count, start=mask)
                for mask, count in zip(masks, study.budgets, strict=True)]
    policies: dict[str, Callable[[], Policy]] = {
        "random": lambda: RandomLines(acceleration=study.stack.lines / max(study.budgets)),
        "active: disagreement": lambda: Disagreement(members=[reconstruction(s) for s in (0.003, 0.03, 0.3)]),
        "active: network": lambda: ScoringNetwork(network=network, reconstruct=reconstruction()),
        "oracle greedy": lambda: GreedyOracle(full=subject.full, loss=image_loss(subject))}
    seen: dict[int, KSpace] = {}
    acquire_actively(subject.full, policies[name](), count=max(study.budgets), start=start_of(study),
                     per_step=study.per_step, spread=0 if name == "random" else study.spread,
                     key=Key(subject.seed, name), watch=lambda k: seen.update({int(lines_of(k)[0, 0, 0].sum()): k}))
    return [seen[count] for count in study.budgets]
