"""Put the named object on the named plate."""

from __future__ import annotations

import numpy as np

from envs.tabletop.scene import GRASPABLE, SceneDraw
from envs.tabletop.tasks import motions
from envs.tabletop.tasks.base import Task, distance, having, nearness, on, out_of_reach, released, wrong_lifted


class PlaceOn(Task):
    """Success: the object on the plate, the gripper open and clear of it. Lifting another object fails, and so does
    letting go of it on another plate."""

    name = "place_on"
    forms = (
        "put the {object} on the {plate}",
        "place the {object} on the {plate}",
        "set the {object} down on the {plate}",
        "pick up the {object} and put it on the {plate}",
        "please put the {object} on the {plate}",
        "the {object} goes on the {plate}",
        "move the {object} onto the {plate}",
    )
    held_out_forms = (
        "please place the {object} on the {plate}",
        "put the {object} down on the {plate}",
        "pick up the {object} and place it on the {plate}",
        "put the {object} onto the {plate}",
    )
    weights = {"near": 0.2, "held": 0.2, "carried": 0.2, "on": 0.2, "released": 0.2}
    time_limit = 18.0
    top = 0.006  # m, of a plate's disc over the table

    def scene(self, rng, split):
        draw = SceneDraw(rng, split)
        item = draw.add("target", GRASPABLE, target=True)
        draw.add_rivals(item, GRASPABLE, count=2)
        plate = draw.add("goal", ("plate",), target=True)
        draw.add_rivals(plate, ("plate",), count=2, role="other_goal")
        return draw.scene({"object": item.label, "plate": plate.label})

    def begin(self, world, heard_at, rng):
        self.item, self.plate = world.scene.role("target"), world.scene.role("goal")

    def success(self, world):
        return on(world, self.item, self.plate) and released(world, self.item)

    def failure(self, world):
        lost = released(world, self.item) and any(on(world, self.item, p) for p in having(world, "other_goal"))
        return wrong_lifted(world, having(world, "other", "extra")) or lost or out_of_reach(world, self.item)

    def reward(self, world):
        place, item = world.position(self.plate.name), world.position(self.item.name)
        return {
            "near": nearness(distance(world, item)),
            "held": float(world.held(self.item.name)),
            "carried": nearness(float(np.linalg.norm(place - item)), 0.2),
            "on": float(on(world, self.item, self.plate)),
            "released": float(self.success(world)),
        }

    def expert(self, world):
        return motions.put_on(world, self.item, self.plate, self.top - self.plate.height / 2)

    def focus(self, world):
        busy = motions.grasped(world, self.item) or on(world, self.item, self.plate)
        return world.position(self.plate.name if busy else self.item.name)
