"""Between ROS messages and the project's arrays. Times in s, joints in rad, sound in [-1, 1].

Legend: T points, J joints, n samples, C channels.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Sequence
from math import isfinite
from typing import Any, NamedTuple

import cv2
import numpy as np

from envs.arm import STATE_NAMES, Arm, JointState, JointTrajectory
from ros_nodes.arguments import ArgumentError, Parameter
from ros_nodes.interfaces import message

FULL = 32767  # int16 of a sample of 1
CHANNELS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1}
TO_RGB = {"bgr8": cv2.COLOR_BGR2RGB, "rgba8": cv2.COLOR_RGBA2RGB, "bgra8": cv2.COLOR_BGRA2RGB, "mono8": cv2.COLOR_GRAY2RGB}
IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
COMPRESSED_END = "/compressed"  # of the topics of image_transport
JOINTS, AUDIO = "sensor_msgs/msg/JointState", "soma_msgs/msg/Audio"
DIAGNOSTICS = "diagnostic_msgs/msg/DiagnosticArray"
POINT_STAMPED = "geometry_msgs/msg/PointStamped"
TRAJECTORY, POINT = "trajectory_msgs/msg/JointTrajectory", "trajectory_msgs/msg/JointTrajectoryPoint"


class Joints(NamedTuple):
    """How a robot names its joints: those of the arm, in order, then the gripper's. grip: m of opening for each unit of the
    gripper joint's position; 2 where that is what one of two fingers has travelled."""

    names: tuple[str, ...]
    grip: float = 1.0

    def row(self, position: Sequence[float], opening: float) -> array:
        """Positions as messages have them."""
        return array("d", [*position, opening / self.grip])

    def state(self, stamp: float, values: np.ndarray) -> JointState:
        return JointState(stamp, values[:-1], float(values[-1]) * self.grip)


TABLETOP = Joints(tuple(STATE_NAMES[:8]))
STATES = ("joint_states", "gripper_states")  # topics; a gripper's driver may have one of its own
PARAMETERS = {"joints": Parameter(list(TABLETOP.names), "names of the arm's joints in order, then of the gripper's"),
              "grip": Parameter(1.0, "m of opening for each unit of the gripper joint's position", 1e-3, 1e3)}


def joints_of(asked: Any, arm: Arm) -> Joints:
    """As a node's parameters say. Raises ArgumentError for another number of names than the arm has joints, and one."""
    if len(asked.joints) != len(arm.home) + 1:
        raise ArgumentError(f"parameter joints: {len(arm.home)} and a gripper are needed, got {', '.join(asked.joints)}")
    return Joints(tuple(asked.joints), asked.grip)


class Gathered:
    """Joint states that come in parts, as from an arm and a gripper: put together by name. As old as the oldest joint of the
    arm; a gripper may be older by SLOW."""

    SLOW = 1.0  # s
    NAMED = 50  # joints, of all that came, that are named where some are missing

    def __init__(self, joints: Joints):
        self.joints, self.known, self.came = joints, {}, {}

    def take(self, state: Any) -> JointState | None:
        """None for one of other joints alone. Raises ConvertError for positions that are not finite, for a gripper that is too
        old, and as long as a joint has not been heard of."""
        stamp = seconds(state.header.stamp)
        part = {n: (stamp, x) for n, x in zip(state.name, state.position) if n in self.joints.names}
        if not all(isfinite(x) for _, x in part.values()):
            raise ConvertError(f"joint state with positions {list(state.position)}: finite ones are needed")
        self.known |= part
        if len(self.known) < len(self.joints.names):
            self.came |= dict.fromkeys(state.name[: max(0, self.NAMED - len(self.came))])
            missing = ", ".join(name for name in self.joints.names if name not in self.known)
            raise ConvertError(f"joint state without {missing}; it has {', '.join(self.came)}")
        if not part:
            return None
        stamps, values = zip(*(self.known[name] for name in self.joints.names))
        oldest = min(stamps[:-1])
        if stamps[-1] < oldest - self.SLOW:
            raise ConvertError(f"{self.joints.names[-1]} is {oldest - stamps[-1]:.1f} s older than the arm's joints")
        return self.joints.state(oldest, np.array(values))


class ConvertError(ValueError):
    """A message that does not hold what its type promises; the text says what came and what is allowed."""


def seconds(stamp: Any) -> float:
    """builtin_interfaces Time or Duration -> s."""
    return stamp.sec + 1e-9 * stamp.nanosec


def set_time(stamp: Any, time: float) -> None:
    """Write s into a Time or Duration, rounded to ns."""
    stamp.sec, stamp.nanosec = divmod(round(time * 1e9), 1_000_000_000)


def header(out: Any, stamp: float, frame: str = "") -> Any:
    """The message, stamped."""
    set_time(out.header.stamp, stamp)
    out.header.frame_id = frame
    return out


# ---- images


def camera_topics(names: Iterable[str], given: Sequence[str], compressed: bool) -> dict[str, str]:
    """name -> topic of each camera; `given`: NAME=TOPIC for some, compressed: how the others come. A topic that ends with
    COMPRESSED_END has COMPRESSED. Raises ArgumentError for another name."""
    topics = {name: f"camera/{name}/image_raw{COMPRESSED_END if compressed else ''}" for name in names}
    for pair in given:
        name, _, topic = str(pair).partition("=")
        if name not in topics or not topic:
            raise ArgumentError(f"parameter cameras: NAME=TOPIC is needed, NAME one of {', '.join(topics)}; got {pair}")
        topics[name] = topic
    return topics


def to_image(picture: np.ndarray, stamp: float, frame: str) -> Any:
    """RGB uint8 (H, W, 3) -> Image."""
    out = header(message(IMAGE)(), stamp, frame)
    out.height, out.width, out.encoding, out.step = *picture.shape[:2], "rgb8", 3 * picture.shape[1]
    out.data = np.ascontiguousarray(picture).tobytes()
    return out


def from_image(image: Any) -> np.ndarray:
    """Image -> RGB uint8 (H, W, 3). Raises ConvertError for another encoding, or too few bytes."""
    if image.encoding not in CHANNELS:
        raise ConvertError(f"image encoding {image.encoding!r}: allowed are {', '.join(CHANNELS)}")
    count, row = CHANNELS[image.encoding], image.width * CHANNELS[image.encoding]
    data = np.frombuffer(image.data, np.uint8)
    if image.step < row or len(data) < image.height * image.step or not row or not image.height:
        raise ConvertError(f"image {image.width}x{image.height} {image.encoding}: {len(data)} bytes, rows of {image.step}")
    picture = data[: image.height * image.step].reshape(image.height, image.step)[:, :row]
    picture = picture.reshape(image.height, image.width, count)
    return cv2.cvtColor(picture, TO_RGB[image.encoding]) if image.encoding in TO_RGB else picture


def from_compressed(image: Any) -> np.ndarray:
    """CompressedImage (JPEG, PNG) -> RGB uint8 (H, W, 3). Raises ConvertError for bytes that are no picture."""
    data = np.frombuffer(image.data, np.uint8)
    try:
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    except cv2.error:  # a header that promises more pixels than there can be
        picture = None
    if picture is None:
        raise ConvertError(f"compressed image of format {image.format!r}: {len(data)} bytes that are no picture")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


# ---- sound


def to_audio(samples: np.ndarray, rate: int, stamp: float, frame: str = "") -> Any:
    """(n, C) in [-1, 1] -> Audio, stamped with the time of the first sample."""
    out = header(message(AUDIO)(), stamp, frame)
    out.sample_rate, out.channels = rate, samples.shape[1]
    out.data = array("h", np.round(np.clip(samples, -1, 1) * FULL).astype(np.int16).tobytes())
    return out


def from_audio(audio: Any, rate: int, channels: int) -> np.ndarray:
    """Audio -> (n, C) float32. Raises ConvertError for another rate or number of channels than the robot's."""
    if audio.sample_rate != rate or audio.channels != channels or len(audio.data) % channels:
        raise ConvertError(f"audio of {audio.channels} channels at {audio.sample_rate} Hz, {len(audio.data)} samples in "
                           f"all: {channels} at {rate} Hz are needed")
    return np.frombuffer(audio.data, np.int16).reshape(-1, channels).astype(np.float32) / FULL


# ---- episodes


def from_episode(said: Any) -> bool | None:
    """What a simulated robot says of its episode (JSON in a String): success, failure, or None while it runs. Raises
    ConvertError."""
    try:
        return {"success": True, "failure": False}.get(json.loads(said.data)["state"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ConvertError(f"episode {said.data[:80]!r}: JSON with a state is needed") from error


# ---- where it goes


def to_point(point: np.ndarray, stamp: float, frame: str) -> Any:
    """(3,) m -> PointStamped."""
    out = header(message(POINT_STAMPED)(), stamp, frame)
    out.point.x, out.point.y, out.point.z = map(float, point)
    return out


# ---- diagnostics

OK, WARN, ERROR = 0, 1, 2  # diagnostic_msgs/DiagnosticStatus


def to_diagnostics(name: str, level: int, text: str, stamp: float) -> Any:
    """A DiagnosticArray of one status."""
    out, status = header(message(DIAGNOSTICS)(), stamp), message("diagnostic_msgs/msg/DiagnosticStatus")()
    status.name, status.level, status.message = name, level, text
    out.status = [status]
    return out


# ---- joints


def to_joints(state: JointState, joints: Joints) -> Any:
    out = header(message(JOINTS)(), state.stamp)
    out.name, out.position = list(joints.names), joints.row(state.position, state.opening)
    return out


def from_joints(state: Any, joints: Joints) -> JointState:
    """Whatever order the message has. Raises ConvertError for a joint that is missing or not finite."""
    return Gathered(joints).take(state)


def to_trajectory(trajectory: JointTrajectory, joints: Joints) -> Any:
    """The points behind the stamp; the command that it starts from is the first, at time 0."""
    start = trajectory.start
    times = np.array([trajectory.stamp, *trajectory.times])
    rows = zip([start.position, *trajectory.positions], [start.opening, *trajectory.openings])
    out = header(message(TRAJECTORY)(), trajectory.stamp)
    out.joint_names = list(joints.names)
    for time, row in zip(times - trajectory.stamp, rows):
        point = message(POINT)()
        point.positions = joints.row(*row)
        set_time(point.time_from_start, float(time))
        out.points.append(point)
    return out


def from_trajectory(trajectory: Any, joints: Joints) -> JointTrajectory | None:
    """It begins at a first point of time 0; one that is behind the stamp is where it begins, too. None for one without points,
    which is a sign of life only. Raises ConvertError for other joints or ragged points."""
    if not trajectory.points:
        return None
    names = joints.names
    if sorted(trajectory.joint_names) != sorted(names):
        raise ConvertError(f"trajectory of {', '.join(trajectory.joint_names)}: {', '.join(names)} are needed")
    lengths = {len(point.positions) for point in trajectory.points}
    if lengths != {len(names)}:
        raise ConvertError(f"trajectory of {len(trajectory.points)} points with {sorted(lengths)} positions: each needs "
                           f"{len(names)}")
    order = [trajectory.joint_names.index(name) for name in names]
    rows = np.array([point.positions for point in trajectory.points], float)[:, order]
    stamp = seconds(trajectory.header.stamp)
    times = np.array([seconds(point.time_from_start) for point in trajectory.points])
    first = int(times[0] <= 0 < len(rows) - 1)  # of the points behind the stamp
    times, ways = stamp + times[first:], rows[first:]
    return JointTrajectory(joints.state(stamp, rows[0]), times, ways[:, :-1], ways[:, -1] * joints.grip)


def from_command(trajectory: Any, joints: Joints) -> JointState:
    """The last point of a command, stamped with the time at which it is to be reached. Raises ConvertError for a command
    without points or joints, or one that is not finite."""
    names = joints.names
    if not trajectory.points or set(names) - set(trajectory.joint_names):
        known = ", ".join(trajectory.joint_names) or "no joints"
        raise ConvertError(f"command of {len(trajectory.points)} points for {known}: a point for {', '.join(names)} is needed")
    point = trajectory.points[-1]
    known = dict(zip(trajectory.joint_names, point.positions))
    values = np.array([known.get(name, np.nan) for name in names], float)
    if not np.isfinite(values).all():
        raise ConvertError(f"command to {values.tolist()}: {len(names)} finite values are needed")
    end = seconds(trajectory.header.stamp) + seconds(point.time_from_start)
    return joints.state(end, values)
