"""The supervisor's node in a test's hands: its parameters, its buttons, and what a controller gets."""

from pathlib import Path

import numpy as np
import pytest
from scipy.interpolate import CubicHermiteSpline

from envs.arm import PANDA, JointState, JointTrajectory, fk, ik, tool_pose
from ros_nodes import convert
from ros_nodes.arguments import ArgumentError
from ros_nodes.controllers import FOLLOW, GOAL_PERIOD, GRIP, Goals
from ros_nodes.convert import TABLETOP
from ros_nodes.interfaces import message
from ros_nodes.safety_node import SafetyNode
from tests.by_hand import HandNode

BOOL, EMPTY = "std_msgs/msg/Bool", "std_msgs/msg/Empty"
HOME = np.array(PANDA.home)
AROUND = HOME + [1.5, 0, 0, 0, 0, 0, 0]


class Arm:
    """A robot that is where it was commanded, and someone who wants joint 1 to go on."""

    def __init__(self, **given):
        self.node = HandNode(**given)
        self.safety = SafetyNode(self.node)

    @property
    def commands(self):
        return self.node.sent["joint_commands"]

    def go(self, seconds: float, force: float | None = None, opening: float = 0.08, goal=AROUND) -> np.ndarray:
        """Speeds of joint 1 that were commanded."""
        first = len(self.commands)
        for _ in range(round(seconds / 0.01)):
            now = self.node.time
            q = np.array(self.commands[-1].points[0].positions[:7]) if self.commands else HOME
            self.node.heard["joint_states"](convert.to_joints(JointState(now, q, 0.08), TABLETOP))
            if force is not None:
                wrench = convert.header(message("geometry_msgs/msg/WrenchStamped")(), now)
                wrench.wrench.force.z = force
                self.node.heard["wrench"](wrench)
            wish = JointTrajectory(JointState(now, q, opening), now + np.array([2.0]), goal[None], np.array([opening]))
            self.node.heard["agent/trajectory"](convert.to_trajectory(wish, TABLETOP))
            self.node.run(0.01, step=0.01)
        return np.array([c.points[0].velocities[0] for c in self.commands[first:]])


def test_it_follows_and_a_signal_brakes_before_it_ends():
    arm = Arm()
    assert arm.go(0.5)[-1] > 0.3 and arm.node.running
    arm.safety.wind_down()
    arm.node.heard["~/release"](message(EMPTY)())
    speeds = arm.go(0.4)
    assert not arm.node.running and speeds[-1] == 0.0 and (np.diff(speeds)[3:] <= 1e-9).all()


def test_a_robot_that_was_put_elsewhere_gets_no_command_before_it_is_seen_there():
    arm = Arm()
    arm.go(0.5)
    arm.node.heard["robot_reset"](message(EMPTY)())
    sent = len(arm.commands)
    arm.node.run(0.3, step=0.01)
    assert len(arm.commands) == sent
    arm.node.heard["joint_states"](convert.to_joints(JointState(arm.node.time, HOME + 0.2, 0.08), TABLETOP))
    arm.node.run(0.02, step=0.01)
    assert len(arm.commands) == sent + 2
    np.testing.assert_allclose(arm.commands[-1].points[0].positions[:7], HOME + 0.2)


def test_a_signal_in_the_middle_of_a_tick_brakes_from_the_next_on():
    arm = Arm()
    arm.go(0.5)
    follow = arm.safety.supervisor.follow

    def interrupted(now):
        arm.safety.wind_down()
        return follow(now)

    arm.safety.supervisor.follow = interrupted
    assert arm.go(0.4)[-1] == 0.0 and not arm.node.running


def test_an_emergency_stop_while_it_ends_outlives_it(tmp_path):
    arm = Arm(log=str(tmp_path / "log"))
    arm.go(0.5)
    arm.safety.wind_down()
    arm.go(0.02)
    arm.node.heard["emergency_stop"](message(BOOL)(True))
    arm.go(0.4)
    assert not arm.node.running and not Arm(log=str(tmp_path / "log")).go(0.3).any()


def test_a_robot_outside_the_margin_is_told_of_once():
    arm = Arm(margin=0.5)
    for q in [PANDA.q_max - 0.1] * 5:
        arm.node.heard["joint_states"](convert.to_joints(JointState(1.0, q, 0.08), TABLETOP))
    assert "start outside their limits" in arm.safety.trouble and len(arm.node.said) == 1


def test_an_emergency_stop_outlives_the_supervisor_where_there_is_a_log(tmp_path):
    log = tmp_path / "safety.jsonl"
    arm = Arm(log=str(log))
    assert arm.go(0.5)[-1] > 0.3
    arm.node.heard["emergency_stop"](message(BOOL)(True))
    arm.go(0.05)
    with log.open("a") as f:
        f.write('{"time": 1, "ki')  # it was killed
    again = Arm(log=str(log))
    assert not again.go(0.3).any() and again.safety.trouble == "stopped: emergency stop"
    again.node.heard["~/release"](message(EMPTY)())
    assert again.go(0.5)[-1] > 0.3
    again.safety.wind_down()
    again.go(0.4)
    assert Arm(log=str(log)).go(0.5)[-1] > 0.3  # a supervisor that was ended is not one that was stopped


def test_it_says_once_why_the_robot_does_not_do_what_was_asked():
    arm = Arm()
    arm.go(0.3)
    states = arm.node.sent["safety_state"]
    assert [state.data for state in states] == [""]
    arm.node.heard["emergency_stop"](message(BOOL)(True))
    arm.go(0.3)
    assert [state.data for state in states] == ["", "stopped: emergency stop"]
    arm.node.heard["~/release"](message(EMPTY)())
    arm.go(0.3)
    assert [state.data for state in states] == ["", "stopped: emergency stop", ""]


def test_a_service_stops_it_and_each_intervention_is_told_as_it_comes():
    arm = Arm()
    assert arm.go(0.3)[-1] > 0.1
    told = arm.node.sent["/diagnostics"]
    before = len(told)
    assert arm.node.services["~/stop"]().success
    assert arm.go(0.5)[-1] == 0.0 and arm.safety.trouble == "stopped: emergency stop"
    interventions = [s.message for d in told[before:] for s in d.status if "intervention" in s.name]
    assert interventions == ["stop: emergency stop", "refused: stopped: emergency stop"]
    assert arm.node.services["~/release"]().success
    assert arm.go(0.3)[-1] > 0.1


def test_a_stop_before_anything_is_known_of_the_robot_is_told_kept_and_released(tmp_path):
    log = str(tmp_path / "made" / "safety.jsonl")
    first = Arm(log=log)
    first.node.heard["emergency_stop"](message(BOOL)(True))
    assert first.node.sent["safety_state"][-1].data == "stopped: emergency stop"
    again = Arm(log=log)  # the first was killed
    assert again.safety.trouble == "stopped: emergency stop" and not again.go(0.3).any()
    second = Arm(log=log)
    assert second.node.services["~/release"]().success  # and says so
    assert Arm(log=log).go(0.5)[-1] > 0.3


def test_the_simulated_robot_keeps_off_its_table_and_in_its_workspace():
    """Told to go down for ever, once with the table in the way and once with a workspace that ends above it."""
    for given, why in (({"model": "tabletop"}, "would touch"), ({"workspace": [0.2, -0.4, 0.1, 0.8, 0.4, 0.6]}, "workspace")):
        arm = Arm(**given)
        down = ik(PANDA, tool_pose(0.5, 0.0, -0.1, 0.0), PANDA.home)
        arm.go(3.0, goal=down)
        heights = [fk(PANDA, np.array(c.points[0].positions[:7]))[2, 3] for c in arm.commands]
        assert min(heights) > (0.0 if "model" in given else 0.1 - 1e-6) and why in arm.safety.trouble
        assert min(heights) < 0.15


@pytest.mark.parametrize("given, why", [
    ({"workspace": [0.0, 0.0, 0.0, 1.0, 1.0]}, "workspace: least x"),
    ({"workspace": [0.0, 0.0, 0.5, 1.0, 1.0, 0.1]}, "workspace: least x"),
    ({"controller": "velocity"}, "none, positions, trajectory"),
    ({"controller": "action", "lockstep": True}, "without lockstep"),
    ({"lockstep": True, "tick": 0.1, "period": 0.04}, "tick: a part of the period, 0.04 s, is needed with lockstep, got 0.1"),
    ({"lockstep": True, "tick": 0.03, "period": 0.1}, "tick: a part of the period"),
    ({"joints": ["a", "b"]}, "7 and a gripper are needed, got a, b"),
    ({"model": "no/such.xml"}, "model: .*no/such.xml"),
    ({"log": "/dev/null/safety.jsonl"}, "log: "),
])
def test_parameters_that_cannot_be_are_named(given, why):
    with pytest.raises(ArgumentError, match=why):
        SafetyNode(HandNode(**given))


def test_a_restart_after_which_nothing_moves_before_it_is_released():
    arm = Arm(begin_stopped=True)
    assert not arm.go(0.3).any()
    arm.node.heard["~/release"](message(EMPTY)())
    assert arm.go(0.3)[-1] > 0.1


def test_contact_force_stops_it_and_has_to_be_measured():
    arm = Arm(force=30.0)
    assert not arm.go(0.3).any() and "not measured" in arm.safety.supervisor.trouble
    arm = Arm(force=30.0)
    assert arm.go(0.5, force=5.0)[-1] > 0.3
    assert arm.go(0.5, force=-31.0)[-1] == 0.0


def test_a_trajectory_controller_gets_a_way_that_ends_in_a_stand():
    arm = Arm(controller="trajectory")
    arm.go(0.4)
    sent = arm.node.sent["arm_controller/joint_trajectory"][-1]
    now, end = sent.points
    assert sent.joint_names == list(TABLETOP.names[:7]) and (sent.header.stamp.sec, sent.header.stamp.nanosec) == (0, 0)
    assert list(now.positions) == list(arm.commands[-1].points[0].positions[:7]) and now.velocities[0] > 0.1
    assert not any(end.velocities) and end.positions[0] > now.positions[0]
    assert convert.seconds(end.time_from_start) > convert.seconds(now.time_from_start)
    assert "robot_reset" not in arm.node.heard  # nobody puts a real robot elsewhere in a tick


def test_a_position_controller_gets_the_arm_and_the_gripper_apart():
    arm = Arm(controller="positions", grip=2.0)
    arm.go(0.2)
    assert len(arm.node.sent["arm_controller/commands"][-1].data) == 7
    assert arm.node.sent["gripper_controller/commands"][-1].data[0] == pytest.approx(PANDA.max_opening / 2)  # as its position


class Server:
    """An action's server that tests look into: the goals that came, with their times."""

    def __init__(self, arm: Arm, kind: str, name: str):
        self.arm, self.kind, self.goals, self.accepts = arm, kind, [], True
        arm.node.servers[f"{name}/_action/send_goal"] = self.asked

    def asked(self, request):
        assert any(request.goal_id.uuid)
        self.goals.append((self.arm.node.time, request.goal))
        return None if self.accepts is None else message(f"{self.kind}_SendGoal_Response")(accepted=self.accepts)

    def ways(self) -> list:
        return [(time, goal.trajectory.points) for time, goal in self.goals]


def driven_by_actions(**given) -> tuple[Arm, Server, Server]:
    arm = Arm(controller="action", **given)
    return (arm, Server(arm, FOLLOW, "arm_controller/follow_joint_trajectory"),
            Server(arm, GRIP, "gripper_controller/gripper_cmd"))


def followed(ways: list, times: np.ndarray) -> np.ndarray:
    """Where joint 1 is, as a joint_trajectory_controller interpolates: cubic from where it is when a goal comes."""
    q, dq, way, out = float(HOME[0]), 0.0, None, []
    goals = list(ways)
    for now in times:
        while goals and goals[0][0] <= now + 1e-9:
            begun, points = goals.pop(0)
            if way is not None:
                q, dq = float(way(begun)), float(way.derivative()(begun))
            stamps = [begun, *(begun + convert.seconds(p.time_from_start) for p in points)]
            way = CubicHermiteSpline(stamps, [q, *(p.positions[0] for p in points)], [dq, *(p.velocities[0] for p in points)])
        out.append(q if way is None else float(way(min(now, way.x[-1]))))
    return np.array(out)


def test_goals_of_a_trajectory_replace_each_other_and_end_in_a_stand():
    arm, server, _ = driven_by_actions()
    arm.go(1.0)
    stamps = np.diff([time for time, _ in server.ways()])
    np.testing.assert_allclose(stamps, GOAL_PERIOD, atol=1e-6)
    sent = server.goals[-1][1].trajectory
    _, now, end = sent.points
    assert sent.joint_names == list(TABLETOP.names[:7]) and (sent.header.stamp.sec, sent.header.stamp.nanosec) == (0, 0)
    assert list(now.positions) in [list(c.points[0].positions[:7]) for c in arm.commands] and now.velocities[0] > 0.1
    assert not any(end.velocities) and end.positions[0] > now.positions[0]
    assert convert.seconds(end.time_from_start) > convert.seconds(now.time_from_start) == GOAL_PERIOD


def test_between_two_goals_the_robot_goes_as_was_commanded_a_goal_later():
    """Through the commands and the stop, within the limits of the arm."""
    arm, server, _ = driven_by_actions(share=0.5)
    arm.go(0.8)
    arm.node.heard["emergency_stop"](message(BOOL)(True))
    arm.go(1.0)
    begin = arm.node.time - 0.01 * len(arm.commands)
    commanded = np.array([c.points[0].positions[0] for c in arm.commands])
    times = begin + 0.01 * np.arange(1, len(commanded) + 1)
    robot, late = followed(server.ways(), times), round(GOAL_PERIOD / 0.01)
    assert np.abs(robot[late:] - commanded[:-late]).max() < 1e-3 and robot[-1] == pytest.approx(commanded[-1], abs=1e-4)
    speeds = np.diff(robot) / 0.01
    assert 0.3 < speeds.max() < 0.5 * PANDA.dq_max[0]
    assert np.abs(np.diff(speeds)).max() / 0.01 < 0.5 * PANDA.ddq_max[0] + 1e-6


def test_a_robot_at_rest_gets_no_goals():
    arm, server, gripper = driven_by_actions()
    arm.go(0.5)
    arm.node.heard["emergency_stop"](message(BOOL)(True))
    arm.go(1.0)
    first = len(server.goals)
    arm.go(1.0)
    assert first < 12 and len(server.goals) == first and len(gripper.goals) == 1


@pytest.mark.parametrize("trouble, why", [(False, "the goal was refused"), (None, "no answer within 1 s"),
                                          ("", "no server is there")])
def test_goals_that_are_not_taken_are_named_once_and_tried_again(trouble, why):
    arm, server, _ = driven_by_actions()
    there = dict(arm.node.servers)
    if trouble == "":
        arm.node.servers.clear()
    server.accepts = trouble
    speeds = arm.go(2.5)
    assert not speeds[-30:].any()  # nothing runs ahead of a robot that heeds no goal
    name = "arm_controller/follow_joint_trajectory"
    assert [text for text in arm.node.said if name in text and "hold" not in text] == [f"{name}: {why}"]
    assert why in [d.status[0].message for d in arm.node.sent["/diagnostics"] if name in d.status[0].name][-1]
    assert len(server.goals) == {False: 25, None: 3, "": 0}[trouble]
    server.accepts = True
    arm.node.servers.update(there)
    arm.go(1.5)
    assert [text for text in arm.node.said if name in text and "hold" not in text][1:] == [f"{name}: goals are taken"]
    assert arm.go(0.5)[-1] > 0.1


def test_goals_are_sent_on_when_the_clock_goes_back():
    arm, server, _ = driven_by_actions()
    goals = Goals(arm.node, FOLLOW, "arm_controller/follow_joint_trajectory", 1e-4, 0.01)
    for k, now in enumerate((5.0, 5.2, 1.0, 1.05, 1.2)):  # s
        arm.node.time = now
        goals.want(message(f"{FOLLOW}_Goal")(), [float(k)])
    assert [time for time, _ in server.goals] == [5.0, 5.2, 1.0, 1.2]


def test_a_gripper_gets_a_goal_where_the_opening_has_changed():
    arm, _, gripper = driven_by_actions(grip=2.0, effort=35.0)
    for opening in (0.04, 0.039, 0.01):
        arm.go(0.5, opening=opening)
    assert [goal.command.position for _, goal in gripper.goals] == pytest.approx([0.04, 0.01])
    assert {goal.command.max_effort for _, goal in gripper.goals} == {35.0}


def test_signs_of_life_of_long_ago_are_none():
    arm = Arm()
    arm.go(0.5)
    old = convert.header(message(convert.TRAJECTORY)(), arm.node.time - 0.3)
    for _ in range(60):
        arm.node.heard["agent/trajectory"](old)
        arm.node.heard["joint_states"](convert.to_joints(
            JointState(arm.node.time, np.array(arm.commands[-1].points[0].positions[:7]), 0.08), TABLETOP))
        arm.node.run(0.01, step=0.01)
    assert arm.commands[-1].points[0].velocities[0] == 0.0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_does_not_end_the_supervisor():
    arm = Arm(log="/dev/full")
    arm.go(0.2)
    arm.node.heard["emergency_stop"](message(BOOL)(True))
    assert arm.go(0.5)[-1] == 0.0 and any("cannot be written" in text for text in arm.node.said)
