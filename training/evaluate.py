"""Success rates of a policy, with intervals: many episodes, several processes, resumable.

A folder holds protocol.json, episodes*.jsonl (one line an episode, in the order in which they ended), results.json,
report.html and videos/. The figures depend on the lines alone, not on who wrote them or when: the folders of several
machines are joined by copying their episodes*.jsonl into one. Each line holds its protocol's mark, and no other one's counts.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Mapping, Sequence

from filelock import FileLock
from tqdm import tqdm

from training import scores
from training.files import write_whole
from training.named import named
from training.play import Job, Player, Setting, at_its_pace, check_policy, check_split, recorded, task_names
from training.report import write_report
from training.settings import SettingsError, at_least, claim, protocol_in
from training.workers import each

PROTOCOL, RESULTS, FILMS, FILMING, VIDEOS = "protocol.json", "results.json", "films.jsonl", ".filming", "videos"
MOST_ERRORS = 5  # crashed episodes without any other before an evaluation gives up


class EvaluateError(ValueError):
    """An evaluation that cannot go on in its folder; the message says why."""


def evaluate(
    out: str | Path,
    setting: Setting,
    tasks: Sequence[str],
    episodes: int,
    seed: int,
    instruct: str = "text",
    workers: int = 1,
    shard: tuple[int, int] = (0, 1),
    videos: int = 6,
    retry_errors: bool = False,
    device: str = "cpu",
) -> dict[str, Any]:
    """What results.json holds (training.scores.results). Run again it does what is missing; more episodes add to it.

    shard: (index, count): only every count-th seed, from the index-th on. Raises SettingsError where the folder
    holds episodes of another protocol, EvaluateError where all episodes crash.
    """
    at_least(1, {"episodes": episodes})
    at_least(0, {"seed": seed, "videos": videos})
    tasks = list(dict.fromkeys(tasks))  # each episode once
    check_policy(setting, instruct)
    setting, seeds = at_its_pace(setting), range(seed, seed + episodes)[shard[0] :: shard[1]]
    jobs = recorded([Job(task, s, instruct) for s in seeds for task in tasks], setting)
    out = Path(out)
    weights = named(setting.policy).fingerprint()
    claim(out / PROTOCOL, protocol(setting, tasks, seed, instruct, device, weights))
    done = read_records(out, keep_errors=not retry_errors)
    missing = [job for job in jobs if (job.task, job.seed) not in done]
    name = "episodes.jsonl" if shard[1] == 1 else f"episodes-{shard[0]}of{shard[1]}.jsonl"
    play(missing, (setting, device, weights), workers, out / name)
    figures = summarise(out)
    film(out, (setting, device, weights), videos, workers)
    write_report(out)
    return figures


def protocol(setting: Setting, tasks: Sequence[str], seed: int, instruct: str, device: str, weights: str | None) -> dict:
    """All that decides the figures but how many episodes there are."""
    played_with = {"weights": weights, "device": device, "mujoco": version("mujoco")}
    return {"tasks": list(tasks), "seed": seed, "instruct": instruct, **asdict(setting), **played_with}


def mark(out: Path) -> str:
    """What tells the protocol of a folder's episodes from others."""
    return hashlib.sha256(json.dumps(protocol_in(out / PROTOCOL), sort_keys=True).encode()).hexdigest()[:16]


def play(jobs: Sequence[Job], args: tuple, workers: int, file: Path, doing: str = "playing", hopeless: int = MOST_ERRORS) -> None:
    """Append a record to the file as each episode ends. Raises EvaluateError where the first `hopeless` ones all crash."""
    count, ours = Counter(), {"protocol": mark(file.parent)}
    with file.open("ab+") as log, tqdm(total=len(jobs), unit="episode", desc=doing) as bar:
        mend(log)
        for _, record in each(Player, args, jobs, workers):
            log.write((json.dumps(record | ours) + "\n").encode())
            log.flush()
            count[record["outcome"]] += 1
            bar.update()
            bar.set_postfix(success=count["success"], failure=count["failure"], error=count["error"])
            if hopeless <= count["error"] == count.total():
                raise EvaluateError(f"the first {count['error']} episodes all crashed (retry_errors=true plays them again), the "
                                    f"last one so:\n{record['error']}")


def mend(log) -> None:
    """End a line that a killed run left unfinished, so that the next record begins a new one."""
    if log.seek(0, 2):
        log.seek(-1, 2)
        if log.read(1) != b"\n":
            log.write(b"\n")


def read_records(out: Path, keep_errors: bool = True, files: str = "episodes*.jsonl") -> dict[tuple[str, int], dict]:
    """(task, seed) -> record, ordered by task and seed. An unfinished line does not count, and of two records of one
    episode an error does not stand against the other. Raises EvaluateError for episodes of another protocol."""
    records, ours = [], mark(out)
    for file in sorted(out.glob(files)):
        found = [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]
        if any(r.get("protocol", ours) != ours for r in found):
            raise EvaluateError(f"{file} holds episodes of another protocol than {out / PROTOCOL} (other settings, weights, "
                                "device or MuJoCo): keep them in a folder of their own")
        records += found
    records.sort(key=lambda r: (r["task"], r["seed"], r["outcome"] != "error"))
    return {(r["task"], r["seed"]): r for r in records if keep_errors or r["outcome"] != "error"}


def summarise(out: Path) -> dict[str, Any]:
    """Write results.json from the folder's records. Raises EvaluateError where there is none."""
    if not (out / PROTOCOL).is_file():
        raise EvaluateError(f"{out} holds no evaluation: {PROTOCOL} is missing")
    figures = scores.results(list(read_records(out).values()), protocol_in(out / PROTOCOL))
    write_whole(out / RESULTS, json.dumps(figures, indent=1))
    return figures


def film(out: Path, args: tuple, videos: int, workers: int) -> None:
    """Play the drawn episodes once more, with a film: the same seeds, so the same episodes. A page may lack films."""
    with FileLock(out / FILMING):  # of another shard in the same folder
        drawn = draw(list(read_records(out).values()), videos)
        jobs = [Job(r["task"], r["seed"], r["instruct"], out / video_of(r)) for r in drawn]
        if videos:
            drop_films(out, {(job.task, job.seed) for job in jobs})
        shown = {r["video"] for r in read_records(out, files=FILMS).values() if "video" in r}
        missing = [job for job in jobs if job.film.name not in shown or not job.film.is_file()]
        if missing:
            play(missing, args, workers, out / FILMS, "filming", len(missing) + 1)


def drop_films(out: Path, drawn: set[tuple[str, int]]) -> None:
    """Of what was drawn when there were fewer episodes: the page would show more of the early ones."""
    films = read_records(out, files=FILMS)
    if others := films.keys() - drawn:
        for key in others:
            (out / video_of(films[key])).unlink(missing_ok=True)
        write_whole(out / FILMS, "".join(json.dumps(r) + "\n" for key, r in films.items() if key in drawn))


def draw(records: Sequence[Mapping[str, Any]], videos: int) -> list[Mapping[str, Any]]:
    """At random, but the same each time: up to `videos` failures and half as many successes."""
    order = sorted(records, key=lambda r: random.Random(f"{r['task']} {r['seed']}").random())
    shown = {"failure": videos, "success": videos // 2}
    return [r for outcome, most in shown.items() for r in [r for r in order if r["outcome"] == outcome][:most]]


def video_of(record: Mapping[str, Any]) -> str:
    return f"{VIDEOS}/{record['task']}-{record['seed']}.mp4"


# ---- the command line


def main(cfg: Mapping[str, Any]) -> int:
    check_split(cfg["split"], cfg["instruct"])
    keys = ("policy", "split", "decide_every", "delay_steps", "blend", "safety", "mute", "blind", "swap_instruction")
    setting = Setting(env_id=cfg["env"]["id"], env_kwargs=cfg["env"]["kwargs"], **{key: cfg[key] for key in keys})
    figures = evaluate(cfg["out"], setting, task_names(cfg["tasks"], cfg["policy"], setting.env_id), cfg["episodes"], cfg["seed"],
                       cfg["instruct"], cfg["workers"], shard_of(cfg["shard"]), cfg["videos"], cfg["retry_errors"],
                       cfg["device"])
    print(table(figures))
    print(f"page: {Path(cfg['out']) / 'report.html'}")
    return int(any(counts["errors"] for counts in figures["tasks"].values()))


def shard_of(text: str) -> tuple[int, int]:
    index, slash, count = str(text).partition("/")
    if not (slash and index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise SettingsError(f"shard={text}: INDEX/COUNT is needed, such as 0/2 and 1/2")
    return int(index), int(count)


def table(figures: Mapping[str, Any]) -> str:
    """The figures for a terminal."""
    lines = [f"{'task':16s} {'success':>9s}   {'interval (95%)':>16s}   of"]
    for name, counts in figures["tasks"].items():
        crashed = f"  {counts['errors']} CRASHED" if counts["errors"] else ""
        lines.append(f"{name:16s} {scores.percent(counts['success_rate']):>9s}   {scores.percents(counts['interval']):>16s}   "
                     f"{counts['episodes'] - counts['errors']}{crashed}")
    crashed = sum(counts["errors"] for counts in figures["tasks"].values())
    lines.append(f"{'all':16s} {scores.percent(figures['success_rate']):>9s}   {scores.percents(figures['interval']):>16s}   "
                 + (f"without {crashed} CRASHED" if crashed else ""))
    latency = "  ".join(f"{name} {ms} ms" for name, ms in figures["latency_ms"].items())
    return "\n".join(filter(None, [*lines, scores.say_by_voice(figures), f"a decision: {latency}"]))
