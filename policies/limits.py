"""What a robot may be commanded at most, and how far it may be from what it is: of the safety supervisor.

Legend: J joints, rad and s; the TCP in m, base frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from envs.arm import Arm


@dataclass(frozen=True, eq=False)
class Limits:
    """What may be commanded. Arrays (J,). `patience` (s): how old the newest sign of life, and the newest measured state,
    may be; `oldest` (s): how old the observation behind a proposal; `jump` (rad): how far a proposal may begin from what
    is commanded; `deviation` (rad): how far the measured joints may be from the commanded, which is brought to a stand, and an
    emergency stop if they then stay there; `drift` (rad): how far from a command to stand, which then goes where they are;
    `force` (N) at the tool, which has to be measured where there is a limit: over it a command to stand goes where the joints
    are, too, so that a stiff arm does not press on."""

    q_min: np.ndarray
    q_max: np.ndarray
    dq_max: np.ndarray
    ddq_max: np.ndarray
    dddq_max: np.ndarray
    workspace: tuple[tuple[float, float, float], tuple[float, float, float]] | None = None
    patience: float = 0.15
    oldest: float = 1.0
    jump: float = 0.5
    deviation: float = 0.3
    drift: float = 0.1
    force: float = np.inf

    @classmethod
    def of(cls, arm: Arm, margin: float = 0.0, share: float = 1.0, **more) -> "Limits":
        """An arm's own, `margin` rad inside its ranges, at a share of its speeds."""
        speeds = {name: share * getattr(arm, name) for name in ("dq_max", "ddq_max", "dddq_max")}
        return cls(arm.q_min + margin, arm.q_max - margin, **speeds, **more)
