"""Hold the tool over the named object."""

from __future__ import annotations

import numpy as np

from envs.tabletop.scene import GRASPABLE, SceneDraw
from envs.tabletop.tasks import motions
from envs.tabletop.tasks.base import Task, distance, nearness


class Reach(Task):
    """Success: the tool within 2.5 cm, horizontally, of the object's middle and 3 to 8 cm over its top."""

    name = "reach"
    forms = (
        "reach the {object}",
        "move to the {object}",
        "go to the {object}",
        "move the hand above the {object}",
        "go above the {object}",
        "please reach for the {object}",
        "hold the hand over the {object}",
    )
    held_out_forms = (
        "please move to the {object}",
        "reach above the {object}",
        "move the hand over the {object}",
        "please go above the {object}",
    )
    weights = {"near": 0.5, "over": 0.5}
    time_limit = 10.0
    radius, low, high = 0.025, 0.03, 0.08  # m

    def scene(self, rng, split):
        draw = SceneDraw(rng, split)
        kinds = (*GRASPABLE, "bowl", "plate")
        target = draw.add("target", kinds, target=True)
        draw.add_rivals(target, kinds, count=4)
        return draw.scene({"object": target.label})

    def over(self, world, item) -> bool:
        x, y, z = world.tool[:3] - world.position(item.name)
        return bool(np.hypot(x, y) < self.radius and self.low < z - item.height / 2 < self.high)

    def success(self, world):
        return self.over(world, world.scene.role("target"))

    def failure(self, world):
        return any(self.over(world, item) for item in world.scene.items if item.role != "target")

    def reward(self, world):
        return {"near": nearness(distance(world, self.goal(world))), "over": float(self.success(world))}

    def goal(self, world) -> np.ndarray:
        item = world.scene.role("target")
        return world.position(item.name) + (0, 0, item.height / 2 + 0.055)

    def expert(self, world):
        return motions.approach(world, self.goal(world), 0.0, motions.OPEN, hover=0.05)

    def focus(self, world):
        return world.position(world.scene.role("target").name)
