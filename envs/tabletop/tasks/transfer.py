"""Fetching one object and letting go of it where it belongs: what the tasks of one placement have in common."""

from __future__ import annotations

import numpy as np

from envs.tabletop.scene import GRASPABLE, Scene, SceneDraw
from envs.tabletop.tasks import motions
from envs.tabletop.tasks.base import Task, distance, having, nearness, out_of_reach, released, wrong_lifted


class Transfer(Task):
    """Success: the item `there`, the gripper open and clear of it. Lifting one of role `wrong` fails, and so does letting
    go of the item at one of role `wrong_goals`."""

    weights = {"near": 0.2, "held": 0.2, "carried": 0.2, "there": 0.2, "released": 0.2}
    time_limit = 18.0
    wrong, wrong_goals = ("other", "extra"), ("other_goal",)

    def choose(self, rng: np.random.Generator, split: str, kind: str) -> Scene:
        """One of three graspable items and one of three goals of a kind, called {object} and {kind}."""
        draw = SceneDraw(rng, split)
        item = draw.add("target", GRASPABLE, target=True)
        draw.add_rivals(item, GRASPABLE, count=2)
        goal = draw.add("goal", (kind,), target=True)
        draw.add_rivals(goal, (kind,), count=2, role="other_goal")
        return draw.scene({"object": item.label, kind: goal.label})

    def begin(self, world, heard_at, rng):
        self.item, self.goal = world.scene.role("target"), world.scene.role("goal")

    def there(self, world, goal) -> bool:
        """The item is where it belongs, if `goal` is its goal."""
        raise NotImplementedError

    def place(self, world) -> np.ndarray:
        """The goal's point (3,) to which the item is carried."""
        return world.position(self.goal.name)

    def success(self, world):
        return self.there(world, self.goal) and released(world, self.item)

    def failure(self, world):
        lost = released(world, self.item) and any(self.there(world, g) for g in having(world, *self.wrong_goals))
        return wrong_lifted(world, having(world, *self.wrong)) or lost or out_of_reach(world, self.item)

    def reward(self, world):
        item = world.position(self.item.name)
        return {
            "near": nearness(distance(world, item)),
            "held": float(world.held(self.item.name)),
            "carried": nearness(float(np.linalg.norm(self.place(world) - item)), 0.2),
            "there": float(self.there(world, self.goal)),
            "released": float(self.success(world)),
        }

    def focus(self, world):
        busy = motions.grasped(world, self.item) or self.there(world, self.goal)
        return world.position(self.goal.name if busy else self.item.name)
