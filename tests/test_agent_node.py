"""The agent's node, with the shipped weights, in a test's hands: what it answers to what its sensors say."""

from array import array
from dataclasses import replace

import numpy as np
import pytest

from agent.spec import Chunk
from envs.arm import PANDA, JointState, JointTrajectory
from policies.mmllm import MMLLMPolicy
from ros_nodes import convert
from ros_nodes.agent_node import AgentNode
from ros_nodes.arguments import ArgumentError
from ros_nodes.convert import TABLETOP
from ros_nodes.interfaces import message
from ros_nodes.lifecycle import UNCONFIGURED
from tests.agent_robot import BOOL, RATE, STRING, Robot
from tests.by_hand import HandNode


@pytest.fixture(scope="module")
def policy():
    return MMLLMPolicy.load("pocket")


def test_it_decides_each_period_says_where_it_goes_and_gives_signs_of_life_between(policy):
    robot = Robot(policy, base="fr3_link0")
    said = robot.sense(50)
    assert said[0] == "plan" and said.count("plan") == pytest.approx(50 / 15, abs=1) and set(said) == {"plan", "alive"}
    goals = robot.node.sent["agent/goal"]
    assert len(goals) == said.count("plan") and {goal.header.frame_id for goal in goals} == {"fr3_link0"}
    assert goals[-1].point.z == pytest.approx(policy.aim.point[2]) and set(policy.aim.spots) == {"front", "wrist"}


def test_what_was_commanded_before_a_simulated_robot_was_put_elsewhere_does_not_count(policy):
    robot = Robot(policy)
    for reset, begins in ((False, 0.5), (True, 0.0)):
        away, now = np.array(PANDA.home) + 0.5, robot.node.time
        stands = JointTrajectory(JointState(now, away, 0.08), np.array([now + 0.01]), away[None], np.array([0.08]))
        if reset:
            robot.node.heard["robot_reset"](message("std_msgs/msg/Empty")())
        robot.node.heard["instruction"](message(STRING)(f"push the {'red' if reset else 'green'} button"))
        robot.node.heard["joint_commands"](convert.to_trajectory(stands, TABLETOP))
        assert robot.sense(1) == ["plan"]
        first = robot.node.sent["agent/trajectory"][-1].points[0]
        np.testing.assert_allclose(first.positions[:7], np.array(PANDA.home) + begins, atol=0.01)


@pytest.mark.parametrize("what", ["front", "wrist"])
def test_without_a_camera_it_asks_for_a_stand_and_goes_on_when_it_is_back(policy, what):
    robot = Robot(policy)
    robot.sense(10)
    said = robot.sense(20, without=what)
    assert said[0] == "alive" and f"observation.images.{what}: 0." in said[-1] and said[-1].startswith("stand")
    assert sum(x.startswith("stand") for x in said) >= 16  # late after three of its periods
    statuses = [d.status[0] for d in robot.node.sent["/diagnostics"]]
    assert statuses[-1].level == convert.WARN and what in statuses[-1].message
    assert "plan" in robot.sense(3) and robot.node.sent["/diagnostics"][-1].status[0].level == convert.OK


def test_sound_that_is_a_little_late_is_waited_for(policy):
    robot = Robot(policy)
    robot.sense(20)
    assert set(robot.sense(5, without="audio")) <= {"alive", "plan"}
    assert "stand" in robot.sense(40, without="audio")[-1]


def test_joints_that_are_not_finite_are_passed_over_and_nonsense_of_the_policy_is_not_sent(policy, monkeypatch):
    robot = Robot(policy)
    robot.sense(10)
    assert robot.sense(5, nan=True) == [] and "finite ones are needed" in robot.node.said[-1]
    nonsense = Chunk(np.full((8, 5), np.nan, np.float32), 0.0, 10.0)
    monkeypatch.setattr(policy, "act", lambda obs: nonsense)
    assert robot.sense(30)[-1].startswith("stand: ")


def test_pictures_of_any_size_will_do(policy):
    robot = Robot(policy)
    robot.size = (90, 160)
    assert "plan" in robot.sense(20)


def test_weights_that_feel_what_has_no_topic_are_refused(policy, monkeypatch):
    monkeypatch.setattr(policy.model, "spec", replace(policy.model.spec, senses={"force": ("force_x",)}))
    node = HandNode()
    agent = AgentNode(node, policy)
    assert agent.life.state == UNCONFIGURED and any("force, for which there is no topic" in said for said in node.said)


def test_a_state_that_is_sent_again_is_no_reason_to_go_on(policy):
    robot = Robot(policy)
    robot.sense(10)
    answered = len(robot.node.sent["agent/trajectory"])
    for _ in range(5):
        q = np.array(PANDA.home)
        robot.node.heard["joint_states"](convert.to_joints(JointState(robot.node.time, q, 0.08), TABLETOP))
    assert len(robot.node.sent["agent/trajectory"]) == answered


def test_fast_joint_states_are_not_all_answered(policy):
    robot = Robot(policy)
    robot.sense(5)
    first = len(robot.node.sent["agent/trajectory"])
    for k in range(100):
        robot.node.time = now = 100.1 + 0.001 * k
        robot.node.heard["joint_states"](convert.to_joints(JointState(now, np.array(PANDA.home), 0.08), TABLETOP))
    assert 5 <= len(robot.node.sent["agent/trajectory"]) - first <= 14


def test_it_says_what_it_understood_and_does_not_take_its_own_words_for_an_instruction(policy):
    silent = Robot(policy)
    assert silent.sense(20) and not silent.node.sent["say"]
    robot = Robot(policy, talk=True)
    assert [said.data for said in robot.node.sent["say"]] == ["all right: pick up the red cube"]
    robot.sense(20)
    robot.sense(20, without="front")
    robot.agent.report()
    robot.sense(20)
    assert len(robot.node.sent["say"]) == 1  # not of a moment
    robot.sense(80, without="front")
    robot.agent.report()
    robot.sense(20)
    assert [said.data for said in robot.node.sent["say"][1:]] == ["waiting for front", "going on"]
    robot.node.heard["speech"](convert.to_audio(np.zeros((RATE, 1), np.float32), RATE, 102.0))
    assert list(policy.own_voice) == [(102.0, pytest.approx(103.3))]
    robot.node.heard["instruction"](message(STRING)("pick up the green ball"))
    assert robot.sense(3) and len(policy.own_voice) == 1
    robot.step = -100  # the clock jumps back
    robot.sense(2)
    assert not policy.own_voice


def status(robot) -> tuple[int, str]:
    """What the diagnostics said last."""
    [last] = robot.node.sent["/diagnostics"][-1].status
    return last.level, last.message


def test_a_device_that_is_not_there_is_named(policy):
    with pytest.raises(ArgumentError, match=r"parameter device.*allowed are cpu.*, got 'cuda:99'"):
        AgentNode(HandNode(device="cuda:99"), policy)


def test_joint_states_that_stop_or_are_old_are_named_in_the_diagnostics(policy):
    robot = Robot(policy)
    robot.agent.report()
    assert status(robot) == (convert.WARN, "observation.state: nothing new has come for more than 1 s")
    robot.sense(10)
    assert status(robot)[0] == convert.OK
    for _ in range(2):  # nothing, then the same again and again
        robot.node.time += 1.5
        robot.node.heard["joint_states"](convert.to_joints(JointState(100.2, np.array(PANDA.home), 0.08), TABLETOP))
        robot.agent.report()
        assert status(robot)[0] == convert.WARN and status(robot)[1].startswith("observation.state: ")
    robot.step = 300
    assert "plan" in robot.sense(10) and status(robot)[0] == convert.OK


def test_joints_that_never_come_are_named_with_those_that_do(policy):
    robot = Robot(policy, joints=[*TABLETOP.names[:7], "fr3_finger_joint1"])
    assert robot.sense(10) == []
    assert status(robot)[1].startswith("observation.state: joint state without fr3_finger_joint1; it has joint_1, joint_2")
    assert sum("fr3_finger_joint1" in said for said in robot.node.said) == 1


def test_a_gripper_that_is_silent_is_named_in_the_diagnostics(policy):
    robot = Robot(policy, joints=[*TABLETOP.names[:7], "finger"])
    finger = message(convert.JOINTS)(name=["finger"], position=array("d", [0.04]))
    robot.node.heard["gripper_states"](convert.header(finger, 100.0))
    assert "plan" in robot.sense(40)
    assert robot.sense(20)[12:] == []
    robot.agent.report()
    assert status(robot) == (convert.WARN, "observation.state: finger is 1.2 s older than the arm's joints")


@pytest.mark.parametrize("before", [0, 30])
def test_microphones_that_are_gone_are_named_whatever_is_told(policy, before):
    robot = Robot(policy)
    robot.sense(before)
    for words in ("pick up the red cube", "pick up the green ball"):
        robot.node.heard["instruction"](message(STRING)(words))
        said = robot.sense(30, without="audio")
        assert said[-1].startswith("stand: observation.audio") and status(robot)[0] == convert.WARN


def test_what_is_missing_is_named_while_it_waits_and_a_fault_that_is_over_is_not(policy):
    robot = Robot(policy)
    robot.sense(10)
    robot.node.heard["emergency_stop"](message(BOOL)(True))
    robot.sense(30, without="wrist")
    robot.agent.report()
    assert status(robot)[0] == convert.WARN and "wrist" in status(robot)[1]
    robot.sense(30)
    robot.agent.report()
    assert status(robot)[0] == convert.OK


def test_a_policy_that_fails_is_named_and_the_robot_stands(policy, monkeypatch):
    robot, act = Robot(policy, talk=True), policy.act

    def fail(obs):
        raise RuntimeError("out of memory")

    robot.sense(20)
    monkeypatch.setattr(policy, "act", fail)
    assert robot.sense(30)[-1] == "stand: policy: RuntimeError: out of memory"
    assert status(robot) == (convert.WARN, "policy: RuntimeError: out of memory")
    robot.node.time += 1.0
    robot.agent.report()
    assert robot.node.sent["say"][-1].data == "I cannot decide what to do"
    monkeypatch.setattr(policy, "act", act)
    robot.step += 50
    assert "plan" in robot.sense(20) and status(robot)[0] == convert.OK


def test_cleanup_frees_the_weights_and_configure_loads_them_again(policy, monkeypatch):
    robot = Robot(None)
    assert "plan" in robot.sense(10) and robot.agent.policy is not None
    goal = message("soma_msgs/action/ExecuteTask_Goal")("reach the red cube", 0.0)
    robot.node.services["execute_task/_action/send_goal"](goal=goal)
    assert robot.agent.life.change("deactivate") and robot.agent.orders.task.goals[-1].why == "deactivate was asked for"
    assert robot.agent.life.change("cleanup") and robot.agent.policy is None
    assert robot.sense(10) == []
    robot.node.heard["instruction"](message(STRING)("pick up the red cube"))
    robot.agent.report()
    assert status(robot) == (convert.OK, UNCONFIGURED)
    other = replace(policy.model.spec, control_hz=20.0)
    with monkeypatch.context() as patched:
        patched.setattr(policy.model, "spec", other)
        patched.setattr(MMLLMPolicy, "load", lambda *_: policy)
        assert not robot.agent.life.change("configure") and "start the node anew" in robot.node.said[-1]
    assert robot.agent.life.change("configure") and robot.agent.life.change("activate")
    robot.node.heard["instruction"](message(STRING)("pick up the green ball"))
    assert "plan" in robot.sense(10)


def test_cameras_come_from_the_topics_that_they_are_mapped_to(policy):
    node = HandNode(cameras=["front=/realsense/color/image_raw", "wrist=hand/image_raw/compressed"])
    AgentNode(node, policy)
    assert {"/realsense/color/image_raw", "hand/image_raw/compressed"} < set(node.heard)
    assert not {"camera/front/image_raw", "camera/wrist/image_raw"} & set(node.heard)
    assert convert.camera_topics(("a", "b"), ["b=/b/raw"], True) == {"a": "camera/a/image_raw/compressed", "b": "/b/raw"}
    for wrong in ("side=/x", "front"):
        with pytest.raises(ArgumentError, match=f"NAME one of front, wrist; got {wrong}"):
            convert.camera_topics(("front", "wrist"), [wrong], False)
