"""Projectors between the encoders, the backbone and the generators.

Input projectors: a feature grid (N, P, P, width_in) -> tokens (N, count, width).
Legend: N images, P grid side.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Linear(nn.Module):
    """One linear map a patch (LLaVA, Liu et al. 2023)."""

    def __init__(self, width_in: int, width: int, grid: int):
        super().__init__()
        self.count = grid * grid
        self.net = nn.Linear(width_in, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.flatten(1, 2))


class MLP(nn.Module):
    """Two layers with GELU a patch (LLaVA-1.5, Liu et al. 2023)."""

    def __init__(self, width_in: int, width: int, grid: int):
        super().__init__()
        self.count = grid * grid
        self.net = nn.Sequential(nn.Linear(width_in, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.flatten(1, 2))


class PixelShuffle(nn.Module):
    """Joins `factor` x `factor` neighbouring patches into one token before the linear map (as MiniGPT-v2 joins four
    neighbours, Chen et al. 2023): fewer tokens, nothing thrown away. Where the grid's side is no multiple of `factor`, as
    DINOv2's 37 and SigLIP's 27 are not of 2, the last row and column of tokens are filled up with zeros."""

    def __init__(self, width_in: int, width: int, grid: int, factor: int = 2):
        super().__init__()
        if not 1 <= factor <= grid:
            raise ValueError(f"factor {factor}: 1 to {grid}, the grid's side, is needed")
        self.factor, self.missing = factor, -grid % factor
        self.count = ((grid + self.missing) // factor) ** 2
        self.net = nn.Linear(width_in * factor * factor, width)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.pad(x, (0, 0, 0, self.missing, 0, self.missing)) if self.missing else x
        n, p, _, width = x.shape
        f = self.factor
        x = x.view(n, p // f, f, p // f, f, width).transpose(2, 3).reshape(n, -1, f * f * width)
        return self.net(x)


class Resampler(nn.Module):
    """Learned queries attend to the patches with 2-D sine positions (Qwen-VL, Bai et al. 2023)."""

    def __init__(self, width_in: int, width: int, grid: int, count: int = 16):
        super().__init__()
        self.count = count
        self.queries = nn.Parameter(0.02 * torch.randn(count, width))
        self.inlet, self.norm = nn.Linear(width_in, width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, head_count(width, 40), batch_first=True)
        self.register_buffer("position", sine_positions(grid, width), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        values = self.norm(self.inlet(x.flatten(1, 2)))
        queries = self.queries.expand(len(x), -1, -1)
        return self.attention(queries, values + self.position, values, need_weights=False)[0]


def head_count(width: int, size: int) -> int:
    """Of attention heads that share `width` evenly: as many as have at least `size` each, or else the next fewer."""
    return next(heads for heads in range(max(1, width // size), 0, -1) if width % heads == 0)


def sine_positions(grid: int, width: int) -> Tensor:
    """Fixed positions (grid^2, width): half of the width for the row, half for the column."""
    half = width // 2
    frequency = 10000 ** (-torch.arange(0, half, 2) / half)
    angle = torch.arange(grid)[:, None] * frequency
    line = torch.cat([angle.sin(), angle.cos()], -1)[:, :half]
    line = nn.functional.pad(line, (0, half - line.shape[1]))
    rows = line[:, None].expand(-1, grid, -1)
    both = torch.cat([rows, rows.transpose(0, 1)], -1).flatten(0, 1)
    return nn.functional.pad(both, (0, width - both.shape[1]))
