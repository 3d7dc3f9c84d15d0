"""The action `execute_task` (soma_msgs/action/ExecuteTask): an instruction as a goal that reports, ends, and can be cancelled.

An action is three services and two topics (design.ros2.org/articles/actions.html); they are the same whatever carries
them. One goal is worked on at a time: a new one takes the place of the old one, which is aborted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ros_nodes import convert
from ros_nodes.interfaces import message

KIND = "soma_msgs/action/ExecuteTask"
EXECUTING, CANCELING, SUCCEEDED, CANCELED, ABORTED = 2, 3, 4, 5, 6  # action_msgs/GoalStatus
NONE, REJECTED, UNKNOWN_GOAL, TERMINATED = 0, 1, 2, 3  # action_msgs/srv/CancelGoal
PERIOD = 0.2  # s between two reports
STANDING = 0.1  # s without a command to move, after which the robot stands
SILENT = 0.5  # s without a command, after which nobody knows what the robot does
ROUNDED = 1e-6  # s by which a stamp that was sent and came back may be less
REMEMBERED = 10  # goals whose results can still be asked for
OVER = "the simulated robot's episode is over, and the next has not begun"


@dataclass
class Goal:
    number: bytes  # its UUID
    instruction: str
    timeout: float  # s; 0: none
    began: float  # s
    status: int = EXECUTING
    success: bool = False
    why: str = ""
    asking: list[Callable[[Any], None]] = field(default_factory=list)  # who waits for the result


class TaskServer:
    """begin(instruction) makes the agent go for it, hold() makes it stand still; refusal(instruction) is why it is refused, ""
    if it is not; between two simulated episodes all are. Somebody tells `judged` of a verdict and `commanded` of each command of
    the robot: what has moved, and then stood for `settled` s, is taken for done, unless it is `blocked` (why the robot cannot do
    what it wants; "" if it can). A goal that is cancelled ends when the robot stands."""

    def __init__(self, node, begin: Callable[[str], None], hold: Callable[[], None], settled: float,
                 refusal: Callable[[str], str]):
        self.node, self.begin, self.hold, self.settled, self.refusal = node, begin, hold, settled, refusal
        self.goals: deque[Goal] = deque(maxlen=REMEMBERED)
        self.moved_at: float | None = None
        self.commanded_at = -SILENT  # s
        self.blocked, self.over = "", False
        name = "execute_task/_action"
        self.feedback = node.publisher(f"{KIND}_FeedbackMessage", f"{name}/feedback", "reliable")
        self.statuses = node.publisher("action_msgs/msg/GoalStatusArray", f"{name}/status", "latched")
        node.service(f"{KIND}_SendGoal", f"{name}/send_goal", self.goal_asked)
        node.service("action_msgs/srv/CancelGoal", f"{name}/cancel_goal", self.cancel_asked)
        node.service(f"{KIND}_GetResult", f"{name}/get_result", self.result_asked, later=True)
        node.timer(PERIOD, self.report)

    @property
    def running(self) -> Goal | None:
        return self.goals[-1] if self.goals and self.goals[-1].status in (EXECUTING, CANCELING) else None

    # ---- what is asked

    def goal_asked(self, request, response):
        goal, why = request.goal, self.refusal(request.goal.instruction) or (OVER if self.over else "")
        if any(known.number == bytes(request.goal_id.uuid) for known in self.goals):
            why = "a goal of this number is known"
        response.accepted = bool(goal.instruction.strip()) and goal.timeout >= 0 and not why
        if response.accepted:
            self.finish(ABORTED, False, "another goal took its place")
            self.goals.append(Goal(bytes(request.goal_id.uuid), goal.instruction, goal.timeout, self.node.now()))
            self.moved_at = None
            self.begin(goal.instruction)
            self.tell()
            convert.set_time(response.stamp, self.node.now())
        else:
            asked = f"{goal.instruction!r} within {goal.timeout} s"
            self.node.log(f"goal refused: {asked}: {why or 'an instruction and a time of 0 s or more are needed'}")
        return response

    def cancel_asked(self, request, response):
        """The goal of this number, and those of this time and before; all where both are zero (action_msgs/srv/CancelGoal)."""
        number, until, goal = bytes(request.goal_info.goal_id.uuid), convert.seconds(request.goal_info.stamp), self.running
        known = [g for g in self.goals if g.number == number]
        everything = not any(number) and not until
        if goal is not None and (everything or goal.number == number or (until and goal.began <= until + ROUNDED)):
            response.return_code = NONE
            response.goals_canceling = [self.info(goal)]
            self.hold()
            goal.status = CANCELING
            self.tell()
            self.report()
        else:
            response.return_code = TERMINATED if known else UNKNOWN_GOAL if any(number) else REJECTED
        return response

    def result_asked(self, request, reply: Callable[[Any], None]) -> None:
        number = bytes(request.goal_id.uuid)
        goal = next((g for g in self.goals if g.number == number), None)
        if goal is None:
            reply(message(f"{KIND}_GetResult_Response")())
            return
        goal.asking.append(reply)
        self.answer(goal)

    # ---- how it goes

    def judged(self, success: bool | None) -> None:
        """None: an episode has begun."""
        self.over = success is not None
        if self.over:
            self.finish(SUCCEEDED if success else ABORTED, success, "success" if success else "failure")

    def interrupted(self, why: str) -> None:
        """A goal that is given up does not go on later."""
        if self.running is not None:
            self.hold()
        self.finish(ABORTED, False, why)

    def commanded(self, moving: bool) -> None:
        self.commanded_at = self.node.now()
        if moving:
            self.moved_at = self.commanded_at

    def unsettled(self) -> None:
        """What stands now may go on."""
        if self.moved_at is not None:
            self.moved_at = self.node.now()

    def report(self) -> None:
        goal, now = self.running, self.node.now()
        if goal is None:
            return
        if goal.status == CANCELING:
            if self.moved_at is None or now - self.moved_at > STANDING:
                self.finish(CANCELED, False, "cancelled")
            return
        if self.blocked or now - self.commanded_at > SILENT:
            self.unsettled()
        if self.moved_at is not None and now - self.moved_at > self.settled:
            self.hold()  # whoever has the result is not to see it move again
            self.finish(SUCCEEDED, True, f"stood still for {self.settled:g} s")
        elif goal.timeout and now - goal.began > goal.timeout:
            self.hold()
            self.finish(ABORTED, False, f"not done within {goal.timeout:g} s")
        else:
            out = message(f"{KIND}_FeedbackMessage")()
            out.goal_id.uuid = goal.number
            state = f"blocked: {self.blocked}" if self.blocked else "waiting" if self.moved_at is None else "moving"
            out.feedback.state, out.feedback.elapsed = state, now - goal.began
            self.feedback(out)

    def finish(self, status: int, success: bool, why: str) -> None:
        goal = self.running
        if goal is None:
            return
        goal.status, goal.success, goal.why = status, success, why
        self.node.log(f"{goal.instruction!r}: {why}")
        self.tell()
        self.answer(goal)

    # ---- what is told

    def answer(self, goal: Goal) -> None:
        """Give the result to all who wait for it, once there is one."""
        if goal is self.running:
            return
        for reply in goal.asking:
            out = message(f"{KIND}_GetResult_Response")()
            out.status, out.result.success, out.result.message = goal.status, goal.success, goal.why
            reply(out)
        goal.asking.clear()

    def tell(self) -> None:
        out = message("action_msgs/msg/GoalStatusArray")()
        for goal in self.goals:
            out.status_list.append(message("action_msgs/msg/GoalStatus")(self.info(goal), goal.status))
        self.statuses(out)

    @staticmethod
    def info(goal: Goal):
        out = message("action_msgs/msg/GoalInfo")()
        out.goal_id.uuid = goal.number
        convert.set_time(out.stamp, goal.began)
        return out
