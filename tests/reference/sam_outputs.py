"""What the published programs say for a tiny network of Segment Anything's kind: makes ``sam_outputs.npz``.

    python tests/reference/sam_outputs.py        # needs segment-anything 1.0 and transformers, neither with torchvision

Parameters are not stored: ``tests/zoo/tiny_sam.py`` makes them from their names and shapes, here and in the test.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "zoo"))
from tiny_sam import (
    BOX,
    CHANNELS,
    DEPTH,
    HEADS,
    HIDDEN,
    POINTS,
    SIGNS,
    SIZE,
    WHOLE,
    WIDTH,
    WINDOW,
    before,
    filled,
    picture,
)


def original() -> dict[str, np.ndarray]:
    """By segment_anything, through stand-ins for the two functions of torchvision that it imports."""
    import types
    from functools import partial

    for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional", "torchvision.ops",
                 "torchvision.ops.boxes"):
        sys.modules[name] = types.ModuleType(name)
    for name in ("resize", "to_pil_image"):
        setattr(sys.modules["torchvision.transforms.functional"], name, None)
    for name in ("batched_nms", "box_area"):
        setattr(sys.modules["torchvision.ops.boxes"], name, None)
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer

    tokens = SIZE // 16
    sam = torch.nn.ModuleDict({
        "image_encoder": ImageEncoderViT(
            img_size=SIZE, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, out_chans=CHANNELS, use_rel_pos=True,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6), window_size=WINDOW, global_attn_indexes=WHOLE),
        "prompt_encoder": PromptEncoder(CHANNELS, (tokens, tokens), (SIZE, SIZE), 16),
        "mask_decoder": MaskDecoder(
            transformer_dim=CHANNELS, transformer=TwoWayTransformer(2, CHANNELS, 8, HIDDEN))}).eval()
    sam.load_state_dict(filled({k: tuple(v.shape) for k, v in sam.state_dict().items()}))
    made = {"original_names": np.array([f"{k} {','.join(map(str, v.shape))}" for k, v in sam.state_dict().items()])}
    with torch.no_grad():
        embedding = sam["image_encoder"](picture())
        made["original_embedding"] = embedding.numpy()
        for case, (points, box, mask) in {"points": (True, False, False), "box": (False, True, False),
                                          "both": (True, True, True)}.items():
            sparse, dense = sam["prompt_encoder"](
                points=(POINTS[None], SIGNS[None].int()) if points else None, boxes=BOX[None] if box else None,
                masks=before() if mask else None)
            masks, overlap = sam["mask_decoder"].predict_masks(
                image_embeddings=embedding, image_pe=sam["prompt_encoder"].get_dense_pe(),
                sparse_prompt_embeddings=sparse, dense_prompt_embeddings=dense)
            made[f"original_{case}_masks"], made[f"original_{case}_overlap"] = masks[0].numpy(), overlap[0].numpy()
    return made


def hugging_face() -> dict[str, np.ndarray]:
    """By transformers' SamModel."""
    from transformers import SamConfig, SamMaskDecoderConfig, SamModel, SamPromptEncoderConfig, SamVisionConfig

    config = SamConfig(
        vision_config=SamVisionConfig(
            hidden_size=WIDTH, output_channels=CHANNELS, num_hidden_layers=DEPTH, num_attention_heads=HEADS,
            image_size=SIZE, window_size=WINDOW, global_attn_indexes=list(WHOLE), mlp_dim=4 * WIDTH,
            num_pos_feats=CHANNELS // 2).to_dict(),
        prompt_encoder_config=SamPromptEncoderConfig(hidden_size=CHANNELS, image_size=SIZE).to_dict(),
        mask_decoder_config=SamMaskDecoderConfig(hidden_size=CHANNELS, mlp_dim=HIDDEN).to_dict())
    sam = SamModel(config).eval()
    shapes = {k: tuple(v.shape) for k, v in sam.state_dict().items()}
    state = filled(shapes)
    if "prompt_encoder.shared_embedding.positional_embedding" in state:
        state["prompt_encoder.shared_embedding.positional_embedding"] = \
            state["shared_image_embedding.positional_embedding"]
    sam.load_state_dict(state)
    with torch.no_grad():
        said = sam(pixel_values=picture(), input_points=POINTS[None, None], input_labels=SIGNS[None, None].int(),
                   multimask_output=True)
    return {"hf_names": np.array([f"{k} {','.join(map(str, v))}" for k, v in shapes.items()]),
            "hf_points_masks": said.pred_masks[0, 0].numpy(), "hf_points_overlap": said.iou_scores[0, 0].numpy()}


if __name__ == "__main__":
    np.savez_compressed(Path(__file__).with_suffix(".npz"), **hugging_face(), **original())
