"""A person as a policy: keyboard or gamepad, with a window that shows what the robot sees and plays what it hears."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from agent.spec import AUDIO, IMAGES, TASK, TIME, Chunk, Spec, SpecError

HELP = "arrows: over the table   W S: up, down   A D: turn   space: gripper   backspace: give up   escape: end"
SIDE = 384  # pixels a camera
FULL = 32767  # of a stick's way, as SDL counts
DEAD = 0.12  # share of it that counts as the middle


class GivenUp(Exception):
    """The person gave the episode up."""


class TeleopError(RuntimeError):
    """This machine lacks something that driving by hand needs; the message says what."""


class TeleopPolicy:
    """Tool deltas from the keys that are down (at `speed` of the greatest step) and from the first gamepad that SDL knows: left
    stick over the table, right stick up, down and turning, button A (the lower one) the gripper, B gives up. As the picture
    of a front camera shows it: up is away from it. `played` is the last action.

    Paced by the wall clock at the robot's rate. Raises TeleopError; act raises GivenUp, and KeyboardInterrupt when the
    window is closed.
    """

    sees = True

    def __init__(self, speed: float = 0.6):
        try:
            os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
            import pygame
            from pygame._sdl2 import controller
        except ImportError:
            raise TeleopError("policy=teleop needs pygame: pip install 'soma-agent[teleop]'") from None
        self.pygame, self.speed = pygame, speed
        pygame.init()
        shown = "SDL_VIDEODRIVER" in os.environ or pygame.display.get_driver() not in ("offscreen", "dummy")
        if not (pygame.display.get_init() and shown):
            raise TeleopError("policy=teleop needs a display to open its window on")
        self.window, self.clock = None, pygame.time.Clock()
        self.font = pygame.font.Font(None, 22)
        controller.init()
        known = [i for i in range(controller.get_count()) if controller.is_controller(i)]
        self.pad = controller.Controller(known[0]) if known else None

    def reset(self, spec: Spec, seed: int) -> None:
        """Raises SpecError for a robot that is not driven by tool deltas."""
        if spec.action.kind != "ee_delta":
            raise SpecError(f"teleop drives a robot by ee_delta actions, this one takes {spec.action.kind}")
        self.spec, self.gripper = spec, 1.0
        self.played = np.zeros(spec.action.size, np.float32)
        self.pygame.event.clear()

    def act(self, obs: Mapping[str, Any]) -> Chunk:
        self.show(obs)
        self.clock.tick(self.spec.control_hz)
        self.heed(self.pygame.event.get())
        move = np.clip(self.speed * self.keys() + self.sticks(), -1.0, 1.0)
        self.played = np.array((*move, self.gripper), np.float32)
        return Chunk(self.played[None], float(obs[TIME]), self.spec.control_hz)

    def heed(self, events) -> None:
        """What happens once: the gripper turns, the episode or everything is given up."""
        pg = self.pygame
        for event in events:
            key = event.key if event.type == pg.KEYDOWN else None
            button = event.button if event.type == pg.CONTROLLERBUTTONDOWN else None
            if event.type == pg.QUIT or key == pg.K_ESCAPE:
                raise KeyboardInterrupt
            if key == pg.K_BACKSPACE or button == pg.CONTROLLER_BUTTON_B:
                raise GivenUp
            if key == pg.K_SPACE or button == pg.CONTROLLER_BUTTON_A:
                self.gripper = -self.gripper

    def keys(self) -> np.ndarray:
        """dx, dy, dz, dyaw (4,) in -1..1 from the keys that are down."""
        pg, down = self.pygame, self.pygame.key.get_pressed()
        pairs = ((pg.K_DOWN, pg.K_UP), (pg.K_RIGHT, pg.K_LEFT), (pg.K_w, pg.K_s), (pg.K_a, pg.K_d))
        return np.array([float(down[more]) - float(down[less]) for more, less in pairs])

    def sticks(self) -> np.ndarray:
        """The same from the gamepad's sticks; zero without one."""
        if self.pad is None:
            return np.zeros(4)
        axes = (getattr(self.pygame, f"CONTROLLER_AXIS_{name}") for name in ("LEFTX", "LEFTY", "RIGHTX", "RIGHTY"))
        right, down, turn, lower = (self.pad.get_axis(axis) / FULL for axis in axes)
        tilt = np.array((down, right, -lower, -turn))
        return np.where(np.abs(tilt) > DEAD, tilt, 0.0)

    def show(self, obs: Mapping[str, Any]) -> None:
        """The cameras side by side over the instruction and the help; the sound that was heard since the last time."""
        pg, cameras = self.pygame, list(self.spec.cameras)
        if self.window is None:
            self.window = pg.display.set_mode((SIDE * len(cameras), SIDE + 50))
            pg.display.set_caption("soma teleop")
        self.window.fill("black")
        for i, name in enumerate(cameras):
            picture = pg.surfarray.make_surface(obs[IMAGES + name].swapaxes(0, 1))
            self.window.blit(pg.transform.smoothscale(picture, (SIDE, SIDE)), (SIDE * i, 0))
        for row, line in enumerate((obs[TASK] or "(listen)", HELP)):
            self.window.blit(self.font.render(line, True, "white"), (6, SIDE + 4 + 22 * row))
        pg.display.flip()
        if AUDIO in obs and len(obs[AUDIO]):
            self.sound(obs[AUDIO])

    def sound(self, samples: np.ndarray) -> None:
        """samples (n, C) in [-1, 1], to the loudspeakers behind what still plays; nothing where there are none."""
        pg = self.pygame
        if pg.mixer.get_init() is None or pg.mixer.get_init()[0] != self.spec.sample_rate:
            try:
                pg.mixer.quit()
                pg.mixer.init(self.spec.sample_rate, -16, 2)
            except pg.error:
                return
        both = np.repeat(samples, 2, 1) if samples.shape[1] == 1 else samples[:, :2]
        wave = np.ascontiguousarray(np.clip(both, -1, 1) * 32767, np.int16)
        pg.mixer.Channel(0).queue(pg.sndarray.make_sound(wave))
