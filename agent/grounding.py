"""Heads that exist for training only: where things are, from a simulator's labels. Nothing of them is used to act.

Legend: M images, P grid side, O object rows of (kind, colour, x, y, z, u_front, v_front, u_wrist, v_wrist).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

KINDS, COLOURS = 16, 16  # classes at most; the last kind means "nothing here"
SKILLS = 64  # classes at most
RARE = 0.004  # weight of a cell in which nothing is: so that the few in which something is are learned soonest
COLUMNS = {"front": 5, "wrist": 7}  # where a camera's (u, v) stand in an object row


class ObjectHead(nn.Module):
    """From each cell of a feature grid: what kind of object has its centre there, of which colour, and where in the
    cell. Dense labels teach the vision encoder far faster than the action alone."""

    def __init__(self, width: int):
        super().__init__()
        self.net = nn.Linear(width, KINDS + COLOURS + 2)
        self.register_buffer("balance", torch.tensor([1.0] * (KINDS - 1) + [RARE]), persistent=False)

    def forward(self, grid: Tensor, objects: Tensor, camera: str) -> Tensor:
        """grid (M, P, P, width), objects (M, O, 9) -> scalar loss."""
        out = self.net(grid.flatten(1, 2))
        kind, colour, place = out.split([KINDS, COLOURS, 2], -1)
        target = cells(objects, grid.shape[1], COLUMNS[camera])
        found = target[..., 0] < KINDS - 1
        loss = nn.functional.cross_entropy(kind.flatten(0, 1), target[..., 0].flatten().long(), self.balance)
        if found.any():
            loss = loss + nn.functional.cross_entropy(colour[found], target[..., 1][found].long())
            loss = loss + 0.5 * (place[found] - target[..., 2:][found]).abs().mean()
        return loss


class SkillHead(nn.Module):
    """From an <act> token: which task its instruction asks for. Verbs decide little of an action until late in an
    episode, and are learned late without this."""

    def __init__(self, width: int):
        super().__init__()
        self.net = nn.Linear(width, SKILLS)

    def forward(self, act: Tensor, skill: Tensor, known: Tensor) -> Tensor:
        """act (B, K, width), skill (B,) class or -1 where no label says, known (B, K) bool -> scalar loss."""
        target = torch.where(known, skill[:, None], -1)
        error = nn.functional.cross_entropy(self.net(act).flatten(0, 1), target.flatten(), ignore_index=-1, reduction="sum")
        return error / (target >= 0).sum().clamp(min=1)


class SourceHead(nn.Module):
    """From the newest sound token: whether the task's own sound is heard in it, and where it comes from, linearly, so that
    nothing else need work it out. Without this a learner finds the way in what the demonstrator's hand already does."""

    def __init__(self, width: int):
        super().__init__()
        self.net = nn.Linear(width, 4)

    def forward(self, sound: Tensor, source: Tensor, heard: Tensor) -> Tensor:
        """sound (B, K, width), source (B, K, 4): 1 or 0 for sounding or not, -1 where no label says, and x, y, z in m;
        heard (B, K) bool -> scalar loss."""
        out, known = self.net(sound).float(), heard & (source[..., 0] >= 0)
        there = known & (source[..., 0] > 0)
        sounding = nn.functional.binary_cross_entropy_with_logits(out[..., 0][known], source[..., 0][known], reduction="sum")
        off = (out[..., 1:][there] - source[..., 1:][there] / 0.1).abs().sum()
        return sounding / known.sum().clamp(min=1) + off / there.sum().clamp(min=1)


class LayoutHead(nn.Module):
    """From an <act> token: where all that its instruction mentions stands, in the order of the words, linearly. Pushing
    looks at the object and must know of the square; carrying looks at the bowl and must know what comes next."""

    def __init__(self, width: int, most: int):
        super().__init__()
        self.net = nn.Linear(width, 3 * most)

    def forward(self, act: Tensor, places: Tensor, weight: Tensor) -> Tensor:
        """act (B, K, width), places (B, K, M, 3) m, weight (B, K, M) -> scalar loss; M at most `most`."""
        guess = self.net(act).float().unflatten(-1, (-1, 3))[:, :, : places.shape[2]]
        return ((guess - places / 0.1).abs().sum(-1) * weight).sum() / weight.sum().clamp(min=1.0)


def cells(objects: Tensor, side: int, column: int) -> Tensor:
    """Object rows (M, O, 9) -> for each cell (M, P P, 4): kind (KINDS - 1: nothing), colour, u and v in the cell
    (-1..1). Objects outside the image (u < 0) are left out."""
    out = objects.new_zeros(len(objects), side * side, 4)
    out[..., 0] = KINDS - 1
    uv = objects[..., column : column + 2]
    inside = (objects[..., 0] >= 0) & (uv >= 0).all(-1) & (uv < 1).all(-1)
    image, row = inside.nonzero(as_tuple=True)
    spot = uv[image, row] * side
    cell = spot.floor()
    index = (cell[:, 1] * side + cell[:, 0]).long()
    value = torch.cat([objects[image, row, :2], 2 * (spot - cell) - 1], -1)
    out[image, index] = value
    return out
