"""The discrete action generator: each action dimension in bins, all predicted at once from the backbone
(bins as in RT-1, Brohan et al. 2022; parallel decoding as in OpenVLA-OFT, Kim et al. 2025).

Legend as in flow.py; K bins.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from agent.generators.flow import Expert, Prefix, weighted_mean


class Bins(nn.Module):
    """Chunks of actions (B, N, H, A) in [-1, 1] as `bins` classes a dimension, the two at the ends half as wide; the
    sample is the likeliest."""

    def __init__(self, action_size: int, horizon: int, condition_width: int, layers: int, heads: int, head_dim: int,
                 width: int = 128, feed: int = 320, bins: int = 65):
        super().__init__()
        self.action_size, self.horizon, self.bins = action_size, horizon, bins
        self.place = nn.Parameter(0.02 * torch.randn(horizon, width))
        self.condition = nn.Linear(condition_width, width)
        self.expert = Expert(layers, heads, head_dim, width, feed)
        self.outlet = nn.Linear(width, action_size * bins)

    def logits(self, prefix: Prefix) -> Tensor:
        """(B, N, H, A, K)."""
        condition = nn.functional.silu(self.condition(prefix.condition))
        tokens = self.place.expand(*prefix.visible.shape[:2], -1, -1)
        thought = self.expert(tokens, self.expert.modulations(condition), prefix)
        return self.outlet(thought).unflatten(-1, (self.action_size, self.bins))

    def loss(self, prefix: Prefix, actions: Tensor, weight: Tensor) -> Tensor:
        """Cross-entropy; actions (B, N, H, A) are clipped to [-1, 1], weight (B, N, H) >= 0."""
        label = ((actions.clamp(-1, 1) + 1) / 2 * (self.bins - 1)).round().long()
        logits = self.logits(prefix).movedim(-1, 1)
        return weighted_mean(nn.functional.cross_entropy(logits, label, reduction="none").mean(-1), weight)

    @torch.no_grad()
    def sample(self, prefix: Prefix, generator: torch.Generator | None = None) -> Tensor:
        return self.logits(prefix).argmax(-1).float() / (self.bins - 1) * 2 - 1
