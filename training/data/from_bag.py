"""A rosbag2 recording of a robot at work -> demonstrations (LeRobotDataset v3), through the rosbags library.

Sensors are brought together by their stamps, not by when they were recorded. An instruction begins an episode; the next
one, the verdict on `/episode` or the end of the recording ends it. What was commanded on the way from one frame to the
next is the action; where nothing was commanded, what was measured.

Legend: n samples, C channels; times in s on the sensors' clock.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from agent.spec import ACTION, IMAGES, STATE, Spec
from envs.arm import ARMS, STATE_NAMES, Arm, JointState, arm_state, ee_delta, ee_delta_action
import ros_nodes.convert as convert
from ros_nodes.cdr import decode
from training.data.assemble import adding, recorded_names
from training.data.demos import DemoWriter

SLACK = 1e-3  # s: a stamp may be so much behind a frame and still be of it
STRING = "std_msgs/msg/String"
PICTURES = {convert.IMAGE: convert.from_image, convert.COMPRESSED: convert.from_compressed}
TAILS = ("/image_raw/compressed", "/compressed", "/image_raw")


class BagError(ValueError):
    """A recording that holds no demonstrations; the message says what it has and what is needed."""


class Track:
    """What one topic told: values by their stamps."""

    def __init__(self):
        self.stamps: list[float] = []
        self.values: list[Any] = []

    def add(self, stamp: float, value: Any) -> None:
        """A stamp that is not behind the last one says nothing new."""
        if not self.stamps or stamp > self.stamps[-1]:
            self.stamps.append(stamp)
            self.values.append(value)

    def at(self, time: float) -> int:
        """Number of the newest value of `time` or before; -1 where there is none."""
        return bisect_right(self.stamps, time + SLACK) - 1


class Told(NamedTuple):
    """An instruction, or a verdict on the episode that ends."""

    recorded: float  # s on the recorder's clock
    text: str
    success: bool | None = None


@dataclass
class Session:
    """All of a recording but the pictures, of which there is only when they were recorded (ns)."""

    cameras: dict[str, str]  # name -> topic
    began: int  # ns on the recorder's clock
    pictures: dict[str, Track] = field(default_factory=dict)
    joints: Track = field(default_factory=Track)
    commands: Track = field(default_factory=Track)
    audio: Track = field(default_factory=Track)  # values: messages
    told: list[Told] = field(default_factory=list)
    clock: list[tuple[float, float]] = field(default_factory=list)  # (recorded, stamp) of each joint state
    trouble: str = "none came"  # why the last joint state that was passed over says nothing

    def sensed_at(self, recorded: float) -> float:
        """A time of the recorder's clock on that of the sensors."""
        recorders, stamps = np.array(self.clock).T
        return float(np.interp(recorded, recorders, stamps))


class Cut(NamedTuple):
    """One episode: [start, end) s."""

    start: float
    end: float
    task: str
    success: bool | None


def from_bag(bag: str | Path, out: str | Path, arm: str = "panda", hz: float = 10.0, task: str | None = None,
             cameras: Mapping[str, str] | None = None, joints: convert.Joints = convert.TABLETOP, oldest: float = 0.3,
             failures: bool = False) -> list[str]:
    """Add the episodes of a recording (a folder with metadata.yaml) to the dataset at `out`; gives one line about each.

    task: the instruction, for a recording without any. cameras: name -> topic; without, all topics with pictures.
    joints: how the robot names them. oldest: s that a picture or joint state may be old.
    failures: also keep episodes that `/episode` calls failures. Raises BagError; ConvertError for a message that is
    broken.
    """
    if arm not in ARMS:
        raise BagError(f"arm {arm!r}: allowed are {', '.join(ARMS)}")
    if len(joints.names) != (count := len(ARMS[arm].home)) + 1:
        raise BagError(f"joints={','.join(joints.names)}: the {count} of the {arm} and a gripper are needed")
    if not hz > 0:
        raise BagError(f"hz={hz}: frames a second, above 0, are needed")
    session = listen(bag, cameras or {}, joints)
    cuts, there = episodes(session, task), recorded_names(Path(out))
    lines, writer = [], None
    with adding(Path(out)):
        for number, cut in enumerate(cuts):
            name = f"{Path(bag).resolve().name}-{session.began}-{number:04d}"
            times, trouble = frame_times(session, cut, hz, oldest)
            if cut.success is False and not failures:
                trouble = "a failure"
            if name in there:
                trouble = f"{out} has it already"
            if trouble:
                lines.append(f"{cut.task!r}: {trouble}, passed over")
                continue
            writer = writer or DemoWriter(out, spec_of(session, bag, hz), arm)
            record(writer, session, bag, times, ARMS[arm])
            info = {} if cut.success is None else {"success": cut.success}
            writer.save(name, cut.task, sound(session, times, hz), **info)
            lines.append(f"{cut.task!r}: {len(times)} frames")
    return lines


# ---- reading


def opened(bag: str | Path):
    try:
        from rosbags.rosbag2 import Reader
    except ImportError as error:
        raise BagError("recordings are read by the Python package rosbags: pip install 'soma-agent[ros]'") from error
    if not (Path(bag) / "metadata.yaml").is_file():
        raise BagError(f"{bag}: no metadata.yaml in it, as the folder of a rosbag2 recording has")
    return Reader(bag)


def camera_name(topic: str) -> str:
    """"/camera/front/image_raw" -> "front"; "/wrist_cam/color/image_raw" -> "wrist_cam_color"."""
    for tail in TAILS:
        topic = topic.removesuffix(tail)
    return topic.removeprefix("/camera").strip("/").replace("/", "_") or "camera"


def listen(bag: str | Path, cameras: Mapping[str, str], joints: convert.Joints) -> Session:
    """Read everything but the pictures' pixels."""
    with opened(bag) as reader:
        kinds = {c.topic: c.msgtype for c in reader.connections}
        shown = cameras or {camera_name(topic): topic for topic, kind in kinds.items() if kind in PICTURES}
        wrong = [topic for topic in shown.values() if kinds.get(topic) not in PICTURES]
        if wrong or not shown or convert.JOINTS not in kinds.values():
            raise BagError(f"{bag}: {', '.join(wrong) or 'pictures and joint states'} needed; it has "
                           + ", ".join(f"{topic} ({kind})" for topic, kind in sorted(kinds.items())))
        session = Session(dict(shown), reader.start_time, {name: Track() for name in shown})
        by_topic, gathered = {topic: name for name, topic in shown.items()}, convert.Gathered(joints)
        for connection, recorded, data in reader.messages():
            take(session, connection.topic, connection.msgtype, recorded, data, by_topic, gathered)
    if not session.clock:
        raise BagError(f"{bag}: no joint state of {', '.join(joints.names)}: {session.trouble}")
    return session


def take(session: Session, topic: str, kind: str, recorded_ns: int, data: bytes, cameras: Mapping[str, str],
         gathered: convert.Gathered) -> None:
    """One message of the recording."""
    recorded = recorded_ns * 1e-9
    if topic in cameras:
        session.pictures[cameras[topic]].add(stamp_of(data), recorded_ns)
    elif kind == convert.JOINTS:
        feel(session, recorded, decode(data, kind), gathered)
    elif topic.endswith("/joint_commands") and kind == convert.TRAJECTORY:
        order(session, decode(data, kind), gathered.joints)
    elif kind == convert.AUDIO:
        audio = decode(data, kind)
        session.audio.add(convert.seconds(audio.header.stamp), audio)
    elif topic.endswith("/instruction") and kind == STRING:
        session.told.append(Told(recorded, decode(data, kind).data))
    elif topic.endswith("/episode") and kind == STRING:
        success = convert.from_episode(decode(data, kind))
        if success is not None:
            session.told.append(Told(recorded, "", success))


def feel(session: Session, recorded: float, state: Any, gathered: convert.Gathered) -> None:
    """A joint state, put together with those before it, as of an arm and a hand; one that says nothing is passed over, as the
    agent does."""
    try:
        measured = gathered.take(state)
    except convert.ConvertError as error:
        session.trouble = str(error)
        return
    if measured is not None and (not session.joints.stamps or measured.stamp > session.joints.stamps[-1]):
        session.joints.add(measured.stamp, measured)
        session.clock.append((recorded, measured.stamp))


def order(session: Session, trajectory: Any, joints: convert.Joints) -> None:
    """A command; one that no robot could follow is passed over, as the robot did."""
    try:
        command = convert.from_command(trajectory, joints)
    except convert.ConvertError:
        return
    session.commands.add(command.stamp, command)


def stamp_of(data: bytes) -> float:
    """Of a message that begins with a header, unread."""
    sec, nanosec = struct.unpack_from(("<" if data[1] else ">") + "iI", data, 4)
    return sec + 1e-9 * nanosec


# ---- what belongs together


def episodes(session: Session, task: str | None) -> list[Cut]:
    """Raises BagError where nobody says what was to be done."""
    told = session.told if task is None else [t for t in session.told if t.success is not None]
    first, last = session.joints.stamps[0], session.joints.stamps[-1]
    if task is not None:
        verdict = told[-1].success if told else None
        return [Cut(first, last, task, verdict)]
    cuts = []
    for this, after in zip(told, [*told[1:], None]):
        if this.text:
            start, end = session.sensed_at(this.recorded), last if after is None else session.sensed_at(after.recorded)
            cuts.append(Cut(start, end, this.text, None if after is None else after.success))
    if not cuts:
        raise BagError("no instruction in the recording (std_msgs/msg/String on /instruction): task=WORDS says it")
    return cuts


def frame_times(session: Session, cut: Cut, hz: float, oldest: float) -> tuple[np.ndarray, str]:
    """Times of the episode's frames, from the first joint state with pictures on, and what is wrong with it, if anything."""
    ready = max([cut.start, *(track.stamps[0] for track in session.pictures.values() if track.stamps)])
    first = bisect_right(session.joints.stamps, ready - SLACK)
    start = session.joints.stamps[min(first, len(session.joints.stamps) - 1)]
    count = int(np.floor((cut.end - start) * hz + SLACK))
    if count < 1:
        return np.zeros(0), f"it lasts {max(cut.end - start, 0):.2f} s"
    times = start + np.arange(count + 1) / hz
    for name, track in {**session.pictures, "joints": session.joints}.items():
        for time in times:
            at = track.at(time)
            if at < 0 or time - track.stamps[at] > oldest + SLACK:
                return times[:-1], f"{name}: nothing new for more than {oldest} s at {time - start:.2f} s"
    return times[:-1], ""


def command_at(session: Session, time: float, since: float) -> JointState:
    """What was commanded for `time`; what was measured where nothing was `since` the episode began."""
    at = session.commands.at(time)
    known = at >= 0 and session.commands.stamps[at] >= since
    return session.commands.values[at] if known else session.joints.values[session.joints.at(time)]


def spec_of(session: Session, bag: str | Path, hz: float) -> Spec:
    """Of the robot that was recorded. Nobody says where its microphones are: they stand at the base."""
    first = {name: pictures(session, bag, name, [0])[0].shape[:2] for name in session.cameras}
    audio = session.audio.values[:1]
    channels, rate = (audio[0].channels, audio[0].sample_rate) if audio else (0, 16000)
    return Spec(first, STATE_NAMES, ee_delta_action(None), hz, ((0.0, 0.0, 0.0),) * channels, rate)


def record(writer: DemoWriter, session: Session, bag: str | Path, times: np.ndarray, arm: Arm) -> None:
    """Give the frames of one episode to the writer."""
    seen = {name: pictures(session, bag, name, [track.at(t) for t in times]) for name, track in session.pictures.items()}
    commands = [command_at(session, t, times[0]) for t in (*times, times[-1] + 1 / writer.spec.control_hz)]
    for i, time in enumerate(times):
        measured, now = session.joints.values[session.joints.at(time)], commands[i]
        action = ee_delta(writer.spec.action, arm, now, commands[i + 1])
        images = {IMAGES + name: shown[i] for name, shown in seen.items()}
        writer.add(images | {STATE: arm_state(arm, measured, now), ACTION: action})


def pictures(session: Session, bag: str | Path, camera: str, numbers: Sequence[int]) -> list[np.ndarray]:
    """The pictures of these numbers (ascending, some more than once) of a camera."""
    track = session.pictures[camera]
    wanted, found, number = set(numbers), {}, numbers[0]
    with opened(bag) as reader:
        connections = [c for c in reader.connections if c.topic == session.cameras[camera]]
        for connection, _, data in reader.messages(connections, track.values[numbers[0]], track.values[numbers[-1]] + 1):
            if number < len(track.stamps) and stamp_of(data) == track.stamps[number]:
                if number in wanted:
                    found[number] = PICTURES[connection.msgtype](decode(data, connection.msgtype))
                number += 1
    return [found[number] for number in numbers]


def sound(session: Session, times: np.ndarray, hz: float) -> dict[str, np.ndarray] | None:
    """What was heard from the first frame to one after the last, (n, C), silence where nothing was recorded; None without
    microphones."""
    if not session.audio.values:
        return None
    rate, channels = session.audio.values[0].sample_rate, session.audio.values[0].channels
    out = np.zeros((round(len(times) / hz * rate), channels), np.float32)
    for stamp, audio in zip(session.audio.stamps, session.audio.values):
        samples, begin = convert.from_audio(audio, rate, channels), round((stamp - times[0]) * rate)
        low, high = max(begin, 0), min(begin + len(samples), len(out))
        if low < high:
            out[low:high] = samples[low - begin : high - begin]
    return {"world": out, "voice": np.zeros_like(out)}
