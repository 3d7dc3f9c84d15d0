"""The arm model against independent constructions, and the properties that its users rely on."""

import mujoco
import numpy as np
import pytest

from agent.spec import ActionSpec, Chunk, SpecError
from envs.arm import (
    ARMS,
    FLANGE_TO_TCP,
    FR3,
    HAND_YAW,
    PANDA,
    JointState,
    ee_delta_action,
    fk,
    ik,
    joint_position_action,
    plan,
    pose_to_tool,
    residual,
    tool_pose,
)

BOX = np.array([[0.28, -0.32, 0.01, -np.pi / 2], [0.68, 0.32, 0.45, np.pi / 2]])  # x, y, z, yaw
ACTION = ee_delta_action((tuple(BOX[0, :3]), tuple(BOX[1, :3])))
arms = pytest.mark.parametrize("arm", [PANDA, FR3], ids=lambda arm: arm.name)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def random_q(arm, rng, margin=0.0):
    return rng.uniform(arm.q_min + margin, arm.q_max - margin)


def random_tool(rng):
    """A tool pose in the workspace, leaving out the far upper rim, which no Franka reaches with the tool down."""
    while True:
        tool = rng.uniform(*BOX)
        wrist = np.hypot(np.hypot(*tool[:2]) - 0.088, tool[2] + FLANGE_TO_TCP - 0.333)
        if wrist < 0.68 and np.hypot(*tool[:2]) > 0.31:
            return tool


def within(arm, q):
    return bool(np.all(q >= arm.q_min) and np.all(q <= arm.q_max))


# ---- kinematics


def turned(degrees, axis) -> np.ndarray:
    quaternion = np.zeros(4)
    mujoco.mju_axisAngle2Quat(quaternion, np.array(axis, float), np.deg2rad(degrees))
    return quaternion


def franka_in_mujoco() -> mujoco.MjModel:
    """The chain as Franka's public robot description gives it: a fixed offset and turn before each joint about z."""
    offsets = [(0, 0, 0.333), (0, 0, 0), (0, -0.316, 0), (0.0825, 0, 0), (-0.0825, 0.384, 0), (0, 0, 0), (0.088, 0, 0)]
    turns = [0, -90, 90, 90, -90, 90, 90]  # degrees about x
    spec = mujoco.MjSpec()
    body = spec.worldbody
    for i, (offset, turn) in enumerate(zip(offsets, turns, strict=True)):
        body = body.add_body(name=f"link{i + 1}", pos=offset, quat=turned(turn, (1, 0, 0)))
        body.add_joint(name=f"joint{i + 1}", axis=[0, 0, 1])
        body.add_geom(size=[0.01, 0.01, 0.01])
    hand = body.add_body(name="hand", pos=(0, 0, 0.107), quat=turned(-45, (0, 0, 1)))
    hand.add_site(name="tcp", pos=(0, 0, 0.1034))
    return spec.compile()


def test_fk_equals_a_mujoco_chain(rng):
    model = franka_in_mujoco()
    data = mujoco.MjData(model)
    for _ in range(20):
        q = random_q(PANDA, rng)
        data.qpos[:] = q
        mujoco.mj_forward(model, data)
        site = data.site("tcp")
        np.testing.assert_allclose(fk(PANDA, q)[:3, 3], site.xpos, atol=1e-9)
        np.testing.assert_allclose(fk(PANDA, q)[:3, :3], site.xmat.reshape(3, 3), atol=1e-9)


def test_tool_pose_round_trip_points_down(rng):
    for _ in range(100):
        tool = rng.uniform(*BOX) * (1, 1, 1, 1.99)
        pose = tool_pose(*tool)
        np.testing.assert_allclose(pose_to_tool(pose), tool, atol=1e-12)
        np.testing.assert_allclose(pose[:3, 2], (0, 0, -1))
        np.testing.assert_allclose(pose[:3, 0], (np.cos(tool[3]), np.sin(tool[3]), 0))
        assert np.isclose(np.linalg.det(pose[:3, :3]), 1.0)


@arms
def test_home_is_within_the_limits_and_points_down(arm):
    assert within(arm, arm.home)
    pose = fk(arm, arm.home)
    np.testing.assert_allclose(pose, tool_pose(*pose_to_tool(pose)), atol=1e-12)
    assert abs(pose_to_tool(pose)[3]) < 1e-12 and ARMS[arm.name] is arm and np.isclose(HAND_YAW, -np.pi / 4)


def test_an_arm_is_data_that_nobody_can_change():
    with pytest.raises(ValueError):
        PANDA.q_min[0] = 0.0


# ---- inverse kinematics


@arms
def test_ik_round_trips_over_the_workspace(arm, rng):
    worst = np.zeros(2)
    for _ in range(100):
        pose = tool_pose(*random_tool(rng))
        q = ik(arm, pose, arm.home)
        assert within(arm, q)
        worst = np.maximum(worst, residual(arm, pose, q))
    assert worst[0] < 1e-5 and worst[1] < 1e-5, f"{worst[0]} m, {worst[1]} rad"


def test_ik_reaches_poses_that_lean_and_half_turns(rng):
    for _ in range(30):
        q = random_q(PANDA, rng, margin=0.4)
        pose = fk(PANDA, q)
        near = np.clip(q + rng.uniform(-0.3, 0.3, 7), PANDA.q_min, PANDA.q_max)
        assert max(residual(PANDA, pose, ik(PANDA, pose, near))) < 1e-5
    at_home = ik(PANDA, tool_pose(0.45, 0.0, 0.2, np.pi / 2), PANDA.home)
    half = tool_pose(0.45, 0.0, 0.2, -np.pi / 2)
    assert max(residual(PANDA, half, ik(PANDA, half, at_home))) < 1e-5


def test_ik_is_deterministic_and_a_path_there_and_back_closes(rng):
    for _ in range(6):
        tools = np.linspace(random_tool(rng) * (1, 1, 1, 0.7), random_tool(rng) * (1, 1, 1, 0.7), 15)
        q = start = ik(PANDA, tool_pose(*tools[0]), PANDA.home)
        for tool in [*tools[1:], *tools[-2::-1]]:
            q = ik(PANDA, tool_pose(*tool), q)
        np.testing.assert_allclose(q, start, atol=2e-2)
        assert np.array_equal(ik(PANDA, tool_pose(*tools[0]), PANDA.home), start)


def test_a_held_pose_does_not_creep():
    pose = tool_pose(0.5, 0.2, 0.1, 0.8)
    q = first = ik(PANDA, pose, PANDA.home)
    for _ in range(200):
        q = ik(PANDA, pose, q)
    np.testing.assert_allclose(q, first, atol=1e-3)
    assert max(residual(PANDA, pose, q)) < 2e-6


def test_small_steps_of_the_tool_are_small_steps_of_the_joints(rng):
    for _ in range(8):
        start, end = random_tool(rng) * (1, 1, 1, 0.6), random_tool(rng) * (1, 1, 1, 0.6)
        q = ik(PANDA, tool_pose(*start), PANDA.home)
        for w in np.linspace(0, 1, 40)[1:]:
            tool = start + w * (end - start)
            following = ik(PANDA, tool_pose(*tool), q)
            assert np.abs(following - q).max() < 0.25
            q = following


@pytest.mark.parametrize("tool", [(1.2, 0.0, 0.3, 0.0), (0.05, 0.0, 0.05, 0.0), (0.75, -0.35, 0.5, 1.0)])
def test_out_of_reach_comes_near_within_the_limits(tool):
    pose = tool_pose(*tool)
    q = ik(PANDA, pose, PANDA.home)
    assert within(PANDA, q) and np.isfinite(q).all()
    assert residual(PANDA, pose, q)[0] < 0.7 * residual(PANDA, pose, PANDA.home)[0]


# ---- chunks to trajectories


def state(arm=PANDA, tool=(0.5, 0.0, 0.2, 0.0), stamp=2.0, opening=0.08):
    return JointState(stamp, ik(arm, tool_pose(*tool), arm.home), opening)


def deltas(rng, steps=16, size=0.6):
    return rng.uniform(-size, size, (steps, 5)).astype(np.float32)


def test_plan_is_anchored_at_the_command_and_exact_in_time(rng):
    command = state(stamp=3.7)
    path = plan(Chunk(deltas(rng), 3.7, 10.0), ACTION, PANDA, command)
    np.testing.assert_allclose(path.times, 3.7 + np.arange(1, 17) / 10)
    for t in (0.0, 3.7):
        np.testing.assert_array_equal(path.at(t)[0], command.position)
    for t, q, opening in zip(path.times, path.positions, path.openings, strict=True):
        np.testing.assert_allclose(path.at(t)[0], q, atol=1e-12)
        assert np.isclose(path.at(t)[1], opening)
    np.testing.assert_allclose(path.at(3.75)[0], (command.position + path.positions[0]) / 2)
    np.testing.assert_allclose(path.at(3.95)[0], (path.positions[1] + path.positions[2]) / 2)
    assert np.array_equal(path.at(99.0)[0], path.positions[-1]) and path.end == path.times[-1]


def test_deltas_add_up_on_the_commanded_tool(rng):
    rows = deltas(rng, size=0.4)
    path = plan(Chunk(rows, 2.0, 10.0), ACTION, PANDA, state())
    want = np.array([0.5, 0.0, 0.2, 0.0])
    for row, q, opening in zip(rows, path.positions, path.openings, strict=True):
        want = want + row[:4] * ACTION.scale
        np.testing.assert_allclose(pose_to_tool(fk(PANDA, q)), want, atol=1e-4)
        assert np.isclose(opening, 0.08 * (row[4] + 1) / 2)


@arms
def test_the_tool_stays_on_the_line_between_the_points(arm):
    """What linear interpolation in joint space costs, for the longest step."""
    path = plan(Chunk(np.array([[1, 1, 0, 0, 1.0]]), 2.0, 10.0), ACTION, arm, state(arm))
    ends, middle = [fk(arm, path.at(t)[0])[:3, 3] for t in (2.0, 2.1)], fk(arm, path.at(2.05)[0])[:3, 3]
    assert np.linalg.norm(middle - np.mean(ends, axis=0)) < 2e-3


@arms
def test_plan_never_leaves_the_limits_or_the_workspace(arm, rng):
    for _ in range(15):
        command = state(arm, random_tool(rng))
        path = plan(Chunk(deltas(rng, 8, size=3.0), 2.0, 10.0), ACTION, arm, command)
        points = np.vstack([command.position, path.positions])
        assert all(within(arm, q) for q in path.positions)
        assert np.all(np.abs(np.diff(points, axis=0)) <= arm.dq_max / 10.0 + 1e-9)
        assert np.all(path.openings >= 0) and np.all(path.openings <= arm.max_opening)
    push = np.tile([0.0, 1.0, -1.0, 0.0, 1.0], (20, 1))
    x, y, z, _ = pose_to_tool(fk(arm, plan(Chunk(push, 2.0, 10.0), ACTION, arm, state(arm)).positions[-1]))
    np.testing.assert_allclose((x, y, z), (0.5, 0.32, 0.01), atol=1e-4)


@arms
@pytest.mark.parametrize("turn", [-1.0, 1.0])
@pytest.mark.parametrize("x, y", [(0.60, 0.25), (0.35, 0.25), (0.50, 0.0), (0.60, -0.25)])
def test_a_turn_for_which_there_is_no_room_does_not_move_the_tool(arm, turn, x, y):
    spin = np.tile([0.0, 0.0, 0.0, turn, 1.0], (25, 1))
    path = plan(Chunk(spin, 2.0, 10.0), ACTION, arm, state(arm, (x, y, 0.02, 0.0)))
    tools = np.array([pose_to_tool(fk(arm, q)) for q in path.positions])
    assert np.abs(tools[:, :3] - (x, y, 0.02)).max() < 0.01
    assert np.abs(tools[-1, :3] - tools[-2, :3]).max() < 1e-4 and turn * np.unwrap(tools[:, 3])[-1] > 1.5


@pytest.mark.parametrize("cut", [1, 5, 15])
@pytest.mark.parametrize("size", [0.5, 3.0])
def test_a_chunk_cut_in_two_means_the_same(cut, size, rng):
    rows, command = deltas(rng, size=size), state()
    whole = plan(Chunk(rows, 2.0, 10.0), ACTION, PANDA, command)
    first = plan(Chunk(rows[:cut], 2.0, 10.0), ACTION, PANDA, command)
    middle = JointState(first.end, *first.at(first.end))
    second = plan(Chunk(rows[cut:], first.end, 10.0), ACTION, PANDA, middle)
    np.testing.assert_array_equal(np.vstack([first.positions, second.positions]), whole.positions)
    np.testing.assert_allclose([*first.times, *second.times], whole.times)


def test_nothing_asked_for_holds_the_tool():
    path = plan(Chunk(np.zeros((50, 5)), 2.0, 10.0), ACTION, PANDA, state())
    np.testing.assert_allclose(pose_to_tool(fk(PANDA, path.positions[-1])), (0.5, 0.0, 0.2, 0.0), atol=2e-6)


def test_joint_positions_are_taken_as_they_are_within_the_limits():
    action, command = joint_position_action(PANDA), state()
    near, far = command.position + 0.05, PANDA.q_max + 1.0
    path = plan(Chunk(np.array([[*near, 0.03], [*far, 0.5]]), 2.0, 10.0), action, PANDA, command)
    np.testing.assert_allclose(path.positions[0], near)
    np.testing.assert_allclose(path.openings, (0.03, 0.08))
    assert np.all(np.abs(path.positions[1] - near) <= PANDA.dq_max / 10 + 1e-9)
    line = (path.positions[1] - near) / (PANDA.q_max - near)
    np.testing.assert_allclose(line, line[0], err_msg="shortened along its line")


@pytest.mark.parametrize(
    "rows, message",
    [
        (np.full((2, 5), np.nan), "NaN"),
        (np.zeros((2, 8)), r"\(2, 8\): \(T, 5\)"),
        (np.zeros(5), r"\(5,\): \(T, 5\)"),
        (np.zeros((0, 5)), "T >= 1"),
    ],
)
def test_plan_refuses_nonsense(rows, message):
    with pytest.raises(SpecError, match=message):
        plan(Chunk(rows, 2.0, 10.0), ACTION, PANDA, state())


def test_actions_say_the_frame_and_unit_of_each_column():
    joints, native = joint_position_action(PANDA), ActionSpec("native", ("a",), (-1.0,), (1.0,))
    assert ACTION.units == ("m", "m", "m", "rad", "1") and ACTION.frames == ("base",) * 4 + ("hand",)
    assert joints.units == ("rad",) * 7 + ("m",) and joints.frames == ("joint",) * 7 + ("hand",)
    assert (native.units, native.frames) == (("",), ("",))
    assert ActionSpec("native", ("a",), (-1.0,), (1.0,), units=("N",)).units == ("N",)
    with pytest.raises(SpecError, match="1 action names, 2 frames"):
        ActionSpec("native", ("a",), (-1.0,), (1.0,), frames=("base", "hand"))


def test_plan_refuses_what_has_no_joints():
    native = ActionSpec("native", ("a",), (-1.0,), (1.0,))
    with pytest.raises(SpecError, match="native"):
        plan(Chunk(np.zeros((1, 1)), 2.0, 10.0), native, PANDA, state())
    with pytest.raises(SpecError, match="7 finite joint angles"):
        plan(Chunk(np.zeros((1, 5)), 2.0, 10.0), ACTION, PANDA, JointState(2.0, np.full(7, np.nan), 0.0))
    with pytest.raises(SpecError, match="0.0 Hz"):
        plan(Chunk(np.zeros((1, 5)), 2.0, 0.0), ACTION, PANDA, state())
