"""Collect demonstrations of the scripted experts: episodes of every task in parallel, kept when they succeed.

The set of episodes depends on the arguments alone, not on the number of workers or on interruptions: of every task the
first seeds that succeed.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import traceback
from collections import Counter, deque
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Mapping, Sequence

import gymnasium as gym
import numpy as np
from tqdm import tqdm

import envs  # noqa: F401  registers the environments
from agent.spec import ACTION, IMAGES, STATE, TASK
from training.data.assemble import assemble, recorded_names
from training.data.demos import DemoWriter

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


@dataclass
class Recorder:
    """Writes what `frame` sees, step by step: what is sensed, what the expert would do now, labels, sound tracks."""

    writer: DemoWriter
    sound: list[dict[str, np.ndarray]] = field(default_factory=list)

    def frame(self, env: gym.Env, obs: Mapping[str, Any]) -> None:
        """Before each step."""
        world = env.unwrapped
        self.sound.append(world.tracks)
        images = world.images() if world.lazy_images else {k: v for k, v in obs.items() if k.startswith(IMAGES)}
        labels = {f"annotation.{name}": value for name, value in world.annotation().items()}
        action = np.asarray(world.expert_action(), np.float32)
        self.writer.add(images | {STATE: obs[STATE], ACTION: action} | labels)

    def save(self, env: gym.Env, name: str, task: str, **info) -> None:
        """After the last step. What the first frame heard came before the episode, and is left out."""
        sound = [*self.sound[1:], env.unwrapped.tracks]
        tracks = {track: np.concatenate([s[track] for s in sound]) for track in sound[0]}
        self.writer.save(name, task, tracks, **info)


def demonstrate(env: gym.Env, writer: DemoWriter, job: Job, perturb: float) -> bool:
    """Let the expert act through one episode; save it if it succeeds."""
    world, recorder = env.unwrapped, Recorder(writer)
    writer.discard()
    obs, info = env.reset(seed=job.seed, options={"task": job.task, "perturb": perturb})
    written, spoken = bool(obs[TASK]), bool(world.voice_end)
    instruct = {(True, False): "text", (False, True): "voice", (True, True): "both"}[written, spoken]
    done = False
    while not done:
        recorder.frame(env, obs)
        obs, _, terminated, truncated, info = env.step(world.expert_action())
        done = terminated or truncated
    if info["success"]:
        recorder.save(env, job.name, world.instruction, task_name=job.task, seed=job.seed, split=job.split,
                      instruct=instruct, success=True, heard_at=float(world.heard_at), perturb=perturb)
    return bool(info["success"])


# ---- one worker process


class Worker:
    """An environment and a writer, made once a process."""

    current: Worker | None = None

    def __init__(self, env_id: str, env_kwargs: Mapping, out: str, perturb: float):
        self.env = gym.make(env_id, **env_kwargs, disable_env_checker=True)
        self.writer = DemoWriter(out, self.env.unwrapped.robot_spec, self.env.unwrapped.arm.name)
        self.perturb = perturb

    def run(self, job: Job) -> dict:
        """What came of it. A crash is an error, never a failure."""
        try:
            success = demonstrate(self.env, self.writer, job, self.perturb)
        except Exception:  # noqa: BLE001 whatever an episode dies of must not end the others
            return {"outcome": "error", "error": traceback.format_exc()}
        return {"outcome": "success" if success else "failure"}


def _start(*args) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process decides; the running episode is finished
    Worker.current = Worker(*args)


def _run(job: Job) -> dict:
    return Worker.current.run(job)


class Inline:
    """An executor in this process, for one worker."""

    def __init__(self, *args):
        self.worker = Worker(*args)

    def submit(self, _, job: Job) -> Future:
        future: Future = Future()
        future.set_result(self.worker.run(job))
        return future

    def __enter__(self) -> Inline:
        return self

    def __exit__(self, *_) -> None:
        self.worker.env.close()


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
        jobs, lost = [], self.count(task, "failure") + self.count(task, "error")
        while self.asked[task] - lost < self.wanted[task]:
            job = Job(task, self.first + self.asked[task], self.split)
            self.asked[task] += 1
            known = self.outcomes.get(job.name)
            lost += known in ("failure", "error")
            jobs += [job] if known is None else []
        return jobs

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
) -> dict[str, dict[str, int]]:
    """`episodes` demonstrations, shared out evenly over `tasks`, as a dataset at `out`; run again to go on or to add.

    env: more keyword arguments of the environment. seed: the first one tried. perturb: kicks of the arm a second.
    Returns counts by task. Ctrl-C keeps every finished episode. Raises CollectError.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    share, rest = divmod(episodes, len(tasks))
    plan = Plan({task: share + (i < rest) for i, task in enumerate(tasks)}, split, seed, read_outcomes(out))
    jobs = plan.next_jobs()
    kwargs = {"lazy_images": True, "instruct": "mixed"} | dict(env or {}) | {"split": split}
    with finishing(out), start_pool(min(workers, len(jobs)), (env_id, kwargs, str(out), perturb)) as pool:
        run_plan(plan, jobs, pool, out, flight=2 * workers)
    return plan.report()


@contextmanager
def finishing(out: Path):
    """Whatever happens, the episodes that were finished become part of the dataset."""
    try:
        yield
    finally:
        assemble(out)


def start_pool(workers: int, args: tuple):
    if workers <= 1:
        return Inline(*args)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # taken over by the workers
    spawn = multiprocessing.get_context("spawn")  # never fork after a GL context or a video was opened
    return ProcessPoolExecutor(workers, spawn, _start, args)


def read_outcomes(out: Path) -> dict[str, str]:
    """What earlier runs came to, without crashes: those are tried again."""
    lines = (out / OUTCOMES).read_text().splitlines() if (out / OUTCOMES).is_file() else []
    tried = [json.loads(line) for line in lines if line.endswith("}")]
    failed = {entry["name"]: "failure" for entry in tried if entry["outcome"] == "failure"}
    return failed | dict.fromkeys(recorded_names(out), "success")


def run_plan(plan: Plan, jobs: list[Job], pool, out: Path, flight: int) -> None:
    """Try jobs, at most `flight` at a time, until the plan needs no more."""
    queue, running, errors = deque(jobs), {}, []
    kept = sum(counts["kept"] for counts in plan.report().values())
    with tqdm(total=sum(plan.wanted.values()), initial=kept, unit="episode", desc="collecting") as bar:
        while queue or running:
            while queue and len(running) < flight:
                job = queue.popleft()
                running[pool.submit(_run, job)] = job
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job, result = running.pop(future), outcome_of(future)
                plan.outcomes[job.name] = result["outcome"]
                bar.update(result["outcome"] == "success")
                note(out, job, result)
                errors += [(job.name, result["error"])] if result["outcome"] == "error" else []
            if len(errors) >= MOST_ERRORS:
                name, trace = errors[-1]
                raise CollectError(f"{len(errors)} episodes crashed, the last one ({name}) so:\n{trace}")
            queue.extend(plan.next_jobs())


def outcome_of(future: Future) -> dict:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise CollectError("a worker process was killed (out of memory?); finished episodes are kept: "
                           "run again to go on") from error


def note(out: Path, job: Job, result: dict) -> None:
    with (out / OUTCOMES).open("a") as file:
        file.write(json.dumps({"name": job.name} | result) + "\n")
