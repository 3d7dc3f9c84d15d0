"""The scripted experts as a policy. They read the simulator's state: an upper bound and teachers, not competitors.

`TakeOver` lets them teach a learner where it errs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from agent.spec import AUDIO, STATE, TIME, Chunk, Spec


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
    """Learner and expert take turns, the learner first, so that the expert shows how to go on from where the learner
    has led (after DAgger, Ross et al. 2011); in whole turns, so that what follows is the expert's own path. Each lasts
    up to `longest` s, drawn from the seed; after `practice` s (by default half of what the task allows) the expert finishes.

    Asked at every control step; the learner decides every `decide_every` steps and hears all that sounded meanwhile.
    `driving`: whether the last answer was the learner's.
    """

    sees = True

    def __init__(self, learner, expert: ExpertPolicy, longest: float = 4.0, practice: float | None = None,
                 decide_every: int = 3):
        self.learner, self.expert, self.decide_every = learner, expert, decide_every
        self.longest, self.practice = longest, practice

    def reset(self, spec: Spec, seed: int) -> None:
        self.learner.reset(spec, seed)
        self.expert.reset(spec, seed)
        world = self.expert.env.unwrapped
        practice = world.heard_at + world.task.time_limit / 2 if self.practice is None else self.practice
        self.switches = turns(np.random.default_rng(seed), self.longest, practice)
        self.chunk, self.sound, self.driving = None, [], False

    def act(self, obs: Mapping[str, Any]) -> Chunk:
        now = float(obs[TIME])
        self.sound.append(obs[AUDIO])
        self.driving = bool(np.searchsorted(self.switches, now, side="right") % 2 == 0)
        if not self.driving:
            self.chunk = None
            self.listen(obs)
            return self.expert.act(obs)
        steps = 0 if self.chunk is None else round((now - self.chunk.stamp) * self.chunk.hz)
        if self.chunk is None or steps >= min(self.decide_every, len(self.chunk.actions)):
            self.chunk = self.learner.act(dict(obs) | {AUDIO: np.concatenate(self.sound)})
            self.sound = []
        return self.chunk

    def listen(self, obs: Mapping[str, Any]) -> None:
        """Let the learner hear what sounds while the expert drives, in the pieces in which it hears when it drives."""
        if len(self.sound) >= self.decide_every and hasattr(self.learner, "hear"):
            self.learner.hear(np.concatenate(self.sound), float(obs[TIME]), obs[STATE])
            self.sound = []


def turns(rng: np.random.Generator, longest: float, practice: float) -> np.ndarray:
    """Times (s) at which the driver changes, an odd number of them: the second driver has the last turn."""
    times = [rng.uniform(0.0, longest)]
    while times[-1] < practice or len(times) % 2 == 0:
        times.append(times[-1] + rng.uniform(0.0, longest))
    return np.array(times)
