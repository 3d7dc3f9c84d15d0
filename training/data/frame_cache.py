"""Decoded frames at the model's image size, one .npy file a camera, so that a training loader never decodes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import BinaryIO

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from agent.processor import resize
from agent.spec import IMAGES
from training.data import lerobot_format as form
from training.data.demos import DatasetError, DemoReader

EVERY = 50  # episodes between two notes of how far it is


class FrameCache:
    """frames(key, rows) -> (len(rows), size, size, 3) uint8, key IMAGES + a camera's name. Opened in each process at first
    use.

    Frames are drawn at random from files that are larger than memory: each is one read of its own size. A memory map would
    read ahead what nobody asks for, and push out what is asked for again.
    """

    def __init__(self, paths: dict[str, Path]):
        self.paths = paths
        self._files: dict[str, tuple[BinaryIO, int, tuple[int, ...]]] = {}

    @classmethod
    def build(cls, reader: DemoReader, folder: str | Path, size: int, progress: bool = True,
              cameras: slice = slice(None)) -> FrameCache:
        """Decode what is missing in `folder`; what is there from this very dataset and size is kept. cameras: those of the
        reader's that this process decodes, where several share the work.

        Raises DatasetError where an image is missing, or where the frames find no room.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        mark = fingerprint(reader)
        paths = {name: folder / f"{key}.{size}.npy" for name, key in reader.cameras.items()}
        for name, path in list(paths.items())[cameras]:
            if _known(path, mark) < len(reader.episodes) or not path.is_file():
                with FileLock(path.with_suffix(".lock")):  # of another training on the same data
                    _fill(reader, reader.cameras[name], path, size, mark, progress)
        return cls({IMAGES + name: path for name, path in paths.items()})

    def frames(self, key: str, rows) -> np.ndarray:
        if key not in self._files:
            self._files[key] = _opened(self.paths[key])
        file, offset, shape = self._files[key]
        out = np.empty((len(rows), *shape), np.uint8)
        for image, row in zip(out, rows):
            file.seek(offset + int(row) * image.nbytes)
            if file.readinto(image) != image.nbytes:
                raise DatasetError(f"{self.paths[key]} ends before row {int(row)}: delete it, and it is decoded anew")
        return out

    def __getstate__(self) -> dict:
        return {"paths": self.paths, "_files": {}}


def _opened(path: Path) -> tuple[BinaryIO, int, tuple[int, ...]]:
    """(unbuffered file, where the first frame begins, shape of a frame)."""
    file = path.open("rb", buffering=0)
    np.lib.format.read_magic(file)
    shape, _, _ = np.lib.format.read_array_header_1_0(file)
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
    return file, file.tell(), shape[1:]


def fingerprint(reader: DemoReader) -> str:
    """Of what the videos, or the tables with pictures, are: changes with any file's name or size, and with where the episodes
    lie in them."""
    files = {path for episode in reader.episodes for path, _ in episode.videos.values()}
    if any(reader.features[key]["dtype"] == "image" for key in reader.cameras.values()):
        files |= {episode.data for episode in reader.episodes}
    sizes = [(str(path.relative_to(reader.root)), path.stat().st_size) for path in sorted(files)]
    places = [(e.start, e.length, sorted(s for _, s in e.videos.values())) for e in reader.episodes]
    return hashlib.sha256(json.dumps([sizes, places, reader.length]).encode()).hexdigest()


def _reserve(path: Path) -> None:
    """Room for the whole file now: a memory map that finds none later ends the process without a word."""
    whole, there, free = path.stat().st_size, path.stat().st_blocks * 512, shutil.disk_usage(path.parent).free
    if whole - there > free:
        raise DatasetError(f"{path.with_suffix('')}: the decoded frames take {whole / 1e9:.3f} GB; the disk has "
                           f"{free / 1e9:.3f} GB left")
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, whole)


def _known(path: Path, mark: str) -> int:
    """Episodes of the dataset with this fingerprint that a file, or its draft, is noted to hold."""
    note = path.with_suffix(".json")
    state = form.read_json(note) if note.is_file() else {}
    return state["episodes"] if state.get("fingerprint") == mark else 0


def _fill(reader: DemoReader, key: str, path: Path, size: int, mark: str, progress: bool) -> None:
    """Frames are decoded into a draft, which takes its place when it is whole: who reads an older file reads on."""
    note, draft, count = path.with_suffix(".json"), path.with_suffix(".part"), len(reader.episodes)
    if (known := _known(path, mark)) == count and path.is_file():
        return
    path.unlink(missing_ok=True)  # of other episodes; its room may be needed
    done = known if draft.is_file() else 0
    if not done:
        note.unlink(missing_ok=True)
    images = np.lib.format.open_memmap(draft, "r+" if done else "w+", np.uint8, (reader.length, size, size, 3))
    _reserve(draft)
    ends = [episode.start + episode.length for episode in reader.episodes]
    due = ends[done - 1] if done else 0
    bar = tqdm(desc=f"decoding {key}", unit="frame", initial=due, total=reader.length, disable=not progress)
    for row, image in reader.film(key, done):
        if row != due:
            break
        images[row] = resize(image[None], size)[0]
        due += 1
        bar.update()
        if due == ends[done]:
            done += 1
            if done % EVERY == 0 or done == count:
                images.flush()
                form.write_json(note, {"fingerprint": mark, "episodes": done})
    bar.close()
    if due != reader.length:
        raise DatasetError(f"{key}: no image of row {due}; `soma data check` names the damage")
    draft.replace(path)
