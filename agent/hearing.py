"""Cuts utterances out of a stream of sound: by energy over a floor that adapts, then by whether it sounds like speech.

The same detector is used in training and at run time. It is causal, and what it finds does not depend on the sizes of
the blocks in which the sound comes. Legend: n samples, C channels, F frames of 10 ms, B bands; levels in dB over full
scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.fft import rfft

FRAMES = 100  # a second
BAND = (200.0, 4000.0)  # Hz, where the level of speech is measured
BAND_EDGES = np.geomspace(150.0, 6000.0, 17)  # Hz, of the B bands in which a spectrum's shape is compared
QUIETEST, LOUDEST_START = -75.0, -38.0  # dB: bounds of the floor, and of the floor at the beginning
FALL, RISE, RISE_IN_SPEECH = 0.2, 0.05, 0.01  # share of the way down, dB up; per frame
ONSET, KEEP = 6.0, 4.0  # dB over the floor
WINDOW, NEEDED = 6, 5  # frames: an utterance begins where 5 of 6 are over the onset
PRE_ROLL, POST_ROLL, HANGOVER = 30, 15, 25  # frames
MARGIN = 10  # frames on either side of the activity that are judged with it
SHORTEST, LONGEST = 35, 800  # frames between onset and last activity; what is longer is passed over whole
DEEP = 1000.0  # Hz
# of speech_score: for (change, deep, attack, flux), and the constant. Fitted to simulated speech (voices for training
# only), knocks, rattles, buzzers and beeps; the constant is moved by 1 in favour of speech
WEIGHTS, CONSTANT = np.array([1.75, 7.3, -2.65, -1.25]), -10.3
STILL = 1.5  # dB of flux: tones, even one after the other, hold still from frame to frame (below 1.3), speech not (99% above 1.5)


@dataclass(frozen=True)
class Utterance:
    """start, end: s, in the time given to `push`. waveform: mono float32 (n,), of the louder channel."""

    start: float
    end: float
    waveform: np.ndarray


class UtteranceDetector:
    def __init__(self, sample_rate: int):
        if sample_rate % FRAMES:
            raise ValueError(f"sample rate {sample_rate}: a multiple of {FRAMES} is needed")
        self.rate, self.hop = sample_rate, sample_rate // FRAMES
        self._samples = None  # (n, C), from sample self._first on
        self._first = self._frame = 0
        self._origin = 0.0  # time of sample 0
        self._floor: float | None = None
        self._active: list[bool] = []  # of the last WINDOW frames
        self._onset = self._last = None  # frames; None between utterances
        self._ended = 0  # frame behind the last utterance
        self._too_long = False  # what goes on was longer than LONGEST: its end is no utterance of its own

    @property
    def active(self) -> bool:
        """Whether an utterance, or what may turn out to be one, has begun and not ended."""
        return self._onset is not None or self._too_long

    def push(self, samples: np.ndarray, time: float) -> list[Utterance]:
        """The utterances that have ended; samples (n, C) come directly behind those before, the first one at `time`."""
        samples = np.asarray(samples, np.float32)
        if samples.ndim != 2:
            raise ValueError(f"samples of shape {samples.shape}: (n, channels) is needed")
        if self._samples is None:
            self._samples, self._first = np.zeros((self.hop, samples.shape[1]), np.float32), -self.hop
        self._origin = time - (self._first + len(self._samples)) / self.rate
        self._samples = np.concatenate([self._samples, samples])
        found = [self._step(level) for level in self._levels()]
        self._forget()
        return [utterance for utterance in found if utterance is not None]

    def _levels(self) -> list[float]:
        """Level in BAND of each new frame, over the last two hops, all channels together; -inf where most samples are 0."""
        begin = (self._frame - 1) * self.hop - self._first
        samples = self._samples[begin:]
        power = _power_spectra(samples, self.hop)
        frequency = np.fft.rfftfreq(2 * self.hop, 1 / self.rate)
        in_band = (frequency >= BAND[0]) & (frequency < BAND[1])
        level = 10 * np.log10(power[:, in_band].sum(1) + 1e-12)
        silent = ~np.logical_or.reduce(np.ascontiguousarray(samples.T) != 0)
        missing = silent[: (len(level) + 1) * self.hop].reshape(-1, self.hop).sum(1)
        if self._frame == 0 and len(level):  # what is before the first sample is missing where the first hop is
            missing[0] = missing[1]
        return np.where(missing[:-1] + missing[1:] > self.hop, -np.inf, level).tolist()

    def _step(self, level: float) -> Utterance | None:
        """One frame: moves the floor, and begins or ends an utterance. A gap in the stream is no quiet room: the floor stays."""
        if self._floor is None:
            self._floor = max(min(level, LOUDEST_START), QUIETEST)
        if level > -np.inf:
            self._move_floor(level)
        self._frame += 1
        self._active = [*self._active, level > self._floor + ONSET][-WINDOW:]
        if not self.active:
            if sum(self._active) >= NEEDED:
                self._onset, self._last = max(self._frame - WINDOW, 0), self._frame
            return None
        if level > self._floor + KEEP:
            self._last = self._frame
        quiet = self._frame - self._last >= HANGOVER
        if self._too_long:
            self._too_long, self._ended = not quiet, self._frame
        elif self._last - self._onset > LONGEST:
            self._floor, self._onset, self._active, self._too_long = level, None, [], True
        elif quiet:
            return self._end()
        return None

    def _move_floor(self, level: float) -> None:
        rise = RISE if self._onset is None else RISE_IN_SPEECH
        self._floor += FALL * (level - self._floor) if level < self._floor else rise
        self._floor = max(self._floor, QUIETEST)

    def _end(self) -> Utterance | None:
        onset, last, self._onset, self._active = self._onset, self._last, None, []
        active = self._between(max(onset - MARGIN, 0), last + MARGIN)
        channel = np.argmax(np.sum(active**2, axis=0))
        if last - onset < SHORTEST or speech_score(active[:, channel], self.rate) < 0:
            return None
        begin, self._ended = max(onset - PRE_ROLL, self._ended), last + POST_ROLL
        wave = self._between(begin, self._ended)[:, channel].copy()
        return Utterance(self._origin + begin / FRAMES, self._origin + self._ended / FRAMES, wave)

    def _between(self, begin: int, end: int) -> np.ndarray:
        """The samples of frames begin..end - 1."""
        return self._samples[begin * self.hop - self._first : end * self.hop - self._first]

    def _forget(self) -> None:
        """Keep what an utterance that has begun, or that begins with the next frame, will need."""
        oldest = self._frame - WINDOW if self._onset is None else self._onset
        keep = max((oldest - PRE_ROLL - 1) * self.hop, -self.hop)
        if keep > self._first:
            self._samples, self._first = self._samples[keep - self._first :], keep


def speech_score(waveform: np.ndarray, rate: int) -> float:
    """Over 0 for speech: log odds of a logistic regression on `features`."""
    found = features(waveform, rate)
    return float(found @ WEIGHTS + CONSTANT) if found[3] > STILL else -np.inf


def features(waveform: np.ndarray, rate: int) -> np.ndarray:
    """(4,) that tell speech from other sounds, from the frames within 25 dB of the loudest and 9 dB over the quietest:

    change: dB by which the shape of the spectrum varies over time (a buzzer's stays); deep: share of the energy under
    1 kHz; attack: skewness of the level's rises and falls (a knock rises at once and falls slowly); flux: dB by which
    the shape changes from frame to frame (rattling contents change faster than a mouth).
    """
    power = _power_spectra(waveform[:, None], rate // FRAMES)
    frequency = np.fft.rfftfreq(2 * (rate // FRAMES), 1 / rate)
    members = np.digitize(frequency, BAND_EDGES)[:, None] == np.arange(1, len(BAND_EDGES))
    bands = power @ members.astype(power.dtype)
    total = bands.sum(1) + 1e-12
    loud = total > max(total.max() * 10 ** (-25 / 10), min(8 * total.min(), total.max() / 2))
    shape = 10 * np.log10(bands[loud] + 1e-5 * total.max())
    shape -= shape.mean(1, keepdims=True)
    level = 10 * np.log10(np.maximum(total, total.max() * 1e-3))
    steps = level[2:] - level[:-2]
    attack = np.mean((steps - steps.mean()) ** 3) / (steps.std() + 1e-6) ** 3
    deep = power[loud][:, frequency < DEEP].sum() / (power[loud].sum() + 1e-12)
    flux = np.abs(np.diff(shape, axis=0)).sum() / (max(len(shape) - 1, 1) * shape.shape[1])
    return np.array([shape.std(0).mean(), deep, attack, flux])


def _power_spectra(samples: np.ndarray, hop: int) -> np.ndarray:
    """(n, C) -> (F, hop + 1): mean square per frequency of each pair of neighbouring hops, mean over the channels."""
    if len(samples) < 2 * hop:
        return np.zeros((0, hop + 1), np.float32)
    pieces = sliding_window_view(np.ascontiguousarray(samples.T, np.float32), 2 * hop, axis=1)[:, ::hop]
    window = (np.hanning(2 * hop) * np.sqrt(8 / 3) / (2 * hop)).astype(np.float32)
    spectra = rfft(pieces * window)
    return 2 * np.mean(spectra.real**2 + spectra.imag**2, axis=0)
