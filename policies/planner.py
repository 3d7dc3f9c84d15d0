"""The fastest ways for joints under limits of velocity, acceleration and jerk, each joint for itself (ruckig, Berscheid and
Kroeger, "Jerk-limited real-time trajectory generation with arbitrary target states", RSS 2021).

Legend: J joints, rad and s.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import ruckig
from ruckig import Trajectory


class Motion(NamedTuple):
    """A joint state with its derivatives, each (J,)."""

    q: np.ndarray
    dq: np.ndarray
    ddq: np.ndarray


class Bounds(Protocol):
    """Of joints and their derivatives, each (J,)."""

    q_min: np.ndarray
    q_max: np.ndarray
    dq_max: np.ndarray
    ddq_max: np.ndarray
    dddq_max: np.ndarray


class Planner:
    def __init__(self, joints: int, period: float):
        self.joints, self.planner = joints, ruckig.Ruckig(joints, period)

    def to_speed(self, motion: Motion, speed: np.ndarray, bounds: Bounds) -> Trajectory:
        """From a motion to a speed (J,); to 0 it is the fastest stop."""
        asked = self._from(motion, bounds)
        asked.control_interface, asked.target_velocity = ruckig.ControlInterface.Velocity, speed
        return self._planned(asked)

    def to_stand(self, motion: Motion, q: np.ndarray, bounds: Bounds) -> Trajectory:
        """From a motion to a stand at (J,), or at the end of a joint's range on the way there."""
        asked = self._from(motion, bounds)
        asked.target_position = np.clip(q, bounds.q_min, bounds.q_max)
        return self._planned(asked)

    def _from(self, motion: Motion, bounds: Bounds) -> ruckig.InputParameter:
        asked = ruckig.InputParameter(self.joints)
        asked.synchronization = ruckig.Synchronization.No
        asked.current_position, asked.current_velocity, asked.current_acceleration = motion
        asked.max_velocity, asked.max_acceleration, asked.max_jerk = bounds.dq_max, bounds.ddq_max, bounds.dddq_max
        asked.target_velocity = asked.target_acceleration = np.zeros(self.joints)
        return asked

    def _planned(self, asked: ruckig.InputParameter) -> Trajectory:
        way = Trajectory(self.joints)
        self.planner.calculate(asked, way)
        return way


def at(way: Trajectory, t: float) -> Motion:
    """State of a planned way at time t; after its end it stays."""
    return Motion(*(np.array(x) for x in way.at_time(t)[:3]))
