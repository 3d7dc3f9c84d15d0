"""The supervisor (policies/safety.py) as a process of its own between whoever decides and the robot."""

from __future__ import annotations

import json
import sys
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mujoco

from envs.arm import ARMS
from envs.collision import Body
from policies.safety import Command, Limits, Supervisor
from ros_nodes import convert
from ros_nodes.arguments import Parameter, known, run
from ros_nodes.interfaces import message

FLOATS = "std_msgs/msg/Float64MultiArray"




# ---- ros2_control, whose controllers know the arm's joints alone; the gripper has one of its own


def nobody(node) -> Callable[[Any], None]:
    return lambda command: None


def positions(node) -> Callable[[Any], None]:
    """For a position_controllers/JointGroupPositionController or forward_command_controller."""
    arm = node.publisher(FLOATS, "arm_controller/commands", "reliable")
    gripper = node.publisher(FLOATS, "gripper_controller/commands", "reliable")

    def send(command) -> None:
        *joints, grip = command.points[0].positions
        for publish, values in ((arm, joints), (gripper, [grip])):
            publish(message(FLOATS)(data=array("d", values)))

    return send


def trajectory(node) -> Callable[[Any], None]:
    """For a joint_trajectory_controller, which is to begin at once: a stamp of 0 says so."""
    arm = node.publisher(convert.TRAJECTORY, "arm_controller/joint_trajectory", "reliable")
    gripper = node.publisher(FLOATS, "gripper_controller/commands", "reliable")

    def send(command) -> None:
        out, point = message(convert.TRAJECTORY)(), message(convert.POINT)()
        out.joint_names, source = command.joint_names[:-1], command.points[0]
        point.positions, point.velocities = source.positions[:-1], source.velocities[:-1]
        point.time_from_start, out.points = source.time_from_start, [point]
        arm(out)
        gripper(message(FLOATS)(data=source.positions[-1:]))

    return send


CONTROLLERS = {"none": nobody, "positions": positions, "trajectory": trajectory}


class SafetyNode:
    """Takes trajectories on agent/trajectory, gives joint commands on joint_commands, one each `tick` s. A
    trajectory without points that names joints asks for a stand, as with ros2_control; one without joints, too, is a sign of
    life and no more.

    emergency_stop (std_msgs/Bool, true) stops at once and latches; ~/release (std_srvs/Trigger, or std_msgs/Empty on the
    topic of that name) ends it. robot_reset (std_msgs/Empty): the robot was put elsewhere, and is taken as it is found.
    """

    PARAMETERS = {
        "arm": Parameter("panda", f"one of {', '.join(ARMS)}"),
        "margin": Parameter(0.0, "rad off the ends of the joints", 0.0, 0.5),
        "share": Parameter(1.0, "of the arm's speeds and accelerations", 0.01, 1.0),
        "workspace": Parameter([], "least x, y, z, then most, of the tool, m; without, anywhere"),
        "model": Parameter("", "MJCF file of the robot, against touching itself; without, unchecked"),
        "fixed": Parameter([], "geoms of the model that stand around the robot"),
        "patience": Parameter(0.15, "s without a sign of life", 0.02, 5.0),
        "oldest": Parameter(1.0, "s that a trajectory may be old", 0.05, 10.0),
        "force": Parameter(0.0, "N of contact that stop it; 0: none does", 0.0, 1000.0),
        "tick": Parameter(0.01, "s from one command to the next", 0.001, 0.1),
        "lockstep": Parameter(False, "commands of a whole period at each sign of life"),
        "period": Parameter(0.1, "s of the robot's control, for lockstep", 0.01, 1.0),
        "log": Parameter("", "file that events are added to"),
        "controller": Parameter("none", "of ros2_control that drives the arm: none, positions or trajectory"),
    } | convert.PARAMETERS

    def __init__(self, node):
        self.node, asked = node, node.parameters(self.PARAMETERS)
        self.arm, box = known("parameter arm", asked.arm, ARMS), asked.workspace
        self.names = convert.joints_of(asked, self.arm)
        self.limits = Limits.of(self.arm, asked.margin, asked.share, patience=asked.patience, oldest=asked.oldest,
                                workspace=(tuple(box[:3]), tuple(box[3:])) if box else None,
                                force=asked.force or float("inf"))
        self.room = None
        if asked.model:
            model = mujoco.MjModel.from_xml_path(asked.model)
            self.room = Body(model, self.names.names[:-1], self.arm.home, asked.fixed).closest
        self.tick, self.lockstep = asked.tick, asked.lockstep
        self.ticks = round(asked.period / self.tick) if self.lockstep else 1
        self.log = Path(asked.log).open("a") if asked.log else None
        self.supervisor: Supervisor | None = None
        self.answered, self.sent, self.moved = -1.0, None, False
        self.pressed = False  # the emergency stop, before there was a supervisor to latch it
        self.commands = node.publisher(convert.TRAJECTORY, "joint_commands", "reliable")
        self.control = known("parameter controller", asked.controller, CONTROLLERS)(node)
        self.diagnostics = node.publisher(convert.DIAGNOSTICS, "/diagnostics", "reliable")
        node.subscribe(convert.JOINTS, "joint_states", self.joints, "reliable" if self.lockstep else "sensor")
        node.subscribe(convert.TRAJECTORY, "agent/trajectory", self.trajectory, "reliable")
        node.subscribe("std_msgs/msg/Bool", "emergency_stop", self.emergency, "reliable")
        node.subscribe("std_msgs/msg/Empty", "robot_reset", self.put_elsewhere, "reliable")
        node.subscribe("std_msgs/msg/Empty", "~/release", lambda _: self.release(), "reliable")
        node.service("std_srvs/srv/Trigger", "~/release", self.release_asked)
        if not self.lockstep:
            node.timer(self.tick, lambda: self.advance(node.now()))
        node.timer(1.0, self.report)

    # ---- what comes in

    def joints(self, state) -> None:
        try:
            measured = convert.from_joints(state, self.names)
            if self.supervisor is None:
                self.supervisor = Supervisor(self.arm, self.limits, measured, self.tick, self.room)
                self.emergency_stop()
            if self.moved:
                self.supervisor.anchor(measured)
                self.moved = False
            self.supervisor.observe(measured)
        except ValueError as error:
            self.node.log(f"joint state passed over: {error}")

    def trajectory(self, asked) -> None:
        if self.supervisor is None:
            return
        stamp = convert.seconds(asked.header.stamp)
        now = stamp if self.lockstep else self.node.now()
        if self.lockstep and stamp == self.answered:
            self.commands(self.sent)  # asked once more
            return
        try:
            proposal = convert.from_trajectory(asked, self.names)
            if proposal is not None:
                self.supervisor.propose(proposal, now)
            elif asked.joint_names:
                self.supervisor.hold(now, asked.header.frame_id)
            else:
                self.supervisor.beat(now)
        except ValueError as error:
            self.supervisor.hold(now, str(error), "refused")
        if self.lockstep:
            self.answered = stamp
            self.advance(now)

    def put_elsewhere(self, _) -> None:
        self.moved, self.answered = True, -1.0

    def emergency(self, pressed) -> None:
        self.pressed = self.pressed or pressed.data
        self.emergency_stop()

    def emergency_stop(self) -> None:
        if self.pressed and self.supervisor is not None:
            self.supervisor.stop(self.node.now(), "emergency stop")

    def release(self) -> None:
        self.pressed = False
        if self.supervisor is not None:
            self.supervisor.release(self.node.now())

    def release_asked(self, request, response):
        self.release()
        response.success = self.supervisor is not None
        response.message = "released" if response.success else "no joint state has come yet"
        return response

    # ---- what goes out

    def advance(self, now: float) -> None:
        """Command the coming tick, or in lock-step the coming control period."""
        if self.supervisor is None:
            return
        for k in range(self.ticks):
            if self.lockstep:
                self.supervisor.beat(now + k * self.tick)  # time stands still until the agent has answered
            command = self.supervisor.step(now + k * self.tick)
            self.note(command)
        self.sent = self.as_message(command, now)
        self.commands(self.sent)
        self.control(self.sent)

    def as_message(self, command: Command, now: float):
        out, point = convert.header(message(convert.TRAJECTORY)(), now), message(convert.POINT)()
        out.joint_names = list(self.names.names)
        point.positions = self.names.row(command.motion.q, command.opening)
        point.velocities.extend([*command.motion.dq, 0.0])
        point.accelerations.extend([*command.motion.ddq, 0.0])
        convert.set_time(point.time_from_start, self.ticks * self.tick)
        out.points = [point]
        return out

    def note(self, command: Command) -> None:
        for event in command.events:
            self.node.log(f"{event.kind}: {event.detail}")
            if self.log is not None:
                self.log.write(json.dumps(event._asdict()) + "\n")
                self.log.flush()

    def report(self) -> None:
        supervisor = self.supervisor
        trouble = "no joint state has come yet" if supervisor is None else (
            supervisor.stopped or supervisor.trouble or supervisor.held)
        stopped = supervisor is not None and bool(supervisor.stopped)
        level = convert.ERROR if stopped else convert.WARN if trouble else convert.OK
        self.diagnostics(convert.to_diagnostics(f"{self.node.name}: supervisor", level, trouble or "following", self.node.now()))


def main() -> int:
    return run("safety", SafetyNode, sys.argv[1:])


if __name__ == "__main__":
    raise SystemExit(main())
