"""The tabletop as a gymnasium environment: seen by two cameras, heard by two microphones, acted in by one arm.

Keys, units and frames are those of agent.spec. The observation at time t holds the sound of the control period before it.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf
from zlib import crc32

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from agent.spec import AUDIO, IMAGES, SENSE, STATE, TASK, TIME, ActionSpec, Chunk, Spec
from envs.arm import ARMS, STATE_NAMES, JointState, arm_state, ee_delta_action, joint_position_action, plan
from envs.collision import Body
from envs.tabletop.ears import Ears
from envs.tabletop.mjcf import MAX_IMAGE, TIMESTEP
from envs.tabletop.physics import World
from envs.tabletop.render import Renderer, project
from envs.tabletop.scene import COLOUR_NAMES, KIND_NAMES, SCALE, SPLITS, WORKSPACE
from envs.tabletop.sound import MICROPHONES, SAMPLE_RATE
from envs.tabletop.tasks import TASKS
from envs.tabletop.tasks.base import lifted
from envs.tabletop.tasks.motions import gripper_command, wait
from envs.tabletop.words import instruction
from envs.text_space import LONGEST, Words

CAMERAS = ("front", "wrist")
DEPTH = "observation.depth."  # + camera: float32 (H, W), m
FORCE = SENSE + "force"  # at the wrist, N
INSTRUCT = ("text", "voice", "both", "mixed")
MAX_OBJECTS = 10
KICK_STEPS = (2, 5)  # control steps that a perturbation lasts, the end excluded
VIDEO_SIZE = 384  # pixels a side of render()
LIFTED = 0.005  # m over the table, from which on a thing between the fingers can slip: one that is pushed is there, too
CLEARANCE = 0.0005  # m from the table below which a supervisor steps in; 1 mm is left at the lowest place of the workspace


class TabletopEnv(gym.Env):
    """One task (or, with task=None, another one each episode) on one split.

    action: "ee_delta" (5,) in [-1, 1], or "joint_position" (8,), see agent.spec.ActionSpec; arm: "panda" or "fr3"; control_hz:
    steps a second. image_size: pixels a side of what `front` and `wrist` see; depth: their depth images, too, m; lazy_images:
    no pictures in the observation, `images()` draws them when they are asked for. force: at the wrist (3,), N.

    `instruct` says how the instruction comes: "text", "voice" (then obs["task"] stays ""), "both", or "mixed": one of
    the three an episode. reset(options=...) takes "task", "instruct", "perturb": kicks a second of the arm, which replace
    the given action for a few steps; "instruction": other words for what the scene asks, and "utterance": a recording
    of them, float32 (n,) at SAMPLE_RATE, that is played instead of a synthetic voice.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(
        self,
        task: str | None = "pick_up",
        split: str = "train",
        action: str = "ee_delta",
        instruct: str = "text",
        image_size: int = 128,
        lazy_images: bool = False,
        depth: bool = False,
        force: bool = False,
        render_mode: str | None = None,
        arm: str = "panda",
        control_hz: float = 10.0,
    ):
        _check("task", task, (None, *TASKS))
        _check("split", split, SPLITS)
        _check("instruct", instruct, INSTRUCT)
        _check("arm", arm, tuple(ARMS))
        _check("action", action, ("ee_delta", "joint_position"))
        _check("render_mode", render_mode, (None, "rgb_array"))
        if image_size % 2 or not 0 < image_size <= MAX_IMAGE:
            raise ValueError(f"image_size {image_size}: an even number of pixels, at most {MAX_IMAGE}, is needed")
        self.task_name, self.split, self.instruct = task, split, instruct
        self.image_size, self.lazy_images, self.with_depth, self.render_mode = image_size, lazy_images, depth, render_mode
        steps = 1.0 / control_hz / TIMESTEP if control_hz > 0 else np.nan
        if not (abs(steps - np.round(steps)) <= 1e-6 and steps > 0.5):
            raise ValueError(f"control_hz {control_hz:g}: whole physics steps of {TIMESTEP} s are needed, as with 10, 25 or 50")
        self.arm, self.period = ARMS[arm], 1.0 / control_hz
        self.metadata = {**self.metadata, "render_fps": control_hz}
        self._ee_delta = ee_delta_action(WORKSPACE, SCALE)
        self.robot_spec = Spec(
            cameras={camera: (image_size, image_size) for camera in CAMERAS},
            state=STATE_NAMES,
            action=self._ee_delta if action == "ee_delta" else joint_position_action(self.arm),
            control_hz=control_hz,
            microphones=MICROPHONES,
            sample_rate=SAMPLE_RATE,
            senses={"force": ("force_x", "force_y", "force_z")} if force else {},
        )
        self.policy_spec = replace(self.robot_spec, action=self._ee_delta)  # tool deltas, whatever `action` is
        bounds = np.array((self.robot_spec.action.low, self.robot_spec.action.high), np.float32)
        self.action_space = spaces.Box(*bounds)
        self.observation_space = self._observation_space()

    def _observation_space(self) -> spaces.Dict:
        side, n = self.image_size, round(self.period * SAMPLE_RATE)
        kinds = {
            AUDIO: spaces.Box(-1.0, 1.0, (n, len(MICROPHONES)), np.float32),
            STATE: spaces.Box(-np.inf, np.inf, (len(STATE_NAMES),), np.float32),
            TASK: Words(),
            TIME: spaces.Box(0.0, np.inf, (), np.float64),
        }
        if self.robot_spec.senses:
            kinds[FORCE] = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        if not self.lazy_images:
            kinds |= {IMAGES + c: spaces.Box(0, 255, (side, side, 3), np.uint8) for c in CAMERAS}
            if self.with_depth:
                kinds |= {DEPTH + c: spaces.Box(0.0, np.inf, (side, side), np.float32) for c in CAMERAS}
        return spaces.Dict(kinds)

    # ---- the episode

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed)
        options = options or {}
        for key in options:
            _check("reset option", key, ("task", "instruct", "perturb", "instruction", "utterance"))
        if not 0.0 <= (perturb := float(options.get("perturb", 0.0))) < inf:
            raise ValueError(f"perturb {perturb}: kicks a second are needed, 0 or more")
        episode = seed if seed is not None else int(self.np_random.integers(2**31))
        scene_rng, words_rng, _, task_rng, self._kick_rng = streams(self.split, episode)
        self.task = TASKS[self._task_of_episode(options, words_rng)]()
        self.world = World(self.task.scene(scene_rng, self.split), self.arm, self.robot_spec.control_hz)
        self._renderer = None
        self._instruct(options, words_rng, sound_stream(self.split, episode, self.task.name))
        self.task.begin(self.world, self.heard_at, task_rng)
        self._perturb, self._kick, self._kicked = perturb, [], False
        self._steps, self._succeeds_since, self._fails_since = 0, inf, inf
        self._held, self._surprise = None, False
        self._hear(-self.period)
        info = {"success": False, "reward_terms": self.task.reward(self.world), "annotation": self.annotation()}
        return self._observation(), info | {"task_name": self.task.name, "instruction": self.instruction}

    def _task_of_episode(self, options, rng) -> str:
        drawn = str(rng.choice(list(TASKS)))
        name = options.get("task", self.task_name) or drawn
        return _check("task", name, tuple(TASKS))

    def _instruct(self, options, words_rng, sound_rng) -> None:
        way = _check("instruct", options.get("instruct", self.instruct), INSTRUCT)
        drawn = str(words_rng.choice(INSTRUCT[:3]))
        way = drawn if way == "mixed" else way
        own = instruction(self.task, self.world.scene.words, words_rng, self.split)
        self.instruction = options.get("instruction", own)
        if not self.observation_space[TASK].contains(self.instruction):
            raise ValueError(f"instruction {self.instruction!r}: at most {LONGEST} characters of printable ASCII are needed")
        self._text = "" if way == "voice" else self.instruction
        if "utterance" in options and way == "text":
            raise ValueError("an utterance is heard with instruct voice or both, and not with text, also where that is drawn")
        said = options.get("utterance", self.instruction)
        if said is None:
            raise ValueError("utterance None: a recording, floats (n,) in [-1, 1], is needed")
        self._ears = Ears(sound_rng, self.split, None if way == "text" else said)
        self.voice_end = self._ears.heard_at
        self.heard_at = 0.0 if self._text else self.voice_end

    def step(self, action):
        before = self.time
        command = self._follow(action)
        self._ears.emit(self.world, self.task, self.period)
        self.world.step(command, push=self._kicked)
        self._steps += 1
        self.task.after_step(self.world)
        self._hear(before)
        self._notice(before)
        success, failure = self._judge()
        terms = self.task.reward(self.world)
        reward = sum(self.task.weights[name] * value for name, value in terms.items()) + success * self._saved
        late = self.time - self.heard_at >= self.task.time_limit - 1e-6
        info = {"success": success, "reward_terms": terms, "annotation": self.annotation()}
        return self._observation(), float(reward), success or failure, late and not (success or failure), info

    @property
    def _saved(self) -> float:
        """What is still to be had until the time is up: who is done gets it at once, so that nobody gains by waiting."""
        steps = (self.heard_at + self.task.time_limit - self.time) / self.period
        return max(0.0, steps) * sum(self.task.weights.values())

    def say(self, waveform: np.ndarray) -> None:
        """The agent speaks: float32 (n,) at SAMPLE_RATE, as heard at 1 m, from now on. Its own microphones hear it.
        Raises ValueError."""
        self._ears.say(self.time, waveform)

    def _follow(self, action) -> JointState:
        """The joint target of the coming period: what the action means, or a kick in its place."""
        target, kick = self._target(np.asarray(action), self.robot_spec.action), self._next_kick()
        self._kicked = kick is not None
        return self._target(kick, self._ee_delta) if self._kicked else target

    def _target(self, action: np.ndarray, spec: ActionSpec) -> JointState:
        chunk, end = Chunk(action[None], self.time, self.robot_spec.control_hz), self.time + self.period
        return JointState(end, *plan(chunk, spec, self.arm, self.world.command).at(end))

    def _next_kick(self) -> np.ndarray | None:
        if not self._kick and self._kick_rng.random() < self._perturb * self.period:
            velocity = self._kick_rng.uniform(-1, 1, 4) * (1, 1, 0.5, 0.5)
            self._kick = [velocity] * int(self._kick_rng.integers(*KICK_STEPS))
        return np.append(self._kick.pop(), gripper_command(self.world)) if self._kick else None

    def _hear(self, start: float) -> None:
        self._sound, self.tracks = self._ears.listen(self.world, start, self.period)

    def _notice(self, before: float) -> None:
        """Whether something that nobody could foresee fell into [before, now]."""
        slipped = self._held is not None and not self.world.held(self._held) and gripper_command(self.world) < 0
        self._held = next((item.name for item in self.world.scene.items if lifted(self.world, item, LIFTED)), None)
        cues = (*self.task.cues(), self.heard_at) if self.heard_at else self.task.cues()
        self._surprise = self._kicked or slipped or any(before <= cue < self.time for cue in cues)

    def _judge(self) -> tuple[bool, bool]:
        """(success, failure), each once it has lasted."""
        known, now, task = self.time >= self.heard_at, self.time, self.task
        self._succeeds_since = min(now, self._succeeds_since) if known and task.success(self.world) else inf
        self._fails_since = min(now, self._fails_since) if known and task.failure(self.world) else inf
        failed = now - self._fails_since >= task.failure_hold - 1e-6
        return not failed and now - self._succeeds_since >= task.hold - 1e-6, failed

    @property
    def time(self) -> float:
        return self._steps * self.period

    @property
    def command(self) -> JointState:
        """Last commanded joint target."""
        return self.world.command

    @property
    def measured(self) -> JointState:
        """Where the joints are."""
        return JointState(self.time, self.world.joints, self.world.opening)

    def body(self) -> Body:
        """What of the arm would touch itself, its base or the table at given joint angles."""
        return Body(self.world.model, STATE_NAMES[:7], self.arm.home, ("base", "table"), CLEARANCE)

    # ---- what is sensed

    def _observation(self) -> dict:
        state = arm_state(self.arm, self.measured, self.command)
        obs = {AUDIO: self._sound, STATE: state, TASK: self._text, TIME: np.array(self.time)}
        if self.robot_spec.senses:
            obs[FORCE] = self.world.wrist_force.astype(np.float32)
        return obs if self.lazy_images else obs | self.images()

    def images(self) -> dict[str, np.ndarray]:
        """The camera images of now (and depth images if asked for) by observation key."""
        side, draw, data = self.image_size, self._drawn(), self.world.data
        images = {IMAGES + camera: draw.image(data, camera, side, side) for camera in CAMERAS}
        if self.with_depth:
            images |= {DEPTH + camera: draw.depth(data, camera, side, side) for camera in CAMERAS}
        return images

    def _drawn(self) -> Renderer:
        if self._renderer is None:
            self._renderer = Renderer(self.world.model)
        return self._renderer

    def render(self) -> np.ndarray | None:
        """What the front camera sees, larger."""
        if self.render_mode is None:
            return None
        return self._drawn().image(self.world.data, "front", VIDEO_SIZE, VIDEO_SIZE)

    # ---- what only training may see

    def expert_action(self) -> np.ndarray:
        """The scripted expert's ee_delta action (5,) for the current state."""
        known = self.time >= self.heard_at
        return np.clip(self.task.expert(self.world), -1, 1) if known else wait(self.world)

    def annotation(self) -> dict:
        """Privileged labels: focus (3,) m, focus_pixels (2, 2) = u and v per camera, surprise, heard, objects (10, 9) =
        kind, colour, x, y, z, u and v per camera, source (4,): whether the task's own sound was emitted in the last
        control step, and where (m)."""
        known = self.time >= self.heard_at
        focus = self.task.focus(self.world) if known else self.world.tool[:3]
        return {
            "focus": np.array(focus, np.float32),
            "focus_pixels": np.concatenate([self._project(c, np.array([focus])) for c in CAMERAS]),
            "surprise": bool(self._surprise),
            "heard": bool(known),
            "objects": self._objects(),
            "source": self._ears.sounding(self.time - self.period),
        }

    def _objects(self) -> np.ndarray:
        world, rows = self.world, np.full((MAX_OBJECTS, 9), -1.0, np.float32)
        items = world.scene.items[:MAX_OBJECTS]
        points = np.array([world.position(item.name) for item in items])
        rows[: len(items), 0] = [KIND_NAMES.index(item.kind) for item in items]
        rows[: len(items), 1] = [COLOUR_NAMES.index(item.colour) for item in items]
        rows[: len(items), 2:5] = points
        for column, camera in zip((5, 7), CAMERAS):
            rows[: len(items), column : column + 2] = self._project(camera, points)
        return rows

    def _project(self, camera: str, points: np.ndarray) -> np.ndarray:
        """Where points (n, 3) are in a camera's image (n, 2)."""
        return project(self.world.model, self.world.data, camera, points).astype(np.float32)


def streams(split: str, seed: int) -> list[np.random.Generator]:
    """All that is random in an episode: for scene, words, sound (`sound_stream`), task and kicks. One seed is another scene
    in each split."""
    return np.random.default_rng([SPLITS.index(split), seed]).spawn(5)


def sound_stream(split: str, seed: int, task: str) -> np.random.Generator:
    """For an episode's voice and noise: in training, as recorded, the same in all tasks of a seed; where tasks are measured,
    each has its own, so that their episodes tell more together."""
    if split == "train":
        return streams(split, seed)[2]
    return np.random.default_rng([SPLITS.index(split), seed, crc32(task.encode())])


def _check(what: str, value, allowed: tuple):
    if value not in allowed:
        raise ValueError(f"{what} {value!r}: allowed are {', '.join(map(str, allowed))}")
    return value
