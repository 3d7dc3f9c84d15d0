"""Press the named button."""

from __future__ import annotations

from envs.tabletop.scene import SceneDraw
from envs.tabletop.tasks import motions
from envs.tabletop.tasks.base import Task, distance, having, nearness, pressed


class PressButton(Task):
    """Success: the button is held down by 5 mm or more. Pressing another one fails at once."""

    name = "press_button"
    forms = (
        "press the {button}",
        "push the {button}",
        "push the {button} down",
        "please press the {button}",
        "press down on the {button}",
        "hold the {button} down",
        "go to the {button} and press it",
    )
    held_out_forms = (
        "please push the {button} down",
        "push down on the {button}",
        "go to the {button} and push it down",
        "press the {button} down",
    )
    weights = {"near": 0.5, "pressed": 0.5}
    time_limit = 12.0
    failure_hold = 0.0

    def scene(self, rng, split):
        draw = SceneDraw(rng, split)
        target = draw.add("target", ("button",), target=True)
        draw.add_rivals(target, ("button",), count=3)
        return draw.scene({"button": target.label})

    def success(self, world):
        return pressed(world, world.scene.role("target"))

    def failure(self, world):
        return any(pressed(world, item) for item in having(world, "other"))

    def reward(self, world):
        item = world.scene.role("target")
        top = world.position(item.name) + (0, 0, item.height / 2)
        return {"near": nearness(distance(world, top)), "pressed": float(self.success(world))}

    def expert(self, world):
        return motions.press(world, world.scene.role("target"))

    def focus(self, world):
        return world.position(world.scene.role("target").name)
