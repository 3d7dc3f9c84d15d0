"""Go to the named object when the beep sounds, not before: only hearing tells when."""

from __future__ import annotations

import numpy as np

from envs.tabletop.sound import SAMPLE_RATE, beep
from envs.tabletop.tasks import motions
from envs.tabletop.tasks.reach import Reach


class StartOnBeep(Reach):
    """The beep comes at a constant rate from half a second after the instruction on, so that having waited tells
    nothing; where it has not come within `patience`, one episode in five, none comes.

    Success: the tool over the object, as in Reach, at most `prompt` after the beep; without one, to have stayed still to
    the end. Having moved the commanded tool by more than 3 cm before the beep fails, also while the instruction is still being
    spoken; what perturbations did does not count, nor that it is undone, or followed, within a second.
    Without ears, who goes by the best of clocks succeeds in 36 episodes of 100, who never goes in 20.
    """

    name = "start_on_beep"
    forms = (
        "move to the {object} when you hear the beep",
        "wait for the beep and then reach the {object}",
        "go to the {object} after the beep",
        "when the beep sounds move to the {object}",
        "listen for the beep and then go above the {object}",
        "please reach for the {object} when it beeps",
        "do not move to the {object} before you hear the beep",
    )
    held_out_forms = (
        "reach the {object} when you hear the beep",
        "please wait for the beep and then go to the {object}",
        "when it beeps go above the {object}",
        "listen and move to the {object} after the beep",
    )
    time_limit = 14.0
    patience = 6.0  # s
    silence = 0.2  # share of episodes without a beep
    prompt = 2.0  # s from the beep until it has to be there; the expert needs 0.6 to 1.6
    still_for = 9.0  # s to stay still where there is none
    tolerance = 0.03  # m
    settling = 1.0  # s after a perturbation until it has to stay where it is
    reaction = 0.3  # s from the beep's beginning to the expert's first move

    def begin(self, world, heard_at, rng):
        delay = rng.exponential(self.patience / -np.log(self.silence))
        self.heard_at, self.rest, self.early = heard_at, world.target[:3], False
        self.late = False
        self.beeps_at = heard_at + 0.5 + delay if delay < self.patience else np.inf
        self.waveform, self.speaker = beep(rng), rng.uniform((0.3, -0.4, 0.2), (0.7, 0.4, 0.6))

    def after_step(self, world):
        if world.time < world.pushed_at + self.settling:
            self.rest = world.target[:3]
        moved = np.linalg.norm(world.target[:3] - self.rest) > self.tolerance
        self.early = self.early or bool(moved and world.time <= self.beeps_at)
        self.late = self.late or (world.time > self.beeps_at + self.prompt and not super().success(world))

    def cues(self):
        return (self.beeps_at,)

    def sounds(self, world, duration):
        if not world.time <= self.beeps_at < world.time + duration:
            return []
        ahead = np.zeros(round((self.beeps_at - world.time) * SAMPLE_RATE), np.float32)
        return [(self.speaker, np.concatenate([ahead, self.waveform]))]

    def success(self, world):
        if self.early:
            return False
        if np.isinf(self.beeps_at):
            return world.time > self.heard_at + self.still_for
        return world.time > self.beeps_at and not self.late and super().success(world)

    def failure(self, world):
        return self.early or self.late or (world.time > self.beeps_at and super().failure(world))

    def expert(self, world):
        started = world.time >= self.beeps_at + self.reaction
        return super().expert(world) if started else motions.wait(world)

    def focus(self, world):
        return super().focus(world) if world.time >= self.beeps_at + self.reaction else world.tool[:3]
