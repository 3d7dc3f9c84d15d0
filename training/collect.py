"""Collect demonstrations of the scripted experts, or of a person: episodes of every task in parallel, kept when they succeed.

The set of episodes depends on the arguments alone, not on the number of workers or on interruptions: of every task the
first seeds that are kept.
"""

from __future__ import annotations

import json
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import gymnasium as gym
import numpy as np
from tqdm import tqdm

import envs  # noqa: F401 registers the environments
from agent.spec import ACTION, IMAGES, SENSE, STATE, Spec
from policies.base import Policy, policy_spec, rollout
from policies.scripted import ExpertPolicy, TakeOver
from policies.teleop import GivenUp, TeleopPolicy
from training.data.assemble import adding, recorded_names, require_robot
from training.data.demos import DemoWriter
from training.evaluate import mend
from training.named import Recorded, load_policy, named
from training.play import make_world, told
from training.settings import at_least, claim, make_folder
from training.workers import each

PROTOCOL = "collect.json"  # in the dataset's folder: how its episodes are made
OUTCOMES = "collected.jsonl"  # in the dataset's folder: one line a seed that was tried
MOST_ERRORS = 5  # crashed episodes before the collection gives up


class CollectError(RuntimeError):
    """A collection that cannot go on; the message says why and what was kept."""


@dataclass(frozen=True)
class Job:
    """One seed of one task."""

    task: str
    seed: int
    split: str

    @property
    def name(self) -> str:
        return f"{self.split}-{self.task}-{self.seed:08d}"


class Recorder:
    """Writes what a rollout shows it: what was sensed, what the expert would have done then (or a person did), labels,
    sound tracks.

    A frame is written once the step after it has been made; the last observation, which no action follows, is not.
    """

    def __init__(self, writer: DemoWriter, policy: Policy):
        self.writer, self.policy, self.pending = writer, policy, None
        self.senses = [STATE, *(SENSE + name for name in writer.spec.senses)]
        self.sound: list[dict[str, np.ndarray]] = []
        writer.discard()

    def frame(self, env: gym.Env, obs: Mapping[str, Any]) -> None:
        world = env.unwrapped
        if self.pending is not None:
            self.writer.add(self.pending | self.person())
            self.sound.append(world.tracks)
        labels = {f"annotation.{name}": value for name, value in world.annotation().items()}
        labels["annotation.surprise"] |= getattr(self.policy, "driving", False)  # not what the expert would have done
        action = np.asarray(world.expert_action(), np.float32)
        images = {key: value for key, value in obs.items() if key.startswith(IMAGES)}
        self.pending = images | {key: obs[key] for key in self.senses} | {ACTION: action} | labels

    def person(self) -> dict[str, np.ndarray]:
        """The action of a person, who knows what to do only when it is to be done."""
        return {ACTION: self.policy.played} if isinstance(self.policy, TeleopPolicy) else {}

    def save(self, name: str, task: str, **info) -> None:
        tracks = {track: np.concatenate([s[track] for s in self.sound]) for track in self.sound[0]}
        self.writer.save(name, task, tracks, **info)


class Demonstrator:
    """Tries jobs, one after the other: an environment and a writer, made once a process."""

    def __init__(self, env_id: str, env_kwargs: Mapping, out: str, perturb: float, learner: str | None,
                 beginning: int | None, policy: str, safety: float, taught: str | None):
        self.env = make_world(env_id, env_kwargs, {}, beginning)
        self.keeps_all = beginning is not None or learner is not None
        self.world, self.perturb, self.safety = self.env.unwrapped, perturb, safety
        self.writer = DemoWriter(out, policy_spec(self.world), self.world.arm.name)
        self.policy = TeleopPolicy() if policy == "teleop" else ExpertPolicy(self.env)
        if learner is not None:
            self.policy = TakeOver(load_policy(learner, self.env, weights=taught), self.policy)

    def __call__(self, job: Job) -> dict[str, str]:
        """What came of it. A crash is an error, never a failure."""
        try:
            success = self.demonstrate(job)
        except GivenUp:
            success = False
        except Exception:  # noqa: BLE001 whatever an episode dies of must not end the others
            return {"outcome": "error", "error": traceback.format_exc()}
        return {"outcome": "success" if success else "failure"}

    def demonstrate(self, job: Job) -> bool:
        """Act through one episode, or its beginning, and save it if it succeeds. A beginning is saved in any case, and so is
        what a learner led to: the expert's actions are right up to a failure, and there the learner has most to learn."""
        recorder, options = Recorder(self.writer, self.policy), {"task": job.task, "perturb": self.perturb}
        supervised = bool(np.random.default_rng([job.seed, crc32(job.task.encode())]).random() < self.safety)
        episode = rollout(self.env, self.policy, job.seed, options=options, decide_every=1, safety=supervised, record=recorder)
        if kept := episode.success or self.keeps_all:
            recorder.save(job.name, episode.instruction, task_name=job.task, seed=job.seed, split=job.split,
                          instruct=told(self.world), success=episode.success, heard_at=float(self.world.heard_at),
                          perturb=self.perturb, supervised=supervised)
        return kept


# ---- the main process


@dataclass
class Plan:
    """Which seeds come next: `wanted` successes of every task, of the seeds from `first` on."""

    wanted: dict[str, int]
    split: str
    first: int
    outcomes: dict[str, str]  # job name -> success, failure, error
    asked: Counter = field(default_factory=Counter)

    def next_jobs(self) -> list[Job]:
        """Seeds to try now, so that every task reaches its number if all of them succeed; tasks take turns."""
        jobs = [job for task in self.wanted for job in self._missing(task)]
        return sorted(jobs, key=lambda job: job.seed)

    def _missing(self, task: str) -> list[Job]:
        if len(there := self._kept_before(task)) >= self.wanted[task]:  # one that crashed then may have had a substitute
            self.asked[task] = there[self.wanted[task] - 1] + 1 - self.first
        jobs, lost = [], self.count(task, "failure") + self.count(task, "error")
        while self.asked[task] - lost < self.wanted[task]:
            job = Job(task, self.first + self.asked[task], self.split)
            self.asked[task] += 1
            known = self.outcomes.get(job.name)
            lost += known in ("failure", "error")
            jobs += [job] if known is None else []
        return jobs

    def _kept_before(self, task: str) -> list[int]:
        """Seeds of the task that earlier runs kept."""
        ours = f"{self.split}-{task}-"
        seeds = (int(name.removeprefix(ours)) for name, outcome in self.outcomes.items()
                 if outcome == "success" and name.startswith(ours))
        return sorted(seed for seed in seeds if seed >= self.first)

    def count(self, task: str, outcome: str) -> int:
        names = (Job(task, self.first + i, self.split).name for i in range(self.asked[task]))
        return sum(self.outcomes.get(name) == outcome for name in names)

    def report(self) -> dict[str, dict[str, int]]:
        """Counts of kept, failed and crashed episodes by task."""
        kinds = {"kept": "success", "failed": "failure", "errors": "error"}
        return {task: {say: self.count(task, kind) for say, kind in kinds.items()} for task in self.wanted}


def collect(
    out: str | Path,
    tasks: Sequence[str],
    episodes: int,
    env: Mapping[str, Any] | None = None,
    env_id: str = "soma/Tabletop-v0",
    split: str = "train",
    seed: int = 0,
    perturb: float = 0.2,
    workers: int = 2,
    learner: str | None = None,
    beginning: int | None = None,
    policy: str = "expert",
    safety: float = 0.0,
) -> dict[str, dict[str, int]]:
    """`episodes` demonstrations, shared out evenly over `tasks` (a task that is named twice has two shares), as a dataset at
    `out`; run again to go on or to add.

    env: more keyword arguments of the environment. seed: the first one tried. perturb: kicks of the arm a second.
    learner: a policy that drives by turns with the expert (policies.scripted.TakeOver), its failures are kept, too; take
    other seeds.
    beginning: control steps after which an episode is broken off and kept: many scenes for the time of few episodes.
    policy: expert, or teleop for a person, in one process with a window. safety: share of the episodes in which a supervisor
    (policies.safety) stands between whoever drives and the arm, as it does on a robot; the arm takes joint targets then.
    Returns counts by task. Ctrl-C keeps every finished episode. Raises CollectError; SettingsError where `out` holds
    episodes that were made otherwise.
    """
    out = Path(out)
    check_policy(policy, learner, workers)
    at_least(1, {} if beginning is None else {"beginning": beginning}, int)
    kwargs, spec, robot = checked(episodes, env, env_id, split, seed, perturb, safety)
    recorded_names(out)  # that they are ours
    require_robot(out, robot, spec)
    taught = learner and named(learner).fingerprint()  # its weights, wherever they are
    protocol = {"env": env_id, **kwargs, "perturb": perturb, "learner": taught or learner, "beginning": beginning,
                "policy": policy, "safety": safety}
    share, rest = divmod(episodes, len(tasks))
    wanted: Counter[str] = Counter()
    for i, task in enumerate(tasks):
        wanted[task] += share + (i < rest)
    make_folder(out)
    with adding(out):
        if not (out / OUTCOMES).is_file() and not recorded_names(out):
            (out / PROTOCOL).unlink(missing_ok=True)  # of one that was stopped before its first episode had ended
        claim(out / PROTOCOL, protocol)
        plan = Plan(wanted, split, seed, read_outcomes(out))
        run_plan(plan, (env_id, kwargs, str(out), perturb, learner, beginning, policy, safety, taught), workers, out)
    return plan.report()


def checked(episodes: int, env: Mapping[str, Any] | None, env_id: str, split: str, seed: int, perturb: float,
            safety: float) -> tuple[dict[str, Any], Spec, str]:
    """Of a collection with these arguments: its environment's keyword arguments, its robot's Spec and kind. Raises CollectError,
    SettingsError, or what the environment raises, for what cannot be."""
    if not 0.0 <= safety <= 1.0:
        raise CollectError(f"safety={safety}: a share of the episodes, 0 to 1, is needed")
    at_least(1, {"episodes": episodes})
    at_least(0, {"seed": seed, "perturb": perturb})
    asked, own = {"instruct": "mixed"} | dict(env or {}), {"split": split} | ({"action": "joint_position"} if safety else {})
    world = make_world(env_id, asked, own)
    if getattr(world.unwrapped, "with_depth", False):
        raise CollectError("env.kwargs.depth=true: datasets hold colour pictures alone; without it")
    spec, robot = policy_spec(world.unwrapped), world.unwrapped.arm.name
    world.close()
    return asked | own, spec, robot


def check_policy(policy: str, learner: str | None, workers: int) -> None:
    """Raise CollectError for what cannot be combined."""
    if policy not in ("expert", "teleop"):
        raise CollectError(f"policy {policy!r}: allowed are expert, teleop; learner=FOLDER lets weights drive first")
    if learner is not None and isinstance(named(learner), Recorded):
        raise CollectError(f"learner={learner}: one who decides by what it senses is needed: weights, expert or random")
    if policy == "teleop" and (learner is not None or workers != 1):
        raise CollectError("policy=teleop: one person drives one robot; workers=1 and no learner are needed")


def read_outcomes(out: Path) -> dict[str, str]:
    """What earlier runs came to, without crashes: those are tried again."""
    lines = (out / OUTCOMES).read_text().splitlines() if (out / OUTCOMES).is_file() else []
    tried = [json.loads(line) for line in lines if line.endswith("}")]
    failed = {entry["name"]: "failure" for entry in tried if entry["outcome"] == "failure"}
    return failed | dict.fromkeys(recorded_names(out), "success")


def run_plan(plan: Plan, args: tuple, workers: int, out: Path) -> None:
    """Try seeds until the plan needs no more; each round makes up for the failures of the one before."""
    jobs, errors, failed = plan.next_jobs(), 0, 0
    kept = sum(counts["kept"] for counts in plan.report().values())
    with tqdm(total=sum(plan.wanted.values()), initial=kept, unit="episode", desc="collecting") as bar:
        while jobs:
            for job, result in each(Demonstrator, args, jobs, workers):
                plan.outcomes[job.name] = result["outcome"]
                bar.update(result["outcome"] == "success")
                failed += result["outcome"] == "failure"
                bar.set_postfix(failed=failed)
                note(out, job, result)
                errors += result["outcome"] == "error"
                if errors >= MOST_ERRORS:
                    raise CollectError(f"{errors} episodes crashed, the last one ({job.name}) so:\n{result['error']}")
            jobs = plan.next_jobs()


def note(out: Path, job: Job, result: dict) -> None:
    with (out / OUTCOMES).open("ab+") as file:
        mend(file)
        file.write((json.dumps({"name": job.name} | result) + "\n").encode())
