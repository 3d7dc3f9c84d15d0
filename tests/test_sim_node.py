"""The tabletop as a robot on ROS 2's wire: what it is told, what it tells, its clock."""

import json

import numpy as np
import pytest

from envs.arm import PANDA, JointState, JointTrajectory
from ros_nodes import convert
from ros_nodes.arguments import ArgumentError
from ros_nodes.convert import TABLETOP
from ros_nodes.interfaces import message
from ros_nodes.sim_node import SimNode
from tests.by_hand import HandNode


@pytest.mark.parametrize("given, why", [({"task": "dance"}, "task 'dance': allowed are"), ({"rate": 60.0}, "whole physics steps"),
                                        ({"split": "mine"}, "split 'mine'")])
def test_a_simulated_robot_that_cannot_be_is_named(given, why):
    with pytest.raises(ArgumentError, match=why):
        SimNode(HandNode(**given))


def test_a_simulated_robot_does_not_speak_with_voices_that_are_not_here(monkeypatch):
    monkeypatch.setattr("envs.tabletop.voices.available_engines", lambda: ("espeak",))
    SimNode(HandNode(split="new_voices"))
    with pytest.raises(ArgumentError, match="new_voices is spoken by flite"):
        SimNode(HandNode(split="new_voices", instruct="voice"))


def test_the_verdict_on_an_episode_stands_before_the_next_one_begins():
    node = HandNode(lockstep=True, task="start_on_beep", seed=7)
    sim = SimNode(node)
    node.run(0.7)

    def told():
        return [tuple(json.loads(said.data)[key] for key in ("state", "seed")) for said in node.sent["episode"]]

    while told() == [("running", 7)]:
        node.heard["joint_commands"](stand(sim.now + sim.env.period, sim.env.command.position + 0.05))
    assert told() == [("running", 7), ("failure", 7)] and len(node.sent["instruction"]) == 1
    node.run(0.2)
    assert len(told()) == 2, "the verdict could be overtaken"
    node.run(0.2)
    assert told()[2:] == [("running", 8)] and len(node.sent["instruction"]) == 2


def stand(stamp: float, q: np.ndarray):
    """A command for a time (s)."""
    at = JointState(stamp, q, 0.08)
    return convert.to_trajectory(JointTrajectory(at, np.array([stamp]), q[None], np.array([0.08])), TABLETOP)


def test_a_simulated_robot_does_what_is_commanded_at_its_time_and_not_what_was_before_a_reset():
    node = HandNode(task="reach")
    sim = SimNode(node)
    start = sim.env.command.position
    node.heard["joint_commands"](stand(node.time, start + 1.0))  # on its way when the robot was put here
    node.run(0.4, step=0.01)
    begin = node.time
    for k in range(1, 6):
        node.heard["joint_commands"](stand(begin + 0.01 * k, start + 0.01 * k))
    for late in (0.015, 0.032, 0.2):
        np.testing.assert_allclose(sim.target(begin + late)[:7], start + min(late, 0.05), atol=1e-6)
    node.run(0.1, step=0.01)
    np.testing.assert_allclose(sim.env.command.position, start + 0.05, atol=1e-6)
    node.heard["joint_commands"](stand(begin + 5.0, start + 0.06))  # a clock has jumped
    np.testing.assert_allclose(sim.target(begin + 0.1)[:7], start + 0.06, atol=1e-6)


def test_the_clock_of_a_simulated_robot_never_goes_back_and_is_its_own():
    node = HandNode(lockstep=True, task="reach", use_sim_time=True)
    sim = SimNode(node)
    assert "use_sim_time" not in node.given
    for _ in range(2):
        node.run(0.4)
        for _ in range(3):
            node.heard["joint_commands"](stand(sim.now + sim.env.period, np.array(PANDA.home)))
        node.heard["~/reset"](message("std_msgs/msg/Empty")())
    clocks = [convert.seconds(sent.clock) for sent in node.sent["/clock"]]
    assert clocks[0] == 0.0 and len(clocks) == 8 and (np.diff(clocks) > 0).all()
