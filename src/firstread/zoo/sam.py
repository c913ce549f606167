"""Weights of Segment Anything's kind from a local file: the original checkpoints, MedSAM's, Hugging Face folders."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from firstread.core.errors import FormatError, InputError
from firstread.nets.sam import Sam, SamShape

KNOWN = "a SAM checkpoint (.pth, .pt), a .safetensors file, or a Hugging Face folder with model.safetensors"
_NAMES = (  # of Hugging Face's SamModel, and the original's
    (r"^vision_encoder\.patch_embed\.projection\.", "image_encoder.patch_embed.proj."),
    (r"^vision_encoder\.layers\.(\d+)\.layer_norm(\d)\.", r"image_encoder.blocks.\1.norm\2."),
    (r"^vision_encoder\.layers\.", "image_encoder.blocks."),
    (r"^vision_encoder\.neck\.conv1\.", "image_encoder.neck.0."),
    (r"^vision_encoder\.neck\.layer_norm1\.", "image_encoder.neck.1."),
    (r"^vision_encoder\.neck\.conv2\.", "image_encoder.neck.2."),
    (r"^vision_encoder\.neck\.layer_norm2\.", "image_encoder.neck.3."),
    (r"^vision_encoder\.", "image_encoder."),
    (r"^shared_image_embedding\.positional_embedding$", "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"),
    (r"^prompt_encoder\.mask_embed\.conv1\.", "prompt_encoder.mask_downscaling.0."),
    (r"^prompt_encoder\.mask_embed\.layer_norm1\.", "prompt_encoder.mask_downscaling.1."),
    (r"^prompt_encoder\.mask_embed\.conv2\.", "prompt_encoder.mask_downscaling.3."),
    (r"^prompt_encoder\.mask_embed\.layer_norm2\.", "prompt_encoder.mask_downscaling.4."),
    (r"^prompt_encoder\.mask_embed\.conv3\.", "prompt_encoder.mask_downscaling.6."),
    (r"^prompt_encoder\.point_embed\.", "prompt_encoder.point_embeddings."),
    (r"^mask_decoder\.transformer\.layer_norm_final_attn\.", "mask_decoder.transformer.norm_final_attn."),
    (r"^(mask_decoder\.transformer\.layers\.\d+)\.layer_norm(\d)\.", r"\1.norm\2."),
    (r"^mask_decoder\.upscale_conv1\.", "mask_decoder.output_upscaling.0."),
    (r"^mask_decoder\.upscale_layer_norm\.", "mask_decoder.output_upscaling.1."),
    (r"^mask_decoder\.upscale_conv2\.", "mask_decoder.output_upscaling.3."),
    (r"^(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head))\.layers\.0\.", r"\1.layers.1."),
    (r"^(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head))\.proj_in\.", r"\1.layers.0."),
    (r"^(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head))\.proj_out\.", r"\1.layers.2."),
)


def read_sam(path: Path) -> Sam:
    """The network of a checkpoint, in eval mode; its sizes are read off its parameters. No code in the file is run.

    Raises InputError where nothing is there, FormatError for a damaged file or one of another network.
    """
    state = original_names(_state(path))
    shape = SamShape.of(state)
    with torch.device("meta"):
        network = Sam(shape)
    own = network.state_dict()
    lacking, more = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if lacking or more:
        raise FormatError(f"{path.name} with {len(lacking)} parameters missing and {len(more)} unknown "
                          f"({(lacking + more)[0]})", expected="those of Segment Anything (ViT-B, -L or -H)",
                          remedy="give a SAM or MedSAM checkpoint (not SAM 2, not a mobile version)")
    for name, value in own.items():
        if state[name].shape != value.shape:
            raise FormatError(f"{path.name}: {name} of shape {tuple(state[name].shape)}",
                              expected=f"{tuple(value.shape)}", remedy="copy or export the checkpoint again")
    network.load_state_dict({name: state[name].float() for name in own}, assign=True)
    return network.eval()


def original_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Parameters under the names of the original, whichever they came under.

    >>> list(original_names({"vision_encoder.layers.3.layer_norm1.bias": torch.zeros(1)}))
    ['image_encoder.blocks.3.norm1.bias']
    """
    patterns = _NAMES if any(name.startswith("vision_encoder.") for name in state) else ()
    made = {}
    for name, value in state.items():
        if name in ("prompt_encoder.shared_embedding.positional_embedding", "pixel_mean", "pixel_std"):
            continue  # the first is the same as shared_image_embedding
        found = next(((pattern, other) for pattern, other in patterns if re.match(pattern, name)), None)
        made[name if found is None else re.sub(*found, name)] = value
    return made


def _state(path: Path) -> dict[str, Tensor]:
    """The tensors of a file or folder."""
    if path.is_dir():
        path = path / "model.safetensors"
    if not path.is_file():
        raise InputError(f"no weights at {path.name}", expected=KNOWN, remedy="check the path")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise FormatError(f"{path.name}, a damaged or cut-off file", expected=KNOWN,
                              remedy="copy it again") from error
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise FormatError(f"{path.name}, which holds no plain tensors, or is damaged", expected=KNOWN,
                          remedy="copy it again; files that would run code are never opened") from error
    found = found.get("model", found) if isinstance(found, dict) else found
    if not isinstance(found, dict) or not found or not all(isinstance(v, Tensor) for v in found.values()):
        raise FormatError(f"{path.name}, which holds no parameters by name", expected=KNOWN,
                          remedy="give the checkpoint itself")
    return found
