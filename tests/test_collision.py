"""The supervisor keeps the tool in its workspace and the robot off itself and what stands around it."""

from dataclasses import replace

import numpy as np
import pytest

from envs.arm import PANDA, JointState, fk, ik, tool_pose
from envs.collision import Body
from envs.tabletop.env import TabletopEnv
from envs.tabletop.scene import WORKSPACE
from policies.safety import Supervisor
from tests.supervised import GENTLE, TICK, assert_within, details, kinds, proposal, run

JOINTS = [f"joint_{i}" for i in range(1, 8)]


def body() -> Body:
    env = TabletopEnv("pick_up", lazy_images=True)
    env.reset(seed=0)
    return Body(env.world.model, JOINTS, PANDA.home, fixed=("base", "table"))


def test_the_tool_stays_in_its_workspace():
    limits = replace(GENTLE, workspace=WORKSPACE)
    start = JointState(0.0, ik(PANDA, tool_pose(0.5, 0.0, 0.2, 0.0), PANDA.home), 0.08)
    supervisor = Supervisor(PANDA, limits, start, TICK)
    out = ik(PANDA, tool_pose(0.5, 0.6, 0.2, 0.0), start.position)
    supervisor.propose(proposal(0.0, out, hz=1.0, start=start), 0.0)
    commands = run(supervisor, 2.0)
    low, high = np.array(WORKSPACE)
    tools = np.array([fk(PANDA, c.motion.q)[:3, 3] for c in commands])
    assert (tools >= low - 1e-6).all() and (tools <= high + 1e-6).all() and tools[-1, 1] > 0.25
    assert "workspace" in details(commands) and np.abs(commands[-1].motion.dq).max() < 0.1


@pytest.mark.parametrize("depth, what", [(-0.1, "table"), (None, "pad_left and base")])
def test_nothing_is_touched(depth, what):
    """Into the table, and with the fingers into the arm's own base."""
    touches = body()
    start = JointState(0.0, ik(PANDA, tool_pose(0.5, 0.0, 0.2, 0.0), PANDA.home), 0.08)
    goal = np.array(PANDA.home)
    if depth is None:
        goal[3], goal[5] = -3.05, 0.0
    else:
        goal = ik(PANDA, tool_pose(0.5, 0.0, depth, 0.0), start.position)
    assert touches(goal)
    supervisor = Supervisor(PANDA, GENTLE, start, TICK, touches.closest)
    supervisor.propose(proposal(0.0, goal, hz=1.0, start=start), 0.0)
    commands = run(supervisor, 3.0)
    assert not any(touches(c.motion.q) for c in commands)
    assert_within(commands, GENTLE)
    assert what in details(commands) and np.abs(commands[-1].motion.dq).max() < 0.1
    assert len(kinds(commands)) < 5  # no flood of reports while it waits at the boundary


def test_what_is_far_apart_is_passed_over_without_a_difference():
    touches, rng = body(), np.random.default_rng(0)
    far = 0
    for q in rng.uniform(PANDA.q_min, PANDA.q_max, (300, 7)):
        room, _ = touches.closest(q)
        least = min(touches.distance(*pair) for pair in touches.pairs)
        assert room == min(least, 2 * touches.clearance) - touches.clearance
        far += room == touches.clearance
    assert 30 < far < 270


def test_what_touches_already_may_go_away_and_not_deeper():
    """Found with the fingers in the table (somebody led the arm there), it can be driven out, but not further in."""
    touches, start = body(), ik(PANDA, tool_pose(0.5, 0.0, 0.004, 0.0), PANDA.home)
    for height, moves in ((0.15, True), (-0.05, False)):
        supervisor = Supervisor(PANDA, GENTLE, JointState(0.0, start, 0.08), TICK, touches.closest)
        goal = ik(PANDA, tool_pose(0.5, 0.0, height, 0.0), start)
        assert touches(start) and supervisor.propose(proposal(0.0, goal, hz=1.0, start=JointState(0.0, start, 0.08)), 0.0)
        commands = run(supervisor, 1.5)
        assert (np.abs(commands[-1].motion.q - start).max() > 0.05) == moves
        assert moves == (not touches(commands[-1].motion.q)) and ("would touch" in details(commands)) == (not moves)


@pytest.mark.parametrize("x", [0.3, 0.5, 0.65])
@pytest.mark.parametrize("yaw", [0.0, 0.7])
def test_at_the_lowest_place_of_the_workspace_nothing_is_touched(x, yaw):
    env = TabletopEnv("pick_up", lazy_images=True)
    env.reset(seed=0)
    q = ik(PANDA, tool_pose(x, 0.1, WORKSPACE[0][2], yaw), PANDA.home)
    assert not env.body()(q)


def test_a_body_names_what_the_model_does_not_have():
    env = TabletopEnv("pick_up", lazy_images=True)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="joint 'nose': the model has joint_1"):
        Body(env.world.model, ["nose"], [0.0])
    with pytest.raises(ValueError, match="geom 'wall': the model has .*table"):
        Body(env.world.model, JOINTS, PANDA.home, fixed=("wall",))
