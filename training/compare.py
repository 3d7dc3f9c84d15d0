"""Evaluations side by side, as a Markdown table, and how far each is from the first where both played the same scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Mapping, Sequence

from training import scores
from training.evaluate import EvaluateError, read_records, summarise

SCENES = ("env_id", "env_kwargs", "split")  # what of a protocol decides what the scene of a task and a seed is


def compare(folders: Sequence[str | Path]) -> str:
    """A row a task, a column an evaluation, headed by its folder's name; the last row counts all of its episodes. Raises
    training.evaluate.EvaluateError for a folder without an evaluation, or two of one name."""
    figures = {Path(folder).name: summarise(Path(folder)) for folder in folders}
    if len(figures) < len(folders):
        raise EvaluateError(f"{', '.join(map(str, folders))}: folders of different names are needed, to tell them apart")
    tasks = list(dict.fromkeys(task for of in figures.values() for task in of["tasks"]))
    rows = [["task", *figures], ["---"] * (1 + len(figures))]
    rows += [[task, *(cell(of["tasks"].get(task)) for of in figures.values())] for task in tasks]
    rows.append(["all", *(cell(whole(of)) for of in figures.values())])
    table = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*table, "", *differences({name: of["protocol"] for name, of in figures.items()}, folders)]).rstrip()


def whole(figures: Mapping[str, Any]) -> dict[str, Any]:
    """All tasks together, as `scores.tally` counts one."""
    total = {key: sum(of[key] for of in figures["tasks"].values()) for key in ("successes", "episodes", "errors")}
    return total | {key: figures[key] for key in ("success_rate", "interval")}


def cell(counts: Mapping[str, Any] | None) -> str:
    if counts is None:
        return ""
    low, high = counts["interval"]
    crashed = f", {counts['errors']} crashed" if counts["errors"] else ""
    ended = counts["episodes"] - counts["errors"]
    interval = f"{100 * low:.1f}-{100 * high:.1f}"
    return f"{counts['successes']}/{ended}, {scores.percent(counts['success_rate'])} ({interval}){crashed}"


def differences(protocols: Mapping[str, Mapping[str, Any]], folders: Sequence[str | Path]) -> list[str]:
    """A line for each evaluation of the same scenes as the first."""
    played = {name: list(read_records(Path(folder)).values()) for name, folder in zip(protocols, folders)}
    first, *others = protocols
    lines = []
    for other in others:
        alike = all(protocols[other].get(key) == protocols[first].get(key) for key in SCENES)
        if alike and (found := scores.difference(played[other], played[first])):
            gap, low, high = (100 * value for value in (found["difference"], *found["interval"]))
            lines.append(f"{other} against {first}: {gap:+.1f} points ({low:+.1f} to {high:+.1f}), in "
                         f"{found['episodes']} episodes of the same scenes")
    return lines
