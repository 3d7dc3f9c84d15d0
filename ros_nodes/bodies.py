"""What an agent's node moves: how the robot's own state comes in, and how what was decided goes out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from agent.spec import STATE, TIME, Chunk, Spec
from envs.arm import ARMS, STATE_NAMES, JointState, arm_state, ee_delta_action, joint_position_action, plan
from policies.chunking import NativePlayer
from ros_nodes import convert
from ros_nodes.arguments import ArgumentError, Parameter, known
from ros_nodes.interfaces import message

REMEMBERED = 1000  # commands
STILL = 0.01  # rad/s between two commands of a robot that stands
CREEP = 1e-3  # m/s or rad/s of a base that stands
ODOMETRY, TWIST, TWIST_STAMPED = "nav_msgs/msg/Odometry", "geometry_msgs/msg/Twist", "geometry_msgs/msg/TwistStamped"
LONGEST = 0.1  # s between two states for which a base's speed may change at once


class Arm:
    """An arm with a gripper. Takes joint_states (and gripper_states), and joint_commands: what the supervisor told it, which
    does not count any more once a simulated robot was put elsewhere (robot_reset). Gives agent/trajectory: a chunk as a joint
    trajectory; one without points as a sign of life, or, with the joints' names, for a stand."""

    aims = True  # at points in its base's frame, as agent/goal says
    supervised = True  # by a node that stands behind the agent
    PARAMETERS = {"arm": Parameter("panda", f"one of {', '.join(ARMS)}")} | convert.PARAMETERS

    def __init__(self, asked):
        self.arm = known("parameter arm", asked.arm, ARMS)
        self.joints = convert.joints_of(asked, self.arm)
        self.moved = False  # elsewhere, since the last state
        self.forget()

    def connect(self, node, spec: Spec, felt: Callable, told: Callable[[bool], None], sensor: str) -> None:
        """felt: takes what `take` reads. told(moving): the robot was told something. Raises ArgumentError for weights that sense
        or move anything else."""
        moves = {kind.kind: kind.names for kind in (ee_delta_action(None), joint_position_action(self.arm))}
        if tuple(spec.state) != STATE_NAMES or moves.get(spec.action.kind) != tuple(spec.action.names):
            raise ArgumentError(f"an arm senses {', '.join(STATE_NAMES)} and is moved by {' or '.join(moves)}; these weights "
                                f"sense {', '.join(spec.state)} and give {', '.join(spec.action.names)} ({spec.action.kind})")
        self.node, self.spec, self.told = node, spec, told
        self.send = node.publisher(convert.TRAJECTORY, "agent/trajectory", "reliable")
        node.subscribe(convert.TRAJECTORY, "joint_commands", self.commanded, "reliable")
        node.subscribe("std_msgs/msg/Empty", "robot_reset", self.put_elsewhere, "reliable")
        for topic in convert.STATES:
            node.subscribe(convert.JOINTS, topic, felt, sensor)

    def forget(self) -> None:
        self.commands: deque[JointState] = deque(maxlen=REMEMBERED)
        self.gathered = convert.Gathered(self.joints)

    def take(self, state) -> JointState | None:
        """None for other joints. Raises ConvertError."""
        measured = self.gathered.take(state)
        if measured is not None and self.moved:
            self.moved = False
            self.commands.clear()
        return measured

    def put_elsewhere(self, _) -> None:
        self.moved = True

    def place(self, measured: JointState) -> np.ndarray:
        """Where its parts are, rad."""
        return measured.position

    def commanded(self, trajectory) -> None:
        """What the robot was told, for the time at which its last point is reached."""
        try:
            command = convert.from_command(trajectory, self.joints)
        except convert.ConvertError as error:
            self.node.remark("command", f"passed over: {error}")
            return
        before = self.commands[-1] if self.commands else command
        way = np.abs(command.position - before.position).max()
        self.commands.append(command)
        self.told(bool(way > STILL * (command.stamp - before.stamp) > 0))

    def told_until(self, stamp: float) -> bool:
        """Whether the command whose time is `stamp` has come."""
        return bool(self.commands) and self.commands[-1].stamp >= stamp - 1e-3

    def command_at(self, measured: JointState) -> JointState:
        """What was commanded last for the time of a measurement; the measurement itself where nothing was."""
        before = [command for command in self.commands if command.stamp <= measured.stamp + 1e-6]
        return replace(before[-1] if before else measured, stamp=measured.stamp)

    def state(self, measured: JointState) -> np.ndarray:
        return arm_state(self.arm, measured, self.command_at(measured))

    def follow(self, chunk: Chunk, obs: dict, measured: JointState) -> Any:
        start = self.command_at(JointState(obs[TIME], obs[STATE][:7].astype(float), float(obs[STATE][7])))
        return convert.to_trajectory(plan(chunk, self.spec.action, self.arm, start), self.joints)

    def go_on(self, measured: JointState) -> Any:
        return convert.header(message(convert.TRAJECTORY)(), measured.stamp)

    def stand(self, stamp: float, why: str) -> Any:
        out = convert.header(message(convert.TRAJECTORY)(), stamp, why)
        out.joint_names = list(self.joints.names)
        return out

    def rest(self, now: float, why: str) -> bool:
        """Silence: the supervisor brings the robot to a stand; where there is a reason, it is told. True."""
        if why:
            self.send(self.stand(now, why))
        return True

    def halt(self, now: float) -> None:
        """`rest` has said it."""


class Velocity(NamedTuple):
    """How a base moves: forward and to the left, m/s, and turns, rad/s."""

    stamp: float
    values: np.ndarray  # (3,)


class Base:
    """A mobile base. Takes odom, gives cmd_vel: a chunk played by time, within the limits of speed and of its change, 0
    where a chunk has run out. Each message of odom is answered, so that a base whose driver stops by itself where no command
    comes, as they do, stops when this loop does. No supervisor stands behind it: an emergency stop latches in the agent, until
    ~/release (std_msgs/Empty) on the agent, or its end."""

    aims, supervised = False, False
    PARAMETERS = {
        "velocities": Parameter(["x.vel", "y.vel", "theta.vel"], "names, in the state and the action that the weights have "
                                "learned, of the speed forward and to the left (m/s) and of turning (rad/s)"),
        "speed": Parameter(0.5, "m/s at most", 0.01, 10.0),
        "turn": Parameter(1.0, "rad/s at most", 0.01, 10.0),
        "ramp": Parameter(1.0, "m/s and rad/s by which the speed changes in a second, at most", 0.01, 50.0),
        "stamped": Parameter(False, "send TwistStamped, as ros2_control's bases take it, not Twist"),
    }

    def __init__(self, asked):
        if len(asked.velocities) != 3:
            raise ArgumentError(f"parameter velocities: 3 names are needed, got {asked.velocities}")
        self.names, self.ramp, self.stamped = list(asked.velocities), asked.ramp, asked.stamped
        self.most, self.frame = (asked.speed, asked.turn), asked.base
        self.sent, self.gone, self.gone_at = Velocity(-np.inf, np.zeros(3)), np.zeros(3), -np.inf

    def connect(self, node, spec: Spec, felt: Callable, told: Callable[[bool], None], sensor: str) -> None:
        """Raises ArgumentError for weights that sense or move anything else."""
        others = sorted({*spec.state, *spec.action.names} - set(self.names))
        if spec.action.kind != "native" or others:
            raise ArgumentError(f"a base senses and moves {', '.join(self.names)}; these weights {', '.join(spec.state)} and "
                                f"{', '.join(spec.action.names)} ({spec.action.kind})")
        self.spec, self.told, self.player = spec, told, NativePlayer(spec.action, spec.control_hz)
        self.send = node.publisher(TWIST_STAMPED if self.stamped else TWIST, "cmd_vel", "reliable")
        node.subscribe(ODOMETRY, "odom", felt, sensor)

    def forget(self) -> None:
        self.player.chunk = None

    def take(self, odometry) -> Velocity:
        """Raises ConvertError for speeds that are not finite."""
        moving = odometry.twist.twist
        values = np.array([moving.linear.x, moving.linear.y, moving.angular.z])
        if not np.isfinite(values).all():
            raise convert.ConvertError(f"odometry with speeds {values.tolist()}: finite ones are needed")
        return Velocity(convert.seconds(odometry.header.stamp), values)

    def place(self, measured: Velocity) -> np.ndarray:
        """How far it has gone forward, to the left and around, by its own account: (3,) m, m, rad."""
        passed = min(max(measured.stamp - self.gone_at, 0.0), LONGEST)
        self.gone, self.gone_at = self.gone + passed * measured.values, measured.stamp
        return self.gone

    def told_until(self, stamp: float) -> bool:
        return True

    def state(self, measured: Velocity) -> np.ndarray:
        return np.array([measured.values[self.names.index(name)] for name in self.spec.state], np.float32)

    def follow(self, chunk: Chunk, obs: dict, measured: Velocity) -> Any:
        """Raises SpecError for a chunk of another shape, or with NaN."""
        self.player.push(chunk, measured.stamp)
        return self.go_on(measured)

    def go_on(self, measured: Velocity) -> Any:
        if self.player.ended(measured.stamp):
            return self.command(measured.stamp, np.zeros(3))
        asked = dict(zip(self.spec.action.names, self.player.action(measured.stamp)))
        return self.command(measured.stamp, np.array([asked.get(name, 0.0) for name in self.names]))

    def stand(self, stamp: float, why: str) -> Any:
        self.player.chunk = None
        return self.command(stamp, np.zeros(3))

    def rest(self, now: float, why: str) -> bool:
        """Come to a stand, then fall silent; whether it is told to stand by now."""
        if self.sent.values.any():
            self.send(self.stand(now, why))
        return not self.sent.values.any()

    def halt(self, now: float) -> None:
        """Stand, however fast it was: the last word."""
        self.sent = Velocity(now, np.zeros(3))
        self.send(self.stand(now, ""))

    def command(self, stamp: float, asked: np.ndarray) -> Any:
        most = self.ramp * min(max(stamp - self.sent.stamp, 0.0), LONGEST)
        change = within(within(asked, *self.most) - self.sent.values, most, most)
        self.sent = Velocity(stamp, self.sent.values + change)
        self.told(bool(np.abs(self.sent.values).max() > CREEP))
        out = convert.header(message(TWIST_STAMPED)(), stamp, self.frame)
        out.twist.linear.x, out.twist.linear.y, out.twist.angular.z = map(float, self.sent.values)
        return out if self.stamped else out.twist


def within(velocity: np.ndarray, speed: float, turn: float) -> np.ndarray:
    """A base's velocity (3,) at no more than a speed over the ground, in the same direction, and a speed of turning."""
    over = np.hypot(*velocity[:2]) / speed if speed else np.inf
    return np.array([*(velocity[:2] / max(1.0, over)), np.clip(velocity[2], -turn, turn)])


BODIES = {"arm": Arm, "base": Base}
