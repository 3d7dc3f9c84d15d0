"""Demonstrations on disk: what is written is read, by frame, by sound, in rounds, after a crash; damage is named."""

import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from agent.spec import ACTION, IMAGES, STATE, ActionSpec, Spec
from training.data import lerobot_format as form
from training.data import video
from training.data.assemble import recorded_names, staging
from training.data.damage import check_dataset
from training.data.demos import DatasetError, DemoReader, DemoWriter
from training.data.frame_cache import FrameCache

FRONT, OBJECTS = IMAGES + "front", "annotation.objects"
SPEC = Spec(
    cameras={"front": (32, 48)},
    state=("x", "y"),
    action=ActionSpec("ee_delta", ("dx", "gripper"), (-1.0, -1.0), (1.0, 1.0), (0.04,)),
    control_hz=10.0,
    microphones=((0.0, 0.1, 0.3), (0.0, -0.1, 0.3)),
)
LENGTHS = (9, 14, 11)


def picture(episode: int, step: int) -> np.ndarray:
    """A bright square on a plain ground; where it stands says which frame it is, the ground's grey which episode."""
    image = np.full((32, 48, 3), 20 + 30 * episode, np.uint8)
    image[8:24, 2 * step : 2 * step + 16] = (230, 200, 60)
    return image


def step_of(image: np.ndarray) -> int:
    columns = np.flatnonzero(image[12:20, :, 0].mean(0) > 190)
    return round((columns[0] + columns[-1] - 15) / 4)


def frame(episode: int, step: int) -> dict:
    rng = np.random.default_rng([episode, step])
    return {FRONT: picture(episode, step), STATE: np.array([step / 10, episode], np.float32),
            ACTION: rng.uniform(-1, 1, 2).astype(np.float32), "annotation.surprise": step == 4,
            OBJECTS: rng.normal(size=(10, 9)).astype(np.float32)}  # fmt: skip


def tracks(episode: int, length: int) -> dict:
    rng = np.random.default_rng(episode)
    return {name: rng.uniform(-0.5, 0.5, (1600 * length, 2)).astype(np.float32) for name in ("world", "voice")}


def record(root: Path, episode: int, length: int, sound: bool = True, writer: DemoWriter | None = None) -> DemoWriter:
    writer = writer or DemoWriter(root, SPEC)
    for step in range(length):
        writer.add(frame(episode, step))
    writer.save(f"e{episode:03d}", f"task {episode % 2}", tracks(episode, length) if sound else None, seed=episode)
    return writer


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """Three episodes in two rounds."""
    root = tmp_path_factory.mktemp("demos") / "set"
    record(root, 0, LENGTHS[0])
    assert record(root, 1, LENGTHS[1]).finalize() == 2
    assert record(root, 2, LENGTHS[2]).finalize() == 3
    return root


@pytest.fixture
def dataset(original, tmp_path) -> Path:
    return shutil.copytree(original, tmp_path / "set")


def test_columns_are_what_was_recorded(original):
    reader = DemoReader(original)
    assert [e.length for e in reader.episodes] == list(LENGTHS) and reader.length == sum(LENGTHS)
    assert reader.spec == SPEC and reader.fps == 10 and reader.tasks == ["task 0", "task 1"]
    for episode, length in enumerate(LENGTHS):
        columns, info = reader.episode(episode), reader.episodes[episode]
        for key in (STATE, ACTION, OBJECTS, "annotation.surprise"):
            np.testing.assert_array_equal(columns[key], np.stack([frame(episode, s)[key] for s in range(length)]))
        np.testing.assert_allclose(columns["timestamp"], np.arange(length) / 10, atol=1e-6)
        assert info.task == f"task {episode % 2}" and info.info == {"name": f"e{episode:03d}", "seed": episode}
        assert (columns["task_index"] == episode % 2).all() and (columns["episode_index"] == episode).all()


def test_every_frame_is_the_right_one(original):
    reader = DemoReader(original)
    rows = np.random.default_rng(0).permutation(reader.length)
    images = reader.frames(FRONT, rows)
    ends = np.cumsum(LENGTHS)
    for row, image in zip(rows, images, strict=True):
        episode = int(np.searchsorted(ends, row, side="right"))
        step = row - (ends - LENGTHS)[episode]
        assert step_of(image) == step
        assert np.abs(image.astype(int) - picture(episode, step)).mean() < 6


def test_sound_is_kept_to_the_sample(original):
    reader = DemoReader(original)
    for episode, length in enumerate(LENGTHS):
        heard = reader.audio(episode)
        assert sorted(heard) == ["voice", "world"]
        for name, wave in tracks(episode, length).items():
            assert heard[name].shape == (1600 * length, 2) and heard[name].dtype == np.float32
            assert np.abs(heard[name] - wave).max() <= 2.0**-15


def test_a_dataset_without_sound(tmp_path):
    record(tmp_path, 0, 6, sound=False).finalize()
    assert DemoReader(tmp_path).audio(0) is None and check_dataset(tmp_path) == []


def test_statistics_are_those_of_all_frames(original):
    stats = json.loads((original / form.STATS).read_text())
    values = DemoReader(original).columns()[STATE]
    np.testing.assert_allclose(stats[STATE]["mean"], values.mean(0), atol=1e-6)
    np.testing.assert_allclose(stats[STATE]["std"], values.std(0), atol=1e-6)
    np.testing.assert_allclose(stats[STATE]["max"], values.max(0))
    assert stats[STATE]["count"] == [sum(LENGTHS)] and np.shape(stats[FRONT]["mean"]) == (3, 1, 1)


def test_only_what_lerobot_knows_is_declared(original):
    info = json.loads((original / form.INFO).read_text())
    stored = set(pq.read_schema(original / "data/chunk-000/file-000.parquet").names)
    assert set(info["features"]) == stored | {FRONT} and not any("audio" in key for key in info["features"])


def test_a_crash_loses_the_running_episode_only(dataset):
    writer = record(dataset, 3, 8)
    for step in range(5):
        writer.add(frame(4, step))
    (staging(dataset) / ".e004.123").mkdir()  # a process that died while it wrote
    del writer
    assert recorded_names(dataset) == ["e000", "e001", "e002", "e003"]
    assert DemoWriter(dataset, SPEC).finalize() == 4
    assert [e.length for e in DemoReader(dataset).episodes] == [*LENGTHS, 8] and check_dataset(dataset) == []


def test_an_interrupted_finalize_is_done_again(dataset, monkeypatch):
    writer = record(dataset, 3, 8)
    written = form.write_json

    def dies(path, content):
        if path.name == "info.json":
            raise KeyboardInterrupt
        written(path, content)

    monkeypatch.setattr(form, "write_json", dies)
    with pytest.raises(KeyboardInterrupt):
        writer.finalize()
    monkeypatch.undo()
    assert DemoWriter(dataset, SPEC).finalize() == 4
    assert check_dataset(dataset) == [] and DemoReader(dataset).episodes[3].info["name"] == "e003"


def test_files_roll_over(tmp_path, monkeypatch):
    monkeypatch.setattr(form, "VIDEO_MB", 1e-6)
    monkeypatch.setattr(form, "DATA_MB", 1e-6)
    monkeypatch.setattr(form, "CHUNK_SIZE", 2)
    writer = DemoWriter(tmp_path, SPEC)
    for episode in range(3):
        record(tmp_path, episode, 7, writer=writer)
    writer.finalize()
    assert (tmp_path / f"videos/{FRONT}/chunk-001/file-000.mp4").is_file()
    reader = DemoReader(tmp_path)
    assert [step_of(i) for i in reader.frames(FRONT, [3, 10, 20])] == [3, 3, 6] and check_dataset(tmp_path) == []


def test_what_does_not_fit_is_refused(dataset):
    writer = DemoWriter(dataset, SPEC)
    with pytest.raises(DatasetError, match="no frames"):
        writer.save("empty", "x")
    writer.add(frame(0, 0))
    with pytest.raises(DatasetError, match="annotation.surprise"):
        writer.add({k: v for k, v in frame(0, 1).items() if k == STATE})
    writer.discard()
    writer.add(frame(5, 0) | {"more": np.zeros(2, np.float32)})
    writer.save("other", "x")
    with pytest.raises(DatasetError, match="more"):
        writer.finalize()


def test_pictures_stored_in_the_tables(dataset):
    """LeRobotDataset's other way to keep images: encoded, in the rows themselves."""
    reader = DemoReader(dataset)
    for path in dict.fromkeys(e.data for e in reader.episodes):
        table = pq.ParquetFile(path).read()
        steps = zip(table["episode_index"].to_pylist(), table["frame_index"].to_pylist(), strict=True)
        stored = [{"bytes": cv2.imencode(".png", picture(*at)[..., ::-1])[1].tobytes(), "path": None} for at in steps]
        pq.write_table(table.append_column(FRONT, pa.array(stored)), path)
    info = json.loads((dataset / form.INFO).read_text())
    info["features"][FRONT]["dtype"] = "image"
    (dataset / form.INFO).write_text(json.dumps(info))
    shutil.rmtree(dataset / "videos")
    reader = DemoReader(dataset)
    np.testing.assert_array_equal(reader.frames(FRONT, [12, 2]), [picture(1, 3), picture(0, 2)])
    assert FRONT not in reader.columns() and check_dataset(dataset) == []


class TestFrameCache:
    def test_holds_what_the_reader_decodes(self, original, tmp_path):
        reader = DemoReader(original)
        cache = FrameCache.build(reader, tmp_path, 32, progress=False)
        small = cache.frames(FRONT, np.arange(reader.length))
        assert small.shape == (reader.length, 32, 32, 3)
        whole = reader.frames(FRONT, range(reader.length))
        assert np.abs(small.mean((1, 2)) - whole.mean((1, 2))).max() < 1.5

    def test_is_built_once_and_anew_for_other_data(self, dataset, tmp_path, monkeypatch):
        FrameCache.build(DemoReader(dataset), tmp_path / "c", 16, progress=False)
        with monkeypatch.context() as patch:
            patch.setattr(DemoReader, "film", lambda *_: pytest.fail("decoded again"))
            FrameCache.build(DemoReader(dataset), tmp_path / "c", 16, progress=False)
        record(dataset, 3, 8).finalize()
        reader = DemoReader(dataset)
        cache = FrameCache.build(reader, tmp_path / "c", 16, progress=False)
        assert cache.frames(FRONT, [reader.length - 1]).mean() > 0

    def test_goes_on_where_it_stopped(self, original, tmp_path, monkeypatch):
        reader, film, decoded = DemoReader(original), DemoReader.film, []

        def dies_in_the_third(self, key, first=0):
            for row, image in film(self, key, first):
                if row == sum(LENGTHS[:2]) + 3 and first == 0:
                    raise KeyboardInterrupt
                decoded.append(row)
                yield row, image

        monkeypatch.setattr("training.data.frame_cache.EVERY", 1)
        monkeypatch.setattr(DemoReader, "film", dies_in_the_third)
        with pytest.raises(KeyboardInterrupt):
            FrameCache.build(reader, tmp_path, 32, progress=False)
        decoded.clear()
        cache = FrameCache.build(reader, tmp_path, 32, progress=False)
        assert decoded == list(range(sum(LENGTHS[:2]), reader.length))
        whole = reader.frames(FRONT, range(reader.length)).mean((1, 2))
        np.testing.assert_allclose(cache.frames(FRONT, np.arange(reader.length)).mean((1, 2)), whole, atol=1.5)

    def test_a_missing_image_is_an_error(self, dataset, tmp_path):
        other_film(dataset, lambda e, n: n[:11])
        with pytest.raises(DatasetError, match="no image of row 20"):
            FrameCache.build(DemoReader(dataset), tmp_path / "c", 16, progress=False)


# ---- damage


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


def truncated(root: Path, path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def removed(root: Path, path: Path) -> Path:
    path.unlink()
    return path


def other_film(root: Path, chosen) -> Path:
    """The first video file again, of other frames."""
    path = DemoReader(root).episodes[1].videos[FRONT][0]
    film = [picture(e, s) for e in (0, 1) for s in chosen(e, range(LENGTHS[e]))]
    video.encode(path, np.stack(film), 10)
    return path


def short_sound(root):
    path = root / "audio/voice/episode_000001.flac"
    soundfile.write(path, np.zeros((1600 * (LENGTHS[1] - 1), 2)), 16000)
    return path


def wrong_count(root):
    info = json.loads((root / form.INFO).read_text())
    (root / form.INFO).write_text(json.dumps(info | {"total_frames": 35}))
    return root / form.INFO


MP4 = f"videos/{FRONT}/chunk-000/file-000.mp4"
DAMAGE = {
    "stamps out of order": (stamps_out_of_order, 1, "out of order.*frame 5"),
    "a late stamp": (a_late_stamp, 1, "stamp of frame 5"),
    "NaN": (nan, 1, f"{STATE} of frame 3 is NaN"),
    "missing rows": (missing_rows, 1, "13 rows.*14 frames"),
    "truncated rows": (lambda r: truncated(r, r / "data/chunk-000/file-000.parquet"), None, "cannot be read"),
    "truncated video": (lambda r: truncated(r, r / MP4), 1, "cannot be|frames are there"),
    "no video": (lambda r: removed(r, r / MP4), 1, "cannot be opened"),
    "missing frames": (lambda r: other_film(r, lambda e, n: n[:11]), 1, "11 of 14 frames.*frame 11"),
    "frozen frames": (
        lambda r: other_film(r, lambda e, n: [min(s, 4) for s in n]), 1, "frozen for 9 frames from frame 5"),
    "truncated sound": (lambda r: truncated(r, r / "audio/world/episode_000001.flac"), 1, "sound|samples"),
    "short sound": (short_sound, 1, "20800 samples, 14 frames last 22400"),
    "no sound": (lambda r: removed(r, r / "audio/world/episode_000001.flac"), 1, "missing"),
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


# ---- written by lerobot

ELSEWHERE = Path(__file__).parent / "data"  # written and read by lerobot 0.4.4


class TestElsewhere:
    def test_reads_what_lerobot_reads(self):
        expected = json.loads((ELSEWHERE / "metaworld_v3_expected.json").read_text())
        reader = DemoReader(ELSEWHERE / "metaworld_v3")
        assert [[e.task, e.length] for e in reader.episodes] == expected["episodes"]
        columns, key = reader.columns(), IMAGES + "corner"
        for sample in expected["samples"]:
            row = sample["index"]
            np.testing.assert_allclose(columns[STATE][row], sample["state"])
            np.testing.assert_allclose(columns[ACTION][row], sample["action"])
            assert columns["timestamp"][row] == pytest.approx(sample["timestamp"])
            assert columns["episode_index"][row] == sample["episode_index"]
            assert reader.tasks[columns["task_index"][row]] == sample["task"]
            assert reader.frames(key, [row]).mean() == pytest.approx(sample["image_mean"], abs=0.5)

    def test_spec_of_a_robot_from_elsewhere(self):
        spec = DemoReader(ELSEWHERE / "metaworld_v3").spec
        assert spec.cameras == {"corner": (84, 84)} and spec.state == ("x", "y", "z", "gripper")
        assert spec.action.kind == "native" and spec.action.names == ("dx", "dy", "dz", "grip")
        assert spec.control_hz == 80 and spec.microphones == ()

    def test_is_sound_and_silent(self):
        assert check_dataset(ELSEWHERE / "metaworld_v3") == []
        assert DemoReader(ELSEWHERE / "metaworld_v3").audio(0) is None
