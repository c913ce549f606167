"""Prompts and masks of Segment Anything (Kirillov et al. 2023): see :mod:`firstread.nets.sam`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

HEADS, MASKS, MASK_CHANNELS, LAYERS = 8, 4, 16, 2


class PlaneNorm(nn.Module):
    """Layer norm over the channels of each pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Float[Tensor, "batch channel y x"]) -> Tensor:
        return F.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias, 1e-6).movedim(-1, 1)


class MultiLayer(nn.Module):
    """Linear, activation, linear."""

    def __init__(self, width: int, hidden: int, activation: nn.Module) -> None:
        super().__init__()
        self.lin1, self.lin2, self.act = nn.Linear(width, hidden), nn.Linear(hidden, width), activation

    def forward(self, x: Tensor) -> Tensor:
        return self.lin2(self.act(self.lin1(x)))


class PromptEncoder(nn.Module):
    """Points and boxes as tokens, an earlier mask as a plane.

        γ(x) = (sin 2π G (2x - 1), cos 2π G (2x - 1))   of places x from 0 to 1, G random and fixed

    plus a learned vector for each kind: off the object, on it, first corner, second corner.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pe_layer = nn.Module()
        self.pe_layer.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, channels // 2))
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, channels) for _ in range(4))
        self.not_a_point_embed, self.no_mask_embed = nn.Embedding(1, channels), nn.Embedding(1, channels)
        few = MASK_CHANNELS // 4
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, few, 2, stride=2), PlaneNorm(few), nn.GELU(), nn.Conv2d(few, MASK_CHANNELS, 2, stride=2),
            PlaneNorm(MASK_CHANNELS), nn.GELU(), nn.Conv2d(MASK_CHANNELS, channels, 1))

    def encode(self, places: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n channels"]:
        """γ of places (x, y) from 0 to 1."""
        angle = 2 * torch.pi * ((2 * places - 1) @ self.pe_layer.positional_encoding_gaussian_matrix)
        return torch.cat((angle.sin(), angle.cos()), dim=-1)

    def places(self, tokens: int) -> Float[Tensor, "1 channels tokens tokens"]:
        """γ of every token's middle."""
        matrix = self.pe_layer.positional_encoding_gaussian_matrix
        middle = (torch.arange(tokens, dtype=matrix.dtype, device=matrix.device) + 0.5) / tokens
        y, x = torch.meshgrid(middle, middle, indexing="ij")
        return self.encode(torch.stack((x, y), dim=-1)).movedim(-1, 0)[None]

    def sparse(self, points: Float[Tensor, "n 2"], positive: Bool[Tensor, " n"], box: Float[Tensor, " 4"] | None,
               size: int) -> Float[Tensor, "1 m channels"]:
        """A token for each point and corner; without a box one more that is no point."""
        kinds = torch.cat([e.weight for e in self.point_embeddings])
        made = [self.encode((points + 0.5) / size) + kinds[positive.long()]] if len(points) else []
        if box is not None:
            made.append(self.encode((box.reshape(2, 2) + 0.5) / size) + kinds[2:])
        elif made:
            made.append(self.not_a_point_embed.weight)
        return torch.cat(made)[None]

    def dense(self, before: Float[Tensor, "1 1 low low"] | None, tokens: int) -> Tensor:
        """A plane of an earlier mask's logits, or of the vector that stands for none."""
        if before is not None:
            return self.mask_downscaling(before)
        return self.no_mask_embed.weight[:, :, None, None].expand(-1, -1, tokens, tokens)


class MaskDecoder(nn.Module):
    """Tokens and image attend to each other twice; each mask token then gives the weights of its mask."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.transformer = TwoWay(channels, hidden)
        self.iou_token, self.mask_tokens = nn.Embedding(1, channels), nn.Embedding(MASKS, channels)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(channels, channels // 4, 2, stride=2), PlaneNorm(channels // 4), nn.GELU(),
            nn.ConvTranspose2d(channels // 4, channels // 8, 2, stride=2), nn.GELU())
        self.output_hypernetworks_mlps = nn.ModuleList(Head(channels, channels, channels // 8) for _ in range(MASKS))
        self.iou_prediction_head = Head(channels, 256, MASKS)

    def forward(self, image: Float[Tensor, "1 channels y x"], places: Float[Tensor, "1 channels y x"],
                sparse: Float[Tensor, "1 n channels"], dense: Float[Tensor, "1 channels y x"]
                ) -> tuple[Tensor, Tensor]:
        own = torch.cat((self.iou_token.weight, self.mask_tokens.weight))[None]
        source = image + dense
        tokens, seen = self.transformer(torch.cat((own, sparse), dim=1), source.flatten(2).mT, places.flatten(2).mT)
        large = self.output_upscaling(seen.mT.reshape(source.shape))
        weights = torch.stack([head(tokens[0, 1 + i]) for i, head in enumerate(self.output_hypernetworks_mlps)])
        return torch.einsum("mc,cyx->myx", weights, large[0]), self.iou_prediction_head(tokens[0, 0])


class Head(nn.Module):
    """Three linear layers with ReLU between them."""

    def __init__(self, width: int, hidden: int, out: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList((nn.Linear(width, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, out)))

    def forward(self, x: Tensor) -> Tensor:
        first, second, last = self.layers
        return last(second(first(x).relu()).relu())


class TwoWay(nn.Module):
    """Blocks in which tokens attend to the image and the image to the tokens, and a last look of the tokens."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayBlock(channels, hidden, first=i == 0) for i in range(LAYERS))
        self.final_attn_token_to_image = Attention(channels, channels // 2)
        self.norm_final_attn = nn.LayerNorm(channels)

    def forward(self, prompts: Tensor, image: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        tokens = prompts
        for layer in self.layers:
            tokens, image = layer(tokens, image, prompts, places)
        seen = self.final_attn_token_to_image(tokens + prompts, image + places, image)
        return self.norm_final_attn(tokens + seen), image


class TwoWayBlock(nn.Module):
    """Tokens among themselves, tokens to image, a small network, image to tokens; norms after each."""

    def __init__(self, channels: int, hidden: int, *, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention(channels, channels)
        self.cross_attn_token_to_image = Attention(channels, channels // 2)
        self.cross_attn_image_to_token = Attention(channels, channels // 2)
        self.mlp = MultiLayer(channels, hidden, nn.ReLU())
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(channels) for _ in range(4))

    def forward(self, tokens: Tensor, image: Tensor, prompts: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        own = tokens if self.first else tokens + prompts
        seen = self.self_attn(own, own, tokens)
        tokens = self.norm1(seen if self.first else tokens + seen)
        keys = image + places
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + prompts, keys, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        return tokens, self.norm4(image + self.cross_attn_image_to_token(keys, tokens + prompts, tokens))


class Attention(nn.Module):
    """Attention of 8 heads at an inner width of its own."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(channels, inner) for _ in range(3))
        self.out_proj = nn.Linear(inner, channels)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        parts = (layer(x).unflatten(-1, (HEADS, -1)).transpose(1, 2)
                 for layer, x in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v)))
        return self.out_proj(F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2))
