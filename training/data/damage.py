"""What is broken in a dataset on disk: `check_dataset` names file, episode and damage, and changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import soundfile
from tqdm import tqdm

from agent.spec import STATE
from training.data import lerobot_format as form
from training.data import video
from training.data.demos import DemoReader, Episode
from training.data.lerobot_format import DatasetError

FROZEN = 5  # frames that may look alike while the robot moves
ALIKE = 8  # grey levels: pixels of frames that look alike differ by no more (compression alone makes 4)
MOVING = 0.01  # of a state's range in the dataset: what counts as a movement from frame to frame


@dataclass(frozen=True)
class Finding:
    """One damage; `episode` is None where it is not one episode's."""

    file: Path
    episode: int | None
    problem: str

    def __str__(self) -> str:
        whose = "" if self.episode is None else f", episode {self.episode}"
        return f"{self.file}{whose}: {self.problem}"


def check_dataset(root: str | Path, decode: bool = True) -> list[Finding]:
    """All damage that is found; empty for a sound dataset. decode=False leaves the pictures unlooked at."""
    root = Path(root)
    try:
        reader = DemoReader(root)
    except (DatasetError, KeyError) as error:
        return [Finding(root / "meta", None, f"the dataset cannot be opened: {error}")]
    findings = [*counts(reader), *statistics(reader), *silent(reader), *strays(reader)]
    tables = {path: _table(reader, path) for path in dict.fromkeys(e.data for e in reader.episodes)}
    findings += [Finding(path, None, str(t)) for path, t in tables.items() if isinstance(t, DatasetError)]
    ranges = _state_ranges(reader, tables)
    for episode in tqdm(reader.episodes, desc="looking at", unit="episode"):
        columns = _columns(reader, episode, tables[episode.data])
        findings += [*rows(reader, episode, columns), *sound(reader, episode)]
        if decode:
            moving = _moving(columns, ranges)
            known = len(moving) == episode.length
            findings += pictures(reader, episode, moving if known else np.zeros(episode.length, bool))
    return findings


# ---- the dataset as a whole


def counts(reader: DemoReader) -> Iterator[Finding]:
    """info.json against the tables of episodes and instructions."""
    file, episodes, info = reader.root / form.INFO, reader.episodes, reader.info
    actual = {"total_episodes": len(episodes), "total_frames": sum(e.length for e in episodes),
              "total_tasks": len(reader.tasks)}  # fmt: skip
    for name, count in actual.items():
        if info.get(name) != count:
            yield Finding(file, None, f"{name} is {info.get(name)}, the tables hold {count}")
    start = 0
    for number, episode in enumerate(episodes):
        if episode.index != number or episode.start != start:
            yield Finding(reader.root / "meta/episodes", episode.index,
                          f"is number {number} of the table and begins at row {episode.start}, {start} is due")
        start = episode.start + episode.length


def statistics(reader: DemoReader) -> Iterator[Finding]:
    """stats.json against the features."""
    try:
        missing = sorted(reader.features.keys() - form.read_json(reader.root / form.STATS).keys())
    except DatasetError as error:
        yield Finding(reader.root / form.STATS, None, str(error))
        return
    if missing:
        yield Finding(reader.root / form.STATS, None, f"says nothing of {', '.join(missing)}")


def silent(reader: DemoReader) -> Iterator[Finding]:
    """Episodes that were recorded with sound and have none."""
    lost = {e.index: sorted(set(e.info.get("tracks", ())) - set(e.tracks or ())) for e in reader.episodes}
    lost = {index: tracks for index, tracks in lost.items() if tracks}
    if lost:
        index, tracks = next(iter(lost.items()))
        yield Finding(reader.root / form.INDEX, index if len(lost) == 1 else None,
                      f"names no {', '.join(tracks)} of {len(lost)} episodes that were recorded with it, such as {index}")


def strays(reader: DemoReader) -> Iterator[Finding]:
    """Files that belong to no episode, which others would read with the rest."""
    used = {e.data for e in reader.episodes} | {path for e in reader.episodes for path, _ in e.videos.values()}
    for path in sorted({*reader.root.glob("data/*/*"), *reader.root.glob("videos/*/*/*")} - used):
        yield Finding(path, None, "belongs to no episode")


# ---- one episode


def rows(reader: DemoReader, episode: Episode, columns: dict[str, np.ndarray] | None) -> Iterator[Finding]:
    """Count, counters, stamps, numbers."""
    if columns is None:
        return
    def found(problem: str) -> Finding:
        return Finding(episode.data, episode.index, problem)

    n = len(columns["index"])
    if n != episode.length:
        yield found(f"{n} rows, the episode has {episode.length} frames")
        return
    for key, first in {"frame_index": 0, "index": episode.start}.items():
        if (at := _first(columns[key] != np.arange(first, first + n))) is not None:
            yield found(f"{key} of frame {at} is {columns[key][at]}, {first + at} is due")
    stamps = columns["timestamp"].astype(np.float64)
    if (at := _first(np.diff(stamps, prepend=-np.inf) <= 0)) is not None:
        yield found(f"stamps out of order: {stamps[at]:.4f} s at frame {at} after {stamps[at - 1]:.4f} s")
    elif (at := _first(np.abs(stamps - np.arange(n) / reader.fps) > 1e-3)) is not None:
        yield found(f"stamp of frame {at} is {stamps[at]:.4f} s, {at / reader.fps:.4f} is due")
    tasks = columns["task_index"]
    if (at := _first((tasks < 0) | (tasks >= len(reader.tasks)))) is not None:
        yield found(f"task_index of frame {at} is {tasks[at]}, there are {len(reader.tasks)} instructions")
    for key, values in columns.items():
        if values.dtype.kind == "f" and (at := _first(~np.isfinite(values).reshape(n, -1).all(1))) is not None:
            yield found(f"{key} of frame {at} is NaN or infinite")


def sound(reader: DemoReader, episode: Episode) -> Iterator[Finding]:
    for path in (episode.tracks or {}).values():
        if not path.is_file():
            yield Finding(path, episode.index, "is missing")
            continue
        try:
            samples, rate = soundfile.read(path, always_2d=True)
        except soundfile.LibsndfileError as error:
            yield Finding(path, episode.index, f"cannot be read as sound ({error})")
            continue
        if (rate, samples.shape[1]) != (reader.spec.sample_rate, ears := len(reader.spec.microphones)):
            yield Finding(path, episode.index, f"{samples.shape[1]} channels at {rate} Hz, the robot has {ears} microphones at "
                                               f"{reader.spec.sample_rate} Hz")
        due = round(episode.length / reader.fps * rate)
        if len(samples) != due:
            yield Finding(path, episode.index, f"{len(samples)} samples, {episode.length} frames last {due}")


def pictures(reader: DemoReader, episode: Episode, moving: np.ndarray) -> Iterator[Finding]:
    """Missing, unreadable and frozen frames of every camera; `moving` (n,) says when the robot moves."""
    for key in reader.video_keys:
        path = episode.videos[key][0] if key in episode.videos else episode.data
        seen, alike = np.zeros((2, episode.length), bool)
        held = None  # the image that those after it look like
        try:
            for row, image in reader.stretch(episode, key):
                step = row - episode.start
                seen[step] = True
                alike[step] = held is not None and not _differ(image, held)
                held = held if alike[step] else image
        except (video.VideoError, video.ReadError, DatasetError) as error:
            yield Finding(path, episode.index, f"cannot be read ({error})")
            continue
        if not seen.all():
            there = f"{seen.sum()} of {episode.length} frames are there"
            yield Finding(path, episode.index, f"{key}: {there}; frame {np.argmin(seen)} is missing")
        elif (at := _longest(alike & moving))[1] >= FROZEN:
            stretch = f"frozen for {at[1]} frames from frame {at[0]} on"
            yield Finding(path, episode.index, f"{key}: {stretch}, while the robot moved")


# ---- helpers


def _first(flags: np.ndarray) -> int | None:
    """Index of the first True."""
    return int(np.argmax(flags)) if flags.any() else None


def _table(reader: DemoReader, path: Path) -> pa.Table | DatasetError:
    try:
        table = form.read_table(path, reader.number_keys)
        for key in reader.number_keys:
            form.array(table[key], reader.features[key])
        return table
    except DatasetError as error:
        return error


def _columns(reader: DemoReader, episode: Episode, table) -> dict[str, np.ndarray] | None:
    """The rows that say that they are this episode's; None where the file cannot be read."""
    if isinstance(table, DatasetError):
        return None
    mine = table.filter(table["episode_index"].to_numpy() == episode.index)
    return {key: form.array(mine[key], reader.features[key]) for key in reader.number_keys if len(mine)} or {"index": np.zeros(0)}


def _state_ranges(reader: DemoReader, tables: dict) -> np.ndarray | None:
    """(S,) how far each state goes in the dataset."""
    sound_ones = [t for t in tables.values() if not isinstance(t, DatasetError)]
    if STATE not in reader.features or not sound_ones:
        return None
    values = np.concatenate([form.array(t[STATE], reader.features[STATE]).reshape(len(t), -1) for t in sound_ones])
    return np.nanmax(values, 0) - np.nanmin(values, 0)


def _moving(columns, ranges: np.ndarray | None) -> np.ndarray:
    """(n,) whether the robot has moved since the frame before; empty where nobody can say."""
    if columns is None or ranges is None or STATE not in columns:
        return np.zeros(0, bool)
    state = columns[STATE].reshape(len(columns[STATE]), -1)
    steps = np.abs(np.diff(state, axis=0, prepend=state[:1])) / np.maximum(ranges, 1e-9)
    return (steps > MOVING).any(1)


def _differ(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((np.maximum(a, b) - np.minimum(a, b)).max() > ALIKE)


def _longest(flags: np.ndarray) -> tuple[int, int]:
    """(start, length) of the longest run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(int), [0]])))
    starts, lengths = edges[::2], edges[1::2] - edges[::2]
    best = int(np.argmax(lengths)) if len(lengths) else None
    return (int(starts[best]), int(lengths[best])) if best is not None else (0, 0)
