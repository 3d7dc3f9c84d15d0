"""Push the named object onto the named square."""

from __future__ import annotations

import numpy as np

from envs.tabletop.scene import WORKSPACE, SceneDraw
from envs.tabletop.tasks import motions
from envs.tabletop.tasks.base import Task, distance, having, in_square, lifted, nearness, out_of_reach, wrong_lifted

LIFT = 0.01  # m over the table: what is so high is carried, not pushed


class Push(Task):
    """Success: the object's centre in the square, 1 cm or more from its sides. Lifting anything by 1 cm for `failure_hold`
    fails, and so does pushing another object onto the square or leaving this one on another square."""

    name = "push"
    forms = (
        "push the {object} to the {square}",
        "push the {object} onto the {square}",
        "slide the {object} to the {square}",
        "move the {object} to the {square} by pushing it",
        "please push the {object} onto the {square}",
        "shove the {object} over to the {square}",
    )
    held_out_forms = (
        "please slide the {object} onto the {square}",
        "push the {object} over to the {square}",
        "shove the {object} onto the {square}",
        "please move the {object} onto the {square} by pushing it",
    )
    weights = {"near": 0.3, "moved": 0.4, "inside": 0.3}
    time_limit = 18.0
    kinds = ("cube", "cylinder")

    def scene(self, rng, split):
        draw = SceneDraw(rng, split)
        item = draw.add("target", self.kinds, target=True)
        draw.add_rivals(item, self.kinds, count=2)
        square = draw.add("goal", ("square",), target=True)
        draw.add_rivals(square, ("square",), count=2, role="other_goal")
        return draw.scene({"object": item.label, "square": square.label}, accept=_way_is_free)

    def begin(self, world, heard_at, rng):
        self.item, self.square = world.scene.role("target"), world.scene.role("goal")

    def success(self, world):
        return in_square(world, self.item, self.square) and not lifted(world, self.item, LIFT)

    def failure(self, world):
        wrong, squares = having(world, "other", "extra"), having(world, "other_goal")
        astray = any(in_square(world, item, self.square) for item in wrong)
        lost = not world.touching(self.item.name) and any(in_square(world, self.item, s) for s in squares)
        return astray or lost or wrong_lifted(world, [self.item, *wrong], LIFT) or out_of_reach(world, self.item)

    def reward(self, world):
        far = np.linalg.norm((world.position(self.square.name) - world.position(self.item.name))[:2])
        return {
            "near": nearness(distance(world, world.position(self.item.name))),
            "moved": nearness(float(far), 0.2),
            "inside": float(self.success(world)),
        }

    def expert(self, world):
        return motions.push(world, self.item, world.position(self.square.name))

    def focus(self, world):
        """Where the tool has to go: behind the object, then into it. It says which way to push, too."""
        return motions.push_point(world, self.item, world.position(self.square.name))[0]


def _way_is_free(items) -> bool:
    """Nothing stands where the tool comes down behind the object, nor between it and the square; no other square lies
    on the way."""
    item, goal = (next(i for i in items if i.role == role) for role in ("target", "goal"))
    start, end = np.array(item.position[:2]), np.array(goal.position[:2])
    way = (end - start) / np.linalg.norm(end - start)
    behind, low, high = start - 0.08 * way, *np.array(WORKSPACE)[:, :2]
    if (behind < low + 0.01).any() or (behind > high - 0.01).any():
        return False
    others = [i for i in items if i is not item and i is not goal]
    return all(_from_segment(np.array(i.position[:2]), behind, end) > i.radius + 0.035 for i in others)


def _from_segment(point, a, b) -> float:
    """Distance of a point (2,) from the line between a and b, m."""
    t = np.clip((point - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
    return float(np.linalg.norm(point - a - t * (b - a)))
