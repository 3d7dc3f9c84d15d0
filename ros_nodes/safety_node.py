"""The supervisor (policies/safety.py) as a process of its own between whoever decides and the robot."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from math import hypot
from pathlib import Path
from typing import TextIO

import mujoco

from envs.arm import ARMS
from envs.collision import Body
from envs.tabletop.env import TabletopEnv
from policies.limits import Limits
from policies.safety import Command, Event, Supervisor
from ros_nodes import convert
from ros_nodes.arguments import ArgumentError, Parameter, known, run
from ros_nodes.controllers import CONTROLLERS
from ros_nodes.interfaces import message
from ros_nodes.transport import LAST_WORDS

WRENCH = "geometry_msgs/msg/WrenchStamped"
ENDING = "the supervisor ends"


class SafetyNode:
    """Takes trajectories on agent/trajectory, gives joint commands on joint_commands, one each `tick` s. A trajectory is stamped
    with the time of the observation behind it; its points are behind the stamp, one at the stamp itself is where it begins. One
    without points that names joints asks for a stand, as with ros2_control; one without joints, too, is a sign of life and no
    more. Joint states may come in parts, of the gripper on gripper_states. safety_state (std_msgs/String, latched) says why the
    robot does not do what was asked, "" while it does.

    emergency_stop (std_msgs/Bool, true) or the service ~/stop (std_srvs/Trigger) stops at once and latches; ~/release
    (std_srvs/Trigger, or std_msgs/Empty on the topic of that name) ends it. Every intervention is told on /diagnostics as it
    comes. robot_reset (std_msgs/Empty): a simulated robot was put elsewhere, and is taken as it is
    found, until when no command is sent; not heard where a controller drives the arm. With `force` the force at the tool is
    expected on wrench.
    """

    PARAMETERS = {
        "arm": Parameter("panda", f"one of {', '.join(ARMS)}"),
        "margin": Parameter(0.0, "rad off the ends of the joints", 0.0, 0.5),
        "share": Parameter(1.0, "of the arm's speeds and accelerations", 0.01, 1.0),
        "workspace": Parameter([], "least x, y, z, then most, of the tool, m; without, anywhere", of=float),
        "model": Parameter("", "MJCF file of the robot, its joints of the same names, against touching itself; or tabletop, "
                           "the simulated one; without, unchecked"),
        "fixed": Parameter([], "geoms of the model that stand around the robot"),
        "patience": Parameter(0.15, "s without a sign of life", 0.02, 5.0),
        "oldest": Parameter(1.0, "s that a trajectory may be old", 0.05, 10.0),
        "force": Parameter(0.0, "N of contact that stop it, measured on wrench; 0: none does", 0.0, 1000.0),
        "begin_stopped": Parameter(False, "begin as after an emergency stop, so that a restart moves nothing"),
        "tick": Parameter(0.01, "s from one command to the next", 0.001, 0.1),
        "lockstep": Parameter(False, "commands of a whole period at each sign of life"),
        "period": Parameter(0.1, "s of the robot's control, for lockstep", 0.01, 1.0),
        "log": Parameter("", "file that events are added to; it also remembers an emergency stop over a restart"),
        "controller": Parameter("none", f"of ros2_control that drives the arm: one of {', '.join(CONTROLLERS)}"),
        "effort": Parameter(20.0, "N that the gripper may press with, by controller action", 0.0, 200.0),
    } | convert.PARAMETERS

    def __init__(self, node):
        self.node, asked = node, node.parameters(self.PARAMETERS)
        self.arm, box = known("parameter arm", asked.arm, ARMS), asked.workspace
        if box and not (len(box) == 6 and all(low < high for low, high in zip(box[:3], box[3:]))):
            raise ArgumentError(f"parameter workspace: least x, y, z, then most are needed, got {box}")
        self.names = convert.joints_of(asked, self.arm)
        self.limits = Limits.of(self.arm, asked.margin, asked.share, patience=asked.patience, oldest=asked.oldest,
                                workspace=(tuple(box[:3]), tuple(box[3:])) if box else None,
                                force=asked.force or float("inf"))
        self.room = room(asked.model, self.names.names[:-1], asked.arm, asked.fixed) if asked.model else None
        self.tick, self.lockstep = asked.tick, asked.lockstep
        self.ticks = round(asked.period / self.tick) if self.lockstep else 1
        if self.lockstep and (self.ticks < 1 or abs(self.ticks * self.tick - asked.period) > 1e-6):
            raise ArgumentError(f"parameter tick: a part of the period, {asked.period:g} s, is needed with lockstep, got "
                                f"{asked.tick:g}")
        log = Path(asked.log).expanduser() if asked.log else None
        before = ended_stopped(log) if log else ""
        self.log = opened(log) if log else None
        self.supervisor: Supervisor | None = None
        self.waiting = "no joint state has come yet"  # why there is no supervisor
        self.passed_over = False  # whether the last joint state was
        self.answered, self.sent, self.moved = -1.0, None, False
        # why it is stopped, before there was a supervisor to latch it
        self.pressed = before or ("it begins stopped" if asked.begin_stopped else "")
        self.gathered, self.force, self.ending = convert.Gathered(self.names), None, False  # force: (s, N)
        self.last_words = LAST_WORDS
        self.commands = node.publisher(convert.TRAJECTORY, "joint_commands", "reliable")
        self.control = known("parameter controller", asked.controller, CONTROLLERS)(node, asked)
        self.unheeded = ""  # why the robot may not be doing what is commanded
        self.diagnostics = node.publisher(convert.DIAGNOSTICS, "/diagnostics", "reliable")
        self.state, self.told = node.publisher("std_msgs/msg/String", "safety_state", "latched"), None
        for topic in convert.STATES:
            node.subscribe(convert.JOINTS, topic, self.joints, "reliable" if self.lockstep else "sensor")
        node.subscribe(convert.TRAJECTORY, "agent/trajectory", self.trajectory, "reliable")
        for qos in ("sensor", "reliable", "latched"):  # however the button sends
            node.subscribe("std_msgs/msg/Bool", "emergency_stop", self.emergency, qos)
        if asked.controller == "none":
            node.subscribe("std_msgs/msg/Empty", "robot_reset", self.put_elsewhere, "reliable")
        if asked.force:
            node.subscribe(WRENCH, "wrench", self.felt, "sensor")
        node.subscribe("std_msgs/msg/Empty", "~/release", lambda _: self.release(), "reliable")
        node.service("std_srvs/srv/Trigger", "~/release", self.release_asked)
        node.service("std_srvs/srv/Trigger", "~/stop", self.stop_asked)
        if not self.lockstep:
            node.timer(self.tick, lambda: self.advance(node.now()))
        node.timer(1.0, self.report)

    # ---- what comes in

    def joints(self, state) -> None:
        try:
            measured = self.gathered.take(state)
            if measured is None:
                return
            if self.supervisor is None:
                self.supervisor = Supervisor(self.arm, self.limits, measured, self.tick, self.room)
                self.emergency_stop()
            if self.moved:
                self.supervisor.anchor(measured)
                self.moved = False
            self.supervisor.observe(measured, self.force_at(measured.stamp))
            self.passed_over = False
        except ValueError as error:
            if not self.passed_over:
                self.node.log(f"joint states are passed over: {error}")
            self.passed_over, self.waiting = True, str(error)

    def felt(self, wrench) -> None:
        """A force that is not a number is not measured."""
        force = wrench.wrench.force
        self.force = (convert.seconds(wrench.header.stamp), hypot(force.x, force.y, force.z))

    def force_at(self, now: float) -> float | None:
        """N; None where none was measured lately."""
        return None if self.force is None or abs(now - self.force[0]) > self.limits.patience else self.force[1]

    def trajectory(self, asked) -> None:
        if self.supervisor is None:
            return
        stamp = convert.seconds(asked.header.stamp)
        now = stamp if self.lockstep else self.node.now()
        if now - stamp > self.limits.patience and not asked.points:
            return  # of long ago, sent again: no sign of life
        if self.lockstep and stamp == self.answered:
            self.commands(self.sent)  # asked once more
            return
        try:
            proposal = convert.from_trajectory(asked, self.names)
            if self.unheeded:
                self.supervisor.hold(now, self.unheeded)
            elif proposal is not None:
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
        if pressed.data:
            self.press("emergency stop")

    def press(self, why: str) -> None:
        """Stop; one that nothing moves under yet is remembered, in the log, too."""
        if self.supervisor is None and not self.pressed:
            self.note(Event(self.node.now(), "stop", why))
        self.pressed = self.pressed or why
        self.emergency_stop()
        self.tell()

    def emergency_stop(self) -> None:
        if self.pressed and self.supervisor is not None:
            self.supervisor.stop(self.node.now(), self.pressed)

    def stop_asked(self, request, response):
        self.press("emergency stop")
        response.success, response.message = True, self.trouble
        return response

    def release(self) -> None:
        """Not of the stop with which the supervisor ends."""
        if self.supervisor is None and self.pressed:
            self.note(Event(self.node.now(), "released", self.pressed))
        self.pressed = ""
        if self.supervisor is not None and not self.ending:
            self.supervisor.release(self.node.now())
        self.tell()

    def release_asked(self, request, response):
        self.release()
        stopped = self.supervisor.stopped or self.supervisor.leapt if self.supervisor is not None else self.pressed
        response.success = not (stopped or self.ending)
        response.message = "released" if response.success else self.trouble
        return response

    # ---- what goes out

    def advance(self, now: float) -> None:
        """Command the coming tick, or in lock-step the coming control period."""
        if self.supervisor is None:
            self.tell()
            return
        if self.ending and not self.supervisor.stopped:
            self.supervisor.stop(now, ENDING)
        if self.unheeded and self.supervisor.proposal is not None:
            self.supervisor.hold(now, self.unheeded)
        for k in range(self.ticks):
            if self.lockstep:
                self.supervisor.beat(now + k * self.tick)  # time stands still until the agent has answered
            command = self.supervisor.step(now + k * self.tick)
            for event in command.events:
                self.note(event)
        self.sent = self.as_message(command, now)
        if not self.moved:
            self.commands(self.sent)
        self.tell()
        self.unheeded = self.control(self.sent, self.supervisor.stop_end())
        if self.ending and self.supervisor.stands:
            self.last_words -= 1
        if not self.last_words:
            self.node.stop()

    def wind_down(self) -> None:
        """Bring the robot to a stand, from the next tick on, then end. A signal's handler: it may come amid a tick."""
        self.ending = True
        if self.supervisor is None or self.lockstep:
            self.node.stop()

    def as_message(self, command: Command, now: float):
        out, point = convert.header(message(convert.TRAJECTORY)(), now), message(convert.POINT)()
        out.joint_names = list(self.names.names)
        point.positions = self.names.row(command.motion.q, command.opening)
        point.velocities.extend([*command.motion.dq, 0.0])
        point.accelerations.extend([*command.motion.ddq, 0.0])
        convert.set_time(point.time_from_start, self.ticks * self.tick)
        out.points = [point]
        return out

    def note(self, event: Event) -> None:
        text = f"{event.kind}: {event.detail}"
        self.node.log(text)
        self.write(json.dumps(event._asdict()))
        self.diagnose("intervention", convert.WARN, text)

    def write(self, line: str) -> None:
        """Add a line to the log; a disk that is full does not end the supervisor."""
        try:
            if self.log is not None:
                self.log.write(line + "\n")
                self.log.flush()
        except OSError as error:
            self.node.log(f"the log cannot be written any more: {error}")
            self.log = None

    @property
    def trouble(self) -> str:
        """Why the robot does not do what was asked; "" while it does."""
        supervisor = self.supervisor
        if supervisor is None:
            return f"stopped: {self.pressed}" if self.pressed else self.waiting
        return f"stopped: {supervisor.stopped}" if supervisor.stopped else supervisor.trouble or supervisor.held

    def tell(self) -> None:
        if self.trouble != self.told:
            self.told = self.trouble
            self.state(message("std_msgs/msg/String")(self.told))

    def report(self) -> None:
        level = convert.ERROR if self.trouble.startswith("stopped") else convert.WARN if self.trouble else convert.OK
        self.diagnose("supervisor", level, self.trouble or "following")

    def diagnose(self, about: str, level: bytes, text: str) -> None:
        self.diagnostics(convert.to_diagnostics(f"{self.node.name}: {about}", level, text, self.node.now()))


def room(model: str, joints: Sequence[str], arm: str, fixed: Sequence[str]) -> Callable:
    """How near the robot of a MuJoCo model is to touching itself or what is fixed, as Supervisor takes it. Raises
    ArgumentError."""
    try:
        if model == "tabletop":
            world = TabletopEnv("reach", arm=arm, lazy_images=True)
            world.reset(seed=0)
            return world.body().closest
        return Body(mujoco.MjModel.from_xml_path(model), joints, ARMS[arm].home, fixed).closest
    except ValueError as error:
        raise ArgumentError(f"parameter model: {error}") from None


def opened(log: Path) -> TextIO:
    """To be added to. Raises ArgumentError."""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        return log.open("a")
    except OSError as error:
        raise ArgumentError(f"parameter log: {error}") from None


def ended_stopped(log: Path) -> str:
    """The emergency stop, not released, with which the last supervisor that wrote this log of events died, or ended; "" for
    none."""
    stopped = ""
    for line in log.read_text(errors="replace").splitlines() if log.is_file() else ():
        try:
            event = json.loads(line)
            kind, detail = event["kind"], event["detail"]
        except (ValueError, TypeError, KeyError):  # the line at which it was killed
            continue
        if kind == "stop" and detail != ENDING:
            stopped = detail
        elif kind == "released":
            stopped = ""
    return stopped


def main() -> int:
    return run("safety", SafetyNode, sys.argv[1:])


if __name__ == "__main__":
    raise SystemExit(main())
