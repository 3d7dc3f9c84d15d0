"""One state-free arm model: kinematics, limits, and the one function from a chunk to a timed joint trajectory.

    q      (7,)    joint angles, rad                  tool    (x, y, z, yaw) of the TCP, m and rad, tool pointing down
    pose   (4, 4)  base_T_tcp, homogeneous, m         twist   (6,) linear then angular, m and rad, base frame

The base frame is x forward, y left, z up. The TCP lies between the finger tips, its z axis leaves the hand and its y
axis is the direction in which the fingers open. At yaw 0 the TCP's x axis points forward.

The solver works on Python floats: for chains of seven joints they are several times as fast as small numpy arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import atan2, cos, pi, sin, sqrt

import numpy as np

from agent.spec import ActionSpec, Chunk, SpecError

STATE_NAMES = (
    *(f"joint_{i}" for i in range(1, 8)), "gripper", "tool_x", "tool_y", "tool_z", "tool_yaw_sin", "tool_yaw_cos",
    "target_dx", "target_dy", "target_dz", "target_dyaw", "gripper_target",
)  # fmt: skip
FLANGE_TO_TCP = 0.107 + 0.1034  # m along the last joint's axis: flange, then hand frame to finger tips
HAND_YAW = -pi / 4  # rad, the hand's mounting about the flange's axis

# Modified Denavit-Hartenberg rows (Craig): a (m), d (m), cos(alpha), sin(alpha), of joints 1..7.
# Franka Robotics, FCI documentation, "Robot and interface specifications"; Panda and FR3 share them.
FRANKA_DH = (
    (0.0, 0.333, 1.0, 0.0),
    (0.0, 0.0, 0.0, -1.0),
    (0.0, 0.316, 0.0, 1.0),
    (0.0825, 0.0, 0.0, 1.0),
    (-0.0825, 0.384, 0.0, -1.0),
    (0.0, 0.0, 0.0, 1.0),
    (0.088, 0.0, 0.0, 1.0),
)


@dataclass(frozen=True, eq=False)
class Arm:
    """Geometry and limits of one arm; every array is (7,), in rad and s."""

    name: str
    dh: tuple[tuple[float, float, float, float], ...]
    q_min: np.ndarray
    q_max: np.ndarray
    dq_max: np.ndarray
    ddq_max: np.ndarray
    dddq_max: np.ndarray
    home: np.ndarray  # tool down over the middle of the table; the posture that redundancy is spent on
    max_opening: float = 0.08  # m between the fingers


def _franka(name, **limits) -> Arm:
    arrays = {key: np.array(value, dtype=float) for key, value in limits.items()}
    home = np.array([0.0, 0.1, 0.0, -2.2, 0.0, 2.3, pi / 4])
    for array in (*arrays.values(), home):
        array.setflags(write=False)
    return Arm(name=name, dh=FRANKA_DH, home=home, **arrays)


# Limits: the same document, sections "Limits for Panda" and "Limits for Franka Research 3". The FR3's velocity limits
# also shrink towards the ends of the joints' ranges; those here are the bounds that hold away from them.
PANDA = _franka(
    "panda",
    q_min=(-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973),
    q_max=(2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973),
    dq_max=(2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61),
    ddq_max=(15.0, 7.5, 10.0, 12.5, 15.0, 20.0, 20.0),
    dddq_max=(7500.0, 3750.0, 5000.0, 6250.0, 7500.0, 10000.0, 10000.0),
)
FR3 = _franka(
    "fr3",
    q_min=(-2.7437, -1.7837, -2.9007, -3.0421, -2.8065, 0.5445, -3.0159),
    q_max=(2.7437, 1.7837, 2.9007, -0.1518, 2.8065, 4.5169, 3.0159),
    dq_max=(2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26),
    ddq_max=(10.0,) * 7,
    dddq_max=(5000.0,) * 7,
)
ARMS = {"panda": PANDA, "fr3": FR3}


# Forward kinematics. A frame is twelve floats: its x, y and z axes and its origin, in the base frame.


def _turn(frame, a, d, cos_alpha, sin_alpha, angle):
    """frame @ Rx(alpha) @ Tx(a) @ Rz(angle) @ Tz(d): one modified Denavit-Hartenberg row."""
    x0, x1, x2, y0, y1, y2, z0, z1, z2, p0, p1, p2 = frame
    c, s = cos(angle), sin(angle)
    u0, u1, u2 = cos_alpha * y0 + sin_alpha * z0, cos_alpha * y1 + sin_alpha * z1, cos_alpha * y2 + sin_alpha * z2
    z0, z1, z2 = cos_alpha * z0 - sin_alpha * y0, cos_alpha * z1 - sin_alpha * y1, cos_alpha * z2 - sin_alpha * y2
    return (
        c * x0 + s * u0, c * x1 + s * u1, c * x2 + s * u2,
        c * u0 - s * x0, c * u1 - s * x1, c * u2 - s * x2,
        z0, z1, z2,
        p0 + a * x0 + d * z0, p1 + a * x1 + d * z1, p2 + a * x2 + d * z2,
    )  # fmt: skip


def _frames(arm: Arm, q) -> list[tuple]:
    """Frames of the seven links, each on its joint's axis, then the TCP's."""
    frame = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0)
    frames = []
    for row, angle in zip(arm.dh, q, strict=True):
        frame = _turn(frame, *row, angle)
        frames.append(frame)
    frames.append(_turn(frame, 0.0, FLANGE_TO_TCP, 1.0, 0.0, HAND_YAW))
    return frames


def _matrix(frame) -> np.ndarray:
    pose = np.eye(4)
    pose[:3] = np.reshape(frame, (4, 3)).T
    return pose


def _jacobian(frames) -> np.ndarray:
    """(6, 7): the TCP's twist in the base frame per rad/s of each joint."""
    t0, t1, t2 = frames[7][9:]
    columns = []
    for _, _, _, _, _, _, z0, z1, z2, p0, p1, p2 in frames[:7]:
        r0, r1, r2 = t0 - p0, t1 - p1, t2 - p2
        columns.append((z1 * r2 - z2 * r1, z2 * r0 - z0 * r2, z0 * r1 - z1 * r0, z0, z1, z2))
    return np.array(columns).T


def fk(arm: Arm, q) -> np.ndarray:
    """base_T_tcp (4, 4)."""
    return _matrix(_frames(arm, np.asarray(q, dtype=float).tolist())[7])


# Tool poses


def tool_pose(x: float, y: float, z: float, yaw: float) -> np.ndarray:
    """base_T_tcp (4, 4) of a tool that points straight down."""
    return _matrix(_tool_frame(x, y, z, yaw))


def _tool_frame(x, y, z, yaw):
    c, s = cos(yaw), sin(yaw)
    return (c, s, 0.0, s, -c, 0.0, 0.0, 0.0, -1.0, x, y, z)


def pose_to_tool(pose: np.ndarray) -> tuple[float, float, float, float]:
    """(x, y, z, yaw) of a pose; whatever it leans by is dropped."""
    x, y, z = pose[:3, 3].tolist()
    return x, y, z, atan2(pose[1, 0] + pose[0, 1], pose[0, 0] - pose[1, 1])


# Inverse kinematics


def ik(arm: Arm, pose: np.ndarray, seed_q, *, iterations: int = 40, tolerance: float = 1e-6) -> np.ndarray:
    """Joint angles (7,) within the limits whose TCP is at `pose`; `residual` says how near it came.

    Damped least squares with the damping falling with the squared error (Sugihara, "Solvability-unconcerned inverse
    kinematics by the Levenberg-Marquardt method", IEEE T-RO 2011), joints that would leave their limits held there
    (active set), and the redundant degree of freedom spent on staying near `arm.home`, so that closed paths of the tool
    close in joint space (to some 0.01 rad). A seed that is far from that posture moves towards it by a part at a time.
    Out of reach gives the nearest point that was found.

    `tolerance` bounds the twist that remains (m and rad mixed).
    """
    seed = np.clip(np.asarray(seed_q, dtype=float), arm.q_min, arm.q_max)
    return _solve(arm, _goal(pose), seed, iterations, tolerance)


def residual(arm: Arm, pose: np.ndarray, q) -> tuple[float, float]:
    """Distance (m) and angle (rad) between the TCP at `q` and `pose`."""
    error = _twist(_frames(arm, np.asarray(q, dtype=float).tolist())[7], _goal(pose))
    return sqrt(sum(e * e for e in error[:3])), sqrt(sum(e * e for e in error[3:]))


def _goal(pose) -> tuple[float, ...]:
    return tuple(np.asarray(pose, dtype=float)[:3].T.ravel().tolist())


_FAR = 0.5  # m and rad mixed: more than this is not asked of one step, further the linearisation is worthless
_RESETTLE = 0.15  # rad of null-space motion towards home that one solution may add to its seed
_EYE = np.eye(6)
_ASTRAY = 5e-3  # m from its line at which a turn is taken to have led the tool away: the longest straight step bends by 2e-3
_SETTLED = 5e-3  # rad: a step smaller than this leaves the posture within some 1e-4 of its rest


def _solve(arm, goal, q, iterations, tolerance):
    best, best_size, moved, caution, slack = q, float("inf"), 1.0, 1.0, _RESETTLE
    for _ in range(iterations):
        frames = _frames(arm, q.tolist())
        error = _twist(frames[7], goal)
        size = sqrt(sum([e * e for e in error]))
        if moved < _SETTLED and size < tolerance:
            return q
        if size < best_size:
            best, best_size = q, size
        elif size > 2.0 * best_size and size > 0.01:  # overshot, as happens at the edge of the reach
            caution *= 10.0
        step, null = _step(arm, q, _jacobian(frames), error, size, slack, caution)
        slack = max(0.0, slack - null)
        moved = max(map(abs, step.tolist()))
        q = q + step
    return best


def _step(arm, q, jac, error, size, slack, caution):
    """Least-squares step towards the target within the limits, plus a null-space step towards home of `slack` rad at
    most; also says how many rad the latter took."""
    far = min(size, _FAR)
    twist = np.array(error) * (far / max(size, 1e-12))
    damping = (1e-9 + 1e-2 * caution * far * far) * _EYE
    low, high, wish = arm.q_min - q, arm.q_max - q, arm.home - q
    fixed, free = np.zeros(7), jac
    for _ in range(7):
        sides = np.array((twist - jac.dot(fixed), free.dot(wish))).T
        task, leak = np.linalg.solve(free.dot(free.T) + damping, sides).T.dot(free)
        null = wish - leak
        length = max(map(abs, null.tolist()))
        step = fixed + task + null * min(1.0, slack / max(length, 1e-12))
        bounded = np.minimum(np.maximum(step, low), high)
        out = bounded != step
        if not out.any():
            break
        free, wish, fixed = free * ~out, wish * ~out, np.where(out, bounded, fixed)
    return bounded, min(length, slack)


def _twist(frame, goal):
    """Twist (6 floats) that carries `frame` to `goal` in one second: the rotation as axis times angle."""
    a0, a1, a2, b0, b1, b2, c0, c1, c2, p0, p1, p2 = frame
    d0, d1, d2, e0, e1, e2, f0, f1, f2, g0, g1, g2 = goal
    w0 = 0.5 * (a1 * d2 - a2 * d1 + b1 * e2 - b2 * e1 + c1 * f2 - c2 * f1)
    w1 = 0.5 * (a2 * d0 - a0 * d2 + b2 * e0 - b0 * e2 + c2 * f0 - c0 * f2)
    w2 = 0.5 * (a0 * d1 - a1 * d0 + b0 * e1 - b1 * e0 + c0 * f1 - c1 * f0)
    cosine = 0.5 * (a0 * d0 + a1 * d1 + a2 * d2 + b0 * e0 + b1 * e1 + b2 * e2 + c0 * f0 + c1 * f1 + c2 * f2 - 1.0)
    sine = sqrt(w0 * w0 + w1 * w1 + w2 * w2)
    if sine < 1e-9 and cosine < 0.0:  # half a turn: the axis is lost, so start about the tool's own
        w0, w1, w2, sine = c0, c1, c2, 1.0
    factor = atan2(sine, cosine) / sine if sine > 1e-9 else 1.0
    return g0 - p0, g1 - p1, g2 - p2, factor * w0, factor * w1, factor * w2


# From a chunk to a timed joint trajectory


@dataclass(frozen=True, eq=False)
class JointState:
    stamp: float  # s
    position: np.ndarray  # (7,) rad
    opening: float  # m


@dataclass(frozen=True, eq=False)
class JointTrajectory:
    """Absolute, timed: from `start` (the command at the chunk's stamp) through `positions`, linear in joint space."""

    start: JointState
    times: np.ndarray  # (T,) s, absolute, increasing
    positions: np.ndarray  # (T, 7) rad
    openings: np.ndarray  # (T,) m

    @property
    def stamp(self) -> float:
        return self.start.stamp

    @property
    def end(self) -> float:
        """Time (s) from which the last point is held."""
        return float(self.times[-1])

    def at(self, t: float) -> tuple[np.ndarray, float]:
        """Joint angles (7,) and opening at time t: the start before the stamp, the last point after the end."""
        if t <= self.start.stamp:
            return self.start.position, float(self.start.opening)
        i = int(np.searchsorted(self.times, t))
        if i == len(self.times):
            return self.positions[-1], float(self.openings[-1])
        before = (self.start.position, self.start.opening) if i == 0 else (self.positions[i - 1], self.openings[i - 1])
        since = self.start.stamp if i == 0 else self.times[i - 1]
        w = (t - since) / (self.times[i] - since)
        return before[0] + w * (self.positions[i] - before[0]), float(before[1] + w * (self.openings[i] - before[1]))


def arm_state(arm: Arm, measured: JointState, command: JointState) -> np.ndarray:
    """What a policy is told of an arm, float32 in the order of STATE_NAMES: the joints (rad), the opening (m), the tool,
    how far the commanded tool is ahead of it (m, rad), and the commanded share of the opening."""
    x, y, z, yaw = pose_to_tool(fk(arm, measured.position))
    ahead = np.subtract(pose_to_tool(fk(arm, command.position)), (x, y, z, yaw))
    ahead[3] = (ahead[3] + pi) % (2 * pi) - pi
    values = (*measured.position, measured.opening, x, y, z, sin(yaw), cos(yaw), *ahead, command.opening / arm.max_opening)
    return np.array(values, np.float32)


def ee_delta_action(workspace, scale=(0.04, 0.04, 0.04, 0.3)) -> ActionSpec:
    """Deltas to the commanded tool target and a gripper; `workspace` is (min, max) of the TCP, m, base frame."""
    names = ("dx", "dy", "dz", "dyaw", "gripper")
    return ActionSpec("ee_delta", names, (-1.0,) * 5, (1.0,) * 5, tuple(scale), workspace)


def joint_position_action(arm: Arm) -> ActionSpec:
    """Absolute joint angles within the arm's limits, then the opening."""
    names = (*(f"joint_{i}" for i in range(1, 8)), "opening")
    return ActionSpec("joint_position", names, (*arm.q_min.tolist(), 0.0), (*arm.q_max.tolist(), arm.max_opening))


def plan(chunk: Chunk, action: ActionSpec, arm: Arm, command: JointState) -> JointTrajectory:
    """The timed joint trajectory that a chunk means.

    `command` is what was last commanded as of chunk.stamp, not what was measured: deltas accumulate on it. Action i is
    reached at stamp + (i + 1) / hz. Actions are clipped to the spec's bounds, targets to its workspace, a turn for which a
    joint has no room is left out, and a step that would need a joint to exceed its velocity limit is shortened along its
    line in joint space. Each point depends on the one before it alone, so a chunk cut in two means the same. Raises
    SpecError for a wrong shape, kind or a NaN.
    """
    actions = _checked(chunk, action, command)
    reach = arm.dq_max / chunk.hz
    follow = {"ee_delta": _follow_tool, "joint_position": _follow_joints}[action.kind]
    q, points, openings = np.asarray(command.position, dtype=float), [], []
    for row in np.clip(actions, action.low, action.high):
        q, opening = follow(row, action, arm, q, reach)
        points.append(q)
        openings.append(opening)
    times = chunk.stamp + np.arange(1, len(points) + 1) / chunk.hz
    start = JointState(chunk.stamp, np.asarray(command.position, dtype=float), float(command.opening))
    return JointTrajectory(start, times, np.array(points), np.array(openings))


def _checked(chunk, action, command) -> np.ndarray:
    if action.kind == "native":
        raise SpecError("action kind 'native' means no joint trajectory: ee_delta and joint_position do")
    actions = np.asarray(chunk.actions, dtype=float)
    if actions.ndim != 2 or actions.shape[1] != action.size or len(actions) == 0:
        raise SpecError(f"chunk of shape {actions.shape}: (T, {action.size}) with T >= 1 is needed for {action.kind}")
    if not np.isfinite(actions).all():
        raise SpecError("chunk holds NaN or infinite actions")
    if not chunk.hz > 0 or not np.isfinite(chunk.stamp):
        raise SpecError(f"chunk at {chunk.hz} Hz, stamp {chunk.stamp}: a rate above 0 and a finite stamp are needed")
    if np.shape(command.position) != (7,) or not np.isfinite(command.position).all():
        raise SpecError(f"command {command.position}: 7 finite joint angles are needed")
    return actions


def _within_reach(arm, q, target, reach):
    """From q towards joint angles (7,), no joint further than its `reach` (rad) and its limits."""
    step = target - q
    return np.clip(q + step / max(1.0, float(np.max(np.abs(step) / reach))), arm.q_min, arm.q_max)


def _follow_tool(row, action, arm, q, reach):
    x, y, z, yaw = pose_to_tool(fk(arm, q))
    dx, dy, dz, dyaw = (float(r) * s for r, s in zip(row[:4], action.scale, strict=True))
    low, high = action.workspace or ((-np.inf,) * 3, (np.inf,) * 3)
    target = [min(max(p, lo), hi) for p, lo, hi in zip((x + dx, y + dy, z + dz), low, high, strict=True)]
    for turn in (dyaw, 0.0):  # where it needs a long way of the joints, or gives up the place for the turn: without it
        solved = _solve(arm, _tool_frame(*target, yaw + turn), np.clip(q, arm.q_min, arm.q_max), 40, 1e-6)
        point = _within_reach(arm, q, solved, reach)
        if _beside(fk(arm, point)[:3, 3], np.array((x, y, z)), np.array(target)) < _ASTRAY:
            break
    return point, 0.5 * (float(row[4]) + 1.0) * arm.max_opening


def _beside(point, start, end) -> float:
    """How far a point is from the line between two others, m."""
    way = end - start
    share = np.clip(way.dot(point - start) / max(way.dot(way), 1e-12), 0.0, 1.0)
    return float(np.linalg.norm(start + share * way - point))


def ee_delta(action: ActionSpec, arm: Arm, before: JointState, after: JointState) -> np.ndarray:
    """The action (5,), float32, of kind ee_delta that leads from one command to the next: what `plan` does, backwards.
    What goes further than an action can is clipped."""
    way = np.subtract(pose_to_tool(fk(arm, after.position)), pose_to_tool(fk(arm, before.position)))
    way[3] = (way[3] + pi) % (2 * pi) - pi
    row = (*(way / action.scale), 2 * after.opening / arm.max_opening - 1)
    return np.clip(row, action.low, action.high).astype(np.float32)


def _follow_joints(row, action, arm, q, reach):
    return _within_reach(arm, q, row[:7], reach), float(row[7])
