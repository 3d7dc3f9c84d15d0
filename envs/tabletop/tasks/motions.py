"""What experts are made of: reactive motions, each a function of the current state alone, so that they can be cloned.

Every function gives an ee_delta action (5,) in [-1, 1]: deltas to the last commanded tool target, then the gripper
(+1 open, -1 closed). Positions in m, base frame. Since nothing is remembered, a kicked arm or a lost object simply puts
the world in another state, from which the same functions go on.
"""

from __future__ import annotations

import numpy as np

from envs.tabletop.mjcf import HOOK
from envs.tabletop.physics import World
from envs.tabletop.scene import DRAWER_TRAVEL, SCALE, WORKSPACE, Item, half_depth
from envs.tabletop.tasks.base import half_height, in_drawer, inside, on

OPEN, CLOSED = 1.0, -1.0
HOVER = 0.075  # m above the goal at which the tool travels
TRAVEL = 0.9  # of the greatest step, far away
GAIN = 0.55  # of the distance, near
FUNNEL = 2.0  # height per horizontal distance that is allowed to the tool: it comes down within this cone
TIP = 0.010  # m that the finger tips reach below the tool point
FINGER = 0.012  # m, half of two closed fingers along the way they open, and half of one, rounded up, across it
HOOKED = 0.040  # m, height of the tool with which a drawer's tab is pulled and pushed
PUSHING = -0.5  # gripper command: two prongs 2 cm apart, between which a pushed object does not turn away
PRESSED = 0.011  # m that a button is pushed in: twice what counts, so that who copies it loosely presses it, too
BEHIND = 0.04  # m between the fingers and an object that is about to be pushed


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
    high_enough = np.clip(1.0 - (height - target[2] - 0.01) / 0.03, 0.0, 1.0)
    point = target[:2] + high_enough * (goal[:2] - target[:2])
    return toward(world, (*point, height), yaw, gripper)


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
    """Yaw, nearest to zero, that lays the fingers on two sides of the item as it lies; where something stands close to a
    round one, the fingers keep clear of it."""
    axes = world.rotation(item.name)
    if item.kind == "cylinder" and abs(axes[2, 2]) < 0.7:  # toppled: the fingers close across its axis
        return wrap(np.arctan2(axes[1, 2], axes[0, 2]), np.pi)
    if item.kind not in ("cube", "box"):
        return _toward_neighbour(world, item)
    flat = axes[:, 0] if abs(axes[2, 0]) < 0.7 else axes[:, 1]
    return wrap(np.arctan2(flat[1], flat[0]), np.pi / 2 if item.kind == "cube" else np.pi)


def _toward_neighbour(world: World, item: Item) -> float:
    """Yaw along the line to what stands within a finger's room of the item; 0 where nothing does."""
    close, yaw = 0.025, 0.0
    for other in world.scene.items:
        way = (world.position(other.name) - world.position(item.name))[:2]
        room = np.hypot(*way) - other.radius - item.radius
        if other is not item and other.kind != "square" and -item.radius < room < close:
            close, yaw = room, _either_way(world, np.arctan2(way[1], way[0]))
    return yaw


def carry(world: World, item: Item, place, drop: float = 0.0) -> np.ndarray:
    """Take a grasped item to where its centre is `drop` m above `place` (3,), over whatever stands between."""
    hang = world.tool[2] - world.position(item.name)[2]
    return approach(world, np.add(place, (0, 0, drop + hang)), None, CLOSED, hover=0.10)


def release(world: World, item: Item, retreat: float = 0.12) -> np.ndarray:
    """Open; rise (by `retreat` over the item) once the fingers are wider than it, or cannot open."""
    if world.opening < 2 * item.radius + 0.010 and world.blocked < 0.015:
        return toward(world, world.target[:3], None, OPEN)
    return lift(world, world.position(item.name)[2] + retreat, OPEN)


def put(world: World, item: Item, place, there: bool, drop: float = 0.02) -> np.ndarray:
    """Fetch an item and let go of it `drop` m over `place` (3,), where its underside shall be; `there`: it has come to
    where it belongs."""
    if there:
        return release(world, item)
    if grasped(world, item):
        return carry(world, item, np.add(place, (0, 0, half_height(world, item))), drop)
    return grasp(world, item)


def put_in_bowl(world: World, item: Item, bowl: Item, shift: float = 0.0) -> np.ndarray:
    """`shift` (m, along x): beside the bowl's middle."""
    floor = world.position(bowl.name) + (shift, 0, -bowl.height / 2)
    return put(world, item, floor, inside(world, item, bowl))


def put_on(world: World, item: Item, support: Item, top: float) -> np.ndarray:
    """Set it down until it touches; `top` (m): where the support's surface is, over its centre."""
    return put(world, item, world.position(support.name) + (0, 0, top), on(world, item, support), drop=-0.004)


def put_in_drawer(world: World, item: Item, drawer: Item) -> np.ndarray:
    """Let it fall into the part of the tray that is out."""
    middle, drop = tray(world, drawer), 0.045
    over = np.abs(world.position(item.name) - (*middle[:2], half_height(world, item) + drop))
    there = in_drawer(world, item, drawer) or (over < (0.01, 0.01, 0.008)).all()
    return put(world, item, (*middle[:2], 0.0), there, drop)


def tray(world: World, drawer: Item) -> np.ndarray:
    """Middle of the part of a drawer's tray that is out (3,)."""
    out = world.rotation(drawer.name)[:, 0]
    return world.position(drawer.name) + (half_depth(drawer) + world.slid(drawer.name) / 2) * out


def left(world: World, item: Item) -> bool:
    """The fingers do not touch it and are well away: closing them would not catch it."""
    return not world.touching(item.name) and bool(np.linalg.norm(world.tool[:3] - world.position(item.name)) > 0.07)


def press(world: World, item: Item) -> np.ndarray:
    """Close the gripper, come down on a button or buzzer and push it in."""
    top = world.position(item.name) + (0, 0, item.height / 2 - PRESSED + TIP)
    if world.opening > 0.02:
        return approach(world, top + (0, 0, 0.06), 0.0, CLOSED)
    return approach(world, top, 0.0, CLOSED)


def push(world: World, item: Item, goal) -> np.ndarray:
    """Shove an item over the table to a point (2,): come down well behind it, fingers side by side, slide into line with
    the way, and follow it."""
    spot = world.position(item.name)
    if np.linalg.norm(np.subtract(goal[:2], spot[:2])) < 0.012:
        return lift(world, 0.12, PUSHING)
    if world.opening > 0.03 and np.linalg.norm(world.tool[:3] - spot) < item.radius + 0.02:
        return release(world, item)  # it has come between the fingers
    point, yaw, low = push_point(world, item, goal)
    return toward(world, point, yaw, PUSHING) if low else approach(world, point, yaw, PUSHING)


def push_point(world: World, item: Item, goal) -> tuple[np.ndarray, float, bool]:
    """Where the tool (3,) has to go to push an item to a point (2,), at what yaw, and whether it is low behind it already:
    `BEHIND` the item at first, and the further into it the better the tool stands in line with the way. No step of this is
    sudden, so that an error of a learner's is put right by a little of the same."""
    spot = world.position(item.name)
    way, offset = np.subtract(goal[:2], spot[:2]), world.tool[:2] - spot[:2]
    far, contact = float(np.linalg.norm(way)), item.radius + FINGER
    way = way / max(far, 1e-6)
    yaw = _either_way(world, np.arctan2(way[1], way[0]))
    along, across = offset @ way, abs(offset[0] * way[1] - offset[1] * way[0])
    low = bool(-contact - 0.09 < along < -item.radius and across < 0.05 and world.tool[2] < TIP + 0.02)
    aligned = np.clip((0.022 - across) / 0.014, 0, 1) * np.clip((0.4 - abs(yaw - world.tool[3])) / 0.2, 0, 1) * low
    ahead = -contact + aligned * min(far, 0.04) - (1 - aligned) * BEHIND
    return np.array((*(spot[:2] + ahead * way), TIP + 0.006)), yaw, low


def _either_way(world: World, angle: float) -> float:
    """The yaw, of those that lay the tool's x axis along a line at this angle, that is nearest to the present one and
    far from the joint's limits."""
    nearest = world.tool[3] + wrap(angle - world.tool[3], np.pi)
    return nearest if abs(nearest) < 2.0 else wrap(angle, np.pi)


def pull_open(world: World, drawer: Item) -> np.ndarray:
    """Hook closed fingers behind the drawer's tab and pull."""
    pull = DRAWER_TRAVEL - 0.004 - world.slid(drawer.name) + HOOK / 2 - FINGER
    return _slide(world, drawer, start=0.0, end=pull, low=-HOOK / 2, high=HOOK / 2 + 0.01)


def push_shut(world: World, drawer: Item) -> np.ndarray:
    """Come down with closed fingers before the drawer's tab and push."""
    touch = HOOK / 2 + 0.004 + FINGER
    return _slide(world, drawer, start=touch + 0.02, end=touch - 0.004 - world.slid(drawer.name), low=0.035, high=0.09)


def _slide(world: World, drawer: Item, start: float, end: float, low: float, high: float) -> np.ndarray:
    """Come down at `start`; with the tool between `low` and `high`, go to `end`. All in m along the drawer's way, from
    the middle of the gap behind its tab."""
    out, gap = world.rotation(drawer.name)[:, 0], world.part(drawer.name) + (0, 0, HOOKED)
    offset = world.tool[:3] - gap
    along, across = offset @ out, abs(offset[0] * out[1] - offset[1] * out[0])
    if world.opening > 0.02:
        return approach(world, gap + start * out + (0, 0, 0.06), 0.0, CLOSED)
    if low < along < high and across < 0.03 and offset[2] < 0.012:
        return toward(world, gap + end * out, 0.0, CLOSED)
    return approach(world, gap + start * out, 0.0, CLOSED)


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
