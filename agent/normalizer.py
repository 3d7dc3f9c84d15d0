"""Physical units <-> [-1, 1]. The statistics are buffers: they are saved with the weights and nowhere else."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


class Normalizer(nn.Module):
    """Linear map of each channel's [low, high] to [-1, 1]; values outside go beyond, clipped at +-`reach`."""

    def __init__(self, size: int, reach: float = 1.5):
        super().__init__()
        self.reach = reach
        self.register_buffer("low", -torch.ones(size))
        self.register_buffer("high", torch.ones(size))

    def fit(self, *sets: np.ndarray, smallest: float = 1e-3) -> None:
        """Set the range from sets of samples (n, size), however few one has beside another: from the lowest to the highest
        of their ranges (`usual`), widened to at least `smallest`."""
        lows, highs = zip(*map(usual, sets))
        low, high = np.min(lows, 0), np.max(highs, 0)
        middle, half = (low + high) / 2, np.maximum((high - low) / 2, smallest)
        self.low.copy_(torch.as_tensor(middle - half))
        self.high.copy_(torch.as_tensor(middle + half))

    def forward(self, x: Tensor) -> Tensor:
        unit = 2.0 * (x - self.low) / (self.high - self.low) - 1.0
        return unit.clamp(-self.reach, self.reach)

    def inverse(self, unit: Tensor) -> Tensor:
        return (unit + 1.0) / 2.0 * (self.high - self.low) + self.low


def usual(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of samples (n, size) the 0.5 and 99.5 percentiles, or all that was seen where these are the same (a trigger that is
    seldom pulled): (size,) each."""
    low, high = np.percentile(values, [0.5, 99.5], axis=0)
    return np.where(low == high, values.min(0), low), np.where(low == high, values.max(0), high)
