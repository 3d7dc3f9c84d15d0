"""What a task is. One file a task; `envs.tabletop.tasks` lists them, and `envs.TASK_NAMES` names them.

A task draws its scene, says what its instruction can sound like, names its reward terms, and says when it is done, when
it has definitely failed, and what its expert does now. An instance lives for one episode.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from envs.tabletop.scene import WORKSPACE, Item, Scene, half_depth

if TYPE_CHECKING:
    from envs.tabletop.physics import World


class Task:
    name: str
    forms: tuple[str, ...]  # phrasings in training, with {slots} that Scene.words fills
    held_out_forms: tuple[str, ...]  # phrasings of split new_phrasings, of words that occur in training
    weights: dict[str, float]  # of the named reward terms
    time_limit = 15.0  # s after the instruction is known
    hold = 0.5  # s that success must last
    failure_hold = 0.5  # s that a failure must last to be definite

    def scene(self, rng: np.random.Generator, split: str) -> Scene:
        raise NotImplementedError

    def begin(self, world: World, heard_at: float, rng: np.random.Generator) -> None:
        """Called once, when the world stands. `heard_at` (s): when the instruction will be known."""

    def after_step(self, world: World) -> None:
        """Called after every control period, before anything is judged: for what has a course of its own."""

    def cues(self) -> tuple[float, ...]:
        """Times (s) of sounds that nobody could foresee and that the expert reacts to."""
        return ()

    def sounds(self, world: World, duration: float) -> list[tuple[np.ndarray, np.ndarray]]:
        """What the scene itself emits in the coming `duration`: (position (3,), waveform (n,) at SAMPLE_RATE)."""
        return []

    def success(self, world: World) -> bool:
        raise NotImplementedError

    def failure(self, world: World) -> bool:
        return False

    def reward(self, world: World) -> dict[str, float]:
        """Named terms in 0..1, weighed by `weights`."""
        raise NotImplementedError

    def expert(self, world: World) -> np.ndarray:
        """The ee_delta action (5,) for the current state; called only once the instruction is known."""
        raise NotImplementedError

    def focus(self, world: World) -> np.ndarray:
        """Where the expert is going now (3,)."""
        raise NotImplementedError


def distance(world: World, point) -> float:
    """From the tool to a point, m."""
    return float(np.linalg.norm(world.tool[:3] - point))


def nearness(d: float, scale: float = 0.1) -> float:
    """1 at distance 0, falling smoothly to 0; `scale` (m) is where it has fallen to 0.24."""
    return float(1.0 - np.tanh(d / scale))


def lifted(world: World, item: Item, height: float) -> bool:
    """The item is held by the fingers, its underside `height` (m) over the table."""
    return world.held(item.name) and world.position(item.name)[2] - half_height(world, item) > height


def half_height(world: World, item: Item) -> float:
    """From an item's underside to its centre, as it lies, m."""
    toppled = item.kind == "cylinder" and abs(world.rotation(item.name)[2, 2]) < 0.7
    return item.radius if toppled else item.height / 2


def having(world: World, *roles: str) -> list[Item]:
    """The items of these roles, if any."""
    return [item for item in world.scene.items if item.role in roles]


def wrong_lifted(world: World, items: list[Item], height: float = 0.05) -> bool:
    return any(lifted(world, item, height) for item in items)


def out_of_reach(world: World, item: Item) -> bool:
    """The item has left the tool's workspace, so that the fingers cannot close on it."""
    low, high = np.array(WORKSPACE)
    x = world.position(item.name)
    return bool((x < low - 0.01).any() or (x > high + 0.01).any())


def inside(world: World, item: Item, bowl: Item) -> bool:
    """The item's centre is within the bowl's rim, and no higher over it than a quarter of the item's height."""
    offset = world.position(item.name) - world.position(bowl.name)
    low = offset[2] < bowl.height / 2 + 0.25 * item.height
    return bool(np.hypot(*offset[:2]) < bowl.radius - 0.005 and low)


def on(world: World, item: Item, support: Item) -> bool:
    """The item touches a plate or another object and its centre is above that one's top."""
    offset = world.position(item.name) - world.position(support.name)
    above = np.hypot(*offset[:2]) < support.radius - 0.004 and offset[2] > support.height / 2
    return bool(above and world.in_contact(item.name, support.name))


def in_drawer(world: World, item: Item, drawer: Item) -> bool:
    """The item's centre is within the drawer's tray."""
    along, across, up = world.rotation(drawer.name).T @ (world.position(item.name) - world.position(drawer.name))
    length = abs(along - world.slid(drawer.name)) < half_depth(drawer)
    return bool(length and abs(across) < drawer.radius and up < 0.4 * drawer.height)


def pressed(world: World, item: Item) -> bool:
    """The button or buzzer is held down by 5 mm or more."""
    return world.pressed(item.name) > 0.005


def in_square(world: World, item: Item, square: Item, margin: float = 0.01) -> bool:
    """The item's centre is over the square, at least `margin` (m) from its sides."""
    offset = np.abs(world.position(item.name) - world.position(square.name))
    return bool(offset[:2].max() < square.radius - margin)


def released(world: World, item: Item) -> bool:
    """No finger touches the item, and the gripper is open wider than it."""
    return not world.touching(item.name) and world.opening > 2 * item.radius + 0.005
