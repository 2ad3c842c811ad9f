"""The vision transformer of Dosovitskiy et al. 2021, in plain Linear layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..common.errors import InputError
from .normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize

__all__ = ["Attention", "Mlp", "TransformerBlock", "VisionTransformer"]


class Attention(nn.Module):
    """Self-attention of several heads; one Linear makes queries, keys and values."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, C)
        batch, tokens, width = x.shape
        split = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4)  # each (B, heads, T, C / heads)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(batch, tokens, width))


class Mlp(nn.Module):
    """Two Linear layers with GELU between them, four times as wide inside."""

    def __init__(self, width: int):
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class TransformerBlock(nn.Module):
    """Attention and MLP, each behind a layer-norm and added to its input."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """Vision transformer with a class token and learned positions.

    Parameters
    ----------
    depth, width, heads : int
        Blocks, channels of a token, heads of the attention.
    side, patch : int
        Side of the images and of a patch, in pixels.
    classes : int
        Number of logits.
    """

    def __init__(
        self, depth: int, width: int, heads: int, *, side: int, patch: int, classes: int = 10
    ):
        super().__init__()
        self.classes, self.side = classes, side
        self.normalize = Normalize(IMAGENET_MEAN, IMAGENET_STD)
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, (side // patch) ** 2 + 1, width))
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.classifier = nn.Linear(width, classes)
        nn.init.trunc_normal_(self.positions, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:  # (B, 3, side, side) in [0, 1]
        if x.shape[-2:] != (self.side, self.side):
            raise InputError(
                f"images must be {self.side}x{self.side} pixels for this transformer, not"
                f" {x.shape[-2]}x{x.shape[-1]}"
            )
        x = self.patch_embed.proj(self.normalize(x)).flatten(2).transpose(1, 2)  # (B, T - 1, C)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions  # (B, T, C)
        return self.classifier(self.norm(self.blocks(x))[:, 0])  # (B, classes)
