"""The page of an evaluation: one HTML file that needs nothing beside it, the videos embedded."""

from __future__ import annotations

import base64
import json
from importlib.resources import files
from pathlib import Path
from typing import Any, Mapping, Sequence

from training import scores
from training.files import write_whole

OURS = "soma/"  # what the ids of our own environments begin with
EMBED = 40_000_000  # bytes of video that the page may hold; beyond, it names the files beside it
HANDICAPS = {"mute": "microphones silenced", "blind": "cameras black", "swap_instruction": "another task's words"}
TOLD = {"text": "Told in writing:", "voice": "Told by voice, to be heard in the film:",
        "both": "Told in writing and by voice:"}


def write_report(out: Path, title: str | None = None) -> Path:
    """Write out/report.html from results.json, episodes*.jsonl and films.jsonl; gives its path."""
    from training.evaluate import FILMS, RESULTS, read_records

    figures = json.loads((out / RESULTS).read_text())
    records = read_records(out)
    films = read_records(out, files=FILMS) | {key: r for key, r in records.items() if "video" in r}
    page = out / "report.html"
    write_whole(page, render(figures, list(records.values()), films_of(out, films, records), title))
    return page


def rebuild(out: str | Path) -> Path:
    """Figures and page anew from the records. Raises training.evaluate.EvaluateError where there are none."""
    from training.evaluate import summarise

    summarise(Path(out))
    return write_report(Path(out))


def render(figures: Mapping[str, Any], records: Sequence[Mapping], films: Sequence[Mapping], title: str | None) -> str:
    """The page as a string. films: see `films_of`."""
    from jinja2 import Environment

    template = (files("training") / "templates" / "report.html").read_text()
    protocol, whole = figures["protocol"], scores.tally(records) | {"interval": figures["interval"]}
    return Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(template).render(
        title=title or f"{protocol['policy']} on {protocol['split'] if is_ours(protocol) else protocol['env_id']}",
        subtitle=subtitle(figures),
        whole=row("all", whole),
        rows=[row(task, counts) for task, counts in figures["tasks"].items()],
        errors=[r for r in records if r["outcome"] == "error"],
        galleries=galleries(films, protocol, sum(r["outcome"] == "failure" for r in records)),
        by_voice=scores.say_by_voice(figures),
        latency=figures["latency_ms"],
        protocol={key: value if isinstance(value, str) else json.dumps(value) for key, value in protocol.items()},
    )


def subtitle(figures: Mapping[str, Any]) -> str:
    protocol, seeds = figures["protocol"], figures["seeds"]
    said = [f"instructed by {protocol['instruct']}"] * is_ours(protocol)
    said += [say for key, say in HANDICAPS.items() if protocol.get(key)]
    return ", ".join([*said, f"seeds {seeds[0]} to {seeds[-1]}" if seeds else "no episode yet"])


def is_ours(protocol: Mapping[str, Any]) -> bool:
    """Whether it was played on the tabletop: other environments have no splits, and instruct in their own way."""
    return protocol.get("env_id", OURS).startswith(OURS)


def row(task: str, counts: Mapping[str, Any]) -> dict[str, Any]:
    rate, (low, high) = counts["success_rate"], counts["interval"]
    return {
        **counts,
        "task": task.replace("_", " "),
        "share": rate or 0.0,
        "rate": scores.percent(rate),
        "low": low,
        "high": high,
        "interval": scores.percents((low, high)),
        "ended": counts["episodes"] - counts["errors"],
    }


def films_of(out: Path, films: Mapping[tuple, Mapping], records: Mapping[tuple, Mapping]) -> list[dict[str, Any]]:
    """What the page says of each film, and where it is: in the page itself, or beside it if they are large."""
    found = {key: out / "videos" / r["video"] for key, r in films.items() if "video" in r}
    found = {key: path for key, path in found.items() if path.is_file()}
    embed = sum(path.stat().st_size for path in found.values()) <= EMBED
    return [film(films[key], records.get(key), path, embed) for key, path in found.items()]


def film(record: Mapping[str, Any], counted: Mapping | None, path: Path, embed: bool) -> dict[str, Any]:
    link = f"videos/{path.name}"
    changed = counted is not None and counted["outcome"] != record["outcome"]
    return {
        **record,
        "task": record["task"].replace("_", " "),
        "told": TOLD[record["told"]],
        "otherwise": counted["outcome"] if changed else None,
        "source": "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode() if embed else link,
    }


def galleries(films: Sequence[Mapping], protocol: Mapping[str, Any], failures: int) -> list[tuple[str, str, list]]:
    """(heading, note, films) of failures, of which there are so many, and successes."""
    seen = "Both cameras, through which the agent saw nothing," if protocol.get("blind") else "Both cameras,"
    what = f"{seen} with the sound that the agent {'did not hear' if protocol.get('mute') else 'heard'}"
    failed, succeeded = ([f for f in films if f["outcome"] == outcome] for outcome in ("failure", "success"))
    which = "Drawn at random" if len(failed) < failures else "All of them"
    return [("Failures", f"{which}. {what}.", failed), ("Successes", f"{what}.", succeeded)]
