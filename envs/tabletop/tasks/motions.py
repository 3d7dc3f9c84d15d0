"""What experts are made of: reactive motions, each a function of the current state alone, so that they can be cloned.

Every function gives an ee_delta action (5,) in [-1, 1]: deltas to the last commanded tool target, then the gripper
(+1 open, -1 closed). Positions in m, base frame. Since nothing is remembered, a kicked arm or a lost object simply puts
the world in another state, from which the same functions go on.
"""

from __future__ import annotations

import numpy as np

from envs.tabletop.physics import World
from envs.tabletop.scene import SCALE, WORKSPACE, Item

OPEN, CLOSED = 1.0, -1.0
HOVER = 0.075  # m above the goal at which the tool travels
TRAVEL = 0.9  # of the greatest step, far away
GAIN = 0.55  # of the distance, near
FUNNEL = 2.0  # height per horizontal distance that is allowed to the tool: it comes down within this cone
TIP = 0.010  # m that the finger tips reach below the tool point


def wait(world: World) -> np.ndarray:
    """Stay, and keep the gripper as it is commanded."""
    return np.array((0, 0, 0, 0, gripper_command(world)), dtype=np.float32)


def gripper_command(world: World) -> float:
    return float(np.clip(2 * world.command.opening / world.arm.max_opening - 1, -1, 1))


def toward(world: World, goal, yaw: float | None = None, gripper: float = OPEN) -> np.ndarray:
    """Straight to a tool point (3,) and yaw: fast when far, slowing down near. yaw None keeps the present one."""
    target = world.target
    step = GAIN * (np.clip(goal, *WORKSPACE) - target[:3])
    step *= min(1.0, TRAVEL * SCALE[0] / max(np.linalg.norm(step), 1e-9))
    turn = 0.0 if yaw is None else np.clip(GAIN * wrap(yaw - target[3]), -0.7 * SCALE[3], 0.7 * SCALE[3])
    return np.array((*(step / SCALE[0]), turn / SCALE[3], gripper), dtype=np.float32)


def approach(world: World, goal, yaw: float | None = None, gripper: float = OPEN, hover: float = HOVER) -> np.ndarray:
    """Come down on `goal` from above: the tool stays inside a cone over it, at most `hover` high, and rises first when
    it is beside the goal and low."""
    goal, target = np.asarray(goal), world.target
    turned = 0.0 if yaw is None else abs(wrap(yaw - target[3]))
    aside = np.hypot(*(goal[:2] - target[:2]))
    height = goal[2] + np.clip(FUNNEL * (aside - 0.006) + 0.1 * (turned - 0.1), 0.0, hover)
    action = toward(world, (*goal[:2], height), yaw, gripper)
    below = max(height - target[2], 0.0)
    action[:2] *= np.clip(1.0 - (below - 0.01) / 0.03, 0.0, 1.0)
    return action


def lift(world: World, height: float, gripper: float) -> np.ndarray:
    """Straight up to a height of the tool (m)."""
    return toward(world, (*world.target[:2], height), None, gripper)


def grasp(world: World, item: Item) -> np.ndarray:
    """Open, come down over the item, align with its sides, close. Go on with something else once `grasped`."""
    goal, yaw = grasp_point(world, item), grasp_yaw(world, item)
    if _between_fingers(world, item, goal):
        return toward(world, goal, None, CLOSED)
    wide = 2 * item.radius + 0.012
    if world.opening < wide and world.tool[2] < goal[2] + item.height:
        return lift(world, goal[2] + HOVER, OPEN)  # the fingers would land on it
    return approach(world, goal, yaw, OPEN)


def grasped(world: World, item: Item) -> bool:
    """Both fingers touch the item and the gripper is commanded to close."""
    return world.held(item.name) and gripper_command(world) < 0.0


def grasp_point(world: World, item: Item) -> np.ndarray:
    """Tool point to close at: the item's middle, as low as the finger tips allow."""
    x, y, z = world.position(item.name)
    return np.array((x, y, max(z, TIP + 0.004)))


def grasp_yaw(world: World, item: Item) -> float:
    """Yaw, nearest to zero, that lays the fingers on two sides of the item as it lies."""
    axes = world.rotation(item.name)
    if item.kind == "cylinder" and abs(axes[2, 2]) < 0.7:  # toppled: the fingers close across its axis
        return wrap(np.arctan2(axes[1, 2], axes[0, 2]), np.pi)
    if item.kind not in ("cube", "box"):
        return 0.0
    flat = axes[:, 0] if abs(axes[2, 0]) < 0.7 else axes[:, 1]
    return wrap(np.arctan2(flat[1], flat[0]), np.pi / 2 if item.kind == "cube" else np.pi)


def carry(world: World, item: Item, place, drop: float = 0.0) -> np.ndarray:
    """Take a grasped item to where its centre is `drop` m above `place` (3,), over whatever stands between."""
    hang = world.tool[2] - world.position(item.name)[2]
    return approach(world, np.add(place, (0, 0, drop + hang)), None, CLOSED, hover=0.10)


def release(world: World, item: Item, retreat: float = 0.12) -> np.ndarray:
    """Open; rise (by `retreat` over the item) once the fingers are wider than it."""
    if world.opening < 2 * item.radius + 0.010:
        return toward(world, world.target[:3], None, OPEN)
    return lift(world, world.position(item.name)[2] + retreat, OPEN)


def press(world: World, item: Item, depth: float) -> np.ndarray:
    """Close the gripper, come down on a button or buzzer and push it `depth` m in."""
    top = world.position(item.name) + (0, 0, item.height / 2 - depth + TIP)
    if world.opening > 0.02:
        return approach(world, top + (0, 0, 0.06), 0.0, CLOSED)
    return approach(world, top, 0.0, CLOSED)


def wrap(angle: float, period: float = 2 * np.pi) -> float:
    """The angle modulo `period`, nearest to zero."""
    return float((angle + period / 2) % period - period / 2)


def _between_fingers(world: World, item: Item, goal: np.ndarray) -> bool:
    """The item is where closing would catch it; wider tolerance once closing, so that it is not given up halfway."""
    closing = gripper_command(world) < 0.0
    aside, high = np.hypot(*(goal[:2] - world.tool[:2])), abs(goal[2] - world.tool[2])
    if closing and world.opening < 1.2 * item.radius:
        return False  # closed on nothing
    return bool(aside < (0.016 if closing else 0.008) and high < (0.014 if closing else 0.008))
