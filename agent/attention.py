"""Attention, written out where it is trained: on a CPU in bf16 PyTorch's fused kernel is three times as slow backwards.

Legend: B rows, H heads, T queries, S keys, D head dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

Rotation = tuple[Tensor, Tensor] | None  # cosines and sines (B, T, D'), D' <= D; None where positions are not turned
HIDDEN = -1e4  # score of what is not visible; one who sees nothing looks everywhere


def attention(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None = None) -> Tensor:
    """Scaled dot products (Vaswani et al. 2017): q (B, H, T, D), k and v (B, H, S, D), visible bool, broadcast to
    (B, H, T, S) -> (B, T, H D)."""
    if not torch.is_grad_enabled():
        bias = None if visible is None else HIDDEN * (~visible).to(q.dtype)
        return nn.functional.scaled_dot_product_attention(q, k, v, bias).transpose(1, 2).flatten(2)
    score = (q @ k.transpose(-1, -2)).float() / q.shape[-1] ** 0.5
    if visible is not None:
        score = score.masked_fill(~visible, HIDDEN)
    return (score.softmax(-1).to(v.dtype) @ v).transpose(1, 2).flatten(2)


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotary positions (Su et al. 2021, halves convention of transformers) on (..., B, H, T, D)."""
    if rotation is None:
        return x
    cos, sin = (part[:, None].to(x.dtype) for part in rotation)
    turned, kept = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    first, second = turned.chunk(2, -1)
    turned = turned * cos + torch.cat([-second, first], -1) * sin
    return torch.cat([turned, kept], -1) if kept.shape[-1] else turned


class TransformerLayer(nn.TransformerEncoderLayer):
    """PyTorch's layer, trained with the attention above. Its tensors have the same names."""

    def _sa_block(self, x: Tensor, attn_mask: Tensor | None, key_padding_mask: Tensor | None, is_causal: bool = False) -> Tensor:
        own = self.self_attn
        qkv = nn.functional.linear(x, own.in_proj_weight, own.in_proj_bias)
        q, k, v = qkv.unflatten(-1, (3, own.num_heads, -1)).permute(2, 0, 3, 1, 4)
        visible = None if key_padding_mask is None else (key_padding_mask == 0)[:, None, None]
        return own.out_proj(attention(q, k, v, visible))
