"""Grasp the named object and hold it up."""

from __future__ import annotations

from envs.tabletop.scene import GRASPABLE, SceneDraw
from envs.tabletop.tasks import motions
from envs.tabletop.tasks.base import Task, distance, lifted, nearness, out_of_reach, wrong_lifted


class PickUp(Task):
    """Success: the object between the fingers, its underside 10 cm over the table. Lifting another one fails."""

    name = "pick_up"
    forms = (
        "pick up the {object}",
        "lift the {object}",
        "take the {object}",
        "grab the {object} and lift it",
        "please pick the {object} up",
        "raise the {object} from the table",
        "take the {object} and hold it up",
    )
    held_out_forms = (
        "please lift the {object} up",
        "grab the {object}",
        "take the {object} from the table",
        "pick the {object} up and hold it",
    )
    weights = {"near": 0.3, "held": 0.3, "lifted": 0.4}
    time_limit = 12.0
    height = 0.10  # m

    def scene(self, rng, split):
        draw = SceneDraw(rng, split)
        target = draw.add("target", GRASPABLE, target=True)
        draw.add_rivals(target, GRASPABLE, count=4)
        return draw.scene({"object": target.label})

    def success(self, world):
        return lifted(world, world.scene.role("target"), self.height)

    def failure(self, world):
        wrong = [item for item in world.scene.items if item.role != "target"]
        return wrong_lifted(world, wrong) or out_of_reach(world, world.scene.role("target"))

    def reward(self, world):
        item = world.scene.role("target")
        return {
            "near": nearness(distance(world, world.position(item.name))),
            "held": float(world.held(item.name)),
            "lifted": float(self.success(world)),
        }

    def expert(self, world):
        item = world.scene.role("target")
        if motions.grasped(world, item):
            return motions.lift(world, self.height + item.height + 0.04, motions.CLOSED)
        return motions.grasp(world, item)

    def focus(self, world):
        return world.position(world.scene.role("target").name)
