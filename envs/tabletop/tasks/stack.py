"""Put the named cube on the other named one."""

from __future__ import annotations

import numpy as np

from envs.tabletop.scene import SceneDraw
from envs.tabletop.tasks import motions
from envs.tabletop.tasks.base import Task, distance, having, nearness, on, out_of_reach, released, wrong_lifted


class Stack(Task):
    """Success: the first cube stands on the second, the gripper open and clear of it. Lifting another cube fails, the
    second included, and so does letting go of the first on a wrong one."""

    name = "stack"
    forms = (
        "put the {object} on the {base}",
        "stack the {object} on the {base}",
        "place the {object} on top of the {base}",
        "set the {object} down on the {base}",
        "please stack the {object} on the {base}",
        "pick up the {object} and put it on top of the {base}",
        "the {object} goes on top of the {base}",
    )
    held_out_forms = (
        "please put the {object} on top of the {base}",
        "stack the {object} on top of the {base}",
        "pick up the {object} and stack it on the {base}",
        "set the {object} on top of the {base}",
    )
    weights = {"near": 0.2, "held": 0.2, "carried": 0.2, "on": 0.2, "released": 0.2}
    time_limit = 18.0

    def scene(self, rng, split):
        draw = SceneDraw(rng, split)
        item = draw.add("target", ("cube",), target=True)
        base = draw.add("goal", ("cube",))
        for _ in range(2):
            draw.add("other", ("cube",))
        return draw.scene({"object": item.label, "base": base.label})

    def begin(self, world, heard_at, rng):
        self.item, self.base = world.scene.role("target"), world.scene.role("goal")

    def success(self, world):
        return on(world, self.item, self.base) and released(world, self.item)

    def failure(self, world):
        lost = released(world, self.item) and any(on(world, self.item, o) for o in having(world, "other", "extra"))
        wrong = wrong_lifted(world, having(world, "goal", "other", "extra"))
        return wrong or lost or out_of_reach(world, self.item) or out_of_reach(world, self.base)

    def reward(self, world):
        place, item = world.position(self.base.name) + (0, 0, self.base.height), world.position(self.item.name)
        return {
            "near": nearness(distance(world, item)),
            "held": float(world.held(self.item.name)),
            "carried": nearness(float(np.linalg.norm(place - item)), 0.2),
            "on": float(on(world, self.item, self.base)),
            "released": float(self.success(world)),
        }

    def expert(self, world):
        return motions.put_on(world, self.item, self.base, self.base.height / 2)

    def focus(self, world):
        busy = motions.grasped(world, self.item) or on(world, self.item, self.base)
        return world.position(self.base.name if busy else self.item.name)
