"""A world that needs no physics: for tests of what is done with episodes. Its actions are "native"."""

import gymnasium as gym
import numpy as np

from agent.spec import AUDIO, IMAGES, STATE, TASK, TIME, ActionSpec, Spec

NAMES = ("a", "b")
BROKEN: set[int] = set()  # seeds that end in an exception, whatever the arguments


class LittleWorld(gym.Env):
    """Ends after five steps; successful for even seeds. Seeds in `crash` end in an exception."""

    metadata = {"render_modes": []}

    def __init__(self, crash=()):
        self.crash, self.voice_end, self.heard_at = tuple(crash), 0.0, 0.0
        action = ActionSpec("native", NAMES, (-1.0, -1.0), (1.0, 1.0))
        self.robot_spec = Spec({"eye": (16, 16)}, ("x",), action, 10.0, ((0.0, 0.0, 0.0),))
        self.action_space = gym.spaces.Box(-1, 1, (2,), np.float32)
        self.observation_space = gym.spaces.Dict({})

    def reset(self, *, seed=None, options=None):
        self.seed, self.steps = seed, 0
        return self._obs(), {"instruction": f"count to {seed}"}

    def step(self, action):
        if self.seed in BROKEN.union(self.crash):
            raise RuntimeError(f"the world of seed {self.seed} fell apart")
        self.steps += 1
        return self._obs(), 0.0, self.steps == 5, False, {"success": self.seed % 2 == 0}

    def _obs(self):
        return {IMAGES + "eye": np.full((16, 16, 3), 7, np.uint8), STATE: np.zeros(1, np.float32), TASK: "count",
                AUDIO: np.full((1600, 1), 0.1, np.float32), TIME: np.array(self.steps / 10)}


gym.register("little/World-v0", entry_point=LittleWorld)
