"""`soma demo`: a few episodes spread over the tasks, told by text and by voice in turn, and the page that shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Mapping, Sequence

from envs.tabletop.tasks import HEARD
from training import evaluate
from training.named import named
from training.play import Job, Setting, at_its_pace, check_policy, check_split, task_names
from training.report import write_report
from training.settings import at_least, claim, protocol_in


IN_TURN = "text and voice in turn"


def main(cfg: Mapping[str, Any]) -> int:
    check_split(cfg["split"], "mixed")
    out = Path(cfg["out"])
    setting = at_its_pace(Setting(cfg["policy"], cfg["env"]["id"], cfg["env"]["kwargs"], cfg["split"]))
    at_least(1, {"episodes": cfg["episodes"]})
    at_least(0, {"seed": cfg["seed"]})
    check_policy(setting, "mixed")
    tasks = task_names([], cfg["policy"], setting.env_id)
    weights = named(cfg["policy"]).fingerprint()
    clear(out)
    claim(out / evaluate.PROTOCOL, evaluate.protocol(setting, tasks, cfg["seed"], IN_TURN, cfg["device"], weights))
    chosen = jobs(tasks, cfg["episodes"], cfg["seed"], out)
    evaluate.play(chosen, (setting, cfg["device"], weights), cfg["workers"], out / "episodes.jsonl")
    figures = evaluate.summarise(out)
    page = write_report(out, f"Soma: {cfg['episodes']} episodes on the tabletop")
    print(evaluate.table(figures))
    print(f"page with the films: {page}")
    return int(any(counts["errors"] for counts in figures["tasks"].values()))


def jobs(tasks: Sequence[str], episodes: int, seed: int, out: Path) -> list[Job]:
    """Tasks in turn; the way of telling changes from each to the next, and from round to round."""
    rounds, rest = divmod(episodes, len(tasks))
    found = []
    for i, task in enumerate([*tasks] * rounds + spread(tasks, rest)):
        way = ("text", "voice")[(i + i // len(tasks)) % 2]
        found.append(Job(task, seed + i, way, out / evaluate.VIDEOS / f"{task}-{seed + i}.mp4"))
    return found


def spread(tasks: Sequence[str], count: int) -> list[str]:
    """So many of the tasks, in their order: those that need hearing, and of the others some at even distances."""
    heard = [task.name for task in HEARD if task.name in tasks][:count]
    seen, room = [task for task in tasks if task not in heard], count - len(heard)
    shown = {*heard, *(seen[i * len(seen) // room] for i in range(room))}
    return [task for task in tasks if task in shown]


def clear(out: Path) -> None:
    """Remove an earlier demo. Raises EvaluateError where it is something else."""
    protocol = out / evaluate.PROTOCOL
    files = [path for pattern in ("episodes*.jsonl", f"{evaluate.VIDEOS}/*.mp4") for path in out.glob(pattern)]
    theirs = protocol_in(protocol).get("instruct") != IN_TURN if protocol.is_file() else bool(files)
    if theirs:
        raise evaluate.EvaluateError(f"{out} holds an evaluation or films, which soma demo would remove: take another out=FOLDER")
    for path in files:
        path.unlink()
    protocol.unlink(missing_ok=True)
