"""LeRobotDataset v3.0 on disk: where its files lie, what its tables hold, its statistics.

    meta/info.json                  counts, rate, features (dtype, shape, names), path patterns
    meta/stats.json                 per feature: min, max, mean, std, count and quantiles
    meta/tasks.parquet              one row an instruction; its text is the pandas index
    meta/episodes/chunk-C/file-F    one row an episode: length, tasks, where its data and video lie, its own statistics
    data/chunk-C/file-F.parquet     one row a frame, one row group an episode
    videos/KEY/chunk-C/file-F.mp4   the frames of many episodes, one after the other

Beside it, what LeRobot does not know and does not look at: audio/ (see INDEX) and meta/soma.json (the robot's Spec, and
the shapes of columns that are stored flat).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from training.files import write_whole

VERSION = "v3.0"
FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
DATA_PATH = "data/" + FILE + ".parquet"
VIDEO_PATH = "videos/{video_key}/" + FILE + ".mp4"
EPISODES_PATH = "meta/episodes/" + FILE + ".parquet"
INFO, STATS, TASKS, SOMA = "meta/info.json", "meta/stats.json", "meta/tasks.parquet", "meta/soma.json"
INDEX = "audio/index.parquet"  # one row an episode and track: episode_index, track, path, sample_rate, samples
AUDIO_PATH = "audio/{track}/episode_{episode_index:06d}.flac"
CHUNK_SIZE, DATA_MB, VIDEO_MB = 1000, 100, 200
COUNTERS = {"timestamp": "float32", "frame_index": "int64", "episode_index": "int64", "index": "int64",
            "task_index": "int64"}  # fmt: skip
QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}


class DatasetError(ValueError):
    """A dataset that is not what it should be; names the file, what came and what is allowed."""


def place(number: int) -> dict[str, int]:
    """Chunk and file index of the number-th file."""
    return {"chunk_index": number // CHUNK_SIZE, "file_index": number % CHUNK_SIZE}


def number(chunk_index: int, file_index: int) -> int:
    return chunk_index * CHUNK_SIZE + file_index


def numbered(root: Path, pattern: str, **fixed) -> list[Path]:
    """The files that fit a path pattern, in their order."""
    return sorted(root.glob(pattern.format(**{"chunk_index": 0, "file_index": 0} | fixed)
                            .replace("chunk-000/file-000", "chunk-*/file-*")))


def whole(fps: float) -> int | float:
    """LeRobot counts whole frames a second where it can."""
    return int(fps) if float(fps).is_integer() else float(fps)


# ---- files, each written whole or not at all


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(content, indent=4))


def read_json(path: Path) -> Any:
    """Raises DatasetError if the file is missing or no JSON."""
    if not path.is_file():
        raise DatasetError(f"{path} is missing")
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise DatasetError(f"{path} is no JSON ({error})") from error


def write_table(path: Path, tables: pa.Table | list[pa.Table]) -> None:
    """One row group a table."""
    tables = [tables] if isinstance(tables, pa.Table) else tables
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".tmp")
    with pq.ParquetWriter(draft, tables[0].schema, compression="snappy") as writer:
        for table in tables:
            writer.write_table(table)
    os.replace(draft, path)


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """All columns, or those that are asked for. Raises DatasetError if the file is missing or no Parquet, or lacks one."""
    if not path.is_file():
        raise DatasetError(f"{path} is missing")
    try:
        file = pq.ParquetFile(path)
        if missing := [name for name in columns or () if name not in file.schema_arrow.names]:
            raise DatasetError(f"{path} has no column {', '.join(missing)}")
        return file.read(columns)
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{path} cannot be read as Parquet ({error})") from error


# ---- tables


def column(values: np.ndarray) -> pa.Array:
    """(n,) or (n, 1) as plain values; (n, w) as lists of fixed size."""
    values = np.ascontiguousarray(values).reshape(len(values), -1)
    flat = pa.array(values.reshape(-1))
    return flat if values.shape[1] == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def array(column: pa.ChunkedArray, feature: Mapping) -> np.ndarray:
    """A column as (n,) or (n, *shape) in the feature's dtype. Raises DatasetError for one of another size."""
    shape = tuple(feature["shape"])
    values = column.combine_chunks()
    while pa.types.is_nested(values.type) and not pa.types.is_struct(values.type):
        values = values.storage if isinstance(values, pa.ExtensionArray) else values.flatten()
    flat = values.to_numpy(zero_copy_only=False).astype(feature["dtype"], copy=False)
    if flat.size != len(column) * prod(shape):
        raise DatasetError(f"{len(column)} rows hold {flat.size} values, not of the declared shape {shape}")
    return flat if shape in ((1,), ()) else flat.reshape(-1, *shape)


def tasks_table(tasks: list[str]) -> pa.Table:
    """Rows in order of task_index. The pandas note makes the text the index, as LeRobot looks it up."""
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": pa.array(tasks, pa.string())})
    kinds = [("task_index", "int64", "int64"), ("task", "unicode", "object")]
    columns = [{"name": n, "field_name": n, "pandas_type": p, "numpy_type": t, "metadata": None} for n, p, t in kinds]
    note = {"index_columns": ["task"], "column_indexes": [], "columns": columns, "pandas_version": "2.0.0"}
    return table.replace_schema_metadata({"pandas": json.dumps(note)})


def task_names(table: pa.Table) -> list[str]:
    """Instructions by task_index, from a tasks table of ours or of LeRobot's, whatever its text column is called."""
    text = next(name for name in table.column_names if name != "task_index")
    rows = sorted(zip(table["task_index"].to_pylist(), table[text].to_pylist(), strict=True))
    return [task for _, task in rows]


# ---- statistics


def statistics(values: np.ndarray) -> dict[str, list]:
    """Of samples (n, ...) over their first axis."""
    values = np.asarray(values, np.float64).reshape(len(values), -1)
    spread = np.quantile(values, list(QUANTILES.values()), axis=0)
    out = {"min": values.min(0), "max": values.max(0), "mean": values.mean(0), "std": values.std(0)}
    out |= dict(zip(QUANTILES, spread, strict=True))
    return {name: value.tolist() for name, value in out.items()} | {"count": [len(values)]}


def image_statistics(frames: np.ndarray, most: int = 20) -> dict[str, list]:
    """Per channel in 0..1, shaped (3, 1, 1), of at most `most` of the frames (n, H, W, 3) and every fourth pixel each
    way; count is the number of frames."""
    chosen = frames[np.unique(np.linspace(0, len(frames) - 1, most).astype(int)), ::4, ::4]
    out = statistics(chosen.reshape(-1, 3) / 255.0)
    return {k: [[[x]] for x in v] for k, v in out.items() if k != "count"} | {"count": [len(frames)]}


def pooled(parts: list[Mapping[str, list]]) -> dict[str, list]:
    """Statistics of several sets of samples as one; quantiles are only averaged, weighted by the counts."""
    stack = {name: np.array([p[name] for p in parts], np.float64) for name in parts[0]}
    weight = stack["count"].reshape(-1, *[1] * (stack["mean"].ndim - 1)) / stack["count"].sum()
    mean = (weight * stack["mean"]).sum(0)
    square = (weight * (stack["std"] ** 2 + (stack["mean"] - mean) ** 2)).sum(0)
    out = {"min": stack["min"].min(0), "max": stack["max"].max(0), "mean": mean, "std": np.sqrt(square)}
    out |= {name: (weight * stack[name]).sum(0) for name in QUANTILES if name in stack}
    return {k: v.tolist() for k, v in out.items()} | {"count": [int(stack["count"].sum())]}
