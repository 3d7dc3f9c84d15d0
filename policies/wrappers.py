"""Policies around a policy: what it is kept from. Each has the same two methods."""

from __future__ import annotations

from typing import Any, Mapping

import numpy as np

from agent.spec import AUDIO, IMAGES, TASK, Chunk, Spec


class Wrapper:
    """Passes everything on."""

    def __init__(self, policy):
        self.policy = policy

    def reset(self, spec: Spec, seed: int) -> None:
        self.policy.reset(spec, seed)

    def act(self, obs: Mapping[str, Any]) -> Chunk:
        return self.policy.act(obs)


class Mute(Wrapper):
    """Microphones that give silence."""

    def act(self, obs: Mapping[str, Any]) -> Chunk:
        silent = {AUDIO: np.zeros_like(obs[AUDIO])} if AUDIO in obs else {}
        return self.policy.act(dict(obs) | silent)


class Blind(Wrapper):
    """Cameras that give black pictures."""

    def act(self, obs: Mapping[str, Any]) -> Chunk:
        black = {key: np.zeros_like(value) for key, value in obs.items() if key.startswith(IMAGES)}
        return self.policy.act(dict(obs) | black)


class Instruct(Wrapper):
    """Another written instruction than the environment's."""

    def __init__(self, policy, instruction: str):
        super().__init__(policy)
        self.instruction = instruction

    def act(self, obs: Mapping[str, Any]) -> Chunk:
        return self.policy.act(dict(obs) | {TASK: self.instruction})
