"""Pull the named drawer open."""

from __future__ import annotations

import numpy as np

from envs.tabletop.scene import DRAWER_TRAVEL, GRASPABLE, SceneDraw
from envs.tabletop.tasks import motions
from envs.tabletop.tasks.base import Task, distance, having, nearness


class OpenDrawer(Task):
    """Success: the drawer is out by 8 cm of 10. Pulling another one out by more than 3 cm fails."""

    name = "open_drawer"
    forms = (
        "open the {drawer}",
        "pull the {drawer} open",
        "pull out the {drawer}",
        "please open the {drawer}",
        "slide the {drawer} open",
        "go to the {drawer} and open it",
    )
    held_out_forms = (
        "please pull the {drawer} open",
        "please pull out the {drawer}",
        "go to the {drawer} and slide it open",
        "go to the {drawer} and pull it open",
    )
    weights = {"near": 0.4, "slid": 0.4, "done": 0.2}
    time_limit = 15.0
    slid = (0.0, 0.005)  # m that drawers are out at the start
    wrong = 0.03  # m that another drawer may be moved

    def scene(self, rng, split):
        draw = SceneDraw(rng, split)
        target = draw.add("target", ("drawer",), target=True)
        draw.add_rivals(target, ("drawer",), count=2)
        draw.add("other", GRASPABLE)
        return draw.scene({"drawer": target.label}, slid=self.slid)

    def begin(self, world, heard_at, rng):
        self.drawer = world.scene.role("target")
        self.rivals = [item for item in having(world, "other") if item.kind == "drawer"]

    def success(self, world):
        return world.slid(self.drawer.name) > 0.08

    def failure(self, world):
        return any(abs(world.slid(item.name) - item.slid) > self.wrong for item in self.rivals)

    def reward(self, world):
        return {
            "near": nearness(distance(world, self.focus(world))),
            "slid": float(np.clip(self.course(world), 0, 1)),
            "done": float(self.success(world)),
        }

    def course(self, world) -> float:
        """How far the drawer is on its way, 0..1."""
        return world.slid(self.drawer.name) / DRAWER_TRAVEL

    def expert(self, world):
        return motions.pull_open(world, self.drawer)

    def focus(self, world):
        """Where the drawer is pulled and pushed: at its tab."""
        return world.part(self.drawer.name) + (0, 0, motions.HOOKED)
