"""Demonstrations on disk: what is written is read, by frame, by sound, in rounds, after a crash."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agent.spec import ACTION, IMAGES, STATE
from tests.recorded import FRONT, LENGTHS, OBJECTS, SPEC, frame, other_film, picture, record, step_of, tracks
from training.data import lerobot_format as form
from training.data.assemble import recorded_names, staging
from training.data.damage import check_dataset
from training.data.demos import DatasetError, DemoReader, DemoWriter
from training.data.frame_cache import FrameCache


def test_columns_are_what_was_recorded(original):
    reader = DemoReader(original)
    assert [e.length for e in reader.episodes] == list(LENGTHS) and reader.length == sum(LENGTHS)
    assert reader.spec == SPEC and reader.fps == 10 and reader.tasks == ["task 0", "task 1"]
    for episode, length in enumerate(LENGTHS):
        columns, info = reader.episode(episode), reader.episodes[episode]
        for key in (STATE, ACTION, OBJECTS, "annotation.surprise"):
            np.testing.assert_array_equal(columns[key], np.stack([frame(episode, s)[key] for s in range(length)]))
        np.testing.assert_allclose(columns["timestamp"], np.arange(length) / 10, atol=1e-6)
        assert info.task == f"task {episode % 2}" and info.info == {
            "name": f"e{episode:03d}", "seed": episode, "tracks": ["voice", "world"]}
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
    reader = DemoReader(dataset)
    assert len(reader.episodes) == 3 and len(reader.columns()[STATE]) == sum(LENGTHS)
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


def test_another_robot_is_refused(tmp_path):
    record(tmp_path, 0, 8, writer=DemoWriter(tmp_path, SPEC))
    with pytest.raises(DatasetError, match="another robot, fr3"):
        record(tmp_path, 1, 8, writer=DemoWriter(tmp_path, SPEC, "fr3")).finalize()


def test_a_dataset_that_does_not_say_frames_and_units_can_be_added_to(dataset):
    file = dataset / form.SOMA
    about = json.loads(file.read_text())
    del about["spec"]["action"]["frames"], about["spec"]["action"]["units"]
    file.write_text(json.dumps(about))
    record(dataset, 3, 8).finalize()
    reader = DemoReader(dataset)
    assert len(reader.episodes) == 4 and reader.spec == SPEC


def test_a_dataset_that_lost_its_meta_is_not_swept_away(dataset):
    films = sorted(dataset.glob("videos/*/*/*"))
    (dataset / form.INFO).unlink()
    writer = record(dataset, 3, 8)
    with pytest.raises(DatasetError, match="info.json does not count 3 episodes"):
        writer.finalize()
    assert films and sorted(dataset.glob("videos/*/*/*")) == films


def test_files_of_others_are_left_alone(dataset):
    (dataset / "data/mine").mkdir()
    (dataset / "data/mine/collected.jsonl").write_text("{}")
    (dataset / "data/mine/sub").mkdir()
    record(dataset, 3, 8).finalize()
    assert (dataset / "data/mine/collected.jsonl").is_file()


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
    path = reader.episodes[1].data
    table = pq.ParquetFile(path).read()
    images = table[FRONT].to_pylist()
    images[LENGTHS[0] + 1]["bytes"] = images[LENGTHS[0] + 1]["bytes"][:20]
    pq.write_table(table.set_column(table.column_names.index(FRONT), FRONT, pa.array(images)), path)
    with pytest.raises(DatasetError, match=f"{FRONT} of row {LENGTHS[0] + 1} .episode 1. is no image"):
        reader.frames(FRONT, [LENGTHS[0] + 1])
    assert "is no image" in str(check_dataset(dataset)[0])


def test_a_camera_that_lies_in_another_folder_is_refused(dataset):
    info = json.loads((dataset / form.INFO).read_text())
    info["features"]["../../away"] = info["features"][FRONT]
    (dataset / form.INFO).write_text(json.dumps(info))
    with pytest.raises(DatasetError, match="a camera '../../away'; a name without a folder"):
        DemoReader(dataset)


def test_episodes_of_another_robot_are_refused_before_they_are_recorded(dataset):
    DemoWriter(dataset, SPEC)
    with pytest.raises(DatasetError, match="holds episodes of another robot: robot panda, here fr3; take another"):
        DemoWriter(dataset, SPEC, "fr3")
    with pytest.raises(DatasetError, match="control_hz 10.*, here 20"):
        DemoWriter(dataset, replace(SPEC, control_hz=20.0))


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

    def test_who_reads_on_while_it_is_built_anew_sees_what_was_there(self, dataset, tmp_path):
        reader = DemoReader(dataset)
        cache = FrameCache.build(reader, tmp_path / "c", 16, progress=False)
        before = cache.frames(FRONT, np.arange(reader.length))
        other_film(dataset, lambda e, n: n[::-1])
        FrameCache.build(DemoReader(dataset), tmp_path / "c", 16, progress=False)
        np.testing.assert_array_equal(cache.frames(FRONT, np.arange(reader.length)), before)

    def test_two_who_begin_at_once_decode_it_once(self, original, tmp_path, monkeypatch):
        film, decoded = DemoReader.film, []
        monkeypatch.setattr(DemoReader, "film", lambda *args: (decoded.append(row) or (row, x) for row, x in film(*args)))
        with ThreadPoolExecutor() as pool:
            builds = [pool.submit(FrameCache.build, DemoReader(original), tmp_path, 16, False) for _ in range(2)]
            first, second = (build.result().frames(FRONT, [0, 5]) for build in builds)
        np.testing.assert_array_equal(first, second)
        assert sorted(decoded) == list(range(DemoReader(original).length))

    def test_a_file_that_was_cut_off_is_an_error(self, original, tmp_path):
        cache = FrameCache.build(reader := DemoReader(original), tmp_path, 16, progress=False)
        file = cache.paths[FRONT]
        file.write_bytes(file.read_bytes()[:-1])
        with pytest.raises(DatasetError, match=f"ends before row {reader.length - 1}: delete it"):
            cache.frames(FRONT, [reader.length - 1])

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

    def test_a_disk_without_room_is_an_error_before_anything_is_decoded(self, original, tmp_path, monkeypatch):
        monkeypatch.setattr(DemoReader, "film", lambda *_: pytest.fail("decoded"))
        monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=reader.length * 16 * 16 * 3 // 2))
        reader = DemoReader(original)
        with pytest.raises(DatasetError, match=r"front.16: the decoded frames take .* GB; the disk has"):
            FrameCache.build(reader, tmp_path, 16, progress=False)

    def test_a_missing_image_is_an_error(self, dataset, tmp_path):
        other_film(dataset, lambda e, n: n[:11])
        with pytest.raises(DatasetError, match="no image of row 20"):
            FrameCache.build(DemoReader(dataset), tmp_path / "c", 16, progress=False)


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
