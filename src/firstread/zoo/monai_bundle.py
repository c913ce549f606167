"""A MONAI bundle folder: ``configs/inference.json`` with ``models/model.pt`` (or ``model.ts``).

Only values are read from the configuration: the network by its name among those listed here, the transforms that are
known, the sliding window. Expressions (``$…``) are never run. Source: MONAI's bundle specification.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from firstread.core.errors import FormatError, UnsupportedError
from firstread.core.preparation import Activation, Intensity, Preparation, Resampling
from firstread.zoo.foreign import ForeignModel, require_finite
from firstread.zoo.script import load_script
from firstread.zoo.sidecar import fault, read_json

NETWORKS = ("UNet", "BasicUNet", "AttentionUnet", "DynUNet", "SegResNet", "SegResNetDS", "UNETR", "SwinUNETR", "VNet")
_NO_MATTER = ("LoadImage", "EnsureChannelFirst", "AddChannel", "EnsureType", "ToTensor", "CastToType", "ToDevice")
_STATE_NAMES = ("model", "state_dict", "network", "net")
_STATE = "state it in a model.json beside the network exported as TorchScript"


def is_bundle(folder: Path) -> bool:
    """Whether a folder has a bundle's configuration for inference."""
    return any((folder / "configs" / f"inference.{kind}").is_file() for kind in ("json", "yaml", "yml"))


def read_bundle(folder: Path) -> ForeignModel:
    """The bundle's network and how it sees images.

    Raises FormatError for damaged files, UnsupportedError for what is not a value, for a transform, network or inferer
    that is not known, or where MONAI is missing.
    """
    path = folder / "configs" / "inference.json"
    if not path.is_file():
        raise UnsupportedError(f"{folder.name}, a bundle configured in YAML", expected="configs/inference.json",
                               remedy="convert configs/inference.yaml to JSON")
    config = read_json(path)
    about = folder / "configs" / "metadata.json"
    metadata = read_json(about) if about.is_file() else {}
    try:
        definition = _values(config.get("network_def"), config) if _has_parameters(folder) else {}
        names = _names(metadata, definition)
        activation = _activation(config, len(names))
        if activation == "sigmoid" and len(names) > 1:
            raise UnsupportedError(f"{folder.name}, whose {len(names)} outputs overlap",
                                   expected="softmax, or one output", remedy=_STATE)
        plan = _preparation(config, int(definition.get("in_channels") or _about(metadata, "inputs")["num_channels"]))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise FormatError(fault("configs/inference.json", error), expected="a bundle for segmentation",
                          remedy="copy it again, or " + _STATE) from error
    network = _network(folder, definition)
    if activation == "sigmoid":
        return ForeignModel("MONAI bundle", (network,), ("background", *names), plan, activation, (1,))
    return ForeignModel("MONAI bundle", (network,), names, plan)


def _has_parameters(folder: Path) -> bool:
    return (folder / "models" / "model.pt").is_file()


def _network(folder: Path, definition: Mapping[str, Any]) -> nn.Module:
    if not _has_parameters(folder):
        return load_script(folder / "models" / "model.ts")
    target = str(definition.get("_target_", "")).removeprefix("monai.networks.nets.")
    if target not in NETWORKS:
        raise UnsupportedError(f"the network {target!r}", expected=f"one of {', '.join(NETWORKS)}",
                               remedy="export it as TorchScript to models/model.ts")
    try:
        from monai.networks import nets
    except ImportError as error:
        raise UnsupportedError("a MONAI bundle without MONAI", expected="the extra 'monai'",
                               remedy="pip install 'firstread[monai]'") from error
    settings = {name: value for name, value in definition.items() if not name.startswith("_")}
    try:
        network = getattr(nets, target)(**settings)
        network.load_state_dict(_state(folder / "models" / "model.pt"))
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise FormatError(f"models/model.pt, weights of another network than network_def describes "
                          f"({str(error).splitlines()[0][:80]})", expected=f"parameters of {target}",
                          remedy="take both of one bundle") from error
    return require_finite(network, "models/model.pt").eval()


def _state(path: Path) -> Mapping[str, Any]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        if "GLOBAL " in str(error):
            raise UnsupportedError("models/model.pt, which holds more than parameters", expected="a state dict",
                                   remedy="save network.state_dict() where you trust it") from error
        raise FormatError("models/model.pt, a damaged or cut-off file", expected="a complete file",
                          remedy="copy it again") from error
    for name in _STATE_NAMES:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            return found[name]
    return found


def _preparation(config: Mapping[str, Any], channels: int) -> Preparation:
    """The transforms, in their order, and the inferer."""
    inferer = _values(config["inferer"], config, skip=("device", "sw_device"))
    if str(inferer.get("_target_", "")).rsplit(".", 1)[-1] != "SlidingWindowInferer":
        raise UnsupportedError(f"the inferer {inferer.get('_target_')!r}", expected="SlidingWindowInferer",
                               remedy=_STATE)
    window = inferer["roi_size"]
    if not isinstance(window, Sequence) or len(window) != 3 or min(window) < 1:
        raise UnsupportedError(f"windows of {window}", expected="three sizes above zero", remedy=_STATE)
    blend: Literal["gaussian", "constant"] = "gaussian" if inferer.get("mode") == "gaussian" else "constant"
    spacing, orientation, intensity, scaled_before = None, None, Intensity(), False
    for one in config["preprocessing"]["transforms"]:
        name = _plain_name(one)
        if name in _NO_MATTER:
            continue
        said = _values(one, config)
        if name == "Orientation" and said.get("axcodes") == "RAS":
            orientation = "RAS"
        elif name == "Spacing" and _only(said.get("mode", "bilinear")) == "bilinear":
            spacing = tuple(float(s) for s in said["pixdim"])
            scaled_before = intensity != Intensity()
        elif intensity == Intensity() and (found := _intensity(name, said, channels)) is not None:
            intensity = found
        else:
            raise UnsupportedError(f"the transform {name} with {_shown(said)}", expected="those whose effect is known: "
                                   "Orientation to RAS, linear Spacing, one scaling of intensities", remedy=_STATE)
    keep = Resampling(order=1, keep="first")
    return Preparation(channels=(intensity,) * channels, window=tuple(int(w) for w in window), spacing_mm=spacing,
                       order=(2, 1, 0), orientation="RAS" if orientation else None, image=keep, logits=keep,
                       overlap=float(inferer.get("overlap", 0.25)), blend=blend, scale_first=scaled_before)


def _intensity(name: str, said: Mapping[str, Any], channels: int) -> Intensity | None:
    """One of MONAI's scalings, or None where it is none that is known."""
    if name == "ScaleIntensityRange":
        low, high = float(said["a_min"]), float(said["a_max"])
        least, most = (0.0 if said.get(b) is None else float(said[b]) for b in ("b_min", "b_max"))
        if said.get("b_max") is None or most == least:
            return None
        divide = (high - low) / (most - least)
        clip = bool(said.get("clip", False))
        return Intensity(low=low if clip else None, high=high if clip else None, subtract=low - least * divide,
                         divide=divide)
    if name == "NormalizeIntensity" and said.get("subtrahend") is None and said.get("divisor") is None and \
            (channels == 1 or said.get("channel_wise", False)):
        return Intensity(scheme="zscore", where="nonzero" if said.get("nonzero", False) else "all")
    if name == "ScaleIntensity" and (said.get("minv", 0.0), said.get("maxv", 1.0), said.get("factor")) == (0, 1, None) \
            and (channels == 1 or said.get("channel_wise", False)):
        return Intensity(scheme="minmax")
    return None


def _activation(config: Mapping[str, Any], outputs: int) -> Activation:
    for one in (config.get("postprocessing") or {}).get("transforms", []):
        if _plain_name(one) == "Activations":
            return "sigmoid" if one.get("sigmoid") else "softmax"
    return "softmax" if outputs > 1 else "sigmoid"


def _names(metadata: Mapping[str, Any], definition: Mapping[str, Any]) -> tuple[str, ...]:
    named = _about(metadata, "outputs").get("channel_def") or {}
    count = int(definition.get("out_channels") or _about(metadata, "outputs")["num_channels"])
    return tuple(str(named.get(str(number), "background" if number == 0 and count > 1 else f"class {number}"))
                 for number in range(count))


def _about(metadata: Mapping[str, Any], what: Literal["inputs", "outputs"]) -> Mapping[str, Any]:
    """What the metadata say of the first tensor in or out."""
    found = metadata.get("network_data_format", {}).get(what, {})
    return next(iter(found.values()), {})


def _values(value: Any, config: Mapping[str, Any], *, skip: Sequence[str] = (), depth: int = 0) -> Any:
    """A part of the configuration with its references (``@name``, ``@name::part``) put in. Raises for expressions."""
    if depth > 20 or (isinstance(value, str) and value[:1] in ("$", "%")):
        raise UnsupportedError(f"the expression {str(value)[:60]!r} in configs/inference.json",
                               expected="values and references to values", remedy="write the value in its place")
    if isinstance(value, str) and value.startswith("@"):
        found: Any = config
        for part in value[1:].replace("#", "::").split("::"):
            found = found[int(part)] if isinstance(found, list) else found[part]
        return _values(found, config, depth=depth + 1)
    if isinstance(value, Mapping):
        return {k: _values(v, config, depth=depth + 1) for k, v in value.items() if k not in skip}
    if isinstance(value, list):
        return [_values(v, config, depth=depth + 1) for v in value]
    return value


def _plain_name(transform: Mapping[str, Any]) -> str:
    """``Spacingd`` and ``monai.transforms.SpacingD`` are Spacing."""
    name = str(transform["_target_"]).rsplit(".", 1)[-1]
    return name.removesuffix("Dict").removesuffix("D").removesuffix("d")


def _only(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _shown(said: Mapping[str, Any]) -> str:
    said = {name: value for name, value in said.items() if name not in ("_target_", "keys")}
    return ", ".join(f"{name}={value}" for name, value in said.items())[:100] or "no settings"
