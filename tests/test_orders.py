"""What the agent's node does with what it is told, and with stops: the newest order counts, none outlasts a stop."""

import pytest

from policies.mmllm import MMLLMPolicy
from ros_nodes.agent_node import ENDING as ENDS
from ros_nodes.interfaces import message
from ros_nodes.safety_node import ENDING
from ros_nodes.transport import LAST_WORDS
from tests.agent_robot import BOOL, STRING, Robot


@pytest.fixture(scope="module")
def policy():
    return MMLLMPolicy.load("pocket")


def test_after_an_emergency_stop_it_waits_for_a_new_instruction(policy):
    robot = Robot(policy)
    robot.sense(10)
    robot.node.heard["emergency_stop"](message(BOOL)(True))
    assert robot.sense(10) == []
    robot.node.heard["instruction"](message(STRING)("press the red button"))
    assert "plan" in robot.sense(10)


def test_a_robot_that_waits_can_be_told_by_voice_once_it_is_free(policy, monkeypatch):
    robot, pieces = Robot(policy), []

    def hear(samples, now, state):
        pieces.append(len(samples))
        policy.spoken = "press the red button"

    robot.sense(10)
    robot.node.heard["emergency_stop"](message(BOOL)(True))
    tell = robot.node.heard["safety_state"]
    tell(message(STRING)("stopped: emergency stop"))
    monkeypatch.setattr(policy, "hear", hear)
    assert robot.sense(10) == [] and not pieces
    tell(message(STRING)(""))
    assert "plan" in robot.sense(10) and robot.agent.orders.text == "press the red button"
    assert robot.node.sent["agent/heard"][-1].data == "press the red button" and pieces[0] > 0


def test_what_is_said_last_counts_however_it_is_said(policy, monkeypatch):
    robot, heard = Robot(policy, talk=True), []

    def hear(samples, now, state):
        policy.spoken = heard[-1] if heard else policy.spoken

    monkeypatch.setattr(policy, "hear", hear)
    assert robot.sense(10) and robot.agent.senses.text == "pick up the red cube"
    heard.append("pick up the red cube")  # the same words, aloud, are no other instruction
    assert robot.sense(20) and robot.agent.senses.text == "pick up the red cube"
    heard.append("press the red button")  # one sign of life more: between recognising and deciding
    assert "plan" in (said := robot.sense(30)) and len(said) == 31 and robot.agent.senses.text == robot.agent.orders.text == ""
    assert policy.spoken == "press the red button" == robot.node.sent["agent/heard"][-1].data
    heard.clear()
    robot.node.heard["instruction"](message(STRING)("pick up the green ball"))
    assert robot.sense(10) and robot.agent.senses.text == "pick up the green ball" and policy.spoken == ""
    assert [said.data for said in robot.node.sent["say"]] == [f"all right: {words}" for words in (
        "pick up the red cube", "pick up the red cube", "press the red button", "pick up the green ball")]


def test_a_stop_that_only_the_supervisor_tells_of_holds_without_a_goal(policy):
    robot = Robot(policy)
    robot.sense(10)
    robot.node.heard["safety_state"](message(STRING)("stopped: emergency stop"))
    robot.node.heard["safety_state"](message(STRING)(""))
    assert robot.sense(10) == []


def test_a_supervisor_that_stops_the_robot_ends_the_goal_and_one_that_brakes_does_not(policy):
    robot = Robot(policy)
    goal = message("soma_msgs/action/ExecuteTask_Goal")("reach the red cube", 0.0)
    robot.node.services["execute_task/_action/send_goal"](goal=goal)
    tell = robot.node.heard["safety_state"]
    tell(message(STRING)("its own joint 4 is in the way"))
    assert robot.agent.orders.task.running is not None and robot.agent.orders.task.blocked and "plan" in robot.sense(5)
    tell(message(STRING)("stopped: 45 N of contact"))
    assert robot.agent.orders.task.running is None and robot.agent.orders.task.goals[-1].why == "stopped: 45 N of contact"
    assert robot.sense(10) == []
    tell(message(STRING)(""))
    robot.node.heard["instruction"](message(STRING)("pick up the green ball"))
    assert "plan" in robot.sense(5)


def test_while_it_is_stopped_no_instruction_is_taken_and_a_release_moves_nothing(policy, monkeypatch):
    robot, said = Robot(policy, talk=True), []
    monkeypatch.setattr(policy, "hear", lambda samples, now, state: said.append(len(samples)))
    tell = robot.node.heard["safety_state"]
    tell(message(STRING)("stopped: emergency stop"))
    robot.node.heard["instruction"](message(STRING)("press the red button"))
    assert robot.node.sent["say"][-1].data == "I cannot: stopped: emergency stop"
    assert "instruction refused: 'press the red button': stopped: emergency stop" in robot.node.said
    goal = message("soma_msgs/action/ExecuteTask_Goal")("reach the red cube", 0.0)
    assert not robot.node.services["execute_task/_action/send_goal"](goal=goal).accepted
    assert "stopped: emergency stop" in robot.node.said[-1] and robot.sense(20) == []
    tell(message(STRING)(""))
    assert robot.sense(20) == [] and sum(said) <= 20 * 320  # what was said before is not heard now
    robot.node.heard["instruction"](message(STRING)("press the red button"))
    assert "plan" in robot.sense(10)


def test_a_supervisor_that_has_ended_takes_no_part(policy):
    """The one that comes after it follows."""
    robot = Robot(policy)
    robot.sense(10)
    robot.node.heard["safety_state"](message(STRING)(f"stopped: {ENDING}"))
    assert robot.sense(10) == []
    robot.node.heard["instruction"](message(STRING)("press the red button"))
    assert "plan" in robot.sense(10)


def test_spoken_words_outlast_a_pause_and_a_clock_that_goes_back(policy, monkeypatch):
    robot, heard = Robot(policy), ["press the red button"]
    monkeypatch.setattr(policy, "hear", lambda samples, now, state: setattr(policy, "spoken", heard[-1]) if heard else None)
    robot.sense(20)
    heard.clear()
    assert policy.spoken == "press the red button" and robot.agent.orders.text == ""
    for label in ("deactivate", "activate"):
        assert robot.agent.life.change(label)
    assert "plan" in robot.sense(20) and policy.spoken == "press the red button"
    robot.step = -100
    assert "plan" in robot.sense(20) and policy.spoken == "press the red button"
    assert len(robot.node.sent["agent/heard"]) == 1
    robot.node.heard["instruction"](message(STRING)("pick up the green ball"))
    assert policy.spoken == ""


def test_a_goal_ends_with_the_node(policy):
    robot = Robot(policy)
    goal = message("soma_msgs/action/ExecuteTask_Goal")("reach the red cube", 0.0)
    robot.node.services["execute_task/_action/send_goal"](goal=goal)
    waiting = robot.node.services["execute_task/_action/get_result"](goal_id=message("unique_identifier_msgs/msg/UUID")())
    assert not waiting and robot.agent.life.change("shutdown")
    assert waiting[0].result.message == "shutdown was asked for"
    assert not robot.node.services["execute_task/_action/send_goal"](goal=goal).accepted
    robot.node.run(1.0, 0.02)
    assert not robot.node.running and [t.header.frame_id for t in robot.node.sent["agent/trajectory"]] == LAST_WORDS * [ENDS]


def test_at_a_signal_the_goal_ends_and_the_supervisor_is_asked_for_a_stand(policy):
    robot = Robot(policy)
    goal = message("soma_msgs/action/ExecuteTask_Goal")("reach the red cube", 0.0)
    robot.node.services["execute_task/_action/send_goal"](goal=goal)
    assert "plan" in robot.sense(10)
    robot.agent.wind_down()
    said = robot.sense(30)
    assert set(said) == {f"stand: {ENDS}"} and not robot.node.running
    assert robot.agent.orders.task.goals[-1].why == ENDS


def test_in_lock_step_a_signal_ends_it_at_once(policy):
    robot = Robot(policy, lockstep=True)
    robot.agent.wind_down()
    assert not robot.node.running


def test_words_that_are_spoken_during_a_goal_end_it_and_are_done(policy, monkeypatch):
    robot = Robot(policy)
    goal = message("soma_msgs/action/ExecuteTask_Goal")("reach the red cube", 0.0)
    robot.node.services["execute_task/_action/send_goal"](goal=goal)
    assert "plan" in robot.sense(10)
    with monkeypatch.context() as patched:
        patched.setattr(policy, "hear", lambda *_: setattr(policy, "spoken", "press the red button"))
        robot.sense(16)  # heard once
    assert robot.agent.orders.task.goals[-1].why == "another instruction was spoken"
    assert robot.agent.orders.spoken == "press the red button" and not robot.agent.orders.text
    assert "plan" in robot.sense(30)


def test_who_is_told_nothing_and_cannot_be_told_by_voice_does_nothing(policy, monkeypatch):
    monkeypatch.setattr(MMLLMPolicy, "listens", False)
    robot = Robot(policy)
    robot.node.heard["instruction"](message(STRING)(" "))
    assert robot.sense(30) == []
    robot.node.heard["instruction"](message(STRING)("pick up the red cube"))
    assert "plan" in robot.sense(30)


def test_what_it_cannot_read_is_refused(policy):
    robot = Robot(policy, talk=True)
    goal = message("soma_msgs/action/ExecuteTask_Goal")("red cube " * 200, 0.0)
    assert not robot.node.services["execute_task/_action/send_goal"](goal=goal).accepted
    robot.node.heard["instruction"](message(STRING)("red cube " * 200))
    assert "would not be read" in robot.node.sent["say"][-1].data and robot.agent.orders.text == "pick up the red cube"


def test_an_instruction_while_it_is_not_active_is_refused(policy):
    robot = Robot(policy)
    robot.agent.life.change("deactivate")
    robot.node.heard["instruction"](message(STRING)("press the red button"))
    assert "not active" in robot.node.said[-1] and robot.agent.life.change("activate")
    robot.agent.life.change("activate")
    assert robot.agent.orders.text == "pick up the red cube" and "plan" in robot.sense(10)
