"""Imagining the goal: where, in what is seen, the thing is that the text is about, and where that is in space.

A pointer network (Vinyals et al. 2015): the <act> token attends once more to the visual tokens of each camera, and what
it points at becomes a goal point and a readout, which the action generator takes as its condition. Pointing is trained
by a simulator's labels where a dataset has them; without labels it is one more attention layer.

Legend: B samples, K decisions, A asks (instruction and queries), P visual tokens of a camera, C cameras, D width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

SCALE = 0.1  # m for one unit of the goal loss
FINE = 0.03  # m


class Goal(NamedTuple):
    point: Tensor  # (B, K, A, 3) m, base frame
    readout: Tensor  # (B, K, A, D)
    logits: dict[str, Tensor]  # camera -> (B, K, A, P)


class GoalPointer(nn.Module):
    """forward: act (B, K, A, D), seen {camera: (B, K, P, D)}, felt (B, K, D), tool (B, K, 3) m -> Goal.

    Tokens of what is absent are zero. The tool's place lets the readout hold the goal as the arm sees it (`reach`).
    """

    def __init__(self, width: int, cameras: tuple[str, ...]):
        super().__init__()
        self.query = nn.ModuleDict({name: nn.Linear(width, width) for name in cameras})
        self.key = nn.ModuleDict({name: nn.Linear(width, width) for name in cameras})
        whole = width * (2 + len(cameras))
        self.direct = nn.Linear(whole, 3)
        self.bent = nn.Sequential(nn.Linear(whole, width), nn.SiLU(), nn.Linear(width, 3))
        self.out = nn.Linear(whole + 3 + 8, width)

    def forward(self, act: Tensor, seen: dict[str, Tensor], felt: Tensor, tool: Tensor) -> Goal:
        parts, logits = [act, felt[:, :, None].expand_as(act)], {}
        for name, tokens in seen.items():
            score = self.query[name](act) @ self.key[name](tokens).transpose(-1, -2)
            logits[name] = score / act.shape[-1] ** 0.5
            parts.append(logits[name].softmax(-1) @ tokens)
        whole = torch.cat(parts, -1)
        point = 0.3 * (self.direct(whole) + self.bent(whole))
        way = reach(point - tool[:, :, None])
        return Goal(point, self.out(torch.cat([whole, point / 0.3, way], -1)), logits)


def reach(offset: Tensor) -> Tensor:
    """Offsets (..., 3) m from the tool to the goal -> (..., 8): the offset and its horizontal length, each as it is (in
    units of SCALE) and saturating at a few centimetres, where fine alignment happens."""
    level = (offset[..., :2].square().sum(-1, keepdim=True) + 1e-8).sqrt()
    both = torch.cat([offset, level], -1)
    return torch.cat([both / SCALE, torch.tanh(both / FINE)], -1)


def point_loss(goal: Goal, point: Tensor, weight: Tensor) -> Tensor:
    """Mean distance (L1, in units of SCALE) to the true points (B, K, A, 3); weight (B, K, A)."""
    error = (goal.point - point).abs().sum(-1) / SCALE
    return (error * weight).sum() / weight.sum().clamp(min=1.0)


def pixel_loss(goal: Goal, pixels: Tensor, weight: Tensor, sides: dict[str, int]) -> Tensor:
    """Cross-entropy of pointing at the right token of each camera; pixels (B, K, A, C, 2) in 0..1, negative where it is
    not in view; sides: camera -> tokens a side of its square grid. Cameras in the order of `sides`."""
    losses = []
    for column, (name, side) in enumerate(sides.items()):
        uv = pixels[..., column, :]
        inside = (weight > 0) & (uv >= 0).all(-1) & (uv < 1).all(-1)
        cell = (uv[inside] * side).long()
        target = cell[:, 1] * side + cell[:, 0]
        error = nn.functional.cross_entropy(goal.logits[name][inside], target, reduction="sum")
        losses.append(error / inside.sum().clamp(min=1))
    return torch.stack(losses).mean()
