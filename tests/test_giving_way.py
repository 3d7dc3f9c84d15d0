"""When a robot that stands gives way: to who moves it, to what it presses on; not to its own weight."""

from dataclasses import replace

import numpy as np
import pytest

from envs.arm import PANDA, JointState, fk
from policies.safety import NEAR, Supervisor
from tests.supervised import GENTLE, HOME, TICK, assert_within, details, kinds, moving, proposal, run, standing_where


def test_the_command_to_stand_goes_where_somebody_moves_the_robot():
    """Else it would still be where it stood, and the next controller would pull the arm back there."""
    supervisor = Supervisor(PANDA, GENTLE, HOME, TICK)
    supervisor.stop(0.0, "button")
    commands = standing_where(supervisor, 0.0, np.linspace(0.0, 0.05, 20))
    np.testing.assert_array_equal(commands[-1].motion.q, HOME.position)
    commands += standing_where(supervisor, 0.2, np.append(np.linspace(0.05, 0.4, 50), np.full(50, 0.4)))
    np.testing.assert_allclose(commands[-1].motion.q, HOME.position + 0.4, atol=NEAR * GENTLE.drift)
    assert kinds(commands) == ["stop", "moved"] and supervisor.stopped and supervisor.stands
    assert_within(commands, GENTLE)


@pytest.mark.parametrize("sag", [0.0, 0.02, 0.05])
def test_an_arm_that_sags_is_not_led_on_by_its_own_weight(sag):
    """It stands a little below its command, as under a load; somebody pushes it once and lets go."""
    supervisor, commands = Supervisor(PANDA, GENTLE, HOME, TICK), []
    supervisor.stop(0.0, "button")
    for now in TICK * np.arange(600):
        push = np.interp(now, (1.0, 1.3, 1.7, 2.0), (0.0, 0.15, 0.15, 0.0))
        q = supervisor.motion.q + np.array([0.0, sag + push, 0, 0, 0, 0, 0])
        supervisor.observe(JointState(now, q, 0.08))
        commands.append(supervisor.step(now))
    assert_within(commands, GENTLE)
    moved = commands[-1].motion.q[1] - HOME.position[1]
    assert 0.05 < moved < 1.0 and (commands[-1].motion.q == commands[300].motion.q).all() and supervisor.stands
    assert kinds(commands) == ["stop", "moved"]


def test_a_robot_that_stands_is_not_led_out_of_its_workspace():
    """However long something draws at it there."""
    low = np.array(fk(PANDA, HOME.position)[:3, 3]) - (9.0, 9.0, 0.05)
    supervisor, commands = Supervisor(PANDA, replace(GENTLE, workspace=(tuple(low), (9.0, 9.0, 9.0))), HOME, TICK), []
    supervisor.stop(0.0, "button")
    for now in TICK * np.arange(500):
        pulled = HOME.position + np.array([0.0, min(0.5 * now, 1.0), 0, 0, 0, 0, 0])
        supervisor.observe(JointState(now, pulled, 0.08))
        commands.append(supervisor.step(now))
    lowest = min(fk(PANDA, c.motion.q)[2, 3] for c in commands)
    assert low[2] - 1e-3 < lowest < low[2] + 0.04 and supervisor.stands


def test_a_stiff_arm_that_presses_too_hard_gives_way():
    """Against a wall a quarter of a radian away, 2000 N a radian of joint 1 that it is commanded into the wall."""
    supervisor, commands, forces = Supervisor(PANDA, replace(GENTLE, force=40.0), HOME, TICK), [], []
    wall = HOME.position[0] + 0.25
    for now in TICK * np.arange(300):
        q = supervisor.motion.q.copy()
        forces.append(2000 * max(0.0, q[0] - wall))
        q[0] = min(q[0], wall)
        measured = JointState(now, q, 0.08)
        supervisor.observe(measured, forces[-1])
        supervisor.propose(proposal(now, HOME.position + [0.5, 0, 0, 0, 0, 0, 0], hz=2.0, start=measured), now)
        if now >= 1.5:
            supervisor.stop(now, "button")
        commands.append(supervisor.step(now))
    assert_within(commands, GENTLE)
    assert max(forces) > 40 >= max(forces[200:]) and "contact force" in details(commands) and supervisor.stands


def test_an_arm_that_is_held_back_is_stopped_gives_way_and_goes_on_after_a_release():
    """At a wall a quarter of a radian away, without a sensor of force, by a policy that plans from what is commanded."""
    supervisor, commands, behind = Supervisor(PANDA, GENTLE, HOME, TICK), [], []
    wall = HOME.position[0] + 0.25
    for now in TICK * np.arange(600):
        q, commanded = supervisor.motion.q.copy(), JointState(now, supervisor.motion.q, 0.08)
        q[0] = min(q[0], wall) if now < 4.0 else q[0]
        supervisor.observe(JointState(now, q, 0.08))
        behind.append(supervisor.deviation)
        supervisor.beat(now)
        supervisor.propose(proposal(now, HOME.position + [0.8, 0, 0, 0, 0, 0, 0], hz=2.0, start=commanded), now)
        if now == TICK * 400:
            supervisor.release(now)
        commands.append(supervisor.step(now))
    assert_within(commands, GENTLE)
    kinds = [event.kind for command in commands for event in command.events]
    assert kinds.index("braking") < kinds.index("stop") < kinds.index("moved") < kinds.index("released")
    assert max(behind) > GENTLE.deviation > 1e-3 > max(behind[350:400])
    assert commands[399].motion.q[0] < wall + 0.01 and commands[-1].motion.q[0] > wall + 0.3


def test_neither_a_state_of_long_ago_nor_a_wrong_one_moves_a_robot_that_stands():
    """Joint states that end in motion are behind where the supervisor then brings the robot to a stand."""
    supervisor = moving()
    q = supervisor.motion.q
    supervisor.observe(JointState(0.6, q, 0.08))
    commands = run(supervisor, 1.0, start=0.6)
    steps = np.abs(np.diff([q, *(c.motion.q for c in commands)], axis=0)).max()
    assert supervisor.stands and supervisor.deviation > 0.02 and steps <= 1.001 * GENTLE.dq_max.max() * TICK
    supervisor.hold(1.6, "nothing to do")
    supervisor.limits = replace(GENTLE, drift=0.01)
    assert (run(supervisor, 0.5, start=1.6)[-1].motion.q == commands[-1].motion.q).all()
    supervisor.observe(JointState(2.1, q + 1.0, 0.08))
    supervisor.step(2.1)
    supervisor.observe(JointState(2.11, supervisor.motion.q, 0.08))
    assert (run(supervisor, 0.1, start=2.11)[-1].motion.q == commands[-1].motion.q).all()
