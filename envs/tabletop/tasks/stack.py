"""Put the named cube on the other named one."""

from __future__ import annotations

from envs.tabletop.scene import SceneDraw
from envs.tabletop.tasks import motions
from envs.tabletop.tasks.base import on, out_of_reach
from envs.tabletop.tasks.transfer import Transfer


class Stack(Transfer):
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
    wrong, wrong_goals = ("goal", "other", "extra"), ("other", "extra")

    def scene(self, rng, split):
        draw = SceneDraw(rng, split)
        item = draw.add("target", ("cube",), target=True)
        base = draw.add("goal", ("cube",))
        for _ in range(2):
            draw.add("other", ("cube",))
        return draw.scene({"object": item.label, "base": base.label})

    def there(self, world, goal):
        return on(world, self.item, goal)

    def place(self, world):
        return world.position(self.goal.name) + (0, 0, self.goal.height)

    def failure(self, world):
        return super().failure(world) or out_of_reach(world, self.goal)

    def expert(self, world):
        return motions.put_on(world, self.item, self.goal, self.goal.height / 2)
