"""Press the buzzer that rings: only hearing tells which."""

from __future__ import annotations

import numpy as np

from envs.tabletop.scene import SceneDraw
from envs.tabletop.sound import SAMPLE_RATE, buzzer
from envs.tabletop.tasks import motions
from envs.tabletop.tasks.base import pressed
from envs.tabletop.tasks.press_button import PressButton


class PressBuzzer(PressButton):
    """One buzzer starts to ring at a drawn time. Success: it is held down by 5 mm or more. Pressing another one fails
    at once, and so does pressing any before it rings."""

    name = "press_buzzer"
    forms = (
        "press the buzzer that is ringing",
        "press the buzzer that rings",
        "push the ringing buzzer",
        "listen and press the buzzer you hear",
        "please press the ringing buzzer",
        "find the buzzer that rings and push it",
        "press the one that is ringing",
    )
    held_out_forms = (
        "push the buzzer that is ringing",
        "please push the buzzer you hear",
        "listen and find the ringing buzzer and press it",
        "push the one that rings",
    )
    reaction = 0.3  # s of ringing before the expert moves
    table = ((0.40, -0.26), (0.60, 0.26))

    def scene(self, rng, split):
        draw = SceneDraw(rng, split)
        draw.add("target", ("buzzer",), target=True)
        for _ in range(rng.integers(2, 4)):
            draw.add("other", ("buzzer",))
        return draw.scene(table=self.table, gap=0.065, aside=0.10)

    def begin(self, world, heard_at, rng):
        self.target = world.scene.role("target")
        self.rings_at = heard_at + rng.uniform(0.3, 2.0)
        self.waveform = buzzer(rng, self.time_limit + 5.0)

    def cues(self):
        return (self.rings_at,)

    def ringing(self, world) -> float:
        """For how long it has been ringing, s; 0 before and while it is pressed."""
        return 0.0 if pressed(world, self.target) else max(world.time - self.rings_at, 0.0)

    def sounds(self, world, duration):
        if pressed(world, self.target):
            return []
        first, last = (round((t - self.rings_at) * SAMPLE_RATE) for t in (world.time, world.time + duration))
        if last <= 0:
            return []
        silence = np.zeros(max(-first, 0), np.float32)
        return [(world.position(self.target.name), np.concatenate([silence, self.waveform[max(first, 0) : last]]))]

    def success(self, world):
        return world.time > self.rings_at and super().success(world)

    def failure(self, world):
        return super().failure(world) or (world.time <= self.rings_at and pressed(world, self.target))

    def expert(self, world):
        if world.time < self.rings_at + self.reaction:
            return motions.wait(world)
        return motions.press(world, self.target)

    def focus(self, world):
        """Before the ringing nobody can know: the tool itself."""
        known = world.time >= self.rings_at + self.reaction
        return world.position(self.target.name) if known else world.tool[:3]
