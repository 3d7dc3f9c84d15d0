"""The action generator: flow matching by an expert that attends to the backbone (pi0, Black et al. 2024).

Legend: B rows (packed sequences), N groups (one a decision and draw), H chunk length, A action size, W expert width,
T prefix tokens, G key-value heads, D head dimension. Flow time t runs from noise (0) to action (1):
x_t = t a + (1 - t) e, velocity v = a - e (pi0, section IV; Lipman et al. 2023). The network guesses the action itself
and the velocity follows, v = (guess - x_t) / (1 - t), which a small network learns in fewer steps than the velocity
("Back to basics", Li & He 2025).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from agent.attention import Rotation, attention, rotate


class Prefix(NamedTuple):
    """What the expert may read, as plain tensors that no sampler changes."""

    keys: list[Tensor]  # one (B, G, T, D) a layer
    values: list[Tensor]
    visible: Tensor  # (B, N, T) bool
    condition: Tensor  # (B, N, width): what was thought of each group's decision (agent.generators.goal)
    rotations: list[Rotation]  # of the N H tokens, one a layer

    def repeat(self, times: int) -> "Prefix":
        """Each group `times` times, neighbours together; keys and values stay as they are."""
        if times == 1:
            return self
        groups = self.visible.shape[1]

        def turn(x):
            return x.unflatten(1, (groups, -1)).repeat_interleave(times, 1).flatten(1, 2)

        rotations = [rotation and tuple(map(turn, rotation)) for rotation in self.rotations]
        return self._replace(visible=self.visible.repeat_interleave(times, 1), rotations=rotations,
                             condition=self.condition.repeat_interleave(times, 1))

    def mask(self, horizon: int) -> Tensor:
        """(B, 1, N H, T + N H) bool: a token sees its group's prefix and its own group."""
        groups = self.visible.shape[1]
        group = torch.arange(groups * horizon, device=self.visible.device) // horizon
        own = (group[:, None] == group).expand(len(self.visible), -1, -1)
        return torch.cat([self.visible.repeat_interleave(horizon, 1), own], 2)[:, None]


class ExpertLayer(nn.Module):
    """Attention over [prefix; own tokens], then SwiGLU; both modulated by the condition (adaLN, Peebles & Xie 2023,
    as pi0.5 uses it)."""

    def __init__(self, width: int, heads: int, head_dim: int, feed: int):
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        self.norms = nn.ModuleList(nn.RMSNorm(width, elementwise_affine=False, eps=1e-6) for _ in range(2))
        self.qkv = nn.Linear(width, 3 * heads * head_dim, bias=False)
        self.out = nn.Linear(heads * head_dim, width, bias=False)
        self.gate, self.down = nn.Linear(width, 2 * feed, bias=False), nn.Linear(feed, width, bias=False)
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, modulation: Tensor, keys: Tensor, values: Tensor, mask: Tensor, rotation: Rotation) -> Tensor:
        """x (B, N H, W), modulation (B, N, 6 W)."""
        modulation = modulation.repeat_interleave(x.shape[1] // modulation.shape[1], 1)
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.chunk(6, -1)
        y = self.norms[0](x) * (1 + scale1) + shift1
        x = x + (1 + gate1) * self.attend(y, keys, values, mask, rotation)
        up, gate = self.gate(self.norms[1](x) * (1 + scale2) + shift2).chunk(2, -1)
        return x + (1 + gate2) * self.down(nn.functional.silu(gate) * up)

    def attend(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor, rotation: Rotation) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        (q, k), v = rotate(qkv[:2], rotation), qkv[2]
        groups = self.heads // keys.shape[1]
        if groups > 1:
            keys, values = keys.repeat_interleave(groups, 1), values.repeat_interleave(groups, 1)
        k, v = torch.cat([keys.to(q.dtype), k], 2), torch.cat([values.to(q.dtype), v], 2)
        return self.out(attention(q, k, v, mask))


class Expert(nn.Module):
    """The layers that flow matching and bins share: tokens (B, N, H, W) -> (B, N, H, W)."""

    def __init__(self, layers: int, heads: int, head_dim: int, width: int, feed: int):
        super().__init__()
        self.layers = nn.ModuleList(ExpertLayer(width, heads, head_dim, feed) for _ in range(layers))
        self.norm = nn.RMSNorm(width, eps=1e-6)

    def modulations(self, condition: Tensor) -> list[Tensor]:
        """Of each layer, (..., N, 6 W), by what its tokens are conditioned on (..., N, W)."""
        return [layer.modulation(condition) for layer in self.layers]

    def forward(self, tokens: Tensor, modulations: list[Tensor], prefix: Prefix) -> Tensor:
        horizon = tokens.shape[2]
        x, mask = tokens.flatten(1, 2), prefix.mask(horizon)
        parts = zip(self.layers, modulations, prefix.keys, prefix.values, prefix.rotations, strict=True)
        for layer, modulation, keys, values, rotation in parts:
            x = layer(x, modulation, keys, values, mask, rotation)
        return self.norm(x).unflatten(1, (-1, horizon))


class FlowMatching(nn.Module):
    """Chunks of actions (B, N, H, A), normalised, given a Prefix.

    `draws` flow times are trained for each encoded prefix; `steps` Euler steps are taken when sampling.
    """

    def __init__(self, action_size: int, horizon: int, condition_width: int, layers: int, heads: int, head_dim: int,
                 width: int = 128, feed: int = 320, draws: int = 4, steps: int = 6):
        super().__init__()
        if min(draws, steps) < 1 or width % 2:
            raise ValueError(f"draws {draws}, steps {steps}, width {width}: at least 1, at least 1 and an even one are needed")
        self.action_size, self.horizon, self.draws, self.steps = action_size, horizon, draws, steps
        self.inlet = nn.Linear(action_size, width)
        self.place = nn.Parameter(0.02 * torch.randn(horizon, width))
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.condition = nn.Linear(condition_width, width)  # the output projector of the <act> token
        self.lead = nn.Linear(condition_width, width)  # the same straight into the tokens
        self.expert = Expert(layers, heads, head_dim, width, feed)
        self.outlet = nn.Linear(width, action_size)

    def guess(self, x: Tensor, t: Tensor, prefix: Prefix) -> Tensor:
        """Expected actions (B, N, H, A) given the noised ones x (B, N, H, A) at flow time t (B, N)."""
        return self.under(self.modulations(t, prefix), x, prefix)

    def modulations(self, t: Tensor, prefix: Prefix) -> list[Tensor]:
        """Of the expert's layers, (..., B, N, 6 W), at flow times t (..., B, N)."""
        time = self.time(sine(t, self.place.shape[1]))
        return self.expert.modulations(nn.functional.silu(time + self.condition(prefix.condition)))

    def under(self, modulations: list[Tensor], x: Tensor, prefix: Prefix) -> Tensor:
        """`guess` at the flow time that made the modulations."""
        tokens = self.inlet(x) + self.place + self.lead(prefix.condition)[:, :, None]
        return self.outlet(self.expert(tokens, modulations, prefix))

    def loss(self, prefix: Prefix, actions: Tensor, weight: Tensor) -> Tensor:
        """Mean squared error of the guess over `draws` flow times; actions (B, N, H, A), weight (B, N, H) >= 0.

        Flow time is drawn from Beta(1.5, 1) towards noise, as in pi0."""
        target = actions.repeat_interleave(self.draws, 1)
        noise = torch.randn_like(target)
        t = 1.0 - 0.999 * torch.distributions.Beta(1.5, 1.0).sample(target.shape[:2]).to(target)
        at = t[..., None, None]
        guess = self.guess(at * target + (1 - at) * noise, t, prefix.repeat(self.draws))
        return weighted_mean((guess - target).square().mean(-1), weight.repeat_interleave(self.draws, 1))

    @torch.no_grad()
    def sample(self, prefix: Prefix, generator: torch.Generator | None = None) -> Tensor:
        """Euler integration from noise, which ends at the last guess; the prefix is encoded once and read by every step, and
        what the steps' flow times say is worked out for all at once."""
        shape = (*prefix.visible.shape[:2], self.horizon, self.action_size)
        x = torch.randn(shape, generator=generator, device=prefix.condition.device)
        times = torch.arange(self.steps, device=x.device) / self.steps
        steps = zip(*self.modulations(times[:, None, None].expand(-1, *shape[:2]), prefix))
        for i, modulations in enumerate(steps):
            x = x + (self.under(modulations, x, prefix) - x) / (self.steps - i)
        return x


def weighted_mean(error: Tensor, weight: Tensor) -> Tensor:
    return (error * weight).sum() / weight.sum().clamp(min=1.0)


def sine(t: Tensor, width: int) -> Tensor:
    """Sine-cosine features (..., width) of t in [0, 1]."""
    frequency = torch.exp(torch.linspace(0.0, math.log(1000.0), width // 2, device=t.device))
    angle = t[..., None] * frequency
    return torch.cat([angle.sin(), angle.cos()], -1)
