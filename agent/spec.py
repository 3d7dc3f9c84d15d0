"""The shared contract: the names of what is sensed and done, their shapes, units and frames.

Every part of the project speaks LeRobot's key dialect:

    observation.images.NAME   uint8   (H, W, 3)  RGB
    observation.audio.mic     float32 (n, C)     samples in [-1, 1] since the last observation that was given
    observation.state         float32 (S,)       names and units in Spec.state
    observation.SENSE         float32 (n,)       other low-dimensional senses, names and units in Spec.senses
    task                      str                the instruction as text, "" when it is spoken or not yet given
    timestamp                 float              seconds, when the sensors were read
    action                    float32 (A,)       names, bounds, frames and units in ActionSpec

This module imports numpy only, so that environments and robot nodes need no learning stack.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Mapping

import numpy as np

IMAGES = "observation.images."
AUDIO = "observation.audio.mic"
STATE = "observation.state"
SENSE = "observation."  # + name: as in "observation.force"
TASK = "task"
TIME = "timestamp"
ACTION = "action"


_TOOL = {"dx": ("base", "m"), "dy": ("base", "m"), "dz": ("base", "m"), "dyaw": ("base", "rad"), "gripper": ("hand", "1")}


class SpecError(ValueError):
    """An observation, action or description that breaks the contract; the message names what came and what is allowed."""


@dataclass(frozen=True)
class ActionSpec:
    """What an action means.

    kind "ee_delta": (dx, dy, dz, dyaw, gripper) in [-1, 1]; the first four are multiplied by `scale` (m, m, m, rad per
    control step) and added to the last commanded tool target, in the robot's base frame, the tool pointing down;
    gripper +1 is open and -1 is closed.
    kind "joint_position": absolute joint angles in rad, then the gripper's opening in m.
    kind "native": whatever the environment takes; passed through untouched.

    frames and units are those of each column, left out those of its kind; "" is unknown. Frame "joint" is about a joint's
    own axis; a unit is that of the column times its scale, "1" a pure number.
    """

    kind: str
    names: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    scale: tuple[float, ...] = ()
    workspace: tuple[tuple[float, float, float], tuple[float, float, float]] | None = None  # (min, max) m, base frame
    frames: tuple[str, ...] = ()
    units: tuple[str, ...] = ()

    def __post_init__(self):
        if self.kind not in ("ee_delta", "joint_position", "native"):
            raise SpecError(f"action kind {self.kind!r}: allowed are ee_delta, joint_position, native")
        if not len(self.names) == len(self.low) == len(self.high):
            raise SpecError(f"{len(self.names)} action names, {len(self.low)} low and {len(self.high)} high bounds")
        for key, i in (("frames", 0), ("units", 1)):
            given = getattr(self, key) or tuple(_meaning(self.kind, name)[i] for name in self.names)
            if len(given) != self.size:
                raise SpecError(f"{self.size} action names, {len(given)} {key}")
            object.__setattr__(self, key, given)

    @property
    def size(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Spec:
    """What a robot senses and does. Distances in m, angles in rad, positions in the robot's base frame."""

    cameras: dict[str, tuple[int, int]]  # name -> (height, width) in pixels
    state: tuple[str, ...]
    action: ActionSpec
    control_hz: float
    microphones: tuple[tuple[float, float, float], ...] = ()  # one position a channel
    sample_rate: int = 16000  # Hz
    senses: dict[str, tuple[str, ...]] = field(default_factory=dict)  # name -> its channels, such as wrist force in N

    def check(self, obs: Mapping[str, Any], any_size: bool = False) -> None:
        """Raise SpecError naming the first key that is missing or has another shape or type than this Spec says; any_size:
        pictures may be of any size."""
        for name, size in self.cameras.items():
            _check_array(obs, IMAGES + name, (*((None, None) if any_size else size), 3), np.uint8)
        _check_array(obs, STATE, (len(self.state),), np.float32)
        if self.microphones:
            _check_array(obs, AUDIO, (None, len(self.microphones)), np.float32)
        for name, channels in self.senses.items():
            _check_array(obs, SENSE + name, (len(channels),), np.float32)
        time = np.asarray(obs.get(TIME))
        if time.ndim or time.dtype.kind not in "iuf" or not np.isfinite(time):
            raise SpecError(f"{TIME}: a finite number of seconds is needed, got {obs.get(TIME)}")
        if not isinstance(obs.get(TASK), str):
            raise SpecError(f"{TASK}: a str is needed, got {type(obs.get(TASK)).__name__}")

    def blank(self, text: str = "") -> dict:
        """An observation (see `check`) at time 0 in which all is black, at 0 and silent for a second."""
        seen = {IMAGES + name: np.zeros((*size, 3), np.uint8) for name, size in self.cameras.items()}
        felt = {SENSE + name: np.zeros(len(channels), np.float32) for name, channels in self.senses.items()}
        heard = {AUDIO: np.zeros((self.sample_rate, len(self.microphones)), np.float32)} if self.microphones else {}
        return seen | felt | heard | {STATE: np.zeros(len(self.state), np.float32), TASK: text, TIME: np.array(0.0)}

    def to_dict(self) -> dict:
        """Plain JSON-able form; `from_dict` is its inverse, and passes over what it does not know."""
        return asdict(self)

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> "Spec":
        return cls(**_known(cls, d) | {"action": ActionSpec(**_known(ActionSpec, d["action"]))})


@dataclass(frozen=True)
class Chunk:
    """What a policy answers: actions (T, A) float32, the i-th meant for [stamp + i/hz, stamp + (i+1)/hz).

    `stamp` is the time of the observation that the chunk was made from, not the time when it was ready.
    """

    actions: np.ndarray
    stamp: float
    hz: float


def _meaning(kind: str, column: str) -> tuple[str, str]:
    """(frame, unit) of a column of this kind of action."""
    if kind == "joint_position":
        return ("hand", "m") if column == "opening" else ("joint", "rad")
    return _TOOL.get(column, ("", "")) if kind == "ee_delta" else ("", "")


def _check_array(obs: Mapping[str, Any], key: str, shape: tuple, dtype) -> None:
    if key not in obs:
        raise SpecError(f"{key} is missing; the observation has {sorted(obs)}")
    value = obs[key]
    fits = isinstance(value, np.ndarray) and value.dtype == dtype and len(value.shape) == len(shape)
    if not fits or any(want not in (None, got) for want, got in zip(shape, value.shape)):
        got = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
        raise SpecError(f"{key}: {np.dtype(dtype)} {shape} is needed, got {got}")
    if np.issubdtype(value.dtype, np.floating) and not np.isfinite(value).all():
        raise SpecError(f"{key}: holds NaN or infinite values")


def _known(kind: type, d: Mapping[str, Any]) -> dict[str, Any]:
    return {f.name: _tuples(d[f.name]) for f in fields(kind) if f.name in d}


def _tuples(value):
    if isinstance(value, Mapping):
        return {k: _tuples(v) for k, v in value.items()}
    return tuple(_tuples(v) for v in value) if isinstance(value, (list, tuple)) else value
