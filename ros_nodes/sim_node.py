"""The tabletop as a robot: its sensors as topics, its joints driven by commands, its clock on /clock.

In lock-step each control period waits for its command, so that an episode goes as fast as it can and the same each time,
and the clock begins at 0. Otherwise the world runs at the wall clock's pace, commanded or not, and its stamps are the wall
clock's: what is commanded is followed by the times for which it was, as ros2_control's trajectory controllers do, however
late the world is.
"""

from __future__ import annotations

import json
import sys
from collections import deque
from dataclasses import replace
from functools import partial

import numpy as np

from agent.spec import AUDIO, IMAGES, TASK
from envs import TASK_NAMES
from envs.arm import JointState
from envs.tabletop.env import TabletopEnv
from envs.tabletop.voices import unspoken
from ros_nodes import convert
from ros_nodes.arguments import ArgumentError, Parameter, run
from ros_nodes.audio_node import Mouth
from ros_nodes.interfaces import message

SETTLE = 0.3  # s of the wall clock between an episode and the next, and from there to the first observation: all have heard then
AGAIN = 1.0  # s of the wall clock after which an observation that nobody answered is sent once more
SLACK = 1e-3  # s
LAG = 0.2  # s behind the wall clock from which on the world is not hurried after it
HURRY = 4  # times as fast as the wall clock a world that is late goes
LOCKSTEP_RATE = 10.0  # Hz
LOOKED_AT = "camera/front/image_raw"  # no episode begins before somebody sees it


class SimNode:
    """The tabletop. ~/reset (std_srvs/Trigger, or std_msgs/Empty on the topic of that name) begins the episode anew. It gives
    /clock, and so does not go by it: use_sim_time is for the other nodes."""

    PARAMETERS = {
        "task": Parameter("pick_up", f"one of {', '.join(TASK_NAMES)}"),
        "split": Parameter("new_scenes", "of scenes, sentences and voices"),
        "instruct": Parameter("text", "how the instruction comes: text, voice or both"),
        "seed": Parameter(1000, "of the first episode", 0, 2**31),
        "episodes": Parameter(0, "after which it ends; 0: when it is stopped", 0, 10**6),
        "lockstep": Parameter(False, "each control period waits for its command"),
        "rate": Parameter(50.0, "Hz of joint states, sound and control; 10 in lock-step", 10.0, 250.0),
        "camera_rate": Parameter(30.0, "Hz of each camera; 10 in lock-step", 1.0, 100.0),
    } | Mouth.PARAMETERS

    def __init__(self, node):
        self.node, asked = node, node.parameters(self.PARAMETERS)
        node.give_time()
        self.lockstep, self.episodes, self.seed = asked.lockstep, asked.episodes, asked.seed
        self.done, self.results, self.resets = False, [], 0
        if cannot := unspoken(asked.split, asked.instruct):
            raise ArgumentError(cannot)
        rate, self.exposure = (LOCKSTEP_RATE, 1.0 / LOCKSTEP_RATE) if self.lockstep else (asked.rate, 1.0 / asked.camera_rate)
        try:
            self.env = TabletopEnv(asked.task, asked.split, "joint_position", asked.instruct, lazy_images=True, control_hz=rate)
        except ValueError as error:
            raise ArgumentError(str(error)) from error
        self.clock = node.publisher("rosgraph_msgs/msg/Clock", "/clock", "reliable")
        self.joints = node.publisher(convert.JOINTS, "joint_states", "reliable")
        self.cameras = {name: node.publisher(convert.IMAGE, f"camera/{name}/image_raw", "reliable")
                        for name in self.env.robot_spec.cameras}
        self.audio = node.publisher(convert.AUDIO, "audio", "stream")
        self.instruction = node.publisher("std_msgs/msg/String", "instruction", "latched")
        self.episode = node.publisher("std_msgs/msg/String", "episode", "latched")
        self.put_elsewhere = node.publisher("std_msgs/msg/Empty", "robot_reset", "reliable")
        node.subscribe(convert.TRAJECTORY, "joint_commands", self.command, "reliable")
        node.subscribe("std_msgs/msg/Empty", "~/reset", lambda _: self.reset(), "reliable")
        node.service("std_srvs/srv/Trigger", "~/reset", self.reset_asked)
        self.mouth = Mouth(node, asked.voice, lambda: self.now, lambda wave: self.env.say(wave))
        self.start = 0.0  # the clock's time (s) at which the running episode began
        self.reset()
        self.env.images()  # the very first take their time, in which a running world would stand still
        node.timer(*(AGAIN, self.again) if self.lockstep else (self.env.period / HURRY, self.keep_up))

    # ---- episodes

    def reset(self) -> None:
        """Begin the next episode, half a second after the last one on the clock, which never goes back."""
        self.start = self.now + 0.5 if self.resets else 0.0
        self.obs, _ = self.env.reset(seed=self.seed + len(self.results))
        self.done = True  # until it begins
        self.tell("running")
        self.put_elsewhere(message("std_msgs/msg/Empty")())
        self.say(self.obs[TASK])
        self.resets += 1
        self.node.timer(SETTLE, partial(self.begin, self.resets), once=True)

    def begin(self, number: int) -> None:
        """Of the reset with this number, if there was none since, once somebody looks."""
        if number != self.resets:
            return
        if not self.node.listeners(LOOKED_AT):
            self.node.timer(SETTLE, partial(self.begin, number), once=True)
            return
        self.done, self.seen_at = False, -1e9
        if not self.lockstep:
            self.start = self.node.now()
        self.commands = deque([replace(self.env.command, stamp=self.now)])
        self.send()

    def reset_asked(self, request, response):
        self.reset()
        response.success, response.message = True, self.env.instruction
        return response

    def finish(self, success: bool) -> None:
        self.results.append(success)
        self.done = True
        self.tell("success" if success else "failure")
        self.node.log(f"{self.env.task.name} {self.seed + len(self.results) - 1}: {'success' if success else 'failure'}")
        if self.episodes and len(self.results) >= self.episodes:
            self.node.log(f"{sum(self.results)} of {len(self.results)} episodes succeeded")
            self.node.timer(SETTLE, self.node.stop, once=True)
        else:
            self.node.timer(SETTLE, partial(self.go_on, self.resets), once=True)

    def go_on(self, number: int) -> None:
        """To the next episode, if nobody has begun it since the reset with this number."""
        if number == self.resets:
            self.reset()

    def tell(self, state: str) -> None:
        about = {"state": state, "task": self.env.task.name, "seed": self.seed + len(self.results) - (state != "running"),
                 "instruction": self.env.instruction, "successes": sum(self.results), "episodes": len(self.results)}
        self.episode(message("std_msgs/msg/String")(json.dumps(about)))

    def say(self, text: str) -> None:
        self.instruction(message("std_msgs/msg/String")(text))

    # ---- one control period

    @property
    def now(self) -> float:
        return self.start + self.env.time if hasattr(self.env, "world") else 0.0

    def send(self) -> None:
        """All that is sensed now, the joints last: who has them has all."""
        now, clock = self.now, message("rosgraph_msgs/msg/Clock")()
        convert.set_time(clock.clock, now)
        self.clock(clock)
        if now >= self.seen_at + self.exposure - SLACK:
            self.seen_at = max(self.seen_at + self.exposure, now - self.exposure)
            for key, picture in self.env.images().items():
                self.cameras[key.removeprefix(IMAGES)](convert.to_image(picture, now, key.removeprefix(IMAGES)))
        sound = self.obs[AUDIO]
        self.audio(convert.to_audio(sound, self.env.robot_spec.sample_rate, now - self.env.period, "microphones"))
        measured = self.env.measured
        self.joints(convert.to_joints(JointState(now, measured.position, measured.opening), convert.TABLETOP))

    def command(self, trajectory) -> None:
        """The joint target for the period that its last point ends."""
        try:
            command = convert.from_command(trajectory, convert.TABLETOP)
        except convert.ConvertError as error:
            self.node.log(f"passed over: {error}")
            return
        if self.done:
            return
        if not self.lockstep:
            self.remember(command)
        elif abs(command.stamp - self.now - self.env.period) < SLACK:
            self.commands = deque([command])
            self.tick()

    def remember(self, command: JointState) -> None:
        """Of a clock that has jumped, the newest alone counts, at once."""
        if command.stamp <= self.commands[-1].stamp or abs(command.stamp - self.now) > LAG:
            self.commands.clear()
        self.commands.append(command)

    def target(self, end: float) -> np.ndarray:
        """Joints and opening (8,) commanded for the time `end`, linear between two commands; the last where none is for it."""
        while len(self.commands) > 1 and self.commands[1].stamp <= end:
            self.commands.popleft()
        first, second = self.commands[0], self.commands[min(1, len(self.commands) - 1)]
        share = (end - first.stamp) / max(second.stamp - first.stamp, SLACK)
        rows = [np.append(command.position, command.opening) for command in (first, second)]
        return rows[0] + np.clip(share, 0.0, 1.0) * (rows[1] - rows[0])

    def tick(self) -> None:
        if self.done:
            return
        self.obs, _, terminated, truncated, info = self.env.step(self.target(self.now + self.env.period))
        if terminated or truncated:
            self.finish(bool(info["success"]))
        else:
            self.send()

    def again(self) -> None:
        """In lock-step somebody may have come too late for an observation."""
        if not self.done:
            self.seen_at = -1e9
            self.send()

    def keep_up(self) -> None:
        """Bring the world to the wall clock's time, a period a call, so that what was commanded comes in between."""
        behind = self.node.now() - self.now
        if abs(behind) > LAG and not self.done:
            self.node.log(f"the world stood still for {behind:.2f} s: this machine is too slow or too busy" if behind > 0
                          else f"the clock went back by {-behind:.2f} s")
            self.start += behind
        if not self.done and self.now + self.env.period <= self.node.now():
            self.tick()


def main() -> int:
    return run("sim", SimNode, sys.argv[1:])


if __name__ == "__main__":
    raise SystemExit(main())
