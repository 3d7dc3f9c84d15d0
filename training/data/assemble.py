"""Staged episodes -> the dataset: files are joined and numbered, nothing is computed or encoded anew.

What meta/info.json counts is the dataset. It is replaced last, so an interrupted round leaves the dataset as it was,
and the next round sweeps its remains away and does it again.
"""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

import numpy as np
import pyarrow as pa
from filelock import FileLock, Timeout

from agent.spec import Spec
from training.data import lerobot_format as form
from training.data import video
from training.data.lerobot_format import DatasetError

LOCK = ".lock"  # of who adds episodes


def staging(root: Path) -> Path:
    return root / "staged"


def staged_names(root: Path) -> list[str]:
    """Names of the finished episodes that are not yet part of the dataset's files."""
    return sorted(p.name for p in staging(root).glob("*") if not p.name.startswith("."))


def committed(root: Path) -> list[dict]:
    """Rows of the episodes table, as far as info.json counts them."""
    if not (root / form.INFO).is_file():
        return []
    total = form.read_json(root / form.INFO)["total_episodes"]
    rows = [row for path in form.numbered(root, form.EPISODES_PATH) for row in form.read_table(path).to_pylist()]
    return sorted((r for r in rows if r["episode_index"] < total), key=lambda r: r["episode_index"])


def recorded_names(root: Path) -> list[str]:
    """Names of all finished episodes at `root`, staged or not. Raises DatasetError for a dataset from elsewhere."""
    rows = committed(root)
    if any("info" not in row for row in rows):
        raise DatasetError(f"{root} holds a dataset from elsewhere, to which nothing is added: take another out=FOLDER")
    return [json.loads(row["info"])["name"] for row in rows] + staged_names(root)


@contextmanager
def adding(root: Path) -> Iterator[None]:
    """While episodes are added to the dataset at `root`: whatever happens, those that were finished become part of it. Raises
    DatasetError where another process adds some."""
    root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(root / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise DatasetError(f"episodes are being added to {root} by another process; take another out=FOLDER, or wait") from error
    try:
        yield
    finally:
        try:
            assemble(root)
        finally:
            lock.release()
            if [path.name for path in root.iterdir()] == [LOCK]:  # nothing has been added
                shutil.rmtree(root)


def assemble(root: Path) -> int:
    """Add what is staged to the dataset. Returns the number of episodes that it has then. Raises DatasetError."""
    old = committed(root)
    done = {json.loads(row["info"])["name"] for row in old}
    folders = [staging(root) / name for name in staged_names(root) if name not in done]
    if folders:
        sweep(root, old)
        abouts = [form.read_json(folder / "episode.json") for folder in folders]
        features = check_alike(root, folders, abouts)
        _add(root, old, folders, abouts, features)
    shutil.rmtree(staging(root), ignore_errors=True)
    return len(old) + len(folders)


def sweep(root: Path, rows: list[dict]) -> None:
    """Remove the files of an interrupted round: those that no episode of the dataset lies in. Raises DatasetError where
    episodes are on disk that are neither in the dataset nor staged: its meta/info.json was lost."""
    on_disk = [row for path in form.numbered(root, form.EPISODES_PATH) for row in form.read_table(path).to_pylist()]
    lost = {json.loads(row["info"])["name"] for row in on_disk} - set(recorded_names(root))
    if lost:
        raise DatasetError(f"{root / form.INFO} does not count {len(lost)} episodes that are there, such as {min(lost)}: is it "
                           "missing or old? Nothing was removed")
    used = {root / form.EPISODES_PATH.format(**_at(row, "meta/episodes")) for row in rows}
    used |= {root / form.DATA_PATH.format(**_at(row, "data")) for row in rows}
    keys = [name.split("/")[1] for name in (rows[0] if rows else {}) if name.endswith("/from_timestamp")]
    used |= {root / form.VIDEO_PATH.format(video_key=k, **_at(row, f"videos/{k}")) for row in rows for k in keys}
    for pattern in ("meta/episodes/{}.parquet*", "data/{}.parquet*", "videos/*/{}.mp4*"):
        for path in set(root.glob(pattern.format("chunk-*/file-*"))) - used:
            path.unlink()


def robot_of(root: Path) -> tuple[str, Spec] | None:
    """Kind and Spec of the robot whose episodes the dataset at `root` holds; None where it does not say, or is not there."""
    if not ((root / form.INFO).is_file() and (root / form.SOMA).is_file()):
        return None
    return form.read_json(root / form.INFO)["robot_type"], Spec.from_dict(form.read_json(root / form.SOMA)["spec"])


def require_robot(root: Path, kind: str, spec: Spec) -> None:
    """Raise DatasetError where the dataset at `root` holds episodes of another robot, to which none of this one can be added."""
    there, ours = robot_of(root), {"robot": kind, **spec.to_dict()}
    if there is not None and there != (kind, spec):
        theirs = {"robot": there[0], **there[1].to_dict()}
        name = next(name for name in ours if ours[name] != theirs[name])
        raise DatasetError(f"{root} holds episodes of another robot: {name} {theirs[name]}, here {ours[name]}; take another "
                           "out=FOLDER")


def check_alike(root: Path, folders: list[Path], abouts: list[dict]) -> dict:
    """The features that all episodes share. Raises DatasetError naming one that has others, or is of another robot."""
    known = form.read_json(root / form.INFO)["features"] if (root / form.INFO).is_file() else abouts[0]["features"]
    known = {key: feature for key, feature in known.items() if key not in form.COUNTERS}
    robot = robot_of(root) or (abouts[0]["robot_type"], Spec.from_dict(abouts[0]["spec"]))
    for folder, about in zip(folders, abouts, strict=True):
        for key in known.keys() | about["features"].keys():
            if about["features"].get(key) != known.get(key):
                raise DatasetError(f"{folder}: {key} is {about['features'].get(key)}, the dataset has {known.get(key)}")
        kind, spec = about["robot_type"], Spec.from_dict(about["spec"])
        if (kind, spec) != robot:
            raise DatasetError(f"{folder} is of another robot, {kind}, {spec}; the dataset of {robot}")
    return known


def _add(root: Path, old: list[dict], folders: list[Path], abouts: list[dict], features: dict) -> None:
    before = old[-1]["dataset_to_index"] if old else 0
    tasks = form.task_names(form.read_table(root / form.TASKS)) if old else []
    tasks = list(dict.fromkeys(tasks + [about["task"] for about in abouts]))
    starts = before + np.cumsum([0] + [about["length"] for about in abouts])
    rows = [_row(len(old) + i, int(starts[i]), about) for i, about in enumerate(abouts)]
    fps = abouts[0]["spec"]["control_hz"]
    for key in (k for k, f in features.items() if f["dtype"] == "video"):
        _join_videos(root, key, folders, rows, old, fps)
    tables = [_numbered(folder, row, tasks, fps) for folder, row in zip(folders, rows, strict=True)]
    _join_tables(root, tables, rows, old)
    for table, row, about in zip(tables, rows, abouts, strict=True):
        row["stats"] = about["stats"] | {k: form.statistics(table[k].to_numpy()) for k in form.COUNTERS}
    _copy_sound(root, folders, rows, abouts, len(old))
    _write_meta(root, old, rows, tasks, abouts[0], features)


def _row(index: int, start: int, about: dict) -> dict:
    stop = start + about["length"]
    return {"episode_index": index, "tasks": [about["task"]], "length": about["length"],
            "dataset_from_index": start, "dataset_to_index": stop, "info": json.dumps(about["info"])}


def _join_videos(root: Path, key: str, folders: list[Path], rows: list[dict], old: list[dict], fps: float) -> None:
    sources = [folder / f"{key}.mp4" for folder in folders]
    first = 1 + max((form.number(**_at(row, f"videos/{key}")) for row in old), default=-1)
    for n, group in enumerate(_groups([s.stat().st_size for s in sources], form.VIDEO_MB), first):
        path = root / form.VIDEO_PATH.format(video_key=key, **form.place(n))
        path.parent.mkdir(parents=True, exist_ok=True)
        counts = video.concatenate(path, [sources[i] for i in group], fps)
        ends = np.cumsum([0] + counts) / fps
        for i, count, start, stop in zip(group, counts, ends, ends[1:], strict=False):
            if count != rows[i]["length"]:
                raise DatasetError(f"{sources[i]}: {count} frames, the episode has {rows[i]['length']}")
            at = {**form.place(n), "from_timestamp": float(start), "to_timestamp": float(stop)}
            rows[i] |= {f"videos/{key}/{name}": value for name, value in at.items()}


def _numbered(folder: Path, row: dict, tasks: list[str], fps: float) -> pa.Table:
    """The episode's table with LeRobot's counters."""
    n = np.arange(row["length"])
    counters = {"timestamp": n / fps, "frame_index": n, "episode_index": np.full_like(n, row["episode_index"]),
                "index": n + row["dataset_from_index"], "task_index": np.full_like(n, tasks.index(row["tasks"][0]))}
    table = form.read_table(folder / "table.parquet")
    for key, values in counters.items():
        table = table.append_column(key, pa.array(values.astype(form.COUNTERS[key])))
    return table


def _join_tables(root: Path, tables: list[pa.Table], rows: list[dict], old: list[dict]) -> None:
    first = 1 + max((form.number(**_at(row, "data")) for row in old), default=-1)
    for n, group in enumerate(_groups([table.nbytes for table in tables], form.DATA_MB), first):
        form.write_table(root / form.DATA_PATH.format(**form.place(n)), [tables[i] for i in group])
        for i in group:
            rows[i] |= {f"data/{name}": value for name, value in form.place(n).items()}


def _copy_sound(root: Path, folders: list[Path], rows: list[dict], abouts: list[dict], first: int) -> None:
    index = form.read_table(root / form.INDEX).to_pylist() if (root / form.INDEX).is_file() else []
    index = [entry for entry in index if entry["episode_index"] < first]
    for folder, row, about in zip(folders, rows, abouts, strict=True):
        for track, facts in about["tracks"].items():
            at = {"episode_index": row["episode_index"], "track": track}
            path = form.AUDIO_PATH.format(**at)
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / f"{track}.flac", root / path)
            index.append(at | {"path": path} | facts)
    if index:
        form.write_table(root / form.INDEX, pa.Table.from_pylist(index))


def _write_meta(root: Path, old: list[dict], rows: list[dict], tasks: list[str], about: dict, features: dict) -> None:
    n = 1 + max((form.number(**_at(row, "meta/episodes")) for row in old), default=-1)
    new = [_flat(row | {f"meta/episodes/{name}": value for name, value in form.place(n).items()}) for row in rows]
    counters = {key: {"dtype": dtype, "shape": [1], "names": None} for key, dtype in form.COUNTERS.items()}
    features = features | counters
    form.write_table(root / form.EPISODES_PATH.format(**form.place(n)), pa.Table.from_pylist(new))
    form.write_table(root / form.TASKS, form.tasks_table(tasks))
    form.write_json(root / form.STATS, {key: _pool(old + new, key) for key in features})
    form.write_json(root / form.SOMA, {"spec": about["spec"], "shapes": about["shapes"]})
    fps, total = form.whole(about["spec"]["control_hz"]), len(old) + len(new)
    info = {"codebase_version": form.VERSION, "robot_type": about["robot_type"], "total_episodes": total,
            "total_frames": rows[-1]["dataset_to_index"], "total_tasks": len(tasks), "chunks_size": form.CHUNK_SIZE,
            "data_files_size_in_mb": form.DATA_MB, "video_files_size_in_mb": form.VIDEO_MB, "fps": fps,
            "splits": {"train": f"0:{total}"}, "data_path": form.DATA_PATH, "video_path": form.VIDEO_PATH}
    form.write_json(root / form.INFO, info | {"features": features})


def _flat(row: dict) -> dict:
    stats = {f"stats/{key}/{name}": v for key, facts in row["stats"].items() for name, v in facts.items()}
    return {key: value for key, value in row.items() if key != "stats"} | stats


def _pool(rows: list[dict], key: str) -> dict:
    prefix = f"stats/{key}/"
    names = [name for name in rows[0] if name.startswith(prefix)]
    return form.pooled([{name.removeprefix(prefix): row[name] for name in names} for row in rows])


def _at(row: dict, what: str) -> dict[str, int]:
    return {name: row[f"{what}/{name}"] for name in ("chunk_index", "file_index")}


def _groups(sizes: list[int], limit_mb: float) -> list[list[int]]:
    """Consecutive indices whose sizes add up to at most the limit (or to one item that is larger)."""
    groups, total = [[]], 0
    for i, size in enumerate(sizes):
        if groups[-1] and total + size > limit_mb * 2**20:
            groups.append([])
            total = 0
        groups[-1].append(i)
        total += size
    return groups
