"""nnU-Net v2's plans.json and dataset.json, old and new forms, as a Preparation, class names and a network's settings.

Source: Isensee et al., Nature Methods 18, 203 (2021); the file formats of nnunetv2 2.0 to 2.8. Only names that are
listed here are looked up: nothing that a file says is run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from firstread.core.errors import FormatError, UnsupportedError
from firstread.core.preparation import Intensity, Preparation, Resampling
from firstread.zoo.sidecar import fault

_READERS: dict[str, Literal["RAS"] | None] = {"SimpleITKIO": None, "NibabelIO": None, "NibabelIOWithReorient": "RAS",
                                              "NaturalImage2DIO": None, "Tiff3DIO": None}
_NORM = {2: "torch.nn.InstanceNorm2d", 3: "torch.nn.InstanceNorm3d"}
_CONV = {2: "torch.nn.Conv2d", 3: "torch.nn.Conv3d"}


@dataclass(frozen=True)
class Architecture:
    """name: of a class of dynamic-network-architectures; settings: its arguments; classes: which of them name one."""

    name: str
    settings: Mapping[str, Any]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Heads:
    """names: of the classes, background first; regions: for each sigmoid output the class it leaves; none: softmax."""

    names: tuple[str, ...]
    regions: tuple[int, ...]

    @property
    def count(self) -> int:
        return len(self.regions) or len(self.names)


def configuration_of(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The settings of one configuration, with those that it inherits.

    Raises UnsupportedError for plans of another program or version and for the second stage of a cascade, FormatError
    for a configuration that is not there.
    """
    known = plans.get("configurations")
    if not isinstance(known, Mapping) or "transpose_forward" not in plans:
        raise UnsupportedError("plans.json without configurations, as nnU-Net v1 and other programs write it",
                               expected="the plans of nnU-Net v2", remedy="train or export the model with nnU-Net v2")
    merged: dict[str, Any] = {}
    following: Any = name
    for _ in range(len(known) + 1):
        if following not in known:
            raise FormatError(f"plans.json without the configuration {following!r}",
                              expected=f"one of {', '.join(known)}", remedy="take the plans of this model")
        merged = {**known[following], **merged}
        following = known[following].get("inherits_from")
        if following is None:
            break
    if merged.get("previous_stage"):
        raise UnsupportedError(f"the configuration {name!r}, which refines what {merged['previous_stage']!r} found",
                               expected="a configuration of one stage: 2d, 3d_fullres or 3d_lowres",
                               remedy="give the folder of one of those")
    return merged


def preparation_of(plans: Mapping[str, Any], configuration: Mapping[str, Any], *, channels: int,
                   mirror: tuple[int, ...] = ()) -> Preparation:
    """How nnU-Net prepares an image for one configuration.

    Raises FormatError for settings that are not there, UnsupportedError for schemes that are not nnU-Net's own.
    """
    reader = plans.get("image_reader_writer", "SimpleITKIO")
    if reader not in _READERS:
        raise UnsupportedError(f"the image reader {reader!r}", expected=f"one of {', '.join(_READERS)}",
                               remedy="read the images first, and plan with SimpleITKIO")
    properties = plans.get("foreground_intensity_properties_per_channel",
                           plans.get("foreground_intensity_properties_by_modality", {}))
    try:
        schemes, masks = configuration["normalization_schemes"], configuration["use_mask_for_norm"]
        if len(schemes) != channels or len(masks) != channels:
            raise FormatError(f"plans.json with {len(schemes)} channels and dataset.json with {channels}",
                              expected="the same number in both", remedy="take both files of one model")
        spacing = tuple(float(s) for s in configuration["spacing"])
        order = plans["transpose_forward"]
        return Preparation(
            channels=tuple(_intensity(s, bool(m), properties.get(str(c), {})) for c, (s, m) in
                           enumerate(zip(schemes, masks, strict=True))),
            window=tuple(int(p) for p in configuration["patch_size"]),
            spacing_mm=None if reader == "NaturalImage2DIO" else spacing,
            order=(int(order[0]), int(order[1]), int(order[2])), orientation=_READERS[reader], crop=True,
            image=_resampling(configuration, "data"), logits=_resampling(configuration, "probabilities"),
            mirror=mirror)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise FormatError(fault("plans.json", error), expected="the plans of nnU-Net v2",
                          remedy="copy them again from where the model was trained") from error


def heads_of(dataset: Mapping[str, Any]) -> Heads:
    """Class names by label value, and for region-based training which label each region leaves.

    >>> heads_of({"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]})
    Heads(names=('background', 'whole', 'core'), regions=(1, 2))
    """
    labels = dataset.get("labels")
    if not isinstance(labels, Mapping) or not all(isinstance(v, int | list | tuple) for v in labels.values()):
        raise UnsupportedError("dataset.json without labels of the form name: number",
                               expected="dataset.json of nnU-Net v2", remedy="take the one of the trained folder")
    listed = {name: value for name, value in labels.items() if name != "ignore"}
    values = sorted({int(v) for value in listed.values() for v in ([value] if isinstance(value, int) else value)})
    names = {v: f"class {v}" for v in values}
    regions: tuple[int, ...] = ()
    if any(isinstance(value, list | tuple) and len(value) > 1 for value in listed.values()):
        order = dataset.get("regions_class_order") or []
        shown = [name for name, value in listed.items() if value not in (0, [0], (0,))]
        if len(order) != len(shown):
            raise FormatError(f"dataset.json with {len(shown)} regions and {len(order)} numbers in regions_class_order",
                              expected="one for each region", remedy="take the dataset.json of this model")
        regions = tuple(int(v) for v in order)
        names.update(zip(regions, shown, strict=True))
    for name, value in listed.items():
        if isinstance(value, int) and (not regions or value == 0):
            names[value] = name
    if values != list(range(len(values))):
        raise UnsupportedError(f"labels with the values {values}", expected="0, 1, 2 … without a gap",
                               remedy="correct dataset.json")
    return Heads(tuple(names[v] for v in values), regions)


def channels_of(dataset: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the input channels.

    >>> channels_of({"channel_names": {"0": "T1", "1": "T2"}})
    ('T1', 'T2')
    """
    found = dataset.get("channel_names", dataset.get("modality"))
    if not isinstance(found, Mapping) or not found:
        raise FormatError("dataset.json without channel_names", expected="one name for each channel",
                          remedy="take the dataset.json of the trained folder")
    return tuple(str(found[key]) for key in sorted(found, key=int))


def architecture_of(configuration: Mapping[str, Any]) -> Architecture:
    """The network, of plans with an ``architecture`` and of those before 2.4, which spell it out."""
    new = configuration.get("architecture")
    try:
        if new is not None:
            return Architecture(str(new["network_class_name"]).rsplit(".", 1)[-1], dict(new["arch_kwargs"]),
                                tuple(new["_kw_requires_import"]))
        name, stages = configuration["UNet_class_name"], len(configuration["n_conv_per_stage_encoder"])
        axes, most = len(configuration["patch_size"]), configuration["unet_max_num_features"]
        settings = {
            "n_stages": stages, "features_per_stage": [min(configuration["UNet_base_num_features"] * 2**i, most)
                                                       for i in range(stages)],
            "conv_op": _CONV[axes], "kernel_sizes": configuration["conv_kernel_sizes"],
            "strides": configuration["pool_op_kernel_sizes"],
            "n_conv_per_stage" if name == "PlainConvUNet" else "n_blocks_per_stage":
                configuration["n_conv_per_stage_encoder"],
            "n_conv_per_stage_decoder": configuration["n_conv_per_stage_decoder"], "conv_bias": True,
            "norm_op": _NORM[axes], "norm_op_kwargs": {"eps": 1e-5, "affine": True}, "dropout_op": None,
            "dropout_op_kwargs": None, "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True}}
        return Architecture(name, settings, ("conv_op", "norm_op", "dropout_op", "nonlin"))
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{fault('plans.json', error)}, of the network", expected="the plans of nnU-Net v2",
                          remedy="copy them again from where the model was trained") from error


def _intensity(scheme: str, masked: bool, about: Mapping[str, Any]) -> Intensity:
    if scheme == "ZScoreNormalization":
        return Intensity(scheme="zscore", where="body" if masked else "all")
    if scheme == "CTNormalization":
        return Intensity(low=float(about["percentile_00_5"]), high=float(about["percentile_99_5"]),
                         subtract=float(about["mean"]), divide=max(float(about["std"]), 1e-8))
    plain = {"NoNormalization": Intensity(), "RescaleTo01Normalization": Intensity(scheme="minmax"),
             "RGBTo01Normalization": Intensity(divide=255.0)}
    if scheme not in plain:
        raise UnsupportedError(f"the normalization {scheme!r}", expected="one of nnU-Net's own",
                               remedy="scale the images so before, and plan with NoNormalization")
    return plain[scheme]


def _resampling(configuration: Mapping[str, Any], what: Literal["data", "probabilities"]) -> Resampling:
    name = configuration[f"resampling_fn_{what}"]
    said = configuration[f"resampling_fn_{what}_kwargs"]
    apart = said.get("force_separate_z")
    anisotropy = float(said.get("separate_z_anisotropy_threshold", 3.0))
    if name == "resample_data_or_seg_to_shape":
        orders = (said.get("order", 3), said.get("order_z", 0))
        if set(orders) <= {0, 1, 3}:
            return Resampling(orders[0], orders[1], apart, anisotropy)
    if name == "resample_torch_fornnunet" and said.get("mode", "linear") == "linear" and \
            said.get("aniso_axis_mode", "nearest-exact") == "nearest-exact":
        return Resampling(1, 0, apart, anisotropy)
    raise UnsupportedError(f"the resampling {name} with {dict(said)}", expected="resample_data_or_seg_to_shape of "
                           "order 0, 1 or 3, or linear resample_torch_fornnunet", remedy="plan with one of those")
