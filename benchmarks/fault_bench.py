"""The bench of benchmarks/faults.py: the processes, what passes between them, and how their commands are judged."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import ruckig

from envs.arm import PANDA
from ros_nodes import convert
from ros_nodes.dds import Node
from ros_nodes.interfaces import message

STRING, BOOL, EMPTY = (f"std_msgs/msg/{name}" for name in ("String", "Bool", "Empty"))
TASK = "place_in"
ROBOT = {"camera/front/image_raw": convert.IMAGE, "camera/wrist/image_raw": convert.IMAGE, "joint_states": convert.JOINTS}
MOVING = 0.15  # rad/s of the fastest joint: in motion
STANDING = 0.02  # rad/s measured
LASTS = 1.5  # s of a fault
RESUMING = 2.0  # s behind it in which a robot goes on by itself, where it does
STARTING = 60.0  # s that processes may take to start, and a robot to move
SAME = 1e-6  # rad, rad/s: commands that are alike
PERIOD = 0.01  # s between two commands
ACROSS = 5  # states, of 50 a second
GAP = 0.2  # s without commands: the supervisor was gone
IN_TIME = 0.1  # s within which braking has to begin
NETWORK = "soma"  # and the number of its process: a network namespace


@dataclass(frozen=True)
class Fault:
    """What breaks. after: s from the fault until it can be noticed (three periods of what is missing, 0.15 at most), where
    `Bench.notice` is not told. brakes: whether the robot has to be brought to a stand. broken(bench) breaks it, mended(bench)
    mends it."""

    broken: Callable[["Bench"], None]
    mended: Callable[["Bench"], None]
    after: float = 0.0
    brakes: bool = True


@dataclass
class Trial:
    """Times in s from the fault; None where it did not happen. noticeable: from when on it could be noticed. worst: the
    largest share of a limit that a command used. fastest: the largest share of a limit of speed that was measured. resumed:
    it went on by itself. recovered: it moved again, at the latest in a new episode."""

    noticeable: float
    braking: float | None = None
    standing: float | None = None
    worst: float = 0.0
    fastest: float = 0.0
    resumed: bool = False
    recovered: bool = False


@dataclass
class Record:
    """What was on the wire."""

    commands: list = field(default_factory=list)  # (s, positions, velocities, accelerations)
    joints: list = field(default_factory=list)  # (s, stamp, positions)


class Bench:
    """The processes, and what passes between them. `through` says what becomes of a message on a topic that passes through:
    it gives those to send on."""

    def __init__(self, folder: Path, namespace: str = ""):
        self.folder, self.namespace = folder, namespace
        self.node, self.record, self.through = Node("bench"), Record(), {}
        self.noticed: float | None = None  # when (s) a fault could first be noticed
        self.late: deque[tuple[float, Callable, object]] = deque()
        self.processes: dict[str, subprocess.Popen] = {}
        for topic, kind in ROBOT.items():
            self.relay(f"robot/{topic}", topic, kind)
        self.relay("wish/trajectory", "agent/trajectory", convert.TRAJECTORY)
        self.node.subscribe(convert.TRAJECTORY, "joint_commands", self.commanded, "stream")
        self.node.subscribe(convert.JOINTS, "robot/joint_states", self.measured, "reliable")
        self.button, self.say = self.node.publisher(BOOL, "emergency_stop"), self.node.publisher(STRING, "instruction")
        self.release, self.reset = self.node.publisher(EMPTY, "safety/release"), self.node.publisher(EMPTY, "sim/reset")
        self.node.timer(0.005, self.send_late)
        for name in ("safety", "agent", "sim"):
            self.start(name)

    # ---- processes

    def start(self, name: str) -> None:
        words = {"safety": [], "agent": ["-r", "agent/trajectory:=wish/trajectory"],
                 "sim": ["-p", f"task:={TASK}", *(w for t in ROBOT for w in ("-r", f"{t}:=robot/{t}"))]}[name]
        inside = ["ip", "netns", "exec", self.namespace] if name == "agent" and self.namespace else []
        log = (self.folder / f"{name}.log").open("a")
        self.processes[name] = subprocess.Popen([*inside, sys.executable, "-m", f"ros_nodes.{name}_node", "--ros-args", *words],
                                                stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"})

    def restart(self, name: str) -> None:
        self.signal(name, signal.SIGKILL)
        self.processes[name].wait()
        self.start(name)

    def signal(self, name: str, number: int) -> None:
        self.processes[name].send_signal(number)

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()

    # ---- what passes

    def relay(self, source: str, goal: str, kind: str) -> None:
        send = self.node.publisher(kind, goal, "reliable")

        def take(value) -> None:
            for changed in self.through.get(goal, lambda v: [v])(value):
                send(changed)

        self.node.subscribe(kind, source, take, "reliable")

    def delay(self, goal: str, seconds: float) -> None:
        kind = ROBOT[goal]
        send = self.node.publisher(kind, goal, "reliable")

        def keep(value) -> list:
            self.late.append((time.time() + seconds, send, value))
            return []

        self.through[goal] = keep

    def send_late(self) -> None:
        while self.late and self.late[0][0] <= time.time():
            _, send, value = self.late.popleft()
            send(value)

    def commanded(self, command) -> None:
        if len(command.joint_names) != 8:
            return  # garbage of our own
        point = command.points[0]
        rows = (np.array(x[:7]) for x in (point.positions, point.velocities, point.accelerations))
        self.record.commands.append((time.time(), *rows))

    def measured(self, state) -> None:
        joints = convert.from_joints(state, convert.TABLETOP)
        self.record.joints.append((time.time(), joints.stamp, joints.position))

    # ---- trials

    def notice(self) -> None:
        self.noticed = self.noticed or time.time()

    @property
    def speed(self) -> float:
        """Of the fastest joint, as commanded last."""
        commands = self.record.commands
        return float(np.abs(commands[-1][2]).max()) if commands and time.time() - commands[-1][0] < 0.2 else 0.0

    def wait(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        end = time.time() + seconds
        self.node.spin(lambda: until() or time.time() > end)
        return until()

    def trial(self, fault: Fault) -> Trial:
        """Raises RuntimeError where the robot does not begin to move."""
        while self.speed < MOVING:
            if not self.begun():
                raise RuntimeError(f"the robot did not begin to move within {STARTING} s; see {self.folder}/*.log")
            self.wait(0.2)
        self.record, self.noticed, begin = Record(self.record.commands[-1:]), None, time.time()
        fault.broken(self)
        self.wait(LASTS)
        out = judged(self.record, begin, (self.noticed or begin + fault.after) - begin)
        fault.mended(self)
        self.through.clear()
        out.resumed = self.wait(RESUMING, lambda: self.speed > MOVING)
        out.recovered = self.begun()
        return out

    def begun(self) -> bool:
        """Begin another episode; whether the robot moves in it."""
        self.reset(message(EMPTY)())
        self.wait(0.5)
        return self.wait(STARTING, lambda: self.speed > MOVING)


# ---- judging


def judged(record: Record, begin: float, noticeable: float) -> Trial:
    times = np.array([t for t, *_ in record.commands])
    q, dq, ddq = (np.array(x) for x in zip(*(row for _, *row in record.commands)))
    out = Trial(noticeable, worst=worst(q, dq, ddq, np.diff(times)))
    first = first_of_stop(q, dq, ddq)
    if first is not None:
        out.braking = float(max(0.0, times[first] - begin))
    out.standing, out.fastest = stands(record, begin), fastest(record)
    return out


def worst(q: np.ndarray, dq: np.ndarray, ddq: np.ndarray, apart: np.ndarray | float = PERIOD) -> float:
    """The largest share of a limit: positions (1 at the end of a range), velocities, accelerations, jerks, and the speed from
    one position to the next, and the acceleration from one speed to the next, each within a PERIOD, whenever they came.
    apart: s between the commands; behind a gap the supervisor is another one, and only the positions have to fit."""
    middle, half = (PANDA.q_max + PANDA.q_min) / 2, (PANDA.q_max - PANDA.q_min) / 2
    gap = np.broadcast_to(apart, len(q) - 1)[:, None]
    whole, gap = gap < GAP, np.where(gap < GAP, PERIOD, gap)
    shares = [np.abs(q - middle) / half, np.abs(dq) / PANDA.dq_max, np.abs(ddq) / PANDA.ddq_max,
              whole * np.abs(np.diff(dq, axis=0)) / PERIOD / PANDA.ddq_max,
              whole * np.abs(np.diff(ddq, axis=0)) / PERIOD / PANDA.dddq_max, np.abs(np.diff(q, axis=0)) / gap / PANDA.dq_max]
    return float(max(share.max(initial=0.0) for share in shares))


def stop_from(q: np.ndarray, dq: np.ndarray, ddq: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position and velocity one period on along the fastest stop."""
    asked = ruckig.InputParameter(7)
    asked.control_interface, asked.synchronization = ruckig.ControlInterface.Velocity, ruckig.Synchronization.No
    asked.current_position, asked.current_velocity, asked.current_acceleration = q, dq, ddq
    asked.max_velocity, asked.max_acceleration, asked.max_jerk = PANDA.dq_max, PANDA.ddq_max, PANDA.dddq_max
    asked.target_velocity, asked.target_acceleration = np.zeros(7), np.zeros(7)
    way = ruckig.Trajectory(7)
    ruckig.Ruckig(7, PERIOD).calculate(asked, way)
    return tuple(np.array(x) for x in way.at_time(PERIOD)[:2])


def first_of_stop(q: np.ndarray, dq: np.ndarray, ddq: np.ndarray) -> int | None:
    """The first command of the fastest stop that ends in a stand and lasts to the end of the record."""
    if np.abs(dq[-1]).max() > SAME:
        return None
    at = len(q) - 1
    while at > 0 and all(np.abs(x - y).max() < SAME for x, y in zip(
            stop_from(q[at - 1], dq[at - 1], ddq[at - 1]), (q[at], dq[at]))):
        at -= 1
    return at + 1 if at + 1 < len(q) else None


def stands(record: Record, begin: float) -> float | None:
    """When the measured joints came to rest for good."""
    rows = [(t, stamp, q) for t, stamp, q in record.joints if t > begin]
    speeds = [np.abs((b[2] - a[2]) / max(b[1] - a[1], 1e-6)).max() for a, b in zip(rows, rows[1:])]
    fast = [i for i, speed in enumerate(speeds) if speed > STANDING]
    if not fast:
        return 0.0
    return rows[fast[-1] + 1][0] - begin if fast[-1] + 1 < len(speeds) else None


def fastest(record: Record) -> float:
    """The largest share of a limit of speed that the measured joints used, from one state to the one ACROSS states later: the
    stamps of a simulation in real time are some milliseconds off."""
    return max((float((np.abs(b[2] - a[2]) / (b[1] - a[1]) / PANDA.dq_max).max())
                for a, b in zip(record.joints, record.joints[ACROSS:]) if b[1] > a[1]), default=0.0)


# ---- networks


@contextmanager
def bench(folder: Path, apart: bool = False) -> Iterator[Bench]:
    """A bench in a domain of its own; apart: the agent in a network of its own. Raises OSError or CalledProcessError where
    network namespaces are not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % 99 + 100 * apart)
    made = None
    with network() if apart else nullnet() as namespace:
        try:
            made = Bench(folder, namespace)
            yield made
        finally:
            if made:
                made.close()


@contextmanager
def nullnet() -> Iterator[str]:
    yield ""


@contextmanager
def network() -> Iterator[str]:
    """A network namespace, by its name, that a cable joins to this machine, over which DDS goes."""
    clear()
    name, subnet = f"{NETWORK}{os.getpid()}", f"10.231.{os.getpid() % 256}"
    ip("netns", "add", name)
    before = os.environ.get("CYCLONEDDS_URI")
    try:
        ip("link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b", "netns", name)
        ip("addr", "add", f"{subnet}.1/24", "dev", f"{name}a")
        ip("-n", name, "addr", "add", f"{subnet}.2/24", "dev", f"{name}b")
        ip("link", "set", f"{name}a", "up")
        ip("-n", name, "link", "set", f"{name}b", "up")
        ip("-n", name, "link", "set", "lo", "up")
        os.environ["CYCLONEDDS_URI"] = (
            f"<CycloneDDS><Domain><General><Interfaces><NetworkInterface address='{subnet}.0'/></Interfaces>"
            "<AllowMulticast>true</AllowMulticast></General></Domain></CycloneDDS>")
        yield name
    finally:
        os.environ.pop("CYCLONEDDS_URI", None)
        if before is not None:
            os.environ["CYCLONEDDS_URI"] = before
        remove(name)


def clear() -> None:
    """Delete the network namespaces of processes that were killed: an interface left over has addresses of its own, over which
    DDS may go instead."""
    for name in ip("netns", "list").split():
        process = name.removeprefix(NETWORK)
        if name != process and process.isdigit() and not Path(f"/proc/{process}").exists():
            remove(name)


def remove(name: str) -> None:
    """The cable first: with its namespace it would go only later, and another of its name could not be laid at once."""
    subprocess.run(["ip", "link", "delete", f"{name}a"], check=False, capture_output=True)
    ip("netns", "delete", name)


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout
