"""A trained nnU-Net v2 folder: ``nnUNetTrainer__nnUNetPlans__3d_fullres`` with its plans, data set and folds.

    plans.json, dataset.json, fold_0/checkpoint_final.pth, …

Networks are built by ``dynamic-network-architectures``; nnU-Net itself is not needed. Checkpoints are read as tensors,
numbers and text alone (``weights_only``), so that a file cannot run anything.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from firstread.core.errors import FormatError, InputError, UnsupportedError
from firstread.zoo.foreign import ForeignModel, require_finite
from firstread.zoo.nnunet_plans import (
    Architecture,
    architecture_of,
    channels_of,
    configuration_of,
    heads_of,
    preparation_of,
)
from firstread.zoo.sidecar import read_json

NETWORKS = ("PlainConvUNet", "ResidualEncoderUNet", "ResidualUNet")
CHECKPOINT, BEST = "checkpoint_final.pth", "checkpoint_best.pth"
FILES = ("plans.json", "dataset.json")


def is_nnunet(folder: Path) -> bool:
    """Whether a folder has the two files that a trained nnU-Net has beside its folds."""
    return all((folder / name).is_file() for name in FILES)


def refuse_part(folder: Path) -> None:
    """Raises for a folder that is an nnU-Net's but for a file, or that nnU-Net v1 wrote; nothing for any other folder.

    Raises InputError that names the missing files, UnsupportedError for v1.
    """
    if (folder / "plans.pkl").is_file() or any(folder.glob("fold_*/*.model")):
        raise UnsupportedError(f"{folder.name}, a model of nnU-Net v1 (plans.pkl)", expected="a folder of nnU-Net v2, "
                               "with plans.json and dataset.json", remedy="train or export the model with nnU-Net v2")
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing and (any(folder.glob("fold_*/checkpoint_*.pth")) or ("plans.json" not in missing)):
        raise InputError(f"{folder.name}, an nnU-Net folder without {' and '.join(missing)}",
                         expected=f"{' and '.join(FILES)} beside the folds",
                         remedy="copy what is missing from the folder that nnU-Net trained")


def read_nnunet(folder: Path, folds: Sequence[int | str] | None = None) -> ForeignModel:
    """The model with the folds stated, or with all that were trained to the end.

    Raises InputError for a fold that is not there, FormatError for damaged files, UnsupportedError for plans, networks
    and checkpoints that are not nnU-Net v2's own, or where dynamic-network-architectures is missing.
    """
    plans, dataset = read_json(folder / "plans.json"), read_json(folder / "dataset.json")
    files = checkpoints_of(folder, folds)
    checkpoints = [load_checkpoint(file) for file in files]
    name = checkpoints[0].get("init_args", {}).get("configuration", folder.name.rsplit("__", 1)[-1])
    configuration = configuration_of(plans, name)
    heads, channels = heads_of(dataset), channels_of(dataset)
    mirror = checkpoints[0].get("inference_allowed_mirroring_axes") or ()
    plan = preparation_of(plans, configuration, channels=len(channels), mirror=tuple(int(m) for m in mirror))
    architecture = architecture_of(configuration)
    networks = [_network(architecture, len(channels), heads.count, checkpoint["network_weights"], file)
                for checkpoint, file in zip(checkpoints, files, strict=True)]
    return ForeignModel("nnU-Net", networks, heads.names, plan, "sigmoid" if heads.regions else "softmax",
                        heads.regions)


def checkpoints_of(folder: Path, folds: Sequence[int | str] | None) -> list[Path]:
    """The checkpoint of each fold; without ``folds`` of all numbered ones, else of fold_all."""
    if folds is not None:
        homes = [folder / f"fold_{fold}" for fold in folds]
    else:
        homes = sorted(home for home in folder.glob("fold_*") if (home / CHECKPOINT).is_file())
        homes = [home for home in homes if home.name != "fold_all"] or homes
    missing = [home for home in homes if not (home / CHECKPOINT).is_file()]
    if missing or not homes:
        there = ", ".join(sorted(h.name for h in folder.glob("fold_*") if (h / CHECKPOINT).is_file())) or "none"
        half = [h.name for h in missing or sorted(folder.glob("fold_*")) if (h / BEST).is_file()]
        remedy = "take other folds, or train these to the end" if missing else "train one to the end, or copy it here"
        if half:
            remedy = f"train to the end; to use the best state so far, copy {half[0]}/{BEST} to {half[0]}/{CHECKPOINT}"
        raise InputError(f"no {CHECKPOINT} in {', '.join(h.name for h in missing) or 'any fold'} of {folder.name}",
                         expected=f"folds whose training has ended (there: {there})", remedy=remedy)
    return [home / CHECKPOINT for home in homes]


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint as tensors, numbers and text.

    Raises FormatError for a damaged file or one without ``network_weights``, UnsupportedError for one that asks for
    more than that.
    """
    where = f"{path.parent.name}/{path.name}"
    try:
        with torch.serialization.safe_globals(_harmless()):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = str(error).partition("GLOBAL ")[2].split(" ", 1)[0]
        if not asked:
            raise FormatError(f"{where}, a damaged or cut-off checkpoint", expected="a complete file",
                              remedy="copy it again") from error
        raise UnsupportedError(f"{where}, which asks to run {asked}", expected="tensors, numbers and text alone",
                               remedy="save its network_weights, init_args, trainer_name and "
                                      "inference_allowed_mirroring_axes again where you trust it") from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"{where}, a damaged or cut-off checkpoint", expected="a complete file",
                          remedy="copy it again") from error
    if not isinstance(found, dict) or not isinstance(found.get("network_weights"), Mapping):
        raise FormatError(f"{where} without network_weights", expected="a checkpoint of nnU-Net v2",
                          remedy="give the folder of a model that nnU-Net v2 trained")
    return found


def _harmless() -> list[Any]:
    """The few constructors that an nnU-Net checkpoint uses beside tensors: numpy's numbers in its log."""
    scalar, rebuild = np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]
    named: list[Any] = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    named += [(rebuild, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")]
    return [*named, np.ndarray, np.dtype, torch.device,
            *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool"))]


def _network(architecture: Architecture, channels: int, heads: int, weights: Mapping[str, Tensor],
             file: Path) -> nn.Module:
    network = build(architecture, channels, heads)
    plain = {name.removeprefix("module.").removeprefix("_orig_mod."): value for name, value in weights.items()}
    try:
        network.load_state_dict(plain)
    except (RuntimeError, AttributeError, TypeError) as error:
        raise FormatError(f"{file.parent.name}/{file.name}, weights of another network than plans.json describes",
                          expected=f"{architecture.name} with {channels} channels and {heads} outputs",
                          remedy="take plans.json, dataset.json and checkpoint of one training") from error
    return require_finite(network, f"{file.parent.name}/{file.name}").eval()


def build(architecture: Architecture, channels: int, heads: int) -> nn.Module:
    """The network, without deep supervision.

    Raises UnsupportedError for a class that is not on the list, FormatError for settings that it does not take.
    """
    if architecture.name not in NETWORKS:
        raise UnsupportedError(f"the network {architecture.name!r}", expected=f"one of {', '.join(NETWORKS)}",
                               remedy="export the model as TorchScript or ONNX")
    try:
        from dynamic_network_architectures.architectures import unet
    except ImportError as error:
        raise UnsupportedError("an nnU-Net without the library of its networks",
                               expected="the package dynamic-network-architectures",
                               remedy="pip install --no-deps dynamic-network-architectures") from error
    settings = dict(architecture.settings)
    for name in architecture.classes:
        if settings.get(name) is not None:
            settings[name] = _torch_class(str(settings[name]))
    settings["deep_supervision"] = False
    try:
        return getattr(unet, architecture.name)(input_channels=channels, num_classes=heads, **settings)
    except (TypeError, ValueError, AssertionError, IndexError, RuntimeError) as error:
        raise FormatError(f"plans.json with settings that {architecture.name} does not take "
                          f"({str(error).splitlines()[0] if str(error) else type(error).__name__})",
                          expected="those of the installed dynamic-network-architectures",
                          remedy="take the version that the model was trained with") from error


def _torch_class(name: str) -> type[nn.Module]:
    """A layer of torch.nn by its full name, such as ``torch.nn.modules.conv.Conv3d``."""
    found = getattr(nn, name.rsplit(".", 1)[-1], None) if name.startswith("torch.nn.") else None
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise UnsupportedError(f"the layer {name!r}", expected="a layer of torch.nn",
                               remedy="export the model as TorchScript or ONNX")
    return found
