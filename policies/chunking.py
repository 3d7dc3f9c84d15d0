"""Playing chunks by time: what an environment or a robot is commanded now, of what policies decided earlier."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np

from agent.spec import ActionSpec, Chunk, SpecError
from envs.arm import Arm, JointState, JointTrajectory, plan


class ChunkPlayer(Protocol):
    """push(chunk) takes over from what was played; action(now) is for the control period that begins at `now`."""

    def push(self, chunk: Chunk) -> None: ...

    def action(self, now: float) -> np.ndarray: ...

    @staticmethod
    def of(world, blend: float = 0.0) -> "ChunkPlayer":
        """The player that fits an environment: joint trajectories for one that has an arm and takes joint targets."""
        spec = world.robot_spec
        if spec.action.kind == "joint_position" and hasattr(world, "policy_spec"):
            return JointPlayer(world.arm, world.policy_spec.action, spec.control_hz, world.command, blend)
        return NativePlayer(spec.action, spec.control_hz)


class JointPlayer:
    """Chunks as absolute joint trajectories, each anchored at what was commanded at its observation's stamp.

    blend: seconds over which a new trajectory fades in (linear, in joint space). A chunk that has run out holds its last
    point.
    """

    def __init__(self, arm: Arm, action: ActionSpec, hz: float, command: JointState, blend: float = 0.0):
        self.arm, self.kind, self.period, self.blend = arm, action, 1.0 / hz, blend
        self.sent: list[JointState] = [replace(command, stamp=0.0)]  # commands by the time at which they are reached
        self.old: JointTrajectory | None = None
        self.new: JointTrajectory | None = None
        self.since = 0.0

    def push(self, chunk: Chunk) -> None:
        trajectory = plan(chunk, self.kind, self.arm, self.commanded(chunk.stamp))
        self.old, self.new = self.new, trajectory
        self.since = self.sent[-1].stamp

    def commanded(self, stamp: float) -> JointState:
        """The last command that was to be reached by `stamp`."""
        before = [command for command in self.sent if command.stamp <= stamp + 1e-6]
        return replace((before or self.sent[:1])[-1], stamp=stamp)

    def action(self, now: float) -> np.ndarray:
        """Joint targets and opening (8,) for now + period; the last command where nothing has been decided yet."""
        end = now + self.period
        q, opening = self.at(end)
        self.sent = [*self.sent[-100:], JointState(end, q, opening)]
        return np.append(q, opening)

    def at(self, t: float) -> tuple[np.ndarray, float]:
        if self.new is None:
            return self.sent[-1].position, self.sent[-1].opening
        q, opening = self.new.at(t)
        share = 1.0 if self.blend <= 0 else min(1.0, (t - self.since) / self.blend)
        if self.old is None or share >= 1.0:
            return q, opening
        before, _ = self.old.at(t)
        return before + share * (q - before), opening


class NativePlayer:
    """Actions go to the environment untouched, chosen by time; the last one is held."""

    def __init__(self, action: ActionSpec, hz: float):
        self.kind, self.hz, self.chunk = action, hz, None

    def push(self, chunk: Chunk) -> None:
        if chunk.actions.ndim != 2 or chunk.actions.shape[1] != self.kind.size:
            raise SpecError(f"chunk of shape {chunk.actions.shape}: (T, {self.kind.size}) is needed")
        if not np.isfinite(chunk.actions).all():
            raise SpecError("chunk holds NaN or infinite actions")
        self.chunk = chunk

    def action(self, now: float) -> np.ndarray:
        """(A,) for the period that begins at now; zero where nothing has been decided yet."""
        if self.chunk is None:
            return np.clip(np.zeros(self.kind.size, np.float32), self.kind.low, self.kind.high)
        index = int(np.floor((now - self.chunk.stamp) * self.chunk.hz + 1e-6))
        action = self.chunk.actions[min(max(index, 0), len(self.chunk.actions) - 1)]
        return np.clip(action, self.kind.low, self.kind.high).astype(np.float32)
