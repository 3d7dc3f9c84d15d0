"""Damage in a dataset on disk is found and named (training/data/damage.py)."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import soundfile

from agent.spec import STATE
from tests.recorded import FRONT, LENGTHS, other_film
from training.data import lerobot_format as form
from training.data.damage import check_dataset
from training.data.demos import DemoReader

def edit_rows(root: Path, episode: int, change) -> Path:
    """Rewrite the data file of an episode with `change(table, first row)`."""
    path = DemoReader(root).episodes[episode].data
    table = pq.ParquetFile(path).read()
    first = int(np.argmax(table["episode_index"].to_numpy() == episode))
    pq.write_table(change(table, first), path)
    return path


def replaced(table: pa.Table, key: str, row: int, value) -> pa.Table:
    values = table[key].to_pylist()
    values[row] = value
    at = table.column_names.index(key)
    return table.set_column(at, key, pa.array(values, table.schema.field(key).type))


def stamps_out_of_order(root):
    return edit_rows(root, 1, lambda t, first: replaced(t, "timestamp", first + 5, 0.1))


def a_late_stamp(root):
    return edit_rows(root, 1, lambda t, first: replaced(t, "timestamp", first + 5, 0.55))


def nan(root):
    return edit_rows(root, 1, lambda t, first: replaced(t, STATE, first + 3, [float("nan"), 1.0]))


def missing_rows(root):
    return edit_rows(root, 1, lambda t, first: pa.concat_tables([t.slice(0, first + 2), t.slice(first + 3)]))


def no_column(root):
    path = DemoReader(root).episodes[0].data
    pq.write_table(pq.read_table(path).drop_columns(["timestamp"]), path)
    return path


def truncated(root: Path, path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def removed(root: Path, path: Path) -> Path:
    path.unlink()
    return path


def short_sound(root):
    path = root / "audio/voice/episode_000001.flac"
    soundfile.write(path, np.zeros((1600 * (LENGTHS[1] - 1), 2)), 16000)
    return path


def one_ear(root):
    path = root / "audio/voice/episode_000001.flac"
    soundfile.write(path, np.zeros(800 * LENGTHS[1]), 8000)
    return path


def no_voices(root):
    table = pq.read_table(root / form.INDEX)
    pq.write_table(table.filter(pc.not_equal(table["track"], "voice")), root / form.INDEX)
    return root / form.INDEX


def no_count(root):
    info = json.loads((root / form.INFO).read_text())
    (root / form.INFO).write_text(json.dumps({key: value for key, value in info.items() if key != "total_tasks"}))
    return root / form.INFO


def wrong_count(root):
    info = json.loads((root / form.INFO).read_text())
    (root / form.INFO).write_text(json.dumps(info | {"total_frames": 35}))
    return root / form.INFO


def half_the_statistics(root):
    stats = json.loads((root / form.STATS).read_text())
    (root / form.STATS).write_text(json.dumps({key: values for key, values in stats.items() if key != STATE}))
    return root / form.STATS


def another_shape(root):
    info = json.loads((root / form.INFO).read_text())
    info["features"][STATE]["shape"] = [3]
    (root / form.INFO).write_text(json.dumps(info))
    return root / "data/chunk-000/file-000.parquet"


MP4 = f"videos/{FRONT}/chunk-000/file-000.mp4"
DAMAGE = {
    "stamps out of order": (stamps_out_of_order, 1, "out of order.*frame 5"),
    "a late stamp": (a_late_stamp, 1, "stamp of frame 5"),
    "NaN": (nan, 1, f"{STATE} of frame 3 is NaN"),
    "missing rows": (missing_rows, 1, "13 rows.*14 frames"),
    "a column that is not there": (no_column, None, "has no column timestamp"),
    "truncated rows": (lambda r: truncated(r, r / "data/chunk-000/file-000.parquet"), None, "cannot be read"),
    "truncated video": (lambda r: truncated(r, r / MP4), 1, "cannot be|frames are there"),
    "no video": (lambda r: removed(r, r / MP4), 1, "cannot be opened"),
    "missing frames": (lambda r: other_film(r, lambda e, n: n[:11]), 1, "11 of 14 frames.*frame 11"),
    "frozen frames": (
        lambda r: other_film(r, lambda e, n: [min(s, 4) for s in n]), 1, "frozen for 9 frames from frame 5"),
    "truncated sound": (lambda r: truncated(r, r / "audio/world/episode_000001.flac"), 1, "sound|samples"),
    "short sound": (short_sound, 1, "20800 samples, 14 frames last 22400"),
    "no sound": (lambda r: removed(r, r / "audio/world/episode_000001.flac"), 1, "missing"),
    "no index of sounds": (lambda r: removed(r, r / form.INDEX), None, "no voice, world of 3 episodes"),
    "no index of voices": (no_voices, None, "no voice of 3 episodes"),
    "one ear": (one_ear, 1, "1 channels at 8000 Hz, the robot has 2 microphones at 16000 Hz"),
    "no count": (no_count, None, "total_tasks is None"),
    "no statistics": (lambda r: removed(r, r / form.STATS), None, "missing"),
    "half the statistics": (half_the_statistics, None, f"nothing of .*{STATE}"),
    "another shape": (another_shape, None, "not of the declared shape"),
    "wrong count": (wrong_count, None, "total_frames is 35, the tables hold 34"),
    "no info": (lambda r: removed(r, r / form.INFO), None, "info.json is missing"),
    "no data": (lambda r: removed(r, r / "data/chunk-000/file-001.parquet"), None, "file-001.parquet is missing"),
    "a stray file": (lambda r: Path(shutil.copy(r / MP4, r / MP4.replace("file-000", "file-009"))), None, "no episode"),
}


def test_a_sound_dataset_has_no_damage(original):
    assert check_dataset(original) == []


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named(dataset, damage):
    inflict, episode, says = DAMAGE[damage]
    path = inflict(dataset)
    findings = check_dataset(dataset)
    pattern = f"(?s){path.name if path != dataset / form.INFO else 'meta'}.*({says})"
    assert any(f.episode == episode and re.search(pattern, str(f)) for f in findings), findings
    assert len(findings) <= 2 and all(f.episode in (None, 0, 1) for f in findings)
