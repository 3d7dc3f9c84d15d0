"""Find the box whose contents rattle: pick one up, shake it, listen, keep it or go on to the next."""

from __future__ import annotations

from collections import deque

import numpy as np

from envs.tabletop.scene import SceneDraw
from envs.tabletop.sound import rattle
from envs.tabletop.tasks import motions
from envs.tabletop.tasks.base import Task, distance, lifted, nearness, out_of_reach, wrong_lifted


class FindRattle(Task):
    """Success: the rattling box held up, its underside 22 cm over the table. Holding up another one fails.

    The expert knows only what it has heard. It takes the boxes from left to right, shakes each while it rises to a
    height at which it listens, lifts it on if it rattles, and otherwise sets it down near the robot, which is how it
    knows that this one has been tried.
    """

    name = "find_rattle"
    forms = (
        "find the box that rattles and hold it up",
        "shake the boxes and lift the one that rattles",
        "pick up the box that rattles",
        "which box rattles lift that one",
        "please find the rattling box and lift it up",
        "shake every box and hold up the one that rattles",
        "listen to the boxes and find the one that rattles",
    )
    held_out_forms = (
        "please pick up the rattling box",
        "find the rattling box and hold it up",
        "shake the boxes and find the one that rattles",
        "please shake every box and lift the one that rattles",
    )
    weights = {"near": 0.2, "held": 0.2, "shaken": 0.2, "lifted": 0.4}
    time_limit = 40.0
    height = 0.22  # m
    table = ((0.46, -0.25), (0.60, 0.25))
    shaking = (0.09, 0.19)  # m, heights of the tool between which it shakes, and at whose end it listens
    swing, wave = 0.03, 0.040  # m a control step to either side; m of height for a swing and back
    tried_x, tried_y = 0.345, (0.16, 0.0, -0.16)  # m, where silent boxes are set down
    jerk = 0.1  # s over which a change of the box's velocity throws the contents about
    memory = 3.0  # s that a rattle is remembered

    def scene(self, rng, split):
        draw = SceneDraw(rng, split)
        draw.add("target", ("box",), target=True)
        for _ in range(2):
            draw.add("other", ("box",))
        return draw.scene(table=self.table)

    def begin(self, world, heard_at, rng):
        self.boxes = [item for item in world.scene.items if item.kind == "box"]
        self.full, self.rng = world.scene.role("target"), rng
        self.velocities = deque([world.velocity(self.full.name)], max(1, round(self.jerk / world.period)) + 1)
        self.jolt = 0.0
        self.rattled_at, self.verdicts, self.listening = -np.inf, [], False

    # ---- what the contents do

    def after_step(self, world):
        self.velocities.append(world.velocity(self.full.name))
        self.jolt = float(np.linalg.norm(self.velocities[-1] - self.velocities[0]))
        before, self.listening = self.listening, self.shaken(world) and self.in_hand(world) is not None
        if self.listening and not before:
            self.verdicts.append(world.time - 0.5 * world.period)

    def sounds(self, world, duration):
        shaking = float(np.clip((self.jolt - 0.08) / 0.5, 0.0, 1.0))
        wave = rattle(self.rng, duration, shaking)
        if not wave.any():
            return []
        if self.in_hand(world) is not None and shaking > 0.1:
            self.rattled_at = world.time
        return [(world.position(self.full.name), wave)]

    def cues(self):
        """When a box has been shaken: what comes then depends on what was heard."""
        return tuple(self.verdicts)

    # ---- what the expert knows

    def in_hand(self, world):
        return next((box for box in self.boxes if motions.grasped(world, box)), None)

    def shaken(self, world) -> bool:
        return world.target[2] > self.shaking[1] - 0.005

    def rattled(self, world) -> bool:
        return world.time - self.rattled_at < self.memory

    def tried(self, world, box) -> bool:
        return world.position(box.name)[0] < self.tried_x + 0.05

    def next_box(self, world):
        """The leftmost that has not been tried; if all have, the leftmost."""
        fresh = [box for box in self.boxes if not self.tried(world, box)]
        return max(fresh or self.boxes, key=lambda box: world.position(box.name)[1])

    def expert(self, world):
        box = self.in_hand(world)
        if box is not None:
            return self.judge(world, box)
        placed = [box for box in self.boxes if self.tried(world, box) and not motions.left(world, box)]
        if placed:
            return motions.release(world, placed[0])
        return motions.grasp(world, self.next_box(world))

    def judge(self, world, box) -> np.ndarray:
        """What to do with the box in hand."""
        z, top = world.target[2], self.shaking[1] + 0.01
        place = self.free_place(world, box)
        if self.rattled(world) and self.shaken(world):
            return motions.lift(world, self.height + 0.06, motions.CLOSED)
        if not self.rattled(world) and above(world, place):
            return self.set_down(world, box, place)
        if z > top + 0.02 or z < self.shaking[0]:
            return motions.lift(world, top, motions.CLOSED)
        if self.shaken(world):
            return motions.toward(world, (*place, top), 0.0, motions.CLOSED)
        return self.shake(world)

    def silent(self, world, box) -> bool:
        """Whether the box in hand has been judged not to rattle."""
        return not self.rattled(world) and (self.shaken(world) or above(world, self.free_place(world, box)))

    def shake(self, world) -> np.ndarray:
        """Swing from side to side while rising: the height says which way, so that nothing need be remembered."""
        side = np.sign(np.sin(2 * np.pi * (world.target[2] - self.shaking[0]) / self.wave + 0.01))
        return np.array((0, side * self.swing / 0.04, 0.25, 0, motions.CLOSED), dtype=np.float32)

    def set_down(self, world, box, place) -> np.ndarray:
        hang = world.tool[2] - world.position(box.name)[2]
        if world.position(box.name)[2] < box.height / 2 + 0.006:
            return motions.release(world, box)
        return motions.toward(world, (*place, box.height / 2 + hang), None, motions.CLOSED)

    def free_place(self, world, box) -> np.ndarray:
        """The leftmost place (2,) for tried boxes that is empty."""
        taken = [world.position(b.name)[1] for b in self.boxes if b is not box and self.tried(world, b)]
        free = [y for y in self.tried_y if all(abs(y - t) > 0.10 for t in taken)]
        return np.array((self.tried_x, free[0] if free else self.tried_y[-1]))

    # ---- the judge

    def success(self, world):
        return lifted(world, self.full, self.height)

    def failure(self, world):
        wrong = [item for item in world.scene.items if item is not self.full]
        return wrong_lifted(world, wrong, self.height) or out_of_reach(world, self.full)

    def reward(self, world):
        return {
            "near": nearness(distance(world, world.position(self.full.name))),
            "held": float(world.held(self.full.name)),
            "shaken": float(self.rattled(world)),
            "lifted": float(self.success(world)),
        }

    def focus(self, world):
        """The box that is next or in hand; of one that is silent, where it is set down: the fingers do not say what was heard."""
        box = self.in_hand(world)
        if box is not None and self.silent(world, box):
            return np.array((*self.free_place(world, box), box.height / 2))
        return world.position((box or self.next_box(world)).name)


def above(world, place: np.ndarray) -> bool:
    """Whether the tool is to be over a place (2,)."""
    return bool(np.abs(world.target[:2] - place).max() < 0.02)
