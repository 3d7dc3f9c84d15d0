"""Ears and mouth of a robot: a microphone or a sound file becomes stamped audio, and what is to be said is spoken."""

from __future__ import annotations

import queue
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from agent.hearing import UtteranceDetector
from envs.tabletop.sound import SAMPLE_RATE
from envs.tabletop.voices import NORMAL_SPEED, Voice, speak
from ros_nodes import convert
from ros_nodes.arguments import ArgumentError, Parameter, run
from ros_nodes.interfaces import message

BOOL, STRING = "std_msgs/msg/Bool", "std_msgs/msg/String"
JUMP = 1.0  # s between two readings of a clock that has been set
JITTER = 0.02  # s between the clock and the number of samples


class Source(Protocol):
    """Where sound comes from."""

    def read(self, now: float) -> Iterator[tuple[float, np.ndarray]]:
        """(stamp of the first sample, samples (n, C)) of each block that was heard by `now` (s)."""


class FileSource:
    """A sound file, heard from `begin` (s) on; at another rate it is resampled, one channel goes to all. Where the clock jumps,
    or nobody has read for JUMP, it goes on at the new time where it was."""

    def __init__(self, path: str, rate: int, channels: int, block: int, begin: float, repeat: bool):
        self.samples = sound_file(path, rate, channels)
        self.rate, self.block, self.begin, self.repeat, self.sent = rate, block, begin, repeat, 0

    def read(self, now: float) -> Iterator[tuple[float, np.ndarray]]:
        behind = now - self.begin - self.sent / self.rate
        if not -JUMP <= behind <= JUMP + self.block / self.rate:
            self.begin += behind
        while now >= self.begin + (self.sent + self.block) / self.rate:
            stamp, index = self.begin + self.sent / self.rate, np.arange(self.sent, self.sent + self.block)
            silent = (index >= len(self.samples)) & (not self.repeat)
            self.sent += self.block
            yield stamp, self.samples[index % len(self.samples)] * ~silent[:, None]


class MicrophoneSource:
    """A sound card, through PortAudio (Python package sounddevice). Samples are stamped with the time at which they were
    converted, not at which they came: the first ones by the clock, the others by their number, until that is JITTER off."""

    def __init__(self, device: str, rate: int, channels: int, block: int, clock):
        self.blocks: queue.SimpleQueue = queue.SimpleQueue()
        self.rate, self.next = rate, None

        def heard(samples, count, times, status) -> None:
            late = times.currentTime - times.inputBufferAdcTime
            self.blocks.put((self.stamp(clock() - late, count), samples.copy()))

        cards = sound_cards()
        try:
            self.stream = cards.InputStream(rate, block, device or None, channels, "float32", callback=heard, latency="low")
            self.stream.start()
        except (ValueError, cards.PortAudioError) as error:  # ValueError: no microphone of this name
            raise ArgumentError(f"microphone {device or 'of the system'}, {channels} channels at {rate} Hz: {error}; there are:\n"
                                f"{cards.query_devices()}") from error

    def stamp(self, measured: float, count: int) -> float:
        """Of `count` samples of which the clock says that the first was heard at `measured` (s)."""
        steady = self.next is not None and abs(measured - self.next) < JITTER
        stamp = self.next if steady else measured
        self.next = stamp + count / self.rate
        return stamp

    def read(self, now: float) -> Iterator[tuple[float, np.ndarray]]:
        while not self.blocks.empty():
            yield self.blocks.get()


def sound_cards():
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # OSError: PortAudio itself is missing
        raise ArgumentError("sound cards need the Python package sounddevice (pip install 'soma-agent[audio]') and "
                            f"PortAudio (apt-get install libportaudio2): {error}") from error
    return sounddevice


def sound_file(path: str, rate: int, channels: int) -> np.ndarray:
    """(n, C) float32. Raises ArgumentError for a file that is none, is empty, or has other channels."""
    import soundfile
    from scipy.signal import resample_poly

    if not Path(path).is_file():
        raise ArgumentError(f"parameter source: no file {path}")
    try:
        samples, own = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise ArgumentError(f"parameter source: {error}") from error
    if samples.shape[1] not in (1, channels) or not len(samples):
        raise ArgumentError(f"{path}: {len(samples)} samples in {samples.shape[1]} channels; some in 1 or {channels} are needed")
    common = np.gcd(rate, own)
    samples = resample_poly(samples, rate // common, own // common).astype(np.float32)
    return np.repeat(samples, channels, 1) if samples.shape[1] == 1 else samples


class Mouth:
    """Speaks what comes on /say (std_msgs/String), and tells on /speech (soma_msgs/Audio, one channel, stamped with the
    time of its first sample) what is to be heard of it: whoever listens then knows its own voice. play(waveform (n,))."""

    PARAMETERS = {"voice": Parameter("en-us+f3", "of espeak-ng, that speaks")}

    def __init__(self, node, voice: str, now: Callable[[], float], play: Callable[[np.ndarray], None]):
        self.node, self.now, self.play = node, now, play
        self.voice = Voice("espeak", voice, NORMAL_SPEED)
        self.speech = node.publisher(convert.AUDIO, "speech", "reliable")
        node.subscribe(STRING, "say", self.say, "reliable")

    def say(self, said) -> None:
        try:
            wave = speak(said.data, self.voice)
        except ValueError as error:
            self.node.log(f"not said: {error}")
            return
        self.node.log(f"says: {said.data}")
        self.speech(convert.to_audio(wave[:, None], SAMPLE_RATE, self.now(), "loudspeaker"))
        self.play(wave)


class AudioNode:
    """Publishes what a microphone hears on /audio (soma_msgs/Audio, stamped with the time of its first sample), and on
    /audio/active (std_msgs/Bool, latched) whether somebody may be speaking, as the agent's own detector judges. Speaks
    what is on /say through a loudspeaker.
    """

    PARAMETERS = {
        "source": Parameter("", "a sound file; without, the microphone"),
        "repeat": Parameter(False, "play the file again and again; else silence follows"),
        "device": Parameter("", "the microphone's name or part of it; without, the system's"),
        "rate": Parameter(16000, "Hz", 8000, 192000),
        "channels": Parameter(2, "microphones", 1, 16),
        "block": Parameter(0.02, "s of sound in a message", 0.01, 1.0),
    } | Mouth.PARAMETERS

    def __init__(self, node, source: Source | None = None, play=None):
        self.node, asked = node, node.parameters(self.PARAMETERS)
        self.rate, self.active = asked.rate, None
        try:
            self.detector = UtteranceDetector(asked.rate)
        except ValueError as error:
            raise ArgumentError(f"parameter rate: {error}") from error
        block = round(asked.block * asked.rate)
        if asked.source:
            source = FileSource(asked.source, asked.rate, asked.channels, block, node.now(), asked.repeat)
        self.source = source or MicrophoneSource(asked.device, asked.rate, asked.channels, block, node.now)
        self.mouth = Mouth(node, asked.voice, node.now, play or self.loudspeaker)
        self.audio = node.publisher(convert.AUDIO, "audio", "stream")
        self.activity = node.publisher(BOOL, "audio/active", "latched")
        node.timer(asked.block / 2, self.listen)

    def listen(self) -> None:
        for stamp, samples in self.source.read(self.node.now()):
            self.audio(convert.to_audio(samples, self.rate, stamp, "microphones"))
            for utterance in self.detector.push(samples, stamp):
                self.node.log(f"somebody spoke from {utterance.start:.2f} to {utterance.end:.2f} s")
            if self.detector.active != self.active:
                self.active = self.detector.active
                self.activity(message(BOOL)(self.active))

    def loudspeaker(self, wave: np.ndarray) -> None:
        try:
            sound_cards().play(wave, SAMPLE_RATE)
        except ArgumentError as error:
            self.node.log(str(error))


def main() -> int:
    return run("audio", AudioNode, sys.argv[1:])


if __name__ == "__main__":
    raise SystemExit(main())
