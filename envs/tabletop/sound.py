"""What microphones hear: sources at places, their way through the air, and the mixer that env and data loader share.

Legend: n samples, C microphones; positions in m in the robot's base frame, times in s, waveforms float32 mono.
A waveform is what is heard at 1 m; at r metres it comes r / 343 s later and 1 / r as loud. There are no echoes and no
shadow of a head. Waveforms of single sounds are in envs/tabletop/waveforms.py; the usual ones can be had from here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.signal import lfilter

from envs.tabletop.waveforms import SAMPLE_RATE, beep, buzzer, modal_impact, rattle

__all__ = ["MICROPHONES", "SAMPLE_RATE", "SPEECH_RMS", "Noise", "Soundscape", "beep", "buzzer", "mix", "rattle"]

MICROPHONES = ((0.20, 0.30, 0.20), (0.20, -0.30, 0.20))  # left, right
TRACKS = ("world", "voice")
SPEED_OF_SOUND = 343.0  # m/s, dry air at 20 C
NEAREST = 0.05  # m, no source is louder than at this distance
HALF = 16  # taps of the interpolation filter on either side
SPEECH_RMS = 10 ** (-26 / 20)  # of speech at 1 m: -26 dBov, the nominal active speech level of ITU-T P.56
SNR_DB = (12.0, 40.0)  # speech at 1 m over background noise
COLOUR = (0.0, 0.95)  # pole of the noise filter: 0 is white, towards 1 is brown


class Noise:
    """Endless coloured background noise, independent in each microphone.

    White noise through y[t] = p y[t-1] + sqrt(1 - p^2) w[t], so that the level does not depend on the colour p. What
    comes does not depend on the block sizes in which it is taken.
    """

    def __init__(self, rng: np.random.Generator, channels: int = 2, snr_db: float | None = None):
        drawn, self.pole = rng.uniform(*SNR_DB), rng.uniform(*COLOUR)
        self.snr_db = float(drawn if snr_db is None else snr_db)
        self.rms = SPEECH_RMS * 10 ** (-self.snr_db / 20)
        self._rng = rng
        self._state = np.float32(self.pole) * rng.standard_normal((1, channels), np.float32)

    def take(self, n: int) -> np.ndarray:
        """The next (n, C) samples."""
        white = self._rng.standard_normal((n, self._state.shape[1]), np.float32) * np.float32(np.sqrt(1 - self.pole**2))
        taps = np.array(((1.0, 0.0), (1.0, -self.pole)), np.float32)
        coloured, self._state = lfilter(*taps, white, axis=0, zi=self._state)
        return np.float32(self.rms) * coloured


def mix(world: np.ndarray, voice: np.ndarray, noise: Noise | None = None) -> np.ndarray:
    """What the agent hears (n, C) in [-1, 1]: both tracks (n, C), over the next n samples of the noise."""
    heard = world + voice
    if noise is not None:
        heard = heard + noise.take(len(heard))
    return np.clip(heard, -1.0, 1.0).astype(np.float32, copy=False)


def fractional_delay(fraction: float) -> np.ndarray:
    """Filter (2 HALF,) that delays by HALF - 1 + fraction samples, 0 <= fraction < 1: a sinc under a Hann window.

    Laakso et al. 1996, "Splitting the unit delay".
    """
    t = np.arange(2 * HALF) - (HALF - 1) - fraction
    taps = np.sinc(t) * np.cos(np.pi / 2 * t / HALF) ** 2
    return taps / taps.sum()


class Soundscape:
    """Sounds on their way to the microphones, on two tracks; rendered in windows that follow one another.

    All sounds come HALF - 1 samples (1 ms) late at every microphone alike, so that none is heard before it is made.
    `noise` is this scene's background, for `mix`; snr_db=None draws its level.
    """

    def __init__(self, microphones: Sequence, sample_rate: int, rng: np.random.Generator, snr_db: float | None = None):
        self.microphones = np.asarray(microphones, float).reshape(-1, 3)
        self.sample_rate = sample_rate
        self._rng, noise_rng = rng.spawn(2)
        self.noise = Noise(noise_rng, len(self.microphones), snr_db)
        self._clips: dict[str, list[tuple[int, np.ndarray]]] = {track: [] for track in TRACKS}
        self._cursor: int | None = None  # sample that comes next; known from the first render on

    def impact(self, time: float, position, material_a: str, material_b: str, impulse: float) -> None:
        """Two things knock: `impulse` in N s; materials as in waveforms.MATERIALS."""
        self.play(time, position, modal_impact(self._rng, material_a, material_b, impulse, self.sample_rate))

    def play(self, time: float, position, waveform: np.ndarray, gain: float = 1.0, track: str = "world") -> None:
        """Emit a waveform from a place, beginning at `time`, which must not lie in what has been rendered."""
        if track not in self._clips:
            raise ValueError(f"track {track!r}: allowed are {', '.join(TRACKS)}")
        emitted = time * self.sample_rate
        if self._cursor is not None and emitted < self._cursor - 0.5:
            raise ValueError(f"a sound at {time:.4f} s: rendered up to {self._cursor / self.sample_rate:.4f} s already")
        waveform = np.asarray(waveform, np.float32)
        if len(waveform):
            for c, distance in enumerate(np.linalg.norm(self.microphones - position, axis=1)):
                self._arrive(track, c, emitted + distance / SPEED_OF_SOUND * self.sample_rate,
                             waveform, gain / max(distance, NEAREST))

    def _arrive(self, track: str, channel: int, sample: float, waveform: np.ndarray, gain: float) -> None:
        whole = int(np.floor(sample))
        taps = (gain * fractional_delay(sample - whole)).astype(np.float32)
        self._clips[track].append((whole, channel, np.convolve(waveform, taps)))

    def render(self, start: float, n: int) -> dict[str, np.ndarray]:
        """Each track's n samples from `start` on, (n, C), without noise. The windows must follow one another."""
        first = round(start * self.sample_rate)
        if self._cursor is not None and first != self._cursor:
            due = self._cursor / self.sample_rate
            raise ValueError(f"a window at {start:.4f} s: the next must begin at {due:.4f} s, where the last one ended")
        self._cursor = first + n
        return {track: self._window(track, first, n) for track in TRACKS}

    def _window(self, track: str, first: int, n: int) -> np.ndarray:
        out, going_on = np.zeros((n, len(self.microphones)), np.float32), []
        for begin, channel, samples in self._clips[track]:
            low, high = max(begin, first), min(begin + len(samples), first + n)
            if low < high:
                out[low - first : high - first, channel] += samples[low - begin : high - begin]
            if begin + len(samples) > first + n:
                going_on.append((begin, channel, samples))
        self._clips[track] = going_on
        return out
