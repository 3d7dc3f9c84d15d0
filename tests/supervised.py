"""A supervisor in a test's hands: proposals, ticks, and whether what came out keeps the limits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from envs.arm import PANDA, JointState, JointTrajectory
from policies.limits import Limits
from policies.safety import Supervisor

HOME = JointState(0.0, np.array(PANDA.home), 0.08)
TICK = 0.01
# low enough in jerk that a tick cannot hide a jump in acceleration
GENTLE = replace(Limits.of(PANDA), dq_max=np.full(7, 1.5), ddq_max=np.full(7, 6.0), dddq_max=np.full(7, 120.0), jump=10.0)


def proposal(stamp: float, points, hz: float = 10.0, opening: float = 0.04, start=HOME) -> JointTrajectory:
    points = np.atleast_2d(points)
    times = stamp + np.arange(1, len(points) + 1) / hz
    return JointTrajectory(JointState(stamp, start.position, start.opening), times, points, np.full(len(points), opening))


def run(supervisor, seconds: float, start: float = 0.0, beat: bool = True) -> list:
    commands = []
    for k in range(round(seconds / TICK)):
        now = start + k * TICK
        if beat:
            supervisor.beat(now)
        commands.append(supervisor.step(now))
    return commands


def states(commands) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return tuple(np.array([getattr(c.motion, name) for c in commands]) for name in ("q", "dq", "ddq"))


def assert_within(commands, limits: Limits, tick: float = TICK) -> None:
    """Judged from the positions alone, by differences, and from the stated derivatives."""
    q, dq, ddq = states(commands)
    assert (q >= limits.q_min - 1e-6).all() and (q <= limits.q_max + 1e-6).all()
    assert (np.abs(np.diff(q, axis=0)) <= limits.dq_max * tick + 1e-6).all()
    assert (np.abs(np.diff(q, 2, axis=0)) <= limits.ddq_max * tick**2 + 1e-6).all()
    assert (np.abs(dq) <= limits.dq_max + 1e-6).all() and (np.abs(ddq) <= limits.ddq_max + 1e-6).all()
    assert (np.abs(np.diff(ddq, axis=0)) <= limits.dddq_max * tick + 1e-6).all()


def kinds(commands) -> list[str]:
    return [event.kind for c in commands for event in c.events]


def details(commands) -> str:
    return "; ".join(event.detail for c in commands for event in c.events)


def moving(limits: Limits = GENTLE, **more) -> Supervisor:
    """At full speed in joint 1 after 0.6 s."""
    supervisor = Supervisor(PANDA, limits, HOME, TICK, **more)
    supervisor.propose(proposal(0.0, HOME.position + np.array([2.6, 0, 0, 0, 0, 0, 0]), hz=0.5), 0.0)
    run(supervisor, 0.6)
    assert supervisor.motion.dq[0] > 1.2
    return supervisor


def standing_where(supervisor: Supervisor, start: float, away) -> list:
    """Ticks in which the robot is measured away from HOME, rad each."""
    commands = []
    for k, offset in enumerate(away):
        now = start + k * TICK
        supervisor.observe(JointState(now, HOME.position + offset, 0.08))
        commands.append(supervisor.step(now))
    return commands
