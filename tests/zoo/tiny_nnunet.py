"""Tiny nnU-Net v2 folders with made-up weights, as nnU-Net writes them, and an image for each.

Numbers come from numpy's frozen legacy generator, so that nnU-Net's own answer to them could be stored
(tests/reference/nnunet_logits.py).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from firstread.zoo.nnunet import build
from firstread.zoo.nnunet_plans import architecture_of, channels_of, configuration_of, heads_of

CASES = ("3d", "2d", "regions")
_CT = {"mean": 60.0, "std": 90.0, "percentile_00_5": -150.0, "percentile_99_5": 250.0, "min": -900.0, "max": 900.0,
       "median": 50.0}


def _resampling(order: int = 3) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for what, orders in (("data", (order, 0)), ("seg", (1, 0)), ("probabilities", (1, 0))):
        found[f"resampling_fn_{what}"] = "resample_data_or_seg_to_shape"
        found[f"resampling_fn_{what}_kwargs"] = {"is_seg": what == "seg", "order": orders[0], "order_z": orders[1],
                                                 "force_separate_z": None}
    return found


def _architecture(axes: int, network: str, strides: list[list[int]]) -> dict[str, Any]:
    stages = len(strides)
    blocks = "n_conv_per_stage" if network == "PlainConvUNet" else "n_blocks_per_stage"
    return {"network_class_name": f"dynamic_network_architectures.architectures.unet.{network}",
            "arch_kwargs": {"n_stages": stages, "features_per_stage": [4, 6, 8][:stages],
                            "conv_op": f"torch.nn.modules.conv.Conv{axes}d", "kernel_sizes": [[3] * axes] * stages,
                            "strides": strides, blocks: [1] * stages, "n_conv_per_stage_decoder": [1] * (stages - 1),
                            "conv_bias": True, "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{axes}d",
                            "norm_op_kwargs": {"eps": 1e-5, "affine": True}, "dropout_op": None,
                            "dropout_op_kwargs": None, "nonlin": "torch.nn.LeakyReLU",
                            "nonlin_kwargs": {"inplace": True}},
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"]}


def files_of(case: str) -> tuple[dict[str, Any], dict[str, Any], str]:
    """plans.json, dataset.json and the name of the configuration."""
    common = {"preprocessor_name": "DefaultPreprocessor", "batch_size": 2, "batch_dice": False,
              "median_image_size_in_voxels": [8, 24, 24], "data_identifier": "tiny"}
    plans: dict[str, Any] = {"dataset_name": "Dataset999_Tiny", "plans_name": "nnUNetPlans",
                             "image_reader_writer": "SimpleITKIO", "label_manager": "LabelManager",
                             "experiment_planner_used": "ExperimentPlanner", "transpose_forward": [0, 1, 2],
                             "transpose_backward": [0, 1, 2]}
    dataset: dict[str, Any] = {"channel_names": {"0": "CT"}, "numTraining": 1, "file_ending": ".nii.gz",
                               "labels": {"background": 0, "left": 1, "right": 2}}
    if case == "3d":  # thick slices, CT, plans of today, configurations that inherit
        base = {**common, **_resampling(), "patch_size": [4, 16, 16], "spacing": [5.0, 1.2, 1.2],
                "normalization_schemes": ["CTNormalization"], "use_mask_for_norm": [False],
                "architecture": _architecture(3, "PlainConvUNet", [[1, 1, 1], [1, 2, 2], [2, 2, 2]])}
        plans["configurations"] = {"3d_lowres": base, "3d_fullres": {"inherits_from": "3d_lowres"}}
        plans["foreground_intensity_properties_per_channel"] = {"0": _CT}
        return plans, dataset, "3d_fullres"
    if case == "2d":  # slices, z-score within the body, axes transposed, plans of before 2.4
        plans |= {"transpose_forward": [2, 0, 1], "transpose_backward": [1, 2, 0],
                  "foreground_intensity_properties_by_modality": {"0": _CT}}
        plans["configurations"] = {"2d": {
            **common, **_resampling(), "patch_size": [16, 24], "spacing": [1.2, 1.2],
            "normalization_schemes": ["ZScoreNormalization"], "use_mask_for_norm": [True],
            "UNet_class_name": "PlainConvUNet", "UNet_base_num_features": 4, "unet_max_num_features": 6,
            "n_conv_per_stage_encoder": [1, 1], "n_conv_per_stage_decoder": [1], "num_pool_per_axis": [1, 1],
            "pool_op_kernel_sizes": [[1, 1], [2, 2]], "conv_kernel_sizes": [[3, 3], [3, 3]]}}
        return plans, dataset | {"channel_names": {"0": "MRI"}}, "2d"
    plans["configurations"] = {"3d_fullres": {  # two channels, overlapping regions, residual encoder, cubic in 3D
        **common, **_resampling(), "patch_size": [8, 16, 20], "spacing": [1.5, 1.4, 1.6],
        "normalization_schemes": ["ZScoreNormalization", "RescaleTo01Normalization"],
        "use_mask_for_norm": [False, False],
        "architecture": _architecture(3, "ResidualEncoderUNet", [[1, 1, 1], [2, 2, 2]])}}
    plans["foreground_intensity_properties_per_channel"] = {"0": _CT, "1": _CT}
    labels = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    dataset |= {"channel_names": {"0": "T1", "1": "T2"}, "labels": labels, "regions_class_order": [1, 2]}
    return plans, dataset, "3d_fullres"


def write_model(home: Path, case: str, *, folds: int = 2) -> Path:
    """A folder as nnU-Net leaves it after training, but for its logs."""
    plans, dataset, name = files_of(case)
    folder = home / f"nnUNetTrainer__nnUNetPlans__{name}"
    folder.mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    random = np.random.RandomState(CASES.index(case))
    axes = len(configuration_of(plans, name)["patch_size"])
    network = build(architecture_of(configuration_of(plans, name)), len(channels_of(dataset)), heads_of(dataset).count)
    for fold in range(folds):
        state = {key: torch.from_numpy(_weights(random, key, tuple(value.shape)))
                 for key, value in network.state_dict().items() if "all_modules" not in key}
        for key in network.state_dict():  # blocks list their layers twice
            if "all_modules" in key:
                state[key] = state[_twin(key, state)]
        (folder / f"fold_{fold}").mkdir()
        torch.save({"network_weights": state, "optimizer_state": {}, "grad_scaler_state": None,
                    "logging": {"mean_fg_dice": [np.float64(0.5), np.float32(0.25)]}, "_best_ema": np.float64(0.5),
                    "current_epoch": 1000, "trainer_name": "nnUNetTrainer",
                    "init_args": {"plans": plans, "configuration": name, "fold": fold, "dataset_json": dataset,
                                  "device": torch.device("cpu")},
                    "inference_allowed_mirroring_axes": tuple(range(axes))},
                   folder / f"fold_{fold}" / "checkpoint_final.pth")
    return folder


def image_of(case: str) -> tuple[np.ndarray, tuple[float, float, float]]:
    """``[channel, z, y, x]`` and the spacing (z, y, x) in mm: smooth blobs and noise, zeros around in "2d"."""
    shape = {"3d": (3, 18, 16), "2d": (20, 17, 3), "regions": (13, 15, 18)}[case]
    spacing = {"3d": (8.0, 1.5, 1.4), "2d": (1.5, 1.4, 8.0), "regions": (1.3, 1.9, 1.5)}[case]
    random = np.random.RandomState(7)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    channels = []
    for number in range(2 if case == "regions" else 1):
        value = 200 * np.exp(-3 * ((x - 0.2 * number) ** 2 + y**2 + z**2)) + 20 * random.standard_normal(shape)
        if case == "2d":
            value = np.where((np.abs(x) <= 1) & (y**2 + z**2 < 0.8), value, 0.0)
        channels.append(value)
    return np.stack(channels).astype(np.float32), spacing


def _weights(random: np.random.RandomState, key: str, shape: tuple[int, ...]) -> np.ndarray:
    drawn = random.standard_normal(shape)
    if len(shape) == 1:  # biases, and the scales of norms about one
        return (0.2 * drawn + ("norm" in key and key.endswith("weight"))).astype(np.float32)
    return (drawn * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)


def _twin(key: str, state: dict[str, torch.Tensor]) -> str:
    """The name under which a block's layer stands first: ``all_modules.0`` is ``conv``, ``all_modules.1`` ``norm``."""
    block, _, rest = key.partition("all_modules.")
    number, _, last = rest.partition(".")
    return f"{block}{('conv', 'norm')[int(number)]}.{last}"
