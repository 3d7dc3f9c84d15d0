"""Encoders of low-dimensional signals: joint state, wrist force."""

from __future__ import annotations

from torch import Tensor, nn


class VectorEncoder(nn.Module):
    """A vector (..., size) in [-1, 1] -> one token (..., width), by a two-layer perceptron."""

    def __init__(self, size: int, width: int = 128):
        super().__init__()
        self.width = width
        self.net = nn.Sequential(nn.Linear(size, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)
