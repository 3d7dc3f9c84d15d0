"""What a policy is, and the only loop in the project that steps an environment with one.

A policy answers an observation with a chunk (agent.spec.Chunk); a ChunkPlayer plays chunks by time. On the tabletop the
player turns them into absolute joint targets, elsewhere ("native") the actions go to the environment as they are.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import gymnasium as gym
import numpy as np

from agent.spec import AUDIO, TIME, Chunk, Spec
from policies.chunking import player_for
from policies.safety import Event


class Policy(Protocol):
    """Two methods. A wrapper around a policy is a policy. One that says `sees = False` is spared drawing images."""

    def reset(self, spec: Spec, seed: int) -> None:
        """Before an episode, with the robot's description. Raises SpecError where it does not fit."""

    def act(self, obs: Mapping[str, Any]) -> Chunk:
        """obs holds the sound since the last call, whatever was played meanwhile."""


class Record(Protocol):
    """Something that looks on, such as a video writer."""

    def frame(self, env: gym.Env, obs: Mapping[str, Any]) -> None:
        """Called after reset and after each control step."""


@dataclass
class Episode:
    """What came of one episode."""

    success: bool
    seconds: float
    reward: float
    instruction: str
    latencies: list[float] = field(default_factory=list)  # s, one a decision
    terminated: bool = False  # by the task itself; else the time was up
    interventions: list[Event] = field(default_factory=list)  # of the safety supervisor


def rollout(env: gym.Env, policy: Policy, seed: int, *, options: dict | None = None, decide_every: int = 3,
            delay_steps: int = 0, blend: float = 0.0, safety: bool = False, record: Record | None = None) -> Episode:
    """One episode. A decision is made every `decide_every` control steps, sooner where the chunk would run out before,
    and takes effect `delay_steps` later; what has passed of it by then is not played.

    blend: seconds over which a new chunk fades in over the one before. safety: between policy and robot stands a
    supervisor (policies.safety), which smooths by itself. Raises ValueError for numbers that do not fit.
    """
    if decide_every < 1 or delay_steps < 0:
        raise ValueError(f"decide_every {decide_every}, delay_steps {delay_steps}: at least 1 and 0 are needed")
    obs, info = env.reset(seed=seed, options=options)
    world = env.unwrapped
    policy.reset(policy_spec(world), seed)
    hz = world.robot_spec.control_hz
    player, ears = player_for(world, blend, safety), Ears()
    episode = Episode(False, 0.0, 0.0, str(info.get("instruction", "")))
    waiting: list[tuple[int, Chunk]] = []
    step, next_decision, done = 0, 0, False
    if record is not None:
        record.frame(env, obs)
    while not done:
        now = float(obs[TIME])
        if step == next_decision:
            seen = complete(world, obs) if getattr(policy, "sees", True) else dict(obs)
            chunk, taken = decide(policy, ears.take(seen))
            episode.latencies.append(taken)
            waiting.append((step + delay_steps, chunk))
            lasts = int(len(chunk.actions) / chunk.hz * hz + 1e-6)  # control steps
            next_decision = step + max(1, min(decide_every, lasts - delay_steps))
        while waiting and waiting[0][0] <= step:
            player.push(waiting.pop(0)[1], now)
        obs, reward, terminated, truncated, info = env.step(player.action(now))
        ears.hear(obs)
        step, done = step + 1, terminated or truncated
        episode.reward += float(reward)
        if record is not None:
            record.frame(env, obs)
    episode.success, episode.terminated = bool(info.get("success")), bool(terminated)
    episode.seconds = float(obs[TIME])
    episode.interventions = list(getattr(player, "events", ()))
    return episode


def decide(policy: Policy, obs: Mapping[str, Any]) -> tuple[Chunk, float]:
    """(chunk, seconds that it took)."""
    begin = time.perf_counter()
    chunk = policy.act(obs)
    return chunk, time.perf_counter() - begin


def complete(world, obs: Mapping[str, Any]) -> dict[str, Any]:
    """The observation with its images, which a lazy environment draws only now."""
    return dict(obs) | world.images() if getattr(world, "lazy_images", False) else dict(obs)


def policy_spec(world) -> Spec:
    """The robot as a policy is to see it: one that is driven in joint space takes tool deltas, made into joint targets
    by envs.arm.plan."""
    return getattr(world, "policy_spec", world.robot_spec)


class Ears:
    """Gathers the sound of several control steps, so that nothing falls between two decisions."""

    def __init__(self):
        self.pieces: list[np.ndarray] = []

    def hear(self, obs: Mapping[str, Any]) -> None:
        if AUDIO in obs:
            self.pieces.append(obs[AUDIO])

    def take(self, obs: dict[str, Any]) -> dict[str, Any]:
        """obs with all that was heard since the last call; nothing at time 0."""
        if AUDIO in obs:
            none = obs[AUDIO][:0]
            obs[AUDIO] = np.concatenate([none, *self.pieces])
            self.pieces = []
        return obs
