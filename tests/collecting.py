"""A world without physics for the tests of collecting: everything that is sensed counts the steps."""

import gymnasium as gym
import numpy as np

from agent.spec import AUDIO, IMAGES, STATE, TASK, TIME, ActionSpec, Spec


class Arm:
    name = "stub"


class Task(str):
    time_limit = 1.0


class Counting(gym.Env):
    """Episodes of 5 + seed % 3 steps. Task "hard" fails where the seed is divisible by 3, "broken" crashes always."""

    observation_space = action_space = gym.spaces.Dict()
    arm, voice_end, heard_at = Arm(), 0.2, 0.2
    robot_spec = Spec({"front": (16, 16)}, ("step", "seed"), ActionSpec("ee_delta", ("a",), (-1.0,), (1.0,), (1.0,)),
                      10.0, ((0.0, 0.0, 0.0),))  # fmt: skip

    def __init__(self, split="train", instruct="text", interrupt_at=None):
        self.interrupt_at = interrupt_at

    def reset(self, *, seed=None, options=None):
        self.seed, self.task, self.steps = seed, Task(options["task"]), 0
        if self.task == "broken":
            raise FloatingPointError("the stub broke")
        if seed == self.interrupt_at:
            raise KeyboardInterrupt
        self.tracks = self.sound(0.9)
        return self.observation(), {"instruction": f"do {self.task}"}

    def sound(self, level):
        return {"world": np.full((1600, 1), level, np.float32), "voice": np.full((1600, 1), -level, np.float32)}

    def observation(self):
        state = np.array([self.steps, self.seed], np.float32)
        return {STATE: state, TASK: "", TIME: np.array(self.steps / 10), AUDIO: self.tracks["world"],
                IMAGES + "front": np.full((16, 16, 3), 20 * self.steps, np.uint8)}

    def expert_action(self):
        return np.array([self.steps / 10], np.float32)

    def annotation(self):
        return {"focus": np.full(3, self.steps, np.float32), "surprise": self.steps == 2, "heard": self.steps >= 2}

    def step(self, action):
        assert action == self.expert_action()
        self.steps += 1
        self.tracks = self.sound(self.steps / 100)
        done = self.steps == 5 + self.seed % 3
        success = done and not (self.task == "hard" and self.seed % 3 == 0)
        return self.observation(), 0.0, success, done and not success, {"success": success}


gym.register("Counting-v0", entry_point=Counting)
