"""Imagining the goal: where, in what is seen, the thing is that the text is about, and where that is in space.

The <act> token becomes a query that is compared with every cell of each camera's feature grid, as mask transformers do
(MaskFormer, Cheng et al. 2021); the soft-argmax of the comparison (Levine et al. 2016) is a point in the image, finer
than a cell. The points in the images and the joint state together give the goal in space. Pointing is trained by a
simulator's labels where a dataset has them; without labels it is one more attention layer.

Legend: B samples, K decisions, A asks (instruction and queries), P grid side, D width of the backbone, E of a query.
"""

from __future__ import annotations

import math
from typing import Mapping, NamedTuple

import torch
from torch import Tensor, nn

from agent.attention import TransformerLayer
from agent.projectors import sine_positions

SCALE = 0.1  # m for one unit of the goal loss
FINE = 0.03  # m
UNKNOWN = -2.0  # a pixel target that no label says; -1: known to be out of view


class Goal(NamedTuple):
    point: Tensor  # (B, K, A, 3) m, base frame: the guesses' fusion
    guesses: Tensor  # (B, K, A, G, 3) m
    spreads: Tensor  # (B, K, A, G) m, of each guess; infinite where there is none
    readout: Tensor  # (B, K, A, D)
    logits: dict[str, Tensor]  # camera -> (B, K, A, P P + 1), the last: not in view
    spots: dict[str, Tensor]  # camera -> (B, K, A, 2), u and v in -1..1 if it is in view

    def seen(self) -> dict[str, Tensor]:
        """Camera -> (B, K, 3): where the first ask's is seen, u and v in 0..1, and how surely it is in view."""
        sure = {name: 1.0 - logits[:, :, 0].softmax(-1)[..., -1:] for name, logits in self.logits.items()}
        return {name: torch.cat([(spot[:, :, 0] + 1) / 2, sure[name]], -1) for name, spot in self.spots.items()}

    def of(self, asks: Tensor) -> "Goal":
        """Of the asks (B, M), the same in each decision; what stands for -1 means nothing."""

        def pick(x: Tensor) -> Tensor:
            index = asks.clamp(min=0)[:, None].expand(-1, x.shape[1], -1)
            return x.gather(2, index.reshape(*index.shape, *[1] * (x.ndim - 3)).expand(-1, -1, -1, *x.shape[3:]))

        return Goal(*({name: pick(x) for name, x in part.items()} if isinstance(part, dict) else pick(part) for part in self))

    def joined(self, other: "Goal") -> "Goal":
        """These asks, then the other ones."""
        return Goal(*({name: torch.cat([x, b[name]], 2) for name, x in a.items()} if isinstance(a, dict)
                      else torch.cat([a, b], 2) for a, b in zip(self, other)))


class Survey(NamedTuple):
    """What can be asked of one camera's pictures, worked out once for all that is asked."""

    keys: Tensor  # (B, K, P P, E)
    values: Tensor  # (B, K, P P, E)
    places: Tensor  # (B, K, P P, 2), u and v in -1..1 of what each cell shows


class CameraPointer(nn.Module):
    """What is asked and one camera's survey -> where it is there.

    forward: asked (B, K, A, asked), survey, absent (B,) bool or None -> logits, spots,
    found (B, K, A, 3 + E): the spot, how surely it is in view, and what is seen there.
    """

    def __init__(self, asked: int, width_in: int, side: int, width: int = 64):
        super().__init__()
        self.query = nn.Sequential(nn.Linear(asked, 2 * width), nn.SiLU(), nn.Linear(2 * width, width + 1))
        self.key, self.value = nn.Linear(width_in, width), nn.Linear(width_in, width)
        self.position = nn.Linear(width, width)
        self.place = nn.Linear(width_in, 2)
        self.register_buffer("sine", sine_positions(side, width), persistent=False)
        self.register_buffer("centres", centres(side), persistent=False)
        self.found = 3 + width

    def survey(self, grid: Tensor) -> Survey:
        """grid (B, K, P, P, width_in)."""
        cells = grid.flatten(2, 3)
        return Survey(self.key(cells), self.value(cells), self.centres + self.place(cells) / grid.shape[2])

    def forward(self, asked: Tensor, survey: Survey, absent: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        query, nowhere = self.query(asked).split([self.key.out_features, 1], -1)
        score = query @ survey.keys.transpose(-1, -2) + query @ self.position(self.sine).T
        score = score / query.shape[-1] ** 0.5
        if absent is not None:
            score = score.masked_fill(absent[:, None, None, None], -1e4)
        logits = torch.cat([score, nowhere], -1)
        chance = logits.softmax(-1)[..., :-1]
        seen = chance.sum(-1, keepdim=True)
        spot = (chance @ survey.places) / (seen + 1e-3)
        return logits, spot, torch.cat([spot * seen, seen, chance @ survey.values], -1)


class Guess(nn.Module):
    """Low-dimensional geometry: what a camera has found and the state -> two guesses of the goal, one from the base's
    origin, one from the tool (what the hand's own camera sees tells the way from the tool), each with its spread.

    forward: found (B, K, A, F), sensed (B, K, A, S), tool (B, K, 3) m -> guesses (B, K, A, 2, 3) m, spreads (B, K, A, 2) m.
    """

    def __init__(self, found: int, sensed: int, hidden: int = 128):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(found + sensed, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(),
                                 nn.Linear(hidden, 8))

    def forward(self, found: Tensor, sensed: Tensor, tool: Tensor) -> tuple[Tensor, Tensor]:
        out = self.net(torch.cat([found, sensed], -1)).unflatten(-1, (2, 4))
        origins = torch.stack([torch.zeros_like(tool), tool], -2)[:, :, None]
        return origins + 0.3 * out[..., :3], SCALE * out[..., 3].clamp(-5.0, 2.0).exp()


class GoalPointer(nn.Module):
    """forward: act (B, K, A, D), felt (B, K, S), heard (B, K, D): what is felt and heard now, surveys of each camera, tool
    (B, K, 3) m, absent {camera: (B,) bool}, first: a guess (B, K, 3) m of the first ask's goal from elsewhere and its spread
    (B, K) m, or None -> Goal.

    The cameras are asked one after the other, each knowing what the ones before have found. The tool's place lets the
    readout hold the goal as the arm sees it (`reach`).
    """

    LOOKS = 8  # numbers that a guess may know of what a thing looks like

    def __init__(self, width: int, cameras: Mapping[str, int], width_in: int, state: int):
        super().__init__()
        self.cameras, self.looks, self.guess = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        size = 2 * width + state
        self.mind = Guess(2 * width, state)
        for name, side in cameras.items():
            self.cameras[name] = CameraPointer(size, width_in, side)
            self.looks[name] = nn.Linear(self.cameras[name].found - 3, self.LOOKS)
            self.guess[name] = Guess(3 + self.LOOKS, state)
            size += self.cameras[name].found
        self.out = nn.Linear(size + 3 + 8, width)

    @property
    def parts(self) -> list[nn.Module]:
        """What takes most of its time."""
        return [self.mind, *self.cameras.values(), *self.guess.values()]

    def surveys(self, grids: Mapping[str, Tensor]) -> dict[str, Survey]:
        """Of each camera's grid (B, K, P, P, W)."""
        return {name: self.cameras[name].survey(grid) for name, grid in grids.items()}

    def forward(self, act: Tensor, felt: Tensor, heard: Tensor, surveys: Mapping[str, Survey], tool: Tensor,
                absent: Mapping[str, Tensor], first: tuple[Tensor, Tensor] | None = None) -> Goal:
        felt, heard = (x[:, :, None].expand(-1, -1, act.shape[2], -1) for x in (felt, heard))
        known = torch.cat([act, felt, heard], -1)
        guesses, logits, spots = [self.mind(torch.cat([act, heard], -1), felt, tool)], {}, {}
        for name, pointer in self.cameras.items():
            logits[name], spots[name], found = pointer(known, surveys[name], absent.get(name))
            looks = self.looks[name](found[..., 3:])
            guesses.append(self.guess[name](torch.cat([found[..., :3], looks], -1), felt, tool))
            known = torch.cat([known, found], -1)
        guesses.append(only_first(first, guesses[0][0]))
        points, spreads = (torch.cat(parts, 3) for parts in zip(*guesses))
        point = fused(points, spreads)
        way = reach(point - tool[:, :, None])
        return Goal(point, points, spreads, self.out(torch.cat([known, point / 0.3, way], -1)), logits, spots)


class Deliberation(nn.Module):
    """What to go for next: the <act> token reads the words of the instruction, each with where it points, before it points
    itself. Which of two objects lies in its bowl already, and which bowl belongs to the one in hand, are comparisons of
    places; they are waves of the places here (as in NeRF, Mildenhall et al. 2020), whose inner products tell how far two
    are apart.

    It makes a guess of its own, too: two of the named places are picked, and the goal stands somewhere about the first of
    them, as behind an object on the way to its square.

    forward: act (B, K, D), words (B, K, L, D), named: where they point, seen (B, K, L) bool, tool (B, K, 3) m ->
    act (B, K, 1, D), which begins as it was, and the guess (B, K, 3) m with its spread (B, K) m, which begins as none.
    """

    WAVES = (0.1, 0.2, 0.4, 0.8)  # m
    PICKS = 2
    UNSURE = 1.9  # logarithm of the first spreads, in units of SCALE

    def __init__(self, width: int, heads: int = 4, depth: int = 2, hidden: int = 128):
        super().__init__()
        self.grounded = nn.Linear(2 * width + 6 * len(self.WAVES), width)
        self.layers = nn.ModuleList(
            TransformerLayer(width, heads, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(depth))
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.pick = nn.Linear(width, self.PICKS * width)
        self.about = nn.Sequential(nn.Linear(width + 8 * self.PICKS + 6, hidden), nn.SiLU(), nn.Linear(hidden, hidden),
                                   nn.SiLU(), nn.Linear(hidden, 4))
        nn.init.constant_(self.about[-1].bias[3:], self.UNSURE)

    def forward(self, act: Tensor, words: Tensor, named: Goal, seen: Tensor,
                tool: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        words = self.grounded(torch.cat([words, named.readout, self.waves(named.point)], -1))
        x = torch.cat([act[:, :, None], words], 2).flatten(0, 1)
        hidden = torch.cat([seen.new_zeros(*seen.shape[:2], 1), ~seen], -1).flatten(0, 1)
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=hidden)
        x = x.unflatten(0, act.shape[:2])
        return (act + self.out(x[:, :, 0]))[:, :, None], self.guess(x, named.point, seen, tool)

    def guess(self, x: Tensor, points: Tensor, seen: Tensor, tool: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, K, 1 + L, D): the <act> token and the words, points (B, K, L, 3) m."""
        query = self.pick(x[:, :, 0]).unflatten(-1, (self.PICKS, -1))
        score = (query @ x[:, :, 1:].transpose(-1, -2)).float() / x.shape[-1] ** 0.5
        chance = score.masked_fill(~seen[:, :, None], -1e4).softmax(-1) * seen[:, :, None]  # none where nothing was said
        places = chance @ points.float()
        way = places[:, :, 1] - places[:, :, 0]
        between = torch.cat([way / 0.3, way / (way.norm(dim=-1, keepdim=True) + 0.01)], -1)
        out = self.about(torch.cat([x[:, :, 0], reach(places - tool[:, :, None]).flatten(2), between], -1))
        return places[:, :, 0] + 0.3 * out[..., :3], SCALE * out[..., 3].float().clamp(-5.0, 2.0).exp()

    def waves(self, point: Tensor) -> Tensor:
        """(..., 3) m -> (..., 6 waves)."""
        angle = (point[..., None] * (2 * math.pi / torch.tensor(self.WAVES, device=point.device))).flatten(-2)
        return torch.cat([angle.sin(), angle.cos()], -1)


def only_first(guess: tuple[Tensor, Tensor] | None, like: Tensor) -> tuple[Tensor, Tensor]:
    """A guess (B, K, 3) with its spread (B, K) for the first ask, none for the others, in the form of guesses like
    (B, K, A, 2, 3): (B, K, A, 1, 3) and (B, K, A, 1)."""
    point, spread = torch.zeros_like(like[:, :, :, :1]), torch.full_like(like[:, :, :, :1, 0], torch.inf)
    if guess is None:
        return point, spread
    point, spread = (torch.cat([x[:, :, None, None].to(none), none[:, :, 1:]], 2) for x, none in zip(guess, (point, spread)))
    return point, spread


def fused(points: Tensor, spreads: Tensor) -> Tensor:
    """Guesses (..., G, 3) and spreads (..., G) -> their mean weighted by precision (..., 3)."""
    precision = spreads.square().reciprocal()
    return (points * (precision / precision.sum(-1, keepdim=True))[..., None]).sum(-2)


def centres(side: int) -> Tensor:
    """Middles of a grid's cells (side^2, 2): u and v in -1..1, row by row."""
    line = (2 * torch.arange(side) + 1) / side - 1
    v, u = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([u, v], -1).flatten(0, 1)


def reach(offset: Tensor) -> Tensor:
    """Offsets (..., 3) m from the tool to the goal -> (..., 8): the offset and its horizontal length, each as it is (in
    units of SCALE) and saturating at a few centimetres, where fine alignment happens."""
    level = (offset[..., :2].square().sum(-1, keepdim=True) + 1e-8).sqrt()
    both = torch.cat([offset, level], -1)
    return torch.cat([both / SCALE, torch.tanh(both / FINE)], -1)


def point_loss(goal: Goal, point: Tensor, weight: Tensor) -> Tensor:
    """Distance (L1, in units of SCALE) of the fused point from the true one (B, K, A, 3), and the likelihood of each
    guess, a Laplace distribution of its spread (Kendall & Gal 2017); weight (B, K, A)."""
    off = (goal.point - point).abs().sum(-1) / SCALE
    each, there = (goal.guesses - point[..., None, :]).abs().sum(-1), goal.spreads.isfinite()
    spreads = goal.spreads.where(there, SCALE)
    surprise = ((each / spreads + 3 * (spreads / SCALE).log()) * there).sum(-1) / there.sum(-1)
    return ((off + 0.2 * surprise) * weight).sum() / weight.sum().clamp(min=1.0)


def pixel_loss(goal: Goal, pixels: Tensor, weight: Tensor, absent: Mapping[str, Tensor]) -> Tensor:
    """Of pointing, mean over the cameras: cross-entropy of the cell (or of "not in view"), and the distance of the spot
    in cells. pixels (B, K, A, C, 2): 0..1, -1 where it is out of view, UNKNOWN; the cameras in the order of the goal's.
    weight (B, K, A)."""
    losses = []
    for column, (name, logits) in enumerate(goal.logits.items()):
        uv, known = pixels[..., column, :], (weight > 0) & (pixels[..., column, 0] != UNKNOWN)
        if name in absent:
            known = known & ~absent[name][:, None, None]
        side = round((logits.shape[-1] - 1) ** 0.5)
        inside = (uv >= 0).all(-1) & (uv < 1).all(-1)
        cell = (uv.clamp(min=0.0) * side).long()
        target = torch.where(inside, cell[..., 1] * side + cell[..., 0], side * side)
        error = nn.functional.cross_entropy(logits[known], target[known], reduction="sum")
        there = known & inside
        off = (goal.spots[name][there] - (2 * uv[there] - 1)).abs().sum() * side / 2
        losses.append((error + off) / known.sum().clamp(min=1))
    return torch.stack(losses).mean()
