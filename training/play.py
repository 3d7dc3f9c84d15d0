"""One episode of a named policy: what `soma eval`, `soma run` and `soma demo` have in common."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Mapping, Sequence

import gymnasium as gym
import numpy as np

import envs
from agent.spec import Spec, SpecError
from envs.tabletop.env import INSTRUCT
from envs.tabletop.scene import SPLITS
from envs.tabletop.tasks import TASKS
from envs.tabletop.voices import unspoken
from envs.tabletop.words import instruction
from policies.base import Episode, Policy, Record, policy_spec, rollout
from policies.wrappers import Blind, Instruct, Mute
from training.film import Film
from training.replay import PREFIX, Key, Recordings, Replay, dataset_fingerprint
from training.report import OURS
from training.settings import SettingsError, at_least, require

OWN_POLICIES = ("expert", "random")


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
    """Those that were asked for; else those that the policy's weights were trained for; else all. An environment of one task,
    ours or from elsewhere, which then is named after its id, has that one. Raises SettingsError and
    agent.checkpoint.CheckpointError."""
    if (only := only_task(env_id)) is not None:
        if set(asked) - {only}:
            raise SettingsError(f"tasks={','.join(asked)}: env.id={env_id} has the task {only} alone")
        return [only]
    if asked:
        return [require("task", name, envs.TASK_NAMES) for name in asked]
    return [name for name in envs.TASK_NAMES if name in learned(policy)] or list(envs.TASK_NAMES)


def only_task(env_id: str) -> str | None:
    """The task of an environment that has one; None for the tabletop, which has many."""
    if env_id.startswith(OURS):
        return gym.registry[env_id].kwargs["task"] if env_id in gym.registry else None
    return env_id.rpartition(":")[2].replace("/", "-")


def learned(policy: str) -> list[str]:
    """The tasks that a checkpoint says it was trained for, or that were recorded; [] where nothing says."""
    if policy in OWN_POLICIES:
        return []
    if policy.startswith(PREFIX):
        return [key.task for key in Recordings(policy.removeprefix(PREFIX)).episodes]
    from agent.checkpoint import find, page

    return page(find(policy))["notes"].get("tasks", [])


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


def senseless(policy: str) -> bool:
    """Whether it goes by nothing that is sensed or said."""
    return policy == "expert" or policy.startswith(PREFIX)


def at_its_pace(setting: Setting) -> Setting:
    """One who is `senseless` acts at every control step."""
    return replace(setting, decide_every=1) if senseless(setting.policy) else setting


def load_policy(name: str, env: gym.Env, device: str = "cpu", weights: str | None = None) -> Policy:
    """expert, random, replay: and a dataset's folder, a shipped name or a checkpoint's folder. weights: their `fingerprint`,
    where it matters that they are the very ones. Raises agent.checkpoint.CheckpointError, training.data.demos.DatasetError, and
    SettingsError for a device that there is not, or other weights."""
    policy = _loaded(name, env, device)
    if weights not in (None, fingerprint(name)):
        raise SettingsError(f"policy={name} has changed since this began: are its weights being trained? A copy of their folder "
                            "stays as it is")
    return policy


def _loaded(name: str, env: gym.Env, device: str) -> Policy:
    if name == "expert":
        from policies.scripted import ExpertPolicy

        return ExpertPolicy(env)
    if name == "random":
        from policies.simple import RandomPolicy

        return RandomPolicy()
    if name.startswith(PREFIX):
        return Replay(name.removeprefix(PREFIX))
    import torch

    from policies.mmllm import MMLLMPolicy

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # what PyTorch says of one it does not know, or was not built for
        raise SettingsError(f"device={device}: {str(error).splitlines()[0]}; soma doctor says what there is") from error
    torch.set_num_threads(1)  # one a process: two beside another busy process make decisions ten times as slow
    return MMLLMPolicy.load(name, device)


def fingerprint(policy: str) -> str | None:
    """The first half of the SHA-256 of a policy's weights, or of what it replays; None where it has neither."""
    if policy in OWN_POLICIES:
        return None
    if policy.startswith(PREFIX):
        return dataset_fingerprint(policy.removeprefix(PREFIX))
    from agent import checkpoint

    return checkpoint.fingerprint(policy)


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
        """weights: see `load_policy`, which raises what this raises."""
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
    if not setting.policy.startswith(PREFIX):
        return list(jobs)
    recordings = Recordings(setting.policy.removeprefix(PREFIX))
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
    if senseless(setting.policy) and (setting.mute or setting.blind or setting.swap_instruction):
        raise SettingsError(f"policy={setting.policy} goes by nothing that is sensed or said: mute, blind and swap_instruction "
                            "change nothing")
    ours = {"swap_instruction": setting.swap_instruction, "safety": setting.safety, "blend": setting.blend,
            "policy": setting.policy.startswith(PREFIX)}  # scenes that are known by seed, an arm that is known
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
    check_fit(setting.policy, policy_spec(env.unwrapped))
    env.close()


def check_fit(policy: str, robot: Spec) -> None:
    """Raise SettingsError for weights that were trained for another robot."""
    if policy in OWN_POLICIES or policy.startswith(PREFIX):
        return
    from agent.checkpoint import find, page
    from policies.mmllm import require_same

    try:
        require_same(Spec.from_dict(page(find(policy))["spec"]), robot)
    except SpecError as error:
        raise SettingsError(f"policy={policy}: {error}") from error
