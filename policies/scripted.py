"""The scripted experts as a policy. They read the simulator's state: an upper bound and teachers, not competitors.

`TakeOver` lets them teach a learner where it errs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from agent.spec import AUDIO, TIME, Chunk, Spec


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


class TakeOver:
    """The learner drives for a stretch drawn from the seed, then the expert shows how to go on from where that led
    (after DAgger, Ross et al. 2011; whole stretches, so that what follows is the expert's own path).

    Asked at every control step; the learner decides every `decide_every` steps and hears all that sounded meanwhile.
    `driving`: whether the last answer was the learner's. longest: s that it drives at most.
    """

    sees = True

    def __init__(self, learner, expert: ExpertPolicy, longest: float = 4.0, decide_every: int = 4):
        self.learner, self.expert, self.longest, self.decide_every = learner, expert, longest, decide_every

    def reset(self, spec: Spec, seed: int) -> None:
        self.learner.reset(spec, seed)
        self.expert.reset(spec, seed)
        self.until = np.random.default_rng(seed).uniform(0.0, self.longest)
        self.chunk, self.sound, self.driving = None, [], False

    def act(self, obs: Mapping[str, Any]) -> Chunk:
        now = float(obs[TIME])
        self.driving = now < self.until
        if not self.driving:
            return self.expert.act(obs)
        self.sound.append(obs[AUDIO])
        steps = self.decide_every if self.chunk is None else round((now - self.chunk.stamp) * self.chunk.hz)
        if steps >= self.decide_every:
            self.chunk, steps = self.learner.act(dict(obs) | {AUDIO: np.concatenate(self.sound)}), 0
            self.sound = []
        return Chunk(self.chunk.actions[steps:], now, self.chunk.hz)
