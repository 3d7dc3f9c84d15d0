"""execute_task: goals that report, succeed, fail, give way and are cancelled; whoever asks for a result gets it once."""

import pytest

from ros_nodes import convert
from ros_nodes.interfaces import message
from ros_nodes.task_server import (ABORTED, CANCELED, CANCELING, EXECUTING, NONE, REJECTED, SUCCEEDED, TERMINATED, UNKNOWN_GOAL,
                                   TaskServer)
from tests.by_hand import HandNode

ACTION = "execute_task/_action/"


def uuid(number):
    return message("unique_identifier_msgs/msg/UUID")(bytes([number] * 16))


class Client:
    def __init__(self):
        self.node, self.done = HandNode(), []
        self.refusal = ""
        self.server = TaskServer(self.node, lambda text: self.done.append(text), lambda: self.done.append("HOLD"), 3.0,
                                 lambda _: self.refusal)

    def goal(self, number, instruction="go", timeout=0.0):
        goal = message("soma_msgs/action/ExecuteTask_Goal")(instruction, timeout)
        return self.node.services[ACTION + "send_goal"](goal_id=uuid(number), goal=goal).accepted

    def cancel(self, number, until=0.0):
        info = message("action_msgs/msg/GoalInfo")(uuid(number))
        convert.set_time(info.stamp, until)
        return self.node.services[ACTION + "cancel_goal"](goal_info=info)

    def result(self, number):
        return self.node.services[ACTION + "get_result"](goal_id=uuid(number))

    def stand(self, seconds):
        """The robot is commanded to stand."""
        for _ in range(round(seconds / 0.1)):
            self.server.commanded(False)
            self.node.run(0.1, step=0.02)

    @property
    def statuses(self):
        return [s.status for s in self.node.sent[ACTION + "status"][-1].status_list]


def test_a_goal_reports_and_ends_when_the_robot_has_moved_and_stands_still():
    client = Client()
    assert client.goal(1, "reach the red cube") and client.done == ["reach the red cube"] and client.statuses == [EXECUTING]
    waiting = client.result(1)
    client.node.run(5.0)
    feedback = client.node.sent[ACTION + "feedback"]
    assert len(feedback) == pytest.approx(25, abs=1) and feedback[-1].feedback.state == "waiting" and waiting == []
    client.server.commanded(True)
    client.stand(2.0)
    assert feedback[-1].feedback.state == "moving" and feedback[-1].feedback.elapsed == pytest.approx(7.0, abs=0.3)
    client.stand(1.5)
    assert client.statuses == [SUCCEEDED] and client.done[-1] == "HOLD"  # it does not move again once that is said
    assert not client.goal(1) and client.goal(2)  # a number is one goal's
    assert (waiting[0].status, waiting[0].result.success, waiting[0].result.message) == (SUCCEEDED, True, "stood still for 3 s")
    client.node.run(1.0)
    assert len(waiting) == 1 and client.result(1)[0].status == SUCCEEDED  # who asks later is answered, too


def test_what_the_supervisor_blocks_is_not_done_by_standing_still():
    client = Client()
    client.goal(1)
    client.server.commanded(True)
    client.server.blocked = "too close to itself"
    client.stand(4.0)
    assert client.statuses == [EXECUTING]
    assert client.node.sent[ACTION + "feedback"][-1].feedback.state == "blocked: too close to itself"
    client.server.blocked = ""
    client.node.run(3.5)
    assert client.statuses == [EXECUTING]  # the supervisor is gone: nobody knows whether the robot stands
    client.stand(3.5)
    assert client.statuses == [SUCCEEDED]


def test_standing_in_trouble_is_not_having_done_it_and_who_interrupts_aborts():
    client = Client()
    client.goal(1)
    client.server.unsettled()
    client.node.run(4.0)
    assert client.statuses == [EXECUTING] and client.node.sent[ACTION + "feedback"][-1].feedback.state == "waiting"
    client.server.commanded(True)
    for _ in range(5):
        client.stand(1.0)
        client.server.unsettled()
    assert client.statuses == [EXECUTING]
    client.server.interrupted("emergency stop")
    assert client.statuses == [ABORTED] and client.result(1)[0].result.message == "emergency stop"


def test_a_verdict_a_timeout_and_a_new_goal_end_it():
    client = Client()
    client.goal(1)
    client.server.judged(False)
    assert client.result(1)[0].result.message == "failure"
    assert not client.goal(9) and "the next has not begun" in client.node.said[-1]
    client.server.judged(None)
    client.goal(2, timeout=2.0)
    client.node.run(2.5)
    assert client.result(2)[0].status == ABORTED and client.done[-1] == "HOLD"
    client.goal(3)
    client.goal(4, "something else")
    assert client.statuses == [ABORTED, ABORTED, ABORTED, EXECUTING] and client.done[-1] == "something else"
    client.server.judged(True)
    assert client.result(4)[0].result.success


def test_a_goal_is_cancelled_by_its_number_or_with_all_and_then_the_robot_holds():
    client = Client()
    client.goal(1)
    assert client.cancel(2).return_code == UNKNOWN_GOAL and client.statuses == [EXECUTING]
    answer = client.cancel(1)
    assert answer.return_code == NONE and bytes(answer.goals_canceling[0].goal_id.uuid) == bytes([1] * 16)
    assert client.done == ["go", "HOLD"] and client.statuses == [CANCELED] and client.result(1)[0].status == CANCELED
    assert client.cancel(1).return_code == TERMINATED
    client.goal(3)
    assert client.cancel(0).return_code == NONE and client.statuses[-1] == CANCELED


def test_goals_of_a_time_and_before_are_cancelled():
    client = Client()
    client.node.time = 1234567890.123456789
    client.goal(1)
    taken, later = client.node.time, client.node.time + 1.0
    assert client.cancel(0, taken - 0.5).return_code == REJECTED and client.cancel(9, taken - 0.5).return_code == UNKNOWN_GOAL
    assert client.statuses == [EXECUTING]
    assert client.cancel(0, taken).return_code == NONE and client.statuses == [CANCELED]
    client.goal(2)
    assert client.cancel(9, later).return_code == NONE and client.statuses[-1] == CANCELED


def test_a_robot_in_motion_is_cancelling_until_it_stands():
    client = Client()
    client.goal(1)
    waiting = client.result(1)
    client.server.commanded(True)
    assert client.cancel(1).return_code == NONE and client.done[-1] == "HOLD"
    assert client.statuses == [CANCELING] and not waiting
    client.server.blocked = "no sign of life"
    client.stand(0.4)
    assert client.statuses == [CANCELED] and waiting[0].status == CANCELED
    client.goal(2)
    client.server.commanded(True)
    client.cancel(2)
    client.goal(3)
    assert client.statuses[1:] == [ABORTED, EXECUTING]


def test_what_is_no_goal_is_refused_and_unknown_results_are_answered():
    client = Client()
    client.refusal = "asleep"
    assert not client.goal(1) and client.done == []
    assert "asleep" in client.node.said[-1]
    client.refusal = ""
    assert not client.goal(1, "  ") and not client.goal(1, "go", -1.0) and client.done == []
    assert client.result(9)[0].status == 0
