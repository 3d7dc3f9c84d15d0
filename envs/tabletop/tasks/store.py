"""Put the named object in the named open drawer and close it."""

from __future__ import annotations

import numpy as np

from envs.tabletop.scene import GRASPABLE, SceneDraw
from envs.tabletop.tasks import motions
from envs.tabletop.tasks.base import Task, distance, having, in_drawer, nearness, out_of_reach, wrong_lifted


class Store(Task):
    """Success: the object in the drawer and the drawer out by less than 12 mm. Lifting another object fails, and so
    does letting go of it in another drawer."""

    name = "store"
    forms = (
        "put the {object} in the {drawer} and close it",
        "place the {object} in the {drawer} and shut it",
        "put the {object} into the {drawer} and push it shut",
        "store the {object} in the {drawer}",
        "please store the {object} in the {drawer} and close it",
        "put the {object} away in the {drawer}",
        "drop the {object} in the {drawer} and close the drawer",
    )
    held_out_forms = (
        "please put the {object} in the {drawer} and shut it",
        "put the {object} in the {drawer} and close the drawer",
        "store the {object} in the {drawer} and shut it",
        "please put the {object} away in the {drawer}",
    )
    weights = {"near": 0.2, "held": 0.2, "inside": 0.3, "shut": 0.3}
    time_limit = 25.0
    out = 0.075  # m that the drawer must be out before the object is fetched

    def scene(self, rng, split):
        draw = SceneDraw(rng, split)
        item = draw.add("target", GRASPABLE, target=True)
        draw.add_rivals(item, GRASPABLE, count=2)
        drawer = draw.add("goal", ("drawer",), target=True)
        draw.add_rivals(drawer, ("drawer",), count=1, role="other_goal")
        return draw.scene({"object": item.label, "drawer": drawer.label}, slid=(0.085, 0.10))

    def begin(self, world, heard_at, rng):
        self.item, self.drawer = world.scene.role("target"), world.scene.role("goal")

    def success(self, world):
        return in_drawer(world, self.item, self.drawer) and world.slid(self.drawer.name) < 0.012

    def failure(self, world):
        drawers = having(world, "other_goal")
        lost = not world.touching(self.item.name) and any(in_drawer(world, self.item, drawer) for drawer in drawers)
        return wrong_lifted(world, having(world, "other", "extra")) or lost or out_of_reach(world, self.item)

    def reward(self, world):
        inside = in_drawer(world, self.item, self.drawer)
        shut = 1.0 - np.clip(world.slid(self.drawer.name) / self.drawer.slid, 0, 1)
        return {
            "near": nearness(distance(world, world.position(self.item.name))),
            "held": float(world.held(self.item.name)),
            "inside": float(inside),
            "shut": float(inside * shut),
        }

    def expert(self, world):
        if in_drawer(world, self.item, self.drawer) and motions.left(world, self.item):
            return motions.push_shut(world, self.drawer)
        if world.slid(self.drawer.name) < self.out and not world.touching(self.item.name):
            return motions.pull_open(world, self.drawer)
        return motions.put_in_drawer(world, self.item, self.drawer)

    def focus(self, world):
        """The object, the part of the tray that is out, then the drawer's tab."""
        item, tray = world.position(self.item.name), motions.tray(world, self.drawer)
        there = in_drawer(world, self.item, self.drawer)
        if there and motions.left(world, self.item):
            return world.part(self.drawer.name)
        falling = np.abs(item - tray)[:2].max() < 0.03
        return tray if there or falling or motions.grasped(world, self.item) else item
