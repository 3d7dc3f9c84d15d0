"""How the supervisor's commands reach ros2_control, whose controllers know the arm's joints alone; the gripper has one of its
own."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

from ros_nodes import convert
from ros_nodes.arguments import ArgumentError
from ros_nodes.interfaces import message

FLOATS = "std_msgs/msg/Float64MultiArray"
FOLLOW, GRIP = "control_msgs/action/FollowJointTrajectory", "control_msgs/action/GripperCommand"
SHORTEST = 0.01  # s between two points of a trajectory
GOAL_PERIOD = 0.1  # s from one goal of an action to the next
ANSWER = 1.0  # s within which a server says whether it takes a goal
SAME_JOINTS = 1e-4  # rad and rad/s; a goal that differs by less is the same
SAME_GRIP = 2e-3  # of the gripper joint's position, m

# Of a command, and of where the stop from there ends: (s, joints). Gives why the robot may not be doing what is commanded, or "".
Send = Callable[[Any, tuple[float, Any]], str]


def nobody(node, asked) -> Send:
    return lambda command, stop: ""


def positions(node, asked) -> Send:
    """For a position_controllers/JointGroupPositionController or forward_command_controller."""
    arm = node.publisher(FLOATS, "arm_controller/commands", "reliable")
    gripper = node.publisher(FLOATS, "gripper_controller/commands", "reliable")

    def send(command, stop) -> str:
        *joints, grip = command.points[0].positions
        for publish, values in ((arm, joints), (gripper, [grip])):
            publish(message(FLOATS)(data=array("d", values)))
        return ""

    return send


def trajectory(node, asked) -> Send:
    """For a joint_trajectory_controller."""
    arm = node.publisher(convert.TRAJECTORY, "arm_controller/joint_trajectory", "reliable")
    gripper = node.publisher(FLOATS, "gripper_controller/commands", "reliable")

    def send(command, stop) -> str:
        source = command.points[0]
        arm(into_stand(command.joint_names, [(source, convert.seconds(source.time_from_start))], stop))
        gripper(message(FLOATS)(data=source.positions[-1:]))
        return ""

    return send


def action(node, asked) -> Send:
    """For a joint_trajectory_controller and a gripper that take goals. Each goal of the arm replaces the one before and leads
    through what was commanded half a period ago to what is commanded now, so that the robot goes as the supervisor commands,
    GOAL_PERIOD behind: a joint faster than about 2.5 rad/s would be farther behind than Limits.deviation, and is braked.
    Tolerances are the controller's."""
    if asked.lockstep:
        raise ArgumentError("parameter controller: action goes by the clock, without lockstep; got lockstep true")
    arm = Goals(node, FOLLOW, "arm_controller/follow_joint_trajectory", SAME_JOINTS, asked.tick)
    gripper = Goals(node, GRIP, "gripper_controller/gripper_cmd", SAME_GRIP, asked.tick)
    recent = deque(maxlen=1 + round(GOAL_PERIOD / 2 / asked.tick))

    def send(command, stop) -> str:
        recent.append(command)
        points = [(recent[-1 - k].points[0], GOAL_PERIOD - k * asked.tick) for k in sorted({0, len(recent) - 1}, reverse=True)]
        way = into_stand(command.joint_names, points, stop)
        arm.want(message(f"{FOLLOW}_Goal")(trajectory=way), [x for p in way.points for x in (*p.positions, *p.velocities)])
        grip = command.points[0].positions[-1]
        gripper.want(message(f"{GRIP}_Goal")(message("control_msgs/msg/GripperCommand")(grip, asked.effort)), [grip])
        return arm.unheeded()

    return send


CONTROLLERS = {"none": nobody, "positions": positions, "trajectory": trajectory, "action": action}


def into_stand(names: Sequence[str], commanded: Sequence[tuple[Any, float]], stop: tuple[float, Any]) -> Any:
    """The arm's JointTrajectory through points (of the arm and the gripper) and when to be there, s, to begin at once: a stamp
    of 0 says so. It ends in a stand, so that the robot stops by itself where no more commands come."""
    out, end = message(convert.TRAJECTORY)(joint_names=names[:-1]), message(convert.POINT)()
    for source, time in commanded:
        point = message(convert.POINT)(positions=source.positions[:-1], velocities=source.velocities[:-1])
        convert.set_time(point.time_from_start, time)
        out.points.append(point)
    end.positions, end.velocities = array("d", stop[1]), array("d", bytes(8 * len(stop[1])))
    convert.set_time(end.time_from_start, commanded[-1][1] + max(stop[0], SHORTEST))
    out.points.append(end)
    return out


class Goals:
    """Goals for an action's server, one each GOAL_PERIOD s where there is something new. A server that is not there, does not
    answer or refuses is named in the log, once until it takes a goal, and in the diagnostics; the next goal is tried again.

    least: by how much one of the values that make a goal has to differ from the last accepted goal's. tick: s between calls
    of `want`.
    """

    def __init__(self, node, kind: str, name: str, least: float, tick: float):
        self.node, self.kind, self.name, self.least, self.tick = node, kind, name, least, tick
        self.call = node.client(f"{kind}_SendGoal", f"{name}/_action/send_goal")
        self.accepted: Sequence[float] | None = None  # the values of the last accepted goal
        self.due = self.late = float("-inf")  # when the next goal may be sent; when the answer to the last one is late
        self.pending: bytes | None = None  # the number of the goal that is not answered yet
        self.trouble = "no goal has been sent yet"
        self.diagnostics = node.publisher(convert.DIAGNOSTICS, "/diagnostics", "reliable")
        node.timer(1.0, self.report)

    def want(self, goal, values: Sequence[float]) -> None:
        """The goal as it is now, with the values that make it."""
        now = self.node.now()
        if now < self.due - GOAL_PERIOD:  # the clock went back
            self.due = self.late = now
        if now < self.due or (self.pending is not None and now < self.late):
            return
        if self.pending is not None:
            self.failed(f"no answer within {ANSWER:g} s")
        if self.accepted is not None and all(abs(a - b) < self.least for a, b in zip(values, self.accepted)):
            return
        self.due, self.late = now + GOAL_PERIOD - self.tick / 2, now + ANSWER
        request = message(f"{self.kind}_SendGoal_Request")(goal=goal)
        request.goal_id.uuid = self.pending = number = uuid4().bytes
        if not self.call(request, lambda response: self.answered(number, values, response.accepted)):
            self.failed("no server is there")

    def answered(self, number: bytes, values: Sequence[float], accepted: bool) -> None:
        if number != self.pending:  # came too late
            return
        self.pending = None
        if accepted:
            self.accepted = values
        self.remark("" if accepted else "the goal was refused")

    def unheeded(self) -> str:
        """Why it is not known that the server heeds the newest goals, "" where it is: what is commanded would run ahead of the
        robot, and the first goal that is taken would have it catch up at once."""
        late = self.pending is not None and self.node.now() > self.due + GOAL_PERIOD
        trouble = self.trouble or ("no answer yet" if late else "")
        return trouble and f"{self.name}: {trouble}"

    def failed(self, why: str) -> None:
        """It is not known any more which goal the server has."""
        self.pending = self.accepted = None
        self.remark(why)

    def remark(self, trouble: str) -> None:
        if trouble != self.trouble:
            self.node.log(f"{self.name}: {trouble or 'goals are taken'}")
        self.trouble = trouble

    def report(self) -> None:
        level = convert.WARN if self.trouble else convert.OK
        self.diagnostics(convert.to_diagnostics(f"{self.node.name}: {self.name}", level, self.trouble or "goals are taken",
                                                self.node.now()))
