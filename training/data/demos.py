"""Demonstrations as a LeRobotDataset v3.0: DemoWriter records them, DemoReader reads these and those from elsewhere.

A finished episode is first staged as a folder of its own, which appears at once and whole: a crash loses the running
episode only, and any number of processes may record into one dataset. `DemoWriter.finalize` (training/data/assemble.py)
then joins what is staged into the dataset, before or after other such rounds.

The frame at index t holds what was sensed at t / fps seconds and the action for the time from there to t + 1. Sound
tracks begin at frame 0 and end one frame after the last.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import soundfile

from agent.spec import ACTION, IMAGES, SENSE, STATE, ActionSpec, Spec
from training.data import lerobot_format as form
from training.data import video
from training.data.assemble import assemble, require_robot, staging
from training.data.lerobot_format import DatasetError


class DemoWriter:
    """Records episodes of one robot into the dataset at `root`; a dataset of it that is there already is added to. Raises
    DatasetError for one of another robot."""

    def __init__(self, root: str | Path, spec: Spec, robot_type: str = "panda"):
        self.root, self.spec, self.robot_type = Path(root), spec, robot_type
        require_robot(self.root, robot_type, spec)
        staging(self.root).mkdir(parents=True, exist_ok=True)
        self.discard()

    def discard(self) -> None:
        """Forget the frames since the last saved episode."""
        self._frames: dict[str, list[np.ndarray]] = {}

    def add(self, frame: Mapping[str, Any]) -> None:
        """One frame: images, state, action and any arrays more, by key. Every frame has the same keys and shapes."""
        frame = {key: np.asarray(value) for key, value in frame.items()}
        if self._frames and frame.keys() != self._frames.keys():
            raise DatasetError(f"a frame with {sorted(frame)} after frames with {sorted(self._frames)}")
        for key, value in frame.items():
            self._frames.setdefault(key, []).append(value)

    def save(self, name: str, task: str, tracks: Mapping[str, np.ndarray] | None = None, **info) -> None:
        """Stage the frames as an episode. `name` is unique in the dataset; `task` the instruction; tracks (n, C) float
        in [-1, 1]; `info` plain values that are kept with the episode. Raises DatasetError."""
        if not self._frames:
            raise DatasetError(f"episode {name}: no frames were added")
        final = staging(self.root) / name
        if final.exists():
            raise DatasetError(f"episode {name} is staged already in {staging(self.root)}")
        draft = final.with_name(f".{name}.{os.getpid()}")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        about = {"name": name, "task": task, "info": info | {"name": name, "tracks": sorted(tracks or ())}}
        about |= {"robot_type": self.robot_type, "spec": self.spec.to_dict(), "tracks": self._write_tracks(draft, tracks or {})}
        form.write_json(draft / "episode.json", about | self._write_frames(draft))
        os.replace(draft, final)
        self.discard()

    def _write_frames(self, folder: Path) -> dict:
        stacks = {key: np.stack(values) for key, values in self._frames.items()}
        length, features, stats, shapes, table = len(stacks[STATE]), {}, {}, {}, {}
        for key, values in stacks.items():
            if key.startswith(IMAGES):
                video.encode(folder / f"{key}.mp4", values, self.spec.control_hz)
                stats[key] = form.image_statistics(values)
            else:
                table[key] = form.column(values)
                stats[key] = form.statistics(values)
                shapes |= {key: values.shape[1:]} if values.ndim > 2 else {}
            features[key] = self._feature(key, values)
        form.write_table(folder / "table.parquet", pa.table(table))
        return {"length": length, "features": features, "stats": stats, "shapes": shapes}

    def _feature(self, key: str, values: np.ndarray) -> dict:
        """The entry of info.json: wider arrays are declared flat."""
        if key.startswith(IMAGES):
            kind = video.info(*values.shape[1:3], form.whole(self.spec.control_hz))
            return {"dtype": "video", "shape": values.shape[1:], "names": ["height", "width", "channels"], "info": kind}
        senses = {SENSE + name: channels for name, channels in self.spec.senses.items()}
        names = ({STATE: self.spec.state, ACTION: self.spec.action.names} | senses).get(key)
        size = int(np.prod(values.shape[1:], dtype=int))
        if names is not None and len(names) != size:
            raise DatasetError(f"{key}: {size} values a frame, but the robot's Spec names {len(names)}: {names}")
        return {"dtype": values.dtype.name, "shape": [size], "names": names}

    def _write_tracks(self, folder: Path, tracks: Mapping[str, np.ndarray]) -> dict:
        for track, sound in tracks.items():
            clipped = np.clip(sound, -1.0, 1.0 - 2.0**-15)
            soundfile.write(folder / f"{track}.flac", clipped, self.spec.sample_rate, subtype="PCM_16")
        return {track: {"samples": len(sound), "sample_rate": self.spec.sample_rate} for track, sound in tracks.items()}

    def finalize(self) -> int:
        """Join what is staged into the dataset; returns how many episodes it has then. Only one process may do so."""
        return assemble(self.root)


@dataclass(frozen=True)
class Episode:
    """Where one episode lies. start and length count rows (frames) of the whole dataset."""

    index: int
    start: int
    length: int
    task: str
    data: Path
    videos: dict[str, tuple[Path, float]]  # key -> file, second in it at which the episode begins
    tracks: dict[str, Path] | None  # of sound
    info: dict = field(default_factory=dict)  # what the writer was given

    @property
    def rows(self) -> slice:
        return slice(self.start, self.start + self.length)


class DemoReader:
    """Any LeRobotDataset v3: `tasks`, `episodes`, `features`, `fps`, `spec`, `cameras` (name -> key of its pictures). Raises
    DatasetError naming the file."""

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self.info = form.read_json(self.root / form.INFO)
        if self.info["codebase_version"] != form.VERSION:
            raise DatasetError(f"{self.root} is version {self.info['codebase_version']}; {form.VERSION} is needed")
        self.fps, self.features = float(self.info["fps"]), self.info["features"]
        if vague := sorted(key for key, feature in self.features.items() if not {"dtype", "shape"} <= feature.keys()):
            raise DatasetError(f"{self.root / form.INFO}: no dtype or shape of {', '.join(vague)}")
        self.robot_type, self.length = self.info.get("robot_type"), self.info["total_frames"]
        self.video_keys = [key for key, f in self.features.items() if f["dtype"] in ("video", "image")]
        self.number_keys = [key for key, f in self.features.items() if f["dtype"] not in ("video", "image", "string")]
        if wrong := [key for key in self.video_keys if Path(key).name != key]:
            raise DatasetError(f"{self.root / form.INFO}: a camera {wrong[0]!r}; a name without a folder is needed")
        self.cameras = {camera_of(key): key for key in self.video_keys}
        if len(self.cameras) < len(self.video_keys):
            raise DatasetError(f"{self.root / form.INFO}: cameras of one name among {', '.join(self.video_keys)}")
        soma = self.root / form.SOMA
        self.soma = form.read_json(soma) if soma.is_file() else {}
        self.tasks = form.task_names(form.read_table(self.root / form.TASKS))
        self.episodes = self._episodes()
        self.spec = Spec.from_dict(self.soma["spec"]) if self.soma else self._derived_spec()
        self._columns: dict[str, np.ndarray] | None = None

    def _episodes(self) -> list[Episode]:
        tracks = self._tracks()
        rows = [row for path in form.numbered(self.root, form.EPISODES_PATH) for row in _without_stats(path)]
        rows = [row for row in rows if row["episode_index"] < self.info["total_episodes"]]  # not of an interrupted round
        rows.sort(key=lambda row: row["episode_index"])
        return [self._episode(row, tracks.get(row["episode_index"])) for row in rows]

    def _episode(self, row: dict, tracks: dict | None) -> Episode:
        at = {"chunk_index": row["data/chunk_index"], "file_index": row["data/file_index"]}
        data = self.root / self.info["data_path"].format(episode_chunk=0, **at)
        videos = {}
        for key in (k for k in self.video_keys if self.features[k]["dtype"] == "video"):
            at = {name: row[f"videos/{key}/{name}"] for name in ("chunk_index", "file_index")}
            path = self.root / self.info["video_path"].format(video_key=key, **at)
            videos[key] = (path, row[f"videos/{key}/from_timestamp"])
        return Episode(row["episode_index"], row["dataset_from_index"], row["length"], row["tasks"][0], data, videos,
                       tracks, json.loads(row.get("info") or "{}"))

    def _tracks(self) -> dict[int, dict[str, Path]]:
        tracks: dict[int, dict[str, Path]] = {}
        if (self.root / form.INDEX).is_file():
            for row in form.read_table(self.root / form.INDEX).to_pylist():
                tracks.setdefault(row["episode_index"], {})[row["track"]] = self.root / row["path"]
        return tracks

    def _derived_spec(self) -> Spec:
        """What the features say of a robot from elsewhere: its actions pass through as they are ("native")."""
        if ACTION not in self.features:
            raise DatasetError(f"{self.root / form.INFO} declares no {ACTION}; it has {', '.join(self.features)}")
        cameras = {name: _picture_size(self.features[key]) for name, key in self.cameras.items()}
        names = {key: _names(self.features[key], key) for key in (STATE, ACTION) if key in self.features}
        stats = form.read_json(self.root / form.STATS)[ACTION]
        bounds = (tuple(float(x) for x in stats[bound]) for bound in ("min", "max"))
        return Spec(cameras, names.get(STATE, ()), ActionSpec("native", names[ACTION], *bounds), self.fps)

    # ---- frames

    def columns(self) -> dict[str, np.ndarray]:
        """Every numeric column of the whole dataset, (rows,) or (rows, *shape), by key; what Spec names is (rows, size), the
        state of a robot that senses none of size 0."""
        if self._columns is None:
            files = dict.fromkeys(episode.data for episode in self.episodes)
            tables = [form.read_table(path, self.number_keys) for path in files]
            self._columns = {key: np.concatenate([self._array(t, key) for t in tables]) for key in self.number_keys}
            self._columns.setdefault(STATE, np.zeros((self.length, 0), np.float32))
            order = self._columns["index"]
            if len(order) != self.length or (np.diff(order) != 1).any():
                raise DatasetError(f"{self.root}/data holds {len(order)} rows, {self.length} are needed, in order; "
                                   "`soma data check` names the damage")
        return self._columns

    def _array(self, table: pa.Table, key: str) -> np.ndarray:
        values = form.array(table[key], self.features[key])
        vectors = {STATE, ACTION, *(SENSE + name for name in self.spec.senses)}
        shape = (1,) if key in vectors and values.ndim == 1 else self.soma.get("shapes", {}).get(key)
        return values.reshape(-1, *shape) if shape else values

    def episode(self, index: int) -> dict[str, np.ndarray]:
        """Its rows of all columns."""
        return {key: values[self.episodes[index].rows] for key, values in self.columns().items()}

    def frames(self, key: str, rows: Sequence[int]) -> np.ndarray:
        """Decoded images (len(rows), H, W, 3) uint8 RGB of any rows of the dataset, in their order."""
        rows, found = np.asarray(rows), {}
        for episode in self.episodes:
            mine = rows[(rows >= episode.start) & (rows < episode.start + episode.length)]
            for row in np.unique(mine):
                found[int(row)] = None
            if len(mine):
                steps = range(int(mine.min()) - episode.start, int(mine.max()) - episode.start + 1)
                found |= {r: image for r, image in self.stretch(episode, key, steps) if r in found}
        missing = [row for row in rows.tolist() if found.get(row) is None]
        if missing:
            raise DatasetError(f"{key}: no image of rows {missing[:5]}; `soma data check` names the damage")
        return np.stack([found[row] for row in rows.tolist()])

    def stretch(self, episode: Episode, key: str, steps: range | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """(row, image) of consecutive steps of an episode (all of them by default), in order."""
        steps = steps or range(episode.length)
        if self.features[key]["dtype"] == "image":
            yield from self._stored_images(episode, key, steps)
            return
        path, second = episode.videos[key]
        first = round(second * self.fps)
        for n, image in video.decode(path, self.fps, first + steps.start, first + steps.stop):
            yield episode.start + n - first, image

    def film(self, key: str, first: int = 0) -> Iterator[tuple[int, np.ndarray]]:
        """(row, image) of all episodes from the first-th on, in order; each file is opened once."""
        rest = self.episodes[first:]
        while rest:
            run = self._run(key, rest)
            whole = replace(run[0], length=sum(e.length for e in run))
            yield from self.stretch(whole, key)
            rest = rest[len(run) :]

    def _run(self, key: str, episodes: list[Episode]) -> list[Episode]:
        """The first episodes that lie in one video file, one after the other."""
        at, end = episodes[0].videos.get(key), episodes[0].length
        count = 1
        while at is not None and count < len(episodes):
            path, second = episodes[count].videos[key]
            if path != at[0] or round((second - at[1]) * self.fps) != end:
                break
            end += episodes[count].length
            count += 1
        return episodes[:count]

    def _stored_images(self, episode: Episode, key: str, steps: range):
        import cv2

        table = form.read_table(episode.data, ["episode_index", key])
        rows = np.flatnonzero(table["episode_index"].to_numpy() == episode.index)
        if len(rows) < episode.length:
            raise DatasetError(f"{episode.data}: {len(rows)} rows of episode {episode.index}, which has {episode.length} frames")
        for step in steps:
            data = np.frombuffer(table[key][int(rows[step])].as_py()["bytes"] or b"", np.uint8)
            image = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
            if image is None:
                raise DatasetError(f"{episode.data}: {key} of row {int(rows[step])} (episode {episode.index}) is no image")
            yield episode.start + step, cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def audio(self, index: int, frames: int = -1) -> dict[str, np.ndarray] | None:
        """Sound tracks (n, C) float32 from the episode's first frame on, of as many frames as asked for; or None."""
        tracks = self.episodes[index].tracks
        if tracks is None:
            return None
        count = frames if frames < 0 else round(frames / self.fps * self.spec.sample_rate)
        try:
            return {track: soundfile.read(path, count, dtype="float32", always_2d=True)[0] for track, path in tracks.items()}
        except (soundfile.LibsndfileError, OSError) as error:
            raise DatasetError(f"{error}; `soma data check {self.root}` names all that is damaged") from error


def camera_of(key: str) -> str:
    """A camera's name: of "observation.images.NAME", of LeRobot's "observation.image" for an only one, or of a key from
    elsewhere, without dots, which no module's name may have."""
    return key.removeprefix(IMAGES).removeprefix(SENSE).replace(".", "_")


def _picture_size(feature: Mapping) -> tuple[int, int]:
    """(height, width); LeRobot declares pictures with their channels last or first."""
    first = (feature.get("names") or ["height"])[0].startswith("channel")
    return tuple(feature["shape"][1:] if first else feature["shape"][:2])


def _without_stats(path: Path) -> list[dict]:
    table = form.read_table(path)
    return table.select([name for name in table.column_names if not name.startswith("stats/")]).to_pylist()


def _names(feature: Mapping, key: str) -> tuple[str, ...]:
    """Names of a vector's components: a list, lists by group, or made up where there are none."""
    names = feature.get("names") or [f"{key}_{i}" for i in range(int(np.prod(feature["shape"])))]
    names = [n for group in names.values() for n in group] if isinstance(names, Mapping) else names
    return tuple(map(str, names))
