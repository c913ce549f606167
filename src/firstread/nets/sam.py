"""Segment Anything (Kirillov et al. 2023): image encoder, prompt encoder, mask decoder, with the published names of
parameters, so that its checkpoints, and those trained on from them (MedSAM), load as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from firstread.core.errors import FormatError
from firstread.nets.sam_decoder import MaskDecoder, MultiLayer, PlaneNorm, PromptEncoder


@dataclass(frozen=True)
class SamShape:
    """Sizes of a network; the defaults are ViT-B's.

    size: pixels of the square image; width, depth, heads: of the image encoder; window: tokens of local attention;
    whole: blocks that attend to the whole image; channels: of the embedding; decoder_mlp: hidden width.
    """

    size: int = 1024
    patch: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    window: int = 14
    whole: tuple[int, ...] = (2, 5, 8, 11)
    channels: int = 256
    decoder_mlp: int = 2048

    @property
    def tokens(self) -> int:
        """Of the embedding along either axis."""
        return self.size // self.patch

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> SamShape:
        """Read off the shapes of a checkpoint. Raises FormatError where they are not SAM's."""
        try:
            tokens, width = state["image_encoder.pos_embed"].shape[1:4:2]
            patch = state["image_encoder.patch_embed.proj.weight"].shape[-1]
            depth = len({name.split(".")[2] for name in state if name.startswith("image_encoder.blocks.")})
            reach = [len(state[f"image_encoder.blocks.{i}.attn.rel_pos_h"]) for i in range(depth)]
            head = state["image_encoder.blocks.0.attn.rel_pos_h"].shape[1]
            channels = state["image_encoder.neck.0.weight"].shape[0]
            hidden = state["mask_decoder.transformer.layers.0.mlp.lin1.weight"].shape[0]
            whole = tuple(i for i, n in enumerate(reach) if n == 2 * tokens - 1)
            local = [n for n in reach if n != 2 * tokens - 1]
            return cls(tokens * patch, patch, width, depth, width // head, (local[0] + 1) // 2 if local else tokens,
                       whole, channels, hidden)
        except (KeyError, IndexError, ValueError, AttributeError, ZeroDivisionError) as error:
            raise FormatError(f"a checkpoint without SAM's parameters ({error})", expected="image_encoder, "
                              "prompt_encoder and mask_decoder of Segment Anything", remedy="give a SAM or MedSAM "
                              "checkpoint (not SAM 2, not a mobile version)") from error


class Sam(nn.Module):
    """Masks of what points and boxes say about an image.

    ``embed`` sees the image once, ``masks`` answers to prompts: logits of four masks (the first for prompts that say
    enough, three others for one click, which may mean a part, an object or a group) and each one's predicted overlap
    (IoU) with what was meant. Differentiable. Source: Kirillov et al. 2023.
    """

    def __init__(self, shape: SamShape | None = None) -> None:
        super().__init__()
        self.shape = shape or SamShape()
        self.image_encoder = ImageEncoder(self.shape)
        self.prompt_encoder = PromptEncoder(self.shape.channels)
        self.mask_decoder = MaskDecoder(self.shape.channels, self.shape.decoder_mlp)

    def embed(self, image: Float[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch channels tokens tokens"]:
        """What the image holds."""
        return self.image_encoder(image)

    def masks(self, embedding: Float[Tensor, "1 channels tokens tokens"], *, points: Float[Tensor, "n 2"],
              positive: Tensor, box: Float[Tensor, " 4"] | None = None,
              before: Float[Tensor, "1 1 low low"] | None = None
              ) -> tuple[Float[Tensor, "masks low low"], Float[Tensor, " masks"]]:
        """Logits at a quarter of the image's size, and predicted overlaps.

        points: (x, y) in pixels of the image that the network saw; box: x0, y0, x1, y1; before: logits of an earlier
        mask, at the size of the result.
        """
        encoder = self.prompt_encoder
        sparse = encoder.sparse(points, positive, box, self.shape.size)
        dense = encoder.dense(before, self.shape.tokens)
        return self.mask_decoder(embedding, encoder.places(self.shape.tokens), sparse, dense)


class ImageEncoder(nn.Module):
    """A vision transformer: attention in windows, in a few blocks over the whole image (Li et al. 2022, ViTDet)."""

    def __init__(self, shape: SamShape) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, shape.tokens, shape.tokens, shape.width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, shape.width, shape.patch, stride=shape.patch)})
        self.blocks = nn.ModuleList(
            Block(shape.width, shape.heads, shape.tokens if i in shape.whole else shape.window)
            for i in range(shape.depth))
        self.neck = nn.Sequential(nn.Conv2d(shape.width, shape.channels, 1, bias=False), PlaneNorm(shape.channels),
                                  nn.Conv2d(shape.channels, shape.channels, 3, padding=1, bias=False),
                                  PlaneNorm(shape.channels))

    def forward(self, image: Float[Tensor, "batch 3 size size"]) -> Tensor:
        x = self.patch_embed["proj"](image).movedim(1, -1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.neck(x.movedim(-1, 1))


class Block(nn.Module):
    """``x + attention(norm(x))`` in windows of ``window`` tokens, then ``x + mlp(norm(x))``."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = PlaneAttention(width, heads, window)
        self.mlp = MultiLayer(width, 4 * width, nn.GELU())

    def forward(self, x: Float[Tensor, "batch y x width"]) -> Tensor:
        size, (height, width) = self.window, x.shape[1:3]
        wide = F.pad(self.norm1(x), (0, 0, 0, -width % size, 0, -height % size))
        rows, columns = wide.shape[1] // size, wide.shape[2] // size
        tiles = wide.unflatten(1, (rows, size)).unflatten(3, (columns, size)).transpose(2, 3).flatten(0, 2)
        seen = self.attn(tiles).unflatten(0, (-1, rows, columns)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        x = x + seen[:, :height, :width]
        return x + self.mlp(self.norm2(x))


class PlaneAttention(nn.Module):
    """``softmax(q kᵀ / √d + q Rʰ + q Rʷ) v`` with embeddings of relative places along both axes."""

    def __init__(self, width: int, heads: int, size: int) -> None:
        super().__init__()
        self.heads, self.size = heads, size
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * size - 1, width // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * size - 1, width // heads))

    def forward(self, x: Float[Tensor, "tiles y x width"]) -> Tensor:
        n = self.size
        q, k, v = self.qkv(x).flatten(1, 2).unflatten(-1, (3, self.heads, -1)).permute(2, 3, 0, 1, 4)
        apart = torch.arange(n, device=x.device)
        apart = apart[:, None] - apart + n - 1
        made = []
        for own, keys, values in zip(q, k, v, strict=True):  # head by head: the places' term is as large as tokens²
            plane = own.unflatten(1, (n, n))
            rows = torch.einsum("tyxd,ykd->tyxk", plane, self.rel_pos_h[apart])
            columns = torch.einsum("tyxd,xkd->tyxk", plane, self.rel_pos_w[apart])
            bias = (rows[..., :, None] + columns[..., None, :]).flatten(3, 4).flatten(1, 2)
            made.append(F.scaled_dot_product_attention(own[:, None], keys[:, None], values[:, None],
                                                       attn_mask=bias[:, None])[:, 0])
        return self.proj(torch.cat(made, dim=-1).unflatten(1, (n, n)))
