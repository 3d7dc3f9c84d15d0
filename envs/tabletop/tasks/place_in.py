"""Put the named object in the named bowl."""

from __future__ import annotations

import numpy as np

from envs.tabletop.scene import GRASPABLE, SceneDraw
from envs.tabletop.tasks import motions
from envs.tabletop.tasks.base import Task, distance, inside, nearness, out_of_reach, released, wrong_lifted


class PlaceIn(Task):
    """Success: the object inside the bowl, the gripper open and clear of it. Lifting another object fails, and so does
    letting go of it in another bowl."""

    name = "place_in"
    forms = (
        "put the {object} in the {bowl}",
        "place the {object} in the {bowl}",
        "put the {object} into the {bowl}",
        "move the {object} into the {bowl}",
        "pick up the {object} and put it in the {bowl}",
        "please drop the {object} in the {bowl}",
        "the {object} goes in the {bowl}",
    )
    held_out_forms = (
        "please put the {object} in the {bowl}",
        "drop the {object} into the {bowl}",
        "pick up the {object} and place it in the {bowl}",
        "please move the {object} into the {bowl}",
    )
    weights = {"near": 0.2, "held": 0.2, "carried": 0.2, "inside": 0.2, "released": 0.2}
    time_limit = 18.0

    def scene(self, rng, split):
        draw = SceneDraw(rng, split)
        item = draw.add("target", GRASPABLE, target=True)
        draw.add_rivals(item, GRASPABLE, count=2)
        bowl = draw.add("goal", ("bowl",), target=True)
        draw.add_rivals(bowl, ("bowl",), count=2, role="other_goal")
        return draw.scene({"object": item.label, "bowl": bowl.label})

    def begin(self, world, heard_at, rng):
        self.item, self.bowl = world.scene.role("target"), world.scene.role("goal")

    def success(self, world):
        return inside(world, self.item, self.bowl) and released(world, self.item)

    def failure(self, world):
        wrong = [item for item in world.scene.items if item.role in ("other", "extra")]
        bowls = world.scene.roles("other_goal")
        lost = released(world, self.item) and any(inside(world, self.item, bowl) for bowl in bowls)
        return wrong_lifted(world, wrong) or lost or out_of_reach(world, self.item)

    def reward(self, world):
        place, item = world.position(self.bowl.name), world.position(self.item.name)
        return {
            "near": nearness(distance(world, item)),
            "held": float(world.held(self.item.name)),
            "carried": nearness(float(np.linalg.norm(place - item)), 0.2),
            "inside": float(inside(world, self.item, self.bowl)),
            "released": float(self.success(world)),
        }

    def expert(self, world):
        return motions.put_in_bowl(world, self.item, self.bowl)

    def focus(self, world):
        busy = motions.grasped(world, self.item) or inside(world, self.item, self.bowl)
        return world.position(self.bowl.name if busy else self.item.name)
