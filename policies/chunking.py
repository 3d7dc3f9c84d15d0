"""Playing chunks by time: what an environment or a robot is commanded now, of what policies decided earlier."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from agent.spec import ActionSpec, Chunk, SpecError
from envs.arm import Arm, JointState, JointTrajectory, plan
from policies.limits import Limits
from policies.safety import Supervisor

MEMORY = 100  # control steps for which commands are remembered: no chunk may come later than that
INSTANT = 1e-6  # s: stamps closer than this are one
FOLLOWED = 1e-3  # rad from what is being played at which the robot was commanded something else
TICKS = 10  # of a supervisor in a control period
ROOM = 0.01  # m around the workspace before a supervisor steps in


class ChunkPlayer(Protocol):
    """push(chunk, now) takes over from what was played; action(now) is for the control period that begins at `now`."""

    def push(self, chunk: Chunk, now: float) -> None: ...

    def action(self, now: float) -> np.ndarray: ...


def player_for(world, blend: float = 0.0, safety: bool = False) -> ChunkPlayer:
    """The player that fits an environment: joint trajectories for one that has an arm and takes joint targets, passed
    through a supervisor where `safety` is asked for. Raises SpecError where that cannot be had."""
    spec = world.robot_spec
    if spec.action.kind == "joint_position" and hasattr(world, "policy_spec"):
        args = (world.arm, world.policy_spec.action, spec.control_hz, lambda: world.command)
        return SafePlayer(*args, world) if safety else JointPlayer(*args, blend)
    if blend:
        raise SpecError(f"blend={blend} passes from joint targets to joint targets; this environment takes {spec.action.kind}")
    if safety:
        raise SpecError(f"safety=true supervises joint targets; this environment takes {spec.action.kind} actions")
    return NativePlayer(spec.action, spec.control_hz)


@dataclass(frozen=True)
class Fade:
    """One trajectory passing into the next within `seconds` from `since`, linearly in joint space."""

    old: JointTrajectory | Fade
    new: JointTrajectory
    since: float
    seconds: float

    @property
    def end(self) -> float:
        return self.new.end

    def at(self, t: float) -> tuple[np.ndarray, float]:
        """Joint angles (7,), and the opening that the new trajectory says: a grasp is not blended."""
        q, opening = self.new.at(t)
        if t >= self.since + self.seconds:
            return q, opening
        before, share = self.old.at(t)[0], max(0.0, (t - self.since) / self.seconds)
        return before + share * (q - before), opening


class JointPlayer:
    """Chunks as absolute joint trajectories, each anchored at what was commanded at its observation's stamp.

    `command` reads the robot's last commanded joint state, whose stamp is the time for which it was commanded: a robot
    that was told something else meanwhile (a safety stop, a push) is followed. A new trajectory fades in over the part
    that it shares with the one before, for `blend` seconds at most; one that comes late and would jump, for `blend`
    seconds. A chunk that has run out holds its last point.
    """

    def __init__(self, arm: Arm, action: ActionSpec, hz: float, command: Callable[[], JointState], blend: float = 0.0):
        self.arm, self.kind, self.period, self.command, self.blend = arm, action, 1.0 / hz, command, blend
        self.commands: deque[JointState] = deque([command()], MEMORY)
        self.playing: JointTrajectory | Fade | None = None

    def push(self, chunk: Chunk, now: float) -> None:
        """Raises SpecError for a chunk of another shape, or with NaN."""
        trajectory = plan(chunk, self.kind, self.arm, self.commanded(chunk.stamp))
        old = _hold(self.commands[-1]) if self._led_away() else _settled(self.playing, now)
        seconds = self._fade_time(old, trajectory, now)
        self.playing = Fade(old, trajectory, now, seconds) if seconds > INSTANT else trajectory

    def _led_away(self) -> bool:
        """Whether what was commanded last was not what is being played."""
        last = self.commands[-1]
        return self.playing is None or bool(np.abs(self.playing.at(last.stamp)[0] - last.position).max() > FOLLOWED)

    def _fade_time(self, old, new, now: float) -> float:
        jumps = np.abs(old.at(now)[0] - new.at(now)[0]).max() > 1e-6
        return self.blend if jumps else min(self.blend, old.end - now)

    def commanded(self, stamp: float) -> JointState:
        """What was commanded last for `stamp` or before it."""
        self._note()
        known = [command for command in self.commands if command.stamp <= stamp + INSTANT]
        return replace((known or self.commands)[-1 if known else 0], stamp=stamp)

    def _note(self) -> None:
        command = self.command()
        if command.stamp > self.commands[-1].stamp + INSTANT:
            self.commands.append(command)

    def action(self, now: float) -> np.ndarray:
        """Joint targets and opening (8,) for now + period; the last command where nothing has been decided yet."""
        self._note()
        last = self.commands[-1]
        q, opening = (last.position, last.opening) if self.playing is None else self.playing.at(now + self.period)
        return np.append(q, opening)


class SafePlayer(JointPlayer):
    """As JointPlayer without blending: a supervisor follows the trajectories, at TICKS a control period. `events` are its
    interventions. `world` tells the robot's measured state (`measured`) and what its body would touch (`body()`)."""

    def __init__(self, arm: Arm, action: ActionSpec, hz: float, command: Callable[[], JointState], world):
        super().__init__(arm, action, hz, command)
        room = None if action.workspace is None else tuple(map(tuple, np.add(action.workspace, [[-ROOM], [ROOM]])))
        limits = Limits.of(arm, workspace=room, patience=MEMORY / hz, oldest=MEMORY / hz)
        self.supervisor = Supervisor(arm, limits, command(), 1.0 / hz / TICKS, world.body().closest)
        self.world, self.events = world, []

    def push(self, chunk: Chunk, now: float) -> None:
        self.supervisor.propose(plan(chunk, self.kind, self.arm, self.commanded(chunk.stamp)), now)

    def action(self, now: float) -> np.ndarray:
        self._note()
        self.supervisor.observe(self.world.measured)
        for tick in range(TICKS):
            command = self.supervisor.step(now + tick * self.supervisor.period)
            self.events += command.events
        return np.append(command.motion.q, command.opening)


def _hold(command: JointState) -> JointTrajectory:
    """Staying at a command."""
    return JointTrajectory(command, np.array([command.stamp]), command.position[None], np.array([command.opening]))


def _settled(playing, now: float):
    """What still matters of a trajectory from `now` on: a fade that is over is its new trajectory, also within another one."""
    if not isinstance(playing, Fade):
        return playing
    over = now >= playing.since + playing.seconds
    return playing.new if over else replace(playing, old=_settled(playing.old, now))


class NativePlayer:
    """Actions go to the environment untouched, chosen by time."""

    def __init__(self, action: ActionSpec, hz: float):
        self.kind, self.hz, self.chunk = action, hz, None

    def push(self, chunk: Chunk, now: float) -> None:
        """Raises SpecError for a chunk of another shape, or with NaN."""
        actions = np.asarray(chunk.actions)
        if actions.ndim != 2 or actions.shape[1] != self.kind.size or len(actions) == 0:
            raise SpecError(f"chunk of shape {actions.shape}: (T, {self.kind.size}) with T >= 1 is needed")
        if not np.isfinite(actions).all():
            raise SpecError("chunk holds NaN or infinite actions")
        self.chunk = chunk

    def action(self, now: float) -> np.ndarray:
        """(A,) for the period that begins at now. Where a chunk has run out it rests; where nothing is decided yet, too, with an
        open gripper, or zeros where deltas are not what is taken."""
        index = int(np.floor((now - self.chunk.stamp) * self.chunk.hz + 1e-4)) if self.chunk else 0
        if self.chunk is None:
            action = rest(self.kind, self.kind.high) if self.kind.kind == "ee_delta" else np.zeros(self.kind.size)
        elif index >= len(self.chunk.actions):
            action = rest(self.kind, self.chunk.actions[-1])
        else:
            action = self.chunk.actions[max(index, 0)]
        return np.clip(action, self.kind.low, self.kind.high).astype(np.float32)

    def ended(self, now: float) -> bool:
        """Whether all that was decided has passed; nothing was, perhaps."""
        return self.chunk is None or now >= self.chunk.stamp + len(self.chunk.actions) / self.chunk.hz - 1e-4


def rest(kind: ActionSpec, last: np.ndarray) -> np.ndarray:
    """The action (A,) that stays where `last` led: no delta and the gripper as it was; other kinds repeat the last."""
    return np.append(np.zeros(kind.size - 1), last[-1]) if kind.kind == "ee_delta" else np.asarray(last)
