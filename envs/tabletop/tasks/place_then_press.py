"""Put the named object in the bowl, then press the named button."""

from __future__ import annotations

from envs.tabletop.scene import GRASPABLE, SceneDraw
from envs.tabletop.tasks import motions
from envs.tabletop.tasks.base import Task, distance, having, inside, nearness, out_of_reach, pressed, wrong_lifted


class PlaceThenPress(Task):
    """Success: the button is held down by 5 mm or more while the object is in the bowl. Pressing it earlier fails, as do
    pressing another button and lifting another object."""

    name = "place_then_press"
    forms = (
        "put the {object} in the bowl and then press the {button}",
        "place the {object} in the bowl and press the {button}",
        "put the {object} into the bowl then push the {button}",
        "first put the {object} in the bowl and then press the {button}",
        "please drop the {object} in the bowl and then push the {button}",
        "press the {button} after you put the {object} in the bowl",
    )
    held_out_forms = (
        "please put the {object} in the bowl then press the {button}",
        "first place the {object} in the bowl and then push the {button}",
        "push the {button} after you drop the {object} in the bowl",
    )
    weights = {"near": 0.2, "held": 0.2, "inside": 0.3, "pressed": 0.3}
    time_limit = 25.0
    failure_hold = 0.2

    def scene(self, rng, split):
        draw = SceneDraw(rng, split)
        item = draw.add("target", GRASPABLE, target=True)
        draw.add_rivals(item, GRASPABLE, count=2)
        draw.add("goal", ("bowl",))
        button = draw.add("button", ("button",), target=True)
        draw.add_rivals(button, ("button",), count=2, role="other_button")
        return draw.scene({"object": item.label, "button": button.label})

    def begin(self, world, heard_at, rng):
        role = world.scene.role
        self.item, self.bowl, self.button = role("target"), role("goal"), role("button")

    def success(self, world):
        return inside(world, self.item, self.bowl) and pressed(world, self.button)

    def failure(self, world):
        early = pressed(world, self.button) and not inside(world, self.item, self.bowl)
        wrong = any(pressed(world, button) for button in having(world, "other_button"))
        lifted = wrong_lifted(world, having(world, "other", "extra"))
        return early or wrong or lifted or out_of_reach(world, self.item)

    def reward(self, world):
        return {
            "near": nearness(distance(world, self.focus(world))),
            "held": float(world.held(self.item.name)),
            "inside": float(inside(world, self.item, self.bowl) and not world.touching(self.item.name)),
            "pressed": float(self.success(world)),
        }

    def expert(self, world):
        if inside(world, self.item, self.bowl) and motions.left(world, self.item):
            return motions.press(world, self.button)
        return motions.put_in_bowl(world, self.item, self.bowl)

    def focus(self, world):
        placed = inside(world, self.item, self.bowl)
        if placed and motions.left(world, self.item):
            return world.position(self.button.name)
        return world.position(self.bowl.name if placed or motions.grasped(world, self.item) else self.item.name)
