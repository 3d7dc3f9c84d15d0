"""A film of an episode: both cameras side by side and the sound that the agent heard, as an MP4 that browsers play."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any, Mapping, Sequence

import gymnasium as gym
import numpy as np

from agent.spec import AUDIO, IMAGES

UPSCALE = 2
RING = 7  # pixels of a large picture
IN_VIEW = 0.5  # how surely
PICTURE = {"crf": "20", "preset": "veryfast"}
TAIL = 0.5  # s that the last picture stays


class Film:
    """A record for policies.base.rollout: what the cameras see, and what the microphones hear between the pictures. A ring
    marks where the policy goes, in the pictures in which it sees that; policies without an `aim` have none."""

    def __init__(self, policy: Any = None):
        self.policy = policy
        self.pictures: list[np.ndarray] = []
        self.sound: list[np.ndarray] = []

    def frame(self, env: gym.Env, obs: Mapping[str, Any]) -> None:
        world = env.unwrapped
        seen = world.images() if getattr(world, "lazy_images", False) else obs
        aim = getattr(self.policy, "aim", None)
        spots = {} if aim is None else aim.spots
        views = {key: large(seen[key]) for key in sorted(seen) if key.startswith(IMAGES)}
        self.pictures.append(np.concatenate([ringed(v, spots.get(k.removeprefix(IMAGES))) for k, v in views.items()], 1))
        if AUDIO in obs and len(self.pictures) > 1:  # what the first observation holds was before the episode
            self.sound.append(obs[AUDIO])
        self.hz, self.sample_rate = world.robot_spec.control_hz, world.robot_spec.sample_rate

    def save(self, path: Path) -> Path:
        encode(path, self.pictures, self.hz, np.concatenate(self.sound) if self.sound else None, self.sample_rate)
        return path


def large(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8, UPSCALE times as large."""
    import cv2

    return cv2.resize(image, None, fx=UPSCALE, fy=UPSCALE, interpolation=cv2.INTER_CUBIC)


def ringed(picture: np.ndarray, spot: np.ndarray | None) -> np.ndarray:
    """(H, W, 3) uint8 with a ring around a spot (u, v, how surely it is in view), if it is in view at all."""
    import cv2

    if spot is not None and spot[2] > IN_VIEW:
        middle = np.round(spot[:2] * picture.shape[1::-1]).astype(int).tolist()
        cv2.circle(picture, middle, RING, (255, 255, 255), 3, cv2.LINE_AA)
        cv2.circle(picture, middle, RING, (200, 0, 200), 1, cv2.LINE_AA)
    return picture


def encode(path: Path, pictures: Sequence[np.ndarray], fps: float, sound: np.ndarray | None, sample_rate: int) -> None:
    """H.264 and AAC. pictures: (H, W, 3) uint8, even sizes; sound: (n, C) in [-1, 1], two channels of it are kept."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".part")
    pictures = [*pictures, *[pictures[-1]] * round(TAIL * fps)]
    with av.open(str(half), "w", format="mp4", options={"movflags": "faststart"}) as file:
        video = file.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000), options=PICTURE)
        video.height, video.width, video.pix_fmt = *pictures[0].shape[:2], "yuv420p"
        video.codec_context.thread_count = 1
        audio = _audio_stream(file, sound, sample_rate)
        for picture in pictures:
            file.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(video.encode())
        if audio is not None:
            file.mux(audio.encode(_audio_frame(sound, sample_rate)))
            file.mux(audio.encode())
    half.replace(path)


def _audio_stream(file, sound: np.ndarray | None, sample_rate: int):
    if sound is None or not len(sound):
        return None
    stream = file.add_stream("aac", rate=sample_rate, layout="mono" if sound.shape[1] == 1 else "stereo")
    stream.bit_rate = 64_000
    return stream


def _audio_frame(sound: np.ndarray, sample_rate: int):
    import av

    channels = np.ascontiguousarray(sound.T[:2], np.float32)
    frame = av.AudioFrame.from_ndarray(channels, format="fltp", layout="mono" if len(channels) == 1 else "stereo")
    frame.sample_rate, frame.pts = sample_rate, 0
    return frame
