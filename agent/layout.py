"""Where the parts of a backbone's row lie, who sees whom, and at which positions.

Legend: B samples, K decisions, R = B K rows, M body tokens, L text tokens, Q queries, T tokens of a row, W that it remembers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Layout(NamedTuple):
    """Where the parts of a row lie, who sees whom, and at which positions.

    memory: sound tokens that a row remembers, W, which were thought before it. asks: lengths of a decision's asks
    (instruction, queries), their <act> token included, which comes last.
    """

    memory: int
    body: int
    asks: tuple[int, ...]

    @property
    def total(self) -> int:
        return self.body + sum(self.asks)

    def visible(self, heard: Tensor, body_seen: Tensor, asks_seen: list[Tensor], deaf: Tensor | None = None) -> Tensor:
        """(R, T, W + T) bool: row sees column. heard (B, K), body_seen (B, K, M), asks_seen (B, K, L + 1) each, deaf (B,).

        The body sees itself and what it has heard of what it remembers; an ask sees these and itself."""
        sound = remembered(heard, self.memory) < heard[..., None]
        if deaf is not None:
            sound = sound & ~deaf[:, None, None]
        own = torch.eye(self.total, dtype=torch.bool, device=heard.device).repeat(*heard.shape, 1, 1)
        own[..., : self.body] |= body_seen[:, :, None]
        start = self.body
        for length, seen in zip(self.asks, asks_seen):
            own[..., start : start + length, start : start + length] |= seen[:, :, None]
            start += length
        return torch.cat([sound[:, :, None].expand(-1, -1, self.total, -1), own], -1).flatten(0, 1)

    def positions(self, heard: Tensor, asks_seen: list[Tensor]) -> Tensor:
        """(R, T): a decision's body starts one behind the newest sound that it heard; each ask follows the body, its
        tokens counted without the padding."""
        body = torch.arange(self.body, device=heard.device).expand(*heard.shape, -1)
        asks = [self.body + seen.cumsum(-1) - 1 for seen in asks_seen]
        return (heard[..., None] + torch.cat([body, *asks], -1)).flatten(0, 1)

    def act_indices(self) -> Tensor:
        """(1 + Q,) places of the asks' <act> tokens in a row."""
        return self.body + torch.tensor(self.asks).cumsum(0) - 1

    def words(self) -> slice:
        """Places of the instruction's tokens in a row, without its <act>."""
        return slice(self.body, self.body + self.asks[0] - 1)


def remembered(heard: Tensor, size: int) -> Tensor:
    """(B, K, size): which sound tokens a decision remembers: the last that it has heard (B, K); before there are so many, also
    some that it has not, which it does not see."""
    return (heard - size).clamp(min=0)[..., None] + torch.arange(size, device=heard.device)
