"""The scripted experts as a policy. They read the simulator's state: an upper bound and teachers, not competitors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from agent.spec import TIME, Chunk, Spec


class ExpertPolicy:
    """The expert of whatever task `env` runs; its chunk is the one action that it would do now."""

    sees = False

    def __init__(self, env: gym.Env):
        self.env = env

    def reset(self, spec: Spec, seed: int) -> None:
        self.spec = spec

    def act(self, obs: Mapping[str, Any]) -> Chunk:
        action = np.asarray(self.env.unwrapped.expert_action(), np.float32)
        return Chunk(action[None], float(obs[TIME]), self.spec.control_hz)
