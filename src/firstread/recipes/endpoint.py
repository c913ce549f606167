"""Sampling mask, reconstruction and segmentation trained together for the ejection fraction (``endpoint``).

All arms of the comparison are settings of one function, ``train_arm``: the same networks, warm start, subjects, losses
and steps. They differ in whether the mask is trained and in how far the gradient of a loss goes back:

    separate       fixed mask; the segmentation sees the true images
    fine-tuned     fixed mask; the segmentation sees reconstructions, its gradient stops there
    learned-mask   the mask is trained with the reconstruction; else as fine-tuned
    fixed-joint    fixed mask; contours and ejection fraction train the reconstruction too
    joint          and the mask
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from firstread.acquire.coils import Coils, GaussianCoils
from firstread.acquire.mri import Encode
from firstread.acquire.sampling import LearnedMask, budget, centre, line_probability
from firstread.analyze.segment import NAMES
from firstread.chains.heart import RECONSTRUCTION, SEGMENTATION
from firstread.core.case import Case
from firstread.core.errors import SettingError
from firstread.core.keys import Key
from firstread.core.provenance import weights_hash
from firstread.core.records import Image
from firstread.core.stage import Chain, Stage
from firstread.core.wrap import wrap
from firstread.learn.fit import fit
from firstread.learn.joint import accumulate, freeze, load_fitting, rates_of
from firstread.learn.objectives import Objective, Term
from firstread.learn.row_losses import contour_error, image_error, phenotype_error
from firstread.measure.cardiac import CardiacFunction
from firstread.nets.cascade import DeepCascade
from firstread.nets.unet import UNet
from firstread.ops.regions import dice
from firstread.recipes.endpoint_pool import Stack, case_of, store_all
from firstread.recipes.files import refuse_data
from firstread.recipes.own_network import open_network, segmentation_of
from firstread.reconstruct.cascade import Cascade
from firstread.zoo.store import load

NAME = "endpoint"
SUMMARY = "sampling mask, reconstruction and segmentation together, for the ejection fraction"
SEED, STEPS = 0, 300


@dataclass(frozen=True)
class Arm:
    """learned: whether the mask is trained; sees: the image that the segmentation is trained on."""

    learned: bool
    sees: Literal["truth.image", "image.detached", "reconstruction"]


ARMS = {"separate": Arm(False, "truth.image"), "fine-tuned": Arm(False, "image.detached"),
        "learned-mask": Arm(True, "image.detached"), "fixed-joint": Arm(False, "reconstruction"),
        "joint": Arm(True, "reconstruction")}


@dataclass(frozen=True)
class Setting:
    """What all arms have in common.

    acceleration, centre_lines: of every frame; iterations: of temporal TV before the cascade; patch: of the
    segmentation; softness: of end-systole; mask_rate: factor of the mask's learning rate; relaxation: what the mask's
    gradient is taken of; image, contour, fraction: weights of the losses; recompute: results whose stages run again
    for the gradient, blockwise: the blocks of the cascade do (less memory); network: what segments in place of the
    default weight, as recipes/own_network.py opens it.
    """

    stack: Stack = field(default_factory=Stack)
    subjects: int = 64
    acceleration: float = 8.0
    centre_lines: int = 4
    coils: int = 4
    snr: float = 30.0
    iterations: int = 10
    patch: int = 96
    softness: float = 0.05
    learning_rate: float = 3e-4
    mask_rate: float = 100.0
    relaxation: Literal["sigmoid", "budget"] = "budget"
    image: float = 1.0
    contour: float = 1.0
    fraction: float = 0.5
    recompute: tuple[str, ...] = ()
    blockwise: bool = False
    network: str | None = None


@dataclass(frozen=True, eq=False)
class Parts:
    """What is trained; segmenter: a plain network, or the stage of an opened model."""

    mask: LearnedMask
    cascade: DeepCascade
    segmenter: nn.Module

    def state(self) -> dict[str, Tensor]:
        """All parameters, ``mask.…``, ``cascade.…``, ``segmenter.…``."""
        return {f"{part}.{name}": value.detach().cpu().contiguous() for part in ("mask", "cascade", "segmenter")
                for name, value in getattr(self, part).state_dict().items()}

    def pattern(self) -> Float[Tensor, "frames lines"]:
        """The mask as it is measured: ones and zeros."""
        with torch.no_grad():
            return self.mask(self.mask.logits.shape[0], self.mask.lines, torch.Generator()).cpu()

    def lines(self) -> list[list[int]]:
        """The lines that the mask measures in every frame."""
        return [row.nonzero()[:, 0].tolist() for row in self.pattern()]


def first_logits(stack: Stack, count: int, centre_lines: int, *, seed: int) -> Float[Tensor, "frames lines"]:
    """Logits whose ``count`` largest are a random pattern: log density plus Gumbel noise, ``log p - log(-log u)``.

    The largest of these are draws without replacement (Vieira 2014), as those of ``VariableDensity``.
    """
    density = line_probability(stack.lines, stack.lines / count).log().float()
    density[centre(stack.lines, centre_lines)] = 3.0  # always measured, so that these never compete
    uniform = torch.rand(stack.frames, stack.lines, generator=Key(seed, NAME).generator(0))
    return density - (-uniform.clamp(1e-6, 1 - 1e-6).log()).log()


def first_parts(setting: Setting, *, seed: int) -> Parts:
    """A random mask, the default cascade and what segments (one member of the default, or the setting's network).

    They are the same for all arms of a seed.
    """
    stack = setting.stack
    count = budget(stack.lines, setting.acceleration, setting.centre_lines)
    mask = LearnedMask(lines=stack.lines, count=count, centre_lines=setting.centre_lines, frames=stack.frames,
                       relaxation=setting.relaxation)
    mask.logits.data.copy_(first_logits(stack, count, setting.centre_lines, seed=seed))
    segmenter = open_network(setting.network) if setting.network else _unet(load(SEGMENTATION).part("member0"))
    return Parts(mask, _cascade(setting, load(RECONSTRUCTION).state), segmenter)


def _cascade(setting: Setting, state: dict[str, Tensor]) -> DeepCascade:
    return DeepCascade.from_weight(load(RECONSTRUCTION).card["network"] | {"iterations": setting.iterations}, state)


def _unet(state: dict[str, Tensor]) -> UNet:
    sizes = load(SEGMENTATION).card["network"]
    unet = UNet(channels_in=sizes["channels_in"], channels_out=sizes["channels_out"], widths=tuple(sizes["widths"]))
    load_fitting(unet, state)
    return unet


def chain_of(parts: Parts, setting: Setting, *, sees: str = "reconstruction", coils: Coils | None = None,
             sampling: nn.Module | None = None, softness: float | None = None) -> Chain:
    """Scanner to ejection fraction.

    coils: drawn from the training family unless given; sampling: the mask that is trained unless given (one that was
    exported and read back); softness: the setting's.
    """
    encode = Encode(sampling=sampling or parts.mask, coils=coils or GaussianCoils(count=setting.coils), snr=setting.snr)
    stages: list[Stage] = [encode.using(reads={"image": "truth.image"}),
                           Cascade(network=parts.cascade, recompute=setting.blockwise)]
    if sees == "image.detached":
        stop = wrap(torch.detach, reads=Image, writes=Image, axes="yx", name=sees, stops_gradient=True)
        stages.append(stop.using(reads={"image": "reconstruction"}))
    soft = setting.softness if softness is None else softness
    return Chain(*stages, *segmentation_of(parts.segmenter, sees=sees, patch=setting.patch),
                 CardiacFunction(softness=soft, warn=False).using(reads={"labels": "labels.members"}))


def objective_of(setting: Setting) -> Objective:
    """Image, contours and ejection fraction (in tenths), weighted as the setting says."""
    terms = (Term(result="reconstruction", truth="truth.image", loss=image_error(), weight=setting.image),
             Term(result="labels.members", truth="truth.labels", loss=contour_error(), weight=setting.contour),
             Term(result="phenotypes", truth="truth.phenotypes", loss=phenotype_error("LVEF", scale=10),
                  weight=setting.fraction))
    return Objective(terms)


def batches_of(pool: Sequence[Path], *, seed: int, device: str) -> Callable[[int], list[Case]]:
    """Step to its one subject: all in turn, in a new order each time round; new coils and noise at every step."""
    key = Key(seed, NAME)

    def batch(step: int) -> list[Case]:
        around, place = divmod(step, len(pool))
        order = torch.randperm(len(pool), generator=key.generator(1, around))
        return [case_of(pool[int(order[place])], seed=seed * 1_000_000 + step).to(device)]
    return batch


def train_arm(out: Path, *, arm: str, setting: Setting, pool: Sequence[Path], steps: int, seed: int = SEED,
              device: str = "cpu", name: str | None = None,
              report: Callable[[int, float], None] | None = None) -> Parts:
    """Train one arm and write ``name.safetensors`` (mask and networks) and its card; called again it goes on.

    Raises SettingError for an arm that there is not.
    """
    if arm not in ARMS:
        raise SettingError(f"an arm named {arm!r}", expected=f"one of {', '.join(ARMS)}", remedy="choose one of them")
    parts = first_parts(setting, seed=seed)
    started, hashes = parts.lines(), {part: weights_hash(getattr(parts, part)) for part in ("cascade", "segmenter")}
    chain = chain_of(parts, setting, sees=ARMS[arm].sees).to(device)
    if not ARMS[arm].learned:
        freeze(chain, "kspace")
    objective, called = objective_of(setting), name or arm
    fit(chain, batches_of(pool, seed=seed, device=device),
        lambda model, cases: accumulate(model, cases, objective, recompute=setting.recompute), accumulates=True,
        steps=steps, checkpoint=out / f"{called}.pt", learning_rate=setting.learning_rate, warmup=min(20, steps),
        rates=rates_of(chain, {"kspace": setting.mask_rate}) if ARMS[arm].learned else None, weight_decay=1e-5,
        averaging=0.98, every=min(20, max(1, steps // 4)), seed=seed, report=report)
    unet = {} if setting.network else {"network": load(SEGMENTATION).card["network"], "members": 1}
    save(out / f"{called}.safetensors", parts, {
        "name": called, "summary": SUMMARY, "recipe": "endpoint", "arm": arm, "steps": steps, "seed": seed,
        "subjects": len(pool), "data": "beating-heart phantoms alone", "setting": asdict(setting),
        "started_from": hashes,
        "lines_changed": sum(len(set(a) - set(b)) for a, b in zip(started, parts.lines(), strict=True)),
        "lines": parts.lines(), "classes": list(NAMES), "cascade": parts.cascade.settings(), **unet,
        "licence": "Apache-2.0"})
    return parts


def save(path: Path, parts: Parts, card: dict[str, Any]) -> None:
    """Write weights and card beside each other."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(parts.state(), path)
    path.with_suffix(".json").write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def load_parts(path: Path) -> tuple[Parts, Setting]:
    """What ``train_arm`` wrote."""
    weight = load(path)
    about = dict(weight.card["setting"])
    setting = Setting(**about | {"stack": Stack(**about["stack"]), "recompute": tuple(about["recompute"])})
    parts = first_parts(setting, seed=0)
    for name in ("mask", "cascade", "segmenter"):
        getattr(parts, name).load_state_dict(weight.part(name))
    return parts, setting


def numbers_of(parts: Parts, setting: Setting, case: Case, *, coils: Coils | None = None,
               sampling: nn.Module | None = None) -> dict[str, float]:
    """One subject read from its k-space: image error, Dice by class over all frames, ejection fraction and its truth.

    The ejection fraction is the hard one (softness 0), of the network's probabilities.
    """
    chain = chain_of(parts, setting, coils=coils, sampling=sampling, softness=0.0).eval()
    with torch.no_grad():
        done = chain(case)
    found, true = done["labels.members"].harden().data[0, :, 0], case["truth.labels"].data[0, :, 0]
    error = image_error()(done["reconstruction"], case["truth.image"]).sqrt()
    overlap = {f"Dice {name}": dice((found == i)[None], (true == i)[None]).mean().item()
               for i, name in enumerate(NAMES) if i > 0}
    return {"NRMSE": error.item(), **overlap, "LVEF": done["phenotypes"]["LVEF"].value.item(),
            "LVEF true": case["truth.phenotypes"]["LVEF"].value.item(),
            "LVEF whole heart": case["truth.whole"]["LVEF"].value.item()}


def train(out: Path, device: str, steps: int | None, data: Path | None) -> None:
    """The ``joint`` arm into ``out``; interrupted and called again it goes on.

    Raises SettingError when real data is given: these weights see none.
    """
    refuse_data(data, NAME)
    setting, count = Setting(), steps or STEPS
    pool = store_all(out / "subjects", setting.stack, "train", min(setting.subjects, count))
    train_arm(out, arm="joint", setting=setting, pool=pool, steps=count, device=device, name=NAME)
