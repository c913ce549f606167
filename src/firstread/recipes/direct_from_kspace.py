"""Contours straight from few lines of k-space (``direct-from-kspace``), after Schlemper et al. 2018 (MICCAI).

All arms of the comparison are settings of one function, ``train_arm``: the same subjects, lines, coils, noise, steps
and loss. They differ in what the network sees and in what it makes:

    synthesis      zero-filled frames to masks ("Syn-net"), its U-Net made dynamic
    latent         frames with shared data to interpolated codes of masks ("LI-net")
    shared         frames with shared data to masks
    reconstructed  the default cascade's image to masks: the way with an image between

All begin from the layers of the default segmentation, which has seen magnitude images of simulated hearts alone: what
only k-space can teach is then soon learned. Every step scans its subject with another number of lines per frame, other
lines, coils and noise; no line is measured in all frames, and coils come from the time average.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from firstread.acquire.coils import Coils, GaussianCoils
from firstread.acquire.interleaved import InterleavedLines
from firstread.acquire.mri import Encode
from firstread.analyze.direct import SegmentCine, SegmentFromKSpace
from firstread.analyze.segment import NAMES
from firstread.chains.direct import network_of
from firstread.chains.heart import RECONSTRUCTION, SEGMENTATION
from firstread.chains.trained import networks_of
from firstread.core.case import Case
from firstread.core.errors import SettingError
from firstread.core.keys import Key
from firstread.core.records import KSpace
from firstread.learn.fit import fit
from firstread.learn.losses import dice_cross_entropy
from firstread.nets.cascade import DeepCascade
from firstread.nets.cine import CineUNet
from firstread.nets.latent import LatentInterpolation, MaskAutoencoder
from firstread.recipes.endpoint_pool import Stack, case_of, store_all
from firstread.recipes.files import refuse_data
from firstread.reconstruct.cascade import Cascade
from firstread.zoo.store import load

NAME = "direct-from-kspace"
SUMMARY = "heart contours straight from undersampled k-space, from simulated cines alone"
SEED, STEPS = 0, 4000
STACK = Stack(columns=64)

Segmenter = SegmentFromKSpace | SegmentCine
Batch = tuple[Float[Tensor, "rows time channel y x"], Int[Tensor, "rows time y x"]]


@dataclass(frozen=True)
class Arm:
    """reads: what the network sees; kind: of network; shares: whether frames with shared data are seen too."""

    reads: Literal["kspace", "image"]
    kind: Literal["cine", "latent"]
    shares: bool


ARMS = {"synthesis": Arm("kspace", "cine", False), "latent": Arm("kspace", "latent", True),
        "shared": Arm("kspace", "cine", True), "reconstructed": Arm("image", "cine", False)}


@dataclass(frozen=True)
class Setting:
    """What all arms have in common.

    lines: numbers of lines per frame, one drawn for each step; together: lines of the centre that all frames measure
    between them; distances: of data sharing; widths, code: of the networks; iterations: of temporal TV before the
    cascade; mask_share: steps of the latent arm's autoencoder for each step of an arm, which come on top.
    """

    stack: Stack = STACK
    subjects: int = 64
    lines: tuple[int, ...] = (2, 3, 4, 6, 8, 12, 16, 24, 40, 80, 160)
    together: int = 8
    coils: int = 4
    snr: float = 30.0
    distances: tuple[int, ...] = (1, 3, 6)
    widths: tuple[int, ...] = (16, 32, 64, 128, 128)
    mask_widths: tuple[int, ...] = (8, 16, 32, 64)
    code: int = 64
    warm: bool = True
    iterations: int = 10
    learning_rate: float = 1e-3
    mask_share: float = 4.0

    def __post_init__(self):
        if not self.lines or not 1 <= min(self.lines) <= max(self.lines) <= self.stack.lines:
            raise SettingError(f"{self.lines} lines per frame of {self.stack.lines}", expected="1 to all lines",
                               remedy="correct `lines`")


def segmenter_of(arm: str, setting: Setting, *, seed: int) -> Segmenter:
    """The untrained stage of an arm; raises SettingError for an arm that there is not."""
    if arm not in ARMS:
        raise SettingError(f"an arm named {arm!r}", expected=f"one of {', '.join(ARMS)}", remedy="choose one of them")
    torch.manual_seed(seed)
    about = network_card(arm, setting)
    network = network_of(about)
    if setting.warm:
        start_from_images(network)
    sizes = {"spacing_mm": setting.stack.spacing_mm, "field": (setting.stack.lines, setting.stack.columns)}
    if ARMS[arm].reads == "image":
        return SegmentCine(networks=[network], **sizes)
    return SegmentFromKSpace(networks=[network], distances=tuple(about["distances"]), **sizes)


def start_from_images(network: CineUNet | LatentInterpolation) -> None:
    """Give the network (of a latent one: the predictor) the layers of the default segmentation, in place.

    Its first convolution saw the magnitude in all its channels: here it sees the real part of the first view, which is
    in phase with the time average, and begins with zero for all other channels. Raises SettingError for other widths.
    """
    source: nn.Module = networks_of(load(SEGMENTATION))[0]
    target: nn.Module = network.frames if isinstance(network, CineUNet) else network.predictor.scales
    if isinstance(network, LatentInterpolation):
        source = source.down[: len(network.predictor.scales)]
    (first, *others), (widened, *followers) = (
        [layer for layer in of.modules() if isinstance(layer, (nn.Conv2d, nn.GroupNorm))] for of in (source, target))
    try:
        for old, new in zip(others, followers, strict=True):
            new.load_state_dict(old.state_dict())
        with torch.no_grad():
            widened.weight.zero_()[:, 0].copy_(first.weight.sum(dim=1))
    except (RuntimeError, ValueError) as error:
        raise SettingError("widths that the default segmentation does not have", expected="its own (the default)",
                           remedy="leave out `widths`, or begin at random") from error


def network_card(arm: str, setting: Setting) -> dict[str, Any]:
    """What :func:`~firstread.chains.direct.stage_of` needs to build the stage again."""
    distances = list(setting.distances) if ARMS[arm].shares else []
    widths = setting.widths if ARMS[arm].kind == "cine" else setting.widths[: len(setting.mask_widths)]
    return {"kind": ARMS[arm].kind, "reads": ARMS[arm].reads, "channels_in": 2 * (1 + len(distances)),
            "distances": distances, "classes": len(NAMES), "widths": list(widths), "code": setting.code,
            "mask_widths": list(setting.mask_widths), "spacing_mm": setting.stack.spacing_mm,
            "field": [setting.stack.lines, setting.stack.columns]}


def reconstruction_of(setting: Setting) -> Cascade:
    """The default cascade, after ``iterations`` of temporal total variation."""
    weight = load(RECONSTRUCTION)
    network = DeepCascade.from_weight(weight.card["network"] | {"iterations": setting.iterations}, weight.state)
    return Cascade(network=network).requires_grad_(False).eval()


def scanned(case: Case, setting: Setting, lines: int, *, coils: Coils | None = None) -> KSpace:
    """The case's true image, measured with ``lines`` per frame; coils: of the training family unless given."""
    encode = Encode(sampling=InterleavedLines(count=lines, together=setting.together), snr=setting.snr,
                    coils=coils or GaussianCoils(count=setting.coils))
    return encode(case["truth.image"], Key(case.seed, encode.name))


def batches_of(pool: Sequence[Path], segmenter: Segmenter, setting: Setting, *, seed: int,
               device: str) -> Callable[[int], Batch]:
    """Step to the slices of its one subject; a function of seed and step, the same for all arms."""
    key = Key(seed, NAME)
    reconstruct = reconstruction_of(setting).to(device) if isinstance(segmenter, SegmentCine) else None

    @torch.no_grad()
    def batch(step: int) -> Batch:
        around, place = divmod(step, len(pool))
        subject = int(torch.randperm(len(pool), generator=key.generator(0, around))[place])
        lines = setting.lines[int(torch.randint(len(setting.lines), (), generator=key.generator(1, step)))]
        case = case_of(pool[subject], seed=seed * 1_000_000 + step).to(device)
        kspace = scanned(case, setting, lines)
        seen = segmenter.inputs(kspace if reconstruct is None else reconstruct(kspace))
        return seen, case["truth.labels"].data[:, :, 0].movedim(2, 1).flatten(0, 1).long()
    return batch


def loss(network: nn.Module, batch: Batch) -> Float[Tensor, ""]:
    """Cross entropy, soft Dice and areas of all frames; of codes also their distance to those of the true masks."""
    seen, labels = batch
    away = seen.new_zeros(())
    if isinstance(network, LatentInterpolation):
        codes = network.codes(seen)
        with torch.no_grad():
            wanted = network.autoencoder.encode(labels.flatten(0, 1)).unflatten(0, labels.shape[:2])
        away = (codes - wanted).square().mean() / wanted.square().mean().clamp_min(1e-6)
        logits = network.autoencoder.decode(codes.flatten(0, 1)).unflatten(0, labels.shape[:2])
    else:
        logits = network(seen)
    return (dice_cross_entropy(logits.flatten(0, 1), labels.flatten(0, 1)) + away
            + area_error(logits.softmax(dim=2), labels))


def area_error(probabilities: Float[Tensor, "rows time class y x"], labels: Int[Tensor, "rows time y x"], *,
               least: float = 16.0) -> Float[Tensor, ""]:
    """``mean |A_t - A*_t| / max_t A*_t`` over frames and heart classes: what the ejection fraction is made from.

    A: summed probabilities of all rows, the slices of one heart; A*: pixels of the true mask; least: of the divisor.
    """
    hot = F.one_hot(labels, probabilities.shape[2]).movedim(-1, 2)
    found, true = (each[:, :, 1:].sum(dim=(0, 3, 4)) for each in (probabilities, hot))
    return ((found - true).abs() / true.amax(dim=0).clamp_min(least)).mean()


def mask_batches(pool: Sequence[Path], *, seed: int, device: str, count: int = 16
                 ) -> Callable[[int], Int[Tensor, "rows y x"]]:
    """Step to ``count`` true masks of one subject, each shifted a little and, half of them, mirrored."""
    key = Key(seed, "masks")

    def batch(step: int) -> Tensor:
        generator = key.generator(step)
        case = case_of(pool[int(torch.randint(len(pool), (), generator=generator))], seed=0)
        masks = case["truth.labels"].data[0, :, 0].flatten(0, 1).long()
        chosen = masks[torch.randint(len(masks), (count,), generator=generator)]
        shifts = torch.randint(-4, 5, (count, 2), generator=generator).tolist()
        mirror = torch.rand(count, generator=generator) < 0.5
        moved = [mask.roll(tuple(shift), dims=(0, 1)) for mask, shift in zip(chosen, shifts, strict=True)]
        return torch.stack([m.flip(1) if f else m for m, f in zip(moved, mirror, strict=True)]).to(device)
    return batch


def mask_loss(autoencoder: MaskAutoencoder, labels: Int[Tensor, "rows y x"]) -> Float[Tensor, ""]:
    """Cross entropy and soft Dice after the code, which a little noise keeps smooth: 5 % of its spread."""
    codes = autoencoder.encode(labels)
    noisy = codes + 0.05 * codes.detach().square().mean().sqrt() * torch.randn_like(codes)
    return dice_cross_entropy(autoencoder.decode(noisy), labels) + 1e-3 * codes.square().mean()


def train_arm(out: Path, *, arm: str, setting: Setting, pool: Sequence[Path], steps: int, seed: int = SEED,
              device: str = "cpu", name: str | None = None,
              report: Callable[[int, float], None] | None = None) -> Segmenter:
    """Train one arm and write ``name.safetensors`` and its card; interrupted and called again it goes on."""
    segmenter, called = segmenter_of(arm, setting, seed=seed).to(device), name or arm
    network = segmenter.networks[0]
    every = min(200, max(1, steps // 4))
    if isinstance(network, LatentInterpolation):
        count = max(1, round(setting.mask_share * steps))
        fit(network.autoencoder, mask_batches(pool, seed=seed, device=device), mask_loss, steps=count, seed=seed,
            checkpoint=out / f"{called}-masks.pt", learning_rate=2 * setting.learning_rate,
            warmup=min(50, count), averaging=0.98, every=every)
        network.autoencoder.requires_grad_(False)
    fit(network, batches_of(pool, segmenter, setting, seed=seed, device=device), loss, steps=steps, seed=seed,
        checkpoint=out / f"{called}.pt", learning_rate=setting.learning_rate, warmup=min(50, steps), averaging=0.98,
        every=every, report=report)
    save(out / f"{called}.safetensors", network, {
        "name": called, "summary": SUMMARY, "recipe": "direct_from_kspace", "arm": arm, "steps": steps, "seed": seed,
        "subjects": len(pool), "data": "beating-heart phantoms alone", "setting": asdict(setting),
        "network": network_card(arm, setting), "parameters": sum(p.numel() for p in network.parameters()),
        "classes": list(NAMES), "licence": "Apache-2.0"})
    return segmenter


def save(path: Path, network: nn.Module, card: dict[str, Any]) -> None:
    """Write weights and card beside each other."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}, path)
    path.with_suffix(".json").write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def train(out: Path, device: str, steps: int | None, data: Path | None) -> None:
    """The ``shared`` arm into ``out``; interrupted and called again it goes on.

    Raises SettingError when real data is given: these weights see none.
    """
    refuse_data(data, NAME)
    setting, count = Setting(), steps or STEPS
    pool = store_all(out / "subjects", setting.stack, "train", min(setting.subjects, count))
    train_arm(out, arm="shared", setting=setting, pool=pool, steps=count, device=device, name=NAME)
