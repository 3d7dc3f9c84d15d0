"""Policies without a mind: random actions, and the replay of recorded ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from agent.spec import TIME, Chunk, Spec, SpecError
from policies.chunking import rest


class RandomPolicy:
    """Each decision a chunk of `horizon` actions, uniform within the bounds."""

    sees = False

    def __init__(self, horizon: int = 8):
        self.horizon = horizon

    def reset(self, spec: Spec, seed: int) -> None:
        self.spec, self.rng = spec, np.random.default_rng(seed)

    def act(self, obs: Mapping[str, Any]) -> Chunk:
        action = self.spec.action
        rows = self.rng.uniform(action.low, action.high, (self.horizon, action.size)).astype(np.float32)
        return Chunk(rows, float(obs[TIME]), self.spec.control_hz)


class ReplayPolicy:
    """Plays recorded actions (T, A) by the observation's time, then rests."""

    def __init__(self, actions: np.ndarray):
        self.actions = np.asarray(actions, np.float32)

    def reset(self, spec: Spec, seed: int) -> None:
        """Raises SpecError where the recording is of another robot."""
        if self.actions.ndim != 2 or self.actions.shape[1] != spec.action.size or len(self.actions) == 0:
            raise SpecError(f"recorded actions {self.actions.shape}: (T, {spec.action.size}) with T >= 1 is needed")
        self.spec = spec

    def act(self, obs: Mapping[str, Any]) -> Chunk:
        now = float(obs[TIME])
        rows = self.actions[round(now * self.spec.control_hz) :]
        after = rest(self.spec.action, self.actions[-1])[None].astype(np.float32)
        return Chunk(rows if len(rows) else after, now, self.spec.control_hz)
