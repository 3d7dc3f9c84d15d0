"""What stands on the table: drawing objects, colours, sizes, places, light and camera from a numpy Generator, by split.

Distances in m, angles in rad, positions in the base frame (x forward, y left, z up, table top at z = 0).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

SPLITS = ("train", "new_scenes", "new_phrasings", "new_voices", "new_combinations", "shift", "distractors")

COLOURS = {  # name -> RGB
    "red": (0.82, 0.10, 0.10),
    "green": (0.12, 0.60, 0.18),
    "blue": (0.10, 0.25, 0.85),
    "yellow": (0.95, 0.85, 0.10),
    "purple": (0.48, 0.14, 0.66),
    "orange": (1.00, 0.48, 0.05),
}


@dataclass(frozen=True)
class Kind:
    """Ranges that sizes are drawn from: `radius` is the half width, `height` the full height (None: 2 radius)."""

    radius: tuple[float, float]
    height: tuple[float, float] | None
    mass: float  # kg; 0 is bolted to the table
    material: str  # what it sounds like
    graspable: bool = False


KINDS = {
    "cube": Kind((0.016, 0.022), None, 0.08, "wood", True),
    "cylinder": Kind((0.015, 0.020), (0.036, 0.050), 0.08, "metal", True),
    "ball": Kind((0.018, 0.023), None, 0.05, "plastic", True),
    "bowl": Kind((0.060, 0.068), (0.038, 0.046), 0.60, "ceramic"),
    "plate": Kind((0.058, 0.068), (0.010, 0.012), 0.50, "ceramic"),
    "button": Kind((0.030, 0.034), (0.030, 0.034), 0.0, "plastic"),
    "buzzer": Kind((0.032, 0.036), (0.050, 0.056), 0.0, "plastic"),
    "box": Kind((0.024, 0.026), (0.044, 0.048), 0.10, "wood", True),
    "drawer": Kind((0.048, 0.052), (0.070, 0.074), 0.0, "wood"),
    "square": Kind((0.050, 0.056), (0.002, 0.003), 0.0, "wood"),
}
KIND_NAMES, COLOUR_NAMES = tuple(KINDS), tuple(COLOURS)
GRASPABLE = tuple(name for name, kind in KINDS.items() if kind.graspable and name != "box")
HELD_OUT = (
    ("red", "ball"), ("green", "cube"), ("blue", "cylinder"), ("yellow", "bowl"), ("purple", "plate"),
    ("orange", "button"), ("blue", "drawer"), ("red", "square"),
)  # fmt: skip

WORKSPACE = ((0.28, -0.32, 0.01), (0.68, 0.32, 0.45))  # (min, max) of the tool
SCALE = (0.04, 0.04, 0.04, 0.3)  # m, m, m, rad a control step for an action of 1
TABLE = ((0.34, -0.25), (0.61, 0.25))  # (min, max) x, y of where object centres are drawn
GAP = 0.045  # m between two objects: room for an open finger
DRAWER_TRAVEL = 0.10  # m that a drawer can be pulled out
DRAWER_Y, DRAWER_PITCH = 0.225, 0.122  # m: drawers stand in a row at this |y|, this far apart, and open to the middle
BESIDE_DRAWERS = 0.070  # m, |y| of the nearest object on the other side


@dataclass(frozen=True)
class Item:
    """One object. `position` is its centre; `rgb` its drawn shade of `colour`; `role` what the task wants of it."""

    name: str
    kind: str
    colour: str
    rgb: tuple[float, float, float]
    radius: float
    height: float
    position: tuple[float, float, float]
    yaw: float
    role: str
    slid: float = 0.0  # m that a drawer is out at the start

    @property
    def label(self) -> str:
        return f"{self.colour} {self.kind}"


def half_depth(drawer: Item) -> float:
    """Of a drawer's chest, m, along the way that the tray slides."""
    return 1.2 * drawer.radius


@dataclass(frozen=True)
class Look:
    """Light, table and camera of an episode."""

    table_rgb: tuple[float, float, float]
    light_direction: tuple[float, float, float]
    brightness: float
    camera_shift: tuple[float, float, float]  # m, of the front camera
    look_shift: tuple[float, float, float]  # m, of the point it looks at


@dataclass(frozen=True)
class Scene:
    items: tuple[Item, ...]
    look: Look
    start: tuple[float, float, float, float]  # tool x, y, z, yaw
    words: dict[str, str] = field(default_factory=dict)  # what fills the slots of the task's phrasings

    def role(self, role: str) -> Item:
        """The one item of this role."""
        return self.roles(role)[0]

    def roles(self, role: str) -> list[Item]:
        found = [item for item in self.items if item.role == role]
        if not found:
            raise KeyError(f"no item has the role {role!r}; the scene has {sorted({i.role for i in self.items})}")
        return found


class SceneDraw:
    """Draws a scene item by item. Every (colour, kind) pair is in a scene at most once, so that names are unique."""

    def __init__(self, rng: np.random.Generator, split: str = "train"):
        if split not in SPLITS:
            raise ValueError(f"split {split!r}: allowed are {', '.join(SPLITS)}")
        self.rng, self.split, self.items = rng, split, []

    def pairs(self, kinds, colours=COLOUR_NAMES, target: bool = False) -> list[tuple[str, str]]:
        """(colour, kind) pairs still free: held-out ones only as the targets of new_combinations."""
        used = {(item.colour, item.kind) for item in self.items}
        every = [(c, k) for k in kinds for c in colours if (c, k) not in used]
        held_out = [pair for pair in every if pair in HELD_OUT]
        if target and self.split == "new_combinations" and held_out:
            return held_out
        return [pair for pair in every if pair not in HELD_OUT]

    def add(self, role: str, kinds, colours=COLOUR_NAMES, target: bool = False) -> Item:
        """One more item of one of these kinds and colours; the place comes in `scene`. The item comes back."""
        by_kind = {}
        for colour, kind in self.pairs(kinds, colours, target):
            by_kind.setdefault(kind, []).append(colour)
        if not by_kind:
            raise ValueError(f"no free pair of {tuple(kinds)} and {tuple(colours)} is left in this scene")
        kind = self.rng.choice(sorted(by_kind))
        item = self._item(role, str(kind), str(self.rng.choice(by_kind[kind])))
        self.items.append(item)
        return item

    def add_rivals(self, item: Item, kinds, count: int, role: str = "other") -> None:
        """`count` wrong candidates for `item`: the same colour in another kind, the same kind in other colours, any."""
        others = [k for k in kinds if k != item.kind]
        wishes = [(others, [item.colour]), ([item.kind], COLOUR_NAMES)] + [(kinds, COLOUR_NAMES)] * count
        for wish_kinds, wish_colours in wishes[:count]:
            free = self.pairs(wish_kinds, wish_colours)
            self.add(role, wish_kinds if free else kinds, wish_colours if free else COLOUR_NAMES)

    def scene(
        self,
        words: dict[str, str] | None = None,
        table=TABLE,
        gap: float = GAP,
        aside: float = 0.0,
        slid: tuple[float, float] = (0.0, 0.0),
        accept: Callable[[list[Item]], bool] | None = None,
    ) -> Scene:
        """Place everything (more things in split "distractors") and draw light, camera and the arm's start. Items of
        one kind lie at least `aside` m apart in y: seen from the microphones in other directions. `slid` (m): range of
        how far drawers are out; `accept` refuses places that would not do."""
        if self.split == "distractors":
            for _ in range(2):
                self.add("extra", GRASPABLE)
        items = self._place(table, gap, aside, slid, accept or (lambda items: True))
        return Scene(tuple(items), self._look(), self._start(), dict(words or {}))

    def _item(self, role: str, kind: str, colour: str) -> Item:
        radius = self._size(KINDS[kind].radius)
        height = self._size(KINDS[kind].height) if KINDS[kind].height else 2 * radius
        jitter = 0.10 if self.split == "shift" else 0.035
        rgb = np.clip(np.array(COLOURS[colour]) + self.rng.uniform(-jitter, jitter, 3), 0, 1)
        yaw = self.rng.uniform(-0.6, 0.6) if kind in ("cube", "box") else 0.0
        name = f"{colour}_{kind}"
        return Item(name, kind, colour, tuple(rgb.tolist()), radius, height, (0.0, 0.0, height / 2), yaw, role)

    def _size(self, bounds: tuple[float, float]) -> float:
        low, high = bounds
        if self.split != "shift":
            return float(self.rng.uniform(low, high))
        span = high - low
        return float(self.rng.choice([self.rng.uniform(low - 0.4 * span, low), self.rng.uniform(high, high + 0.4 * span)]))

    def _place(self, table, gap: float, aside: float, slid, accept) -> list[Item]:
        """Rejection sampling, the largest first; starts again when an item finds no room."""
        order = sorted(range(len(self.items)), key=lambda i: -self.items[i].radius)
        drawers, table = self._row_of_drawers(table, slid)
        for _ in range(200):
            placed = dict(drawers)
            for i in (i for i in order if i not in drawers):
                spot = self._spot(self.items[i], list(placed.values()), table, gap, aside)
                if spot is None:
                    break
                placed[i] = replace(self.items[i], position=(*spot, self.items[i].height / 2))
            else:
                items = [placed[i] for i in range(len(self.items))]
                if accept(items):
                    return items
        raise ValueError(f"{len(self.items)} items with gaps of {gap} m find no room on {table}")

    def _row_of_drawers(self, table, slid) -> tuple[dict[int, Item], tuple]:
        """The drawers by index, in a row along x on one side, and what they leave of the table for the rest."""
        drawers = [i for i, item in enumerate(self.items) if item.kind == "drawer"]
        if not drawers:
            return {}, table
        side = int(self.rng.choice((-1, 1)))
        middle, length = self.rng.uniform(0.465, 0.485), DRAWER_PITCH * (len(drawers) - 1)
        row = {}
        for i, x in zip(drawers, middle + np.linspace(-length / 2, length / 2, len(drawers))):
            spot = (float(x), side * DRAWER_Y, self.items[i].height / 2)
            row[i] = replace(self.items[i], position=spot, yaw=-side * np.pi / 2, slid=float(self.rng.uniform(*slid)))
        (x_min, y_min), (x_max, y_max) = table
        y_range = (y_min, -BESIDE_DRAWERS) if side > 0 else (BESIDE_DRAWERS, y_max)
        return row, ((x_min, y_range[0]), (x_max, y_range[1]))

    def _spot(self, item: Item, placed: list[Item], table, gap: float, aside: float) -> tuple[float, float] | None:
        def fits(x: float, y: float, other: Item) -> bool:
            dx, dy = x - other.position[0], y - other.position[1]
            return np.hypot(dx, dy) > gap + item.radius + other.radius and (other.kind != item.kind or abs(dy) > aside)

        for _ in range(40):
            x, y = self.rng.uniform(*table)
            if all(fits(x, y, other) for other in placed):
                return float(x), float(y)
        return None

    def _look(self) -> Look:
        """In split shift every number of it is further from the middle than in any other split, to either side."""
        side = self.rng.choice([-1.0, 1.0], 3)
        table = self.rng.uniform(-0.05, 0.05, 3)
        light, far_light = self.rng.uniform(-0.1, 0.1), self.rng.uniform(0.12, 0.25)
        tilt = self.rng.uniform(-0.3, 0.3, 2)
        moved, far_moved = self.rng.uniform(-0.01, 0.01, (2, 3)), self.rng.uniform(0.012, 0.03, (2, 3))
        if self.split == "shift":
            table, light = table + 0.11 * side, far_light * side[0]
            tilt, moved = tilt + np.copysign(0.45, tilt), np.copysign(far_moved, moved)
        direction = (float(tilt[0]), float(tilt[1]), -1.0)
        return Look(_tuple(np.array((0.62, 0.58, 0.53)) + table), direction, float(1.0 + light), *map(_tuple, moved))

    def _start(self) -> tuple[float, float, float, float]:
        return _tuple(self.rng.uniform((0.36, -0.12, 0.24, -0.3), (0.48, 0.12, 0.32, 0.3)))


def _tuple(values) -> tuple:
    return tuple(float(v) for v in values)
