"""Video files: what a camera saw, encoded once, joined without encoding again, read at any frame.

Frame n of a file stands at n / fps seconds. Groups of two pictures and no B-frames make every frame cheap to reach.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

CODEC, PIXELS, TICKS = "libx264", "yuv420p", 512  # ticks of the clock a frame
OPTIONS = {"crf": "18", "preset": "veryfast", "g": "2", "bf": "0"}


ReadError = av.error.FFmpegError  # what decoding a damaged file raises


class VideoError(ValueError):
    """A video file that cannot be read or does not hold the frames it should; names the file."""


def encode(path: Path, frames: np.ndarray, fps: float) -> None:
    """Write (n, H, W, 3) uint8 RGB as H.264. Raises VideoError for odd sizes, which yuv420p cannot hold."""
    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        raise VideoError(f"{path}: frames of {height}x{width} pixels; height and width must be even")
    with av.open(str(path), "w", format="mp4") as file:
        stream = file.add_stream(CODEC, rate=Fraction(fps).limit_denominator(1000), options=OPTIONS)
        stream.width, stream.height, stream.pix_fmt = width, height, PIXELS
        stream.codec_context.thread_count = 1
        for image in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        file.mux(stream.encode())


def concatenate(path: Path, sources: Iterable[Path], fps: float) -> list[int]:
    """Join files of one format, packet by packet; the pictures stay as they are. Returns each one's frame count."""
    counts, rate = [], Fraction(fps).limit_denominator(1000)
    clock = 1 / (rate * TICKS)
    with av.open(str(path), "w", format="mp4") as out:
        stream = None
        for source in sources:
            with av.open(str(source)) as file:
                if stream is None:
                    stream = out.add_stream_from_template(file.streams.video[0])
                    stream.time_base = clock
                counts.append(_copy_packets(file, out, stream, sum(counts), clock))
    return counts


def _copy_packets(file, out, stream, first: int, clock: Fraction) -> int:
    count = 0
    for packet in file.demux(video=0):
        if packet.dts is None:  # the flush packet at the end
            continue
        packet.pts = packet.dts = (first + count) * TICKS
        packet.duration, packet.time_base, packet.stream = TICKS, clock, stream
        out.mux(packet)
        count += 1
    return count


def decode(path: Path, fps: float, first: int = 0, stop: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
    """(frame number, (H, W, 3) uint8 RGB) of the frames first <= n < stop that the file holds, in order."""
    convert = VideoReformatter()  # one for all frames: making one takes longer than using it
    with opened(path) as file:
        stream = file.streams.video[0]
        stream.codec_context.thread_count = 1
        if first:
            file.seek(int((first - 0.5) / fps / stream.time_base), stream=stream)
        for frame in _readable(file.decode(stream), path):
            number = round(float(frame.pts * stream.time_base) * fps)
            if stop is not None and number >= stop:
                return
            if number >= first:
                yield number, convert.reformat(frame, format="rgb24").to_ndarray()


def _readable(frames: Iterator, path: Path) -> Iterator:
    """Raises VideoError where they cannot be decoded."""
    try:
        yield from frames
    except (ReadError, OSError) as error:
        raise VideoError(f"{path}: cannot be decoded ({error}); soma data check names all that is damaged") from error


def opened(path: Path):
    """An open container with a video stream in it. Raises VideoError."""
    try:
        file = av.open(str(path))
    except (ReadError, OSError) as error:
        raise VideoError(f"{path}: cannot be opened as a video ({error})") from error
    if not file.streams.video:
        file.close()
        raise VideoError(f"{path}: holds no video stream")
    return file


def info(height: int, width: int, fps: float) -> dict:
    """What LeRobotDataset's info.json says about a video feature."""
    return {"video.height": height, "video.width": width, "video.codec": "h264", "video.pix_fmt": PIXELS,
            "video.is_depth_map": False, "video.fps": fps, "video.channels": 3, "has_audio": False}
