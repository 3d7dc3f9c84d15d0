"""The supervisor's node in a test's hands: its parameters, its buttons, and what a controller gets."""

from pathlib import Path

import numpy as np
import pytest

from envs.arm import PANDA, JointState, JointTrajectory
from ros_nodes import convert
from ros_nodes.arguments import ArgumentError
from ros_nodes.convert import TABLETOP
from ros_nodes.interfaces import message
from ros_nodes.safety_node import SafetyNode
from tests.by_hand import HandNode

BOOL, EMPTY = "std_msgs/msg/Bool", "std_msgs/msg/Empty"
HOME = np.array(PANDA.home)


class Arm:
    """A robot that is where it was commanded, and someone who wants joint 1 to go on."""

    def __init__(self, **given):
        self.node = HandNode(**given)
        self.safety = SafetyNode(self.node)

    @property
    def commands(self):
        return self.node.sent["joint_commands"]

    def go(self, seconds: float, force: float | None = None) -> np.ndarray:
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
            wish = JointTrajectory(JointState(now, q, 0.08), now + np.array([2.0]), (HOME + [1.5, 0, 0, 0, 0, 0, 0])[None],
                                   np.array([0.08]))
            self.node.heard["agent/trajectory"](convert.to_trajectory(wish, TABLETOP))
            self.node.run(0.01, step=0.01)
        return np.array([c.points[0].velocities[0] for c in self.commands[first:]])


def test_it_follows_and_a_signal_brakes_before_it_ends():
    arm = Arm()
    assert arm.go(0.5)[-1] > 0.3 and arm.node.running
    arm.safety.wind_down()
    speeds = arm.go(0.4)
    assert not arm.node.running and speeds[-1] == 0.0 and (np.diff(speeds)[3:] <= 1e-9).all()


@pytest.mark.parametrize("given, why", [
    ({"workspace": [0.0, 0.0, 0.0, 1.0, 1.0]}, "workspace: least x"),
    ({"workspace": [0.0, 0.0, 0.5, 1.0, 1.0, 0.1]}, "workspace: least x"),
    ({"controller": "velocity"}, "none, positions, trajectory"),
    ({"joints": ["a", "b"]}, "7 and a gripper are needed, got a, b"),
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
