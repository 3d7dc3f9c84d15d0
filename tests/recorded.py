"""A small dataset that tests of demonstrations share: three episodes in two rounds, with sound."""

from pathlib import Path

import numpy as np

from agent.spec import ACTION, IMAGES, STATE, ActionSpec, Spec
from training.data import video
from training.data.demos import DemoReader, DemoWriter

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


def original_set(root: Path) -> Path:
    """Three episodes in two rounds."""
    record(root, 0, LENGTHS[0])
    assert record(root, 1, LENGTHS[1]).finalize() == 2
    assert record(root, 2, LENGTHS[2]).finalize() == 3
    return root


def other_film(root: Path, chosen) -> Path:
    """The first video file again, of other frames."""
    path = DemoReader(root).episodes[1].videos[FRONT][0]
    film = [picture(e, s) for e in (0, 1) for s in chosen(e, range(LENGTHS[e]))]
    video.encode(path, np.stack(film), 10)
    return path
