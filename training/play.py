"""One episode of a named policy: what `soma eval`, `soma run` and `soma demo` have in common."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Mapping, Sequence

import gymnasium as gym
import numpy as np

import envs
from envs.tabletop.env import INSTRUCT
from envs.tabletop.scene import SPLITS
from envs.tabletop.tasks import TASKS
from envs.tabletop.voices import unspoken
from envs.tabletop.words import instruction
from policies.base import Episode, Policy, Record, policy_spec, rollout
from policies.wrappers import Blind, Instruct, Mute
from training.film import Film
from training.named import Recorded, load_policy, named
from training.replay import Key, Recordings, Replay
from training.report import OURS
from training.settings import SettingsError, at_least, require


@dataclass(frozen=True)
class Setting:
    """All that decides how an episode goes but for its task and seed."""

    policy: str
    env_id: str
    env_kwargs: Mapping[str, Any]
    split: str
    decide_every: int = 3
    delay_steps: int = 0
    blend: float = 0.0
    safety: bool = False
    mute: bool = False
    blind: bool = False
    swap_instruction: bool = False


@dataclass(frozen=True)
class Job:
    """One episode; film: where its video goes, None for no video; options: more of the environment's reset options."""

    task: str
    seed: int
    instruct: str = "text"
    film: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def task_names(asked: Sequence[str], policy: str = "expert", env_id: str = "soma/Tabletop-v0") -> list[str]:
    """Those that were asked for; else those that the policy says it is for; else all. An environment of one task,
    ours or from elsewhere, which then is named after its id, has that one. Raises SettingsError and
    agent.checkpoint.CheckpointError."""
    if (only := only_task(env_id)) is not None:
        if set(asked) - {only}:
            raise SettingsError(f"tasks={','.join(asked)}: env.id={env_id} has the task {only} alone")
        return [only]
    if asked:
        return [require("task", name, envs.TASK_NAMES) for name in asked]
    return [name for name in envs.TASK_NAMES if name in named(policy).tasks()] or list(envs.TASK_NAMES)


def only_task(env_id: str) -> str | None:
    """The task of an environment that has one; None for the tabletop, which has many."""
    if env_id.startswith(OURS):
        return gym.registry[env_id].kwargs["task"] if env_id in gym.registry else None
    return env_id.rpartition(":")[2].replace("/", "-")


def check_split(split: str, instruct: str) -> None:
    """Raise SettingsError for what does not exist, or cannot be spoken here."""
    require("split", split, SPLITS)
    require("way to instruct", instruct, INSTRUCT)
    if cannot := unspoken(split, instruct):
        raise SettingsError(cannot)


def make_env(setting: Setting) -> gym.Env:
    if own := setting.env_id.startswith(OURS):
        refuse_told(setting.env_kwargs)
    played = {"split": setting.split, "action": "joint_position", "lazy_images": True} if own else {}
    return make_world(setting.env_id, setting.env_kwargs, played)


def refuse_told(asked: Mapping[str, Any]) -> None:
    """Raise SettingsError for keyword arguments of the tabletop that each episode is told anew, and which would not count."""
    if said := sorted(asked.keys() & {"task", "instruct"}):
        raise SettingsError(f"env.kwargs.{said[0]}={asked[said[0]]}: each episode has its own, by the settings outside env")


def make_world(env_id: str, asked: Mapping[str, Any], own: Mapping[str, Any], steps: int | None = None) -> gym.Env:
    """An environment with what was asked for (env.kwargs) and arguments of our own; steps: control steps after which it ends.
    Raises SettingsError for one that there is not, or that refuses what was asked for, or for what is asked for elsewhere."""
    if said := sorted(key for key in asked.keys() & own.keys() if asked[key] != own[key]):
        raise SettingsError(f"env.kwargs.{said[0]}={asked[said[0]]}: it is {own[said[0]]!r} by the other settings")
    try:
        return gym.make(env_id, steps, disable_env_checker=True, **{**asked, **own})
    except (gym.error.Error, ImportError) as error:
        raise SettingsError(f"env.id={env_id}: {error}") from error
    except (TypeError, ValueError) as error:
        if not asked:
            raise  # a fault of ours
        raise SettingsError(f"env.kwargs={dict(asked)}: {error}") from error


def at_its_pace(setting: Setting) -> Setting:
    """One who is `senseless` (training.named) acts at every control step."""
    return replace(setting, decide_every=1) if named(setting.policy).senseless else setting


def ablated(policy: Policy, setting: Setting, job: Job) -> Policy:
    policy = Mute(policy) if setting.mute else policy
    policy = Blind(policy) if setting.blind else policy
    return Instruct(policy, other_instruction(job, setting.split)) if setting.swap_instruction else policy


def other_instruction(job: Job, split: str) -> str:
    """An instruction of another task, and of another scene."""
    rng = np.random.default_rng([job.seed, list(TASKS).index(job.task)])
    task = TASKS[str(rng.choice([name for name in TASKS if name != job.task]))]()
    return instruction(task, task.scene(rng, split).words, rng, split)


class Player:
    """Environment and policy, made once a process; called with one job after the other."""

    def __init__(self, setting: Setting, device: str = "cpu", weights: str | None = None):
        """weights: see `training.named.load_policy`, which raises what this raises."""
        self.setting, self.env = setting, make_env(setting)
        self.policy = load_policy(setting.policy, self.env, device, weights)

    def __call__(self, job: Job) -> dict[str, Any]:
        """The episode's record. A crash is an error with its traceback, never a failure."""
        record = {"task": job.task, "seed": job.seed, "instruct": job.instruct}
        try:
            episode, film = self.play(job)
            video = {} if film is None else {"video": film.save(job.film).name}
        except Exception:  # noqa: BLE001 whatever an episode dies of must not end the others
            return record | {"outcome": "error", "latency_ms": [], "error": traceback.format_exc()}
        latency = [round(1000 * seconds, 2) for seconds in episode.latencies]
        return record | video | {
            "outcome": "success" if episode.success else "failure",
            "ended_by": "the task" if episode.terminated else "the time limit",
            "instruction": other_instruction(job, self.setting.split) if self.setting.swap_instruction else episode.instruction,
            **way_told(self.env.unwrapped, self.policy),
            "seconds": round(episode.seconds, 3),
            "interventions": [f"{e.time:.2f} s: {e.kind}, {e.detail}" for e in episode.interventions],
            "latency_ms": latency,
        }

    def play(self, job: Job, *more: Record) -> tuple[Episode, Film | None]:
        film, setting = Film(self.policy) if job.film else None, self.setting
        own = setting.env_id.startswith(OURS)
        options = {"task": job.task, "instruct": job.instruct, **job.options} if own else None
        if isinstance(self.policy, Replay):
            options |= self.policy.choose(key_of(job, setting))
        record = Several([r for r in (film, *more) if r is not None])
        episode = rollout(self.env, ablated(self.policy, setting, job), job.seed, options=options,
                          decide_every=setting.decide_every, delay_steps=setting.delay_steps, blend=setting.blend,
                          safety=setting.safety, record=record if record.records else None)
        return episode, film


def key_of(job: Job, setting: Setting) -> Key:
    return Key(job.task, job.seed, setting.split, setting.safety)


def recorded(jobs: Sequence[Job], setting: Setting) -> list[Job]:
    """Of a policy that replays the jobs that were recorded, told as they were; of others all. Raises SettingsError where none
    was."""
    kind = named(setting.policy)
    if not isinstance(kind, Recorded):
        return list(jobs)
    recordings = Recordings(kind.folder)
    found = [job for job in jobs if key_of(job, setting) in recordings.episodes] or list(jobs)
    ways = [recordings.options(key_of(job, setting)).get("instruct", job.instruct) for job in found]
    return [replace(job, instruct=way) for job, way in zip(found, ways)]


def way_told(world, policy: Policy) -> dict[str, str]:
    """`told`, and of an instruction by voice alone what words a policy that listens understood last; "" for none."""
    way = told(world)
    heard = way == "voice" and getattr(policy, "listens", False)
    return {"told": way} | ({"understood": policy.spoken} if heard else {})


def told(world) -> str:
    """How this episode's instruction came: "text", "voice" or "both"."""
    spoken = bool(getattr(world, "voice_end", 0.0))
    return ("voice" if world.heard_at > 0 else "both") if spoken else "text"


class Several:
    """Several records in one."""

    def __init__(self, records: Sequence[Record]):
        self.records = records

    def frame(self, env: gym.Env, obs: Mapping[str, Any]) -> None:
        for record in self.records:
            record.frame(env, obs)


def check_policy(setting: Setting, instruct: str) -> None:
    """Raise SettingsError for what cannot be played, or cannot be combined."""
    kind = named(setting.policy)
    if kind.senseless and (setting.mute or setting.blind or setting.swap_instruction):
        raise SettingsError(f"policy={setting.policy} goes by nothing that is sensed or said: mute, blind and swap_instruction "
                            "change nothing")
    ours = {"swap_instruction": setting.swap_instruction, "safety": setting.safety, "blend": setting.blend,
            "policy": isinstance(kind, Recorded)}  # scenes that are known by seed, an arm that is known
    if said := [key for key, asked in ours.items() if asked and not setting.env_id.startswith(OURS)]:
        raise SettingsError(f"{said[0]}={getattr(setting, said[0])}: an environment of {OURS} is needed, not "
                            f"{setting.env_id}")
    if setting.swap_instruction and instruct != "text":
        raise SettingsError(f"swap_instruction=true replaces the written one: instruct=text is needed, not {instruct}")
    if setting.safety and setting.blend:
        raise SettingsError(f"blend={setting.blend}: with safety=true the supervisor passes from one trajectory to the next")
    at_least(1, {"decide_every": setting.decide_every})
    at_least(0, {"delay_steps": setting.delay_steps, "blend": setting.blend})
    env = make_env(setting)
    if not hasattr(env.unwrapped, "robot_spec"):
        raise SettingsError(f"env.id={setting.env_id}: it describes no robot (robot_spec: agent.spec.Spec)")
    kind.check(policy_spec(env.unwrapped))
    env.close()
