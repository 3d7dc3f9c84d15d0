"""What comes in while the agent runs: heard sound as memory tokens, and sensors brought together by their stamps.

Legend: n samples, C channels, D width, N memory tokens, S state values.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Callable

import numpy as np
import torch
from torch import Tensor

from agent.encoders.audio import CausalAudioEncoder
from agent.spec import AUDIO, IMAGES, STATE, TASK, TIME, Spec

KEPT = 0.5  # s for which a sensor's samples are kept behind its newest
SOUND_KEPT = 16.0  # s of sound that wait to be taken; a longer gap than SILENCE begins it anew
SILENCE = 1.0  # s
MISSED, BRIEF = 3.5, 0.05  # periods of a sensor after which it is late, though never before BRIEF s
FROZEN = 5  # pictures alike, while the robot moved by MOVED, that no camera takes
MOVED = 0.05  # rad or m, what went furthest


class SoundMemory:
    """Feeds a stream of samples to who remembers them, in whole memory tokens, each sample once.

    hear: waveform (1, CONTEXT + N TOKEN, C), states (1, N, S) at the end of each token, what it gave before (None at first) ->
    what is remembered now, `recalled`.
    """

    def __init__(self, hear: Callable[[Tensor, Tensor, Any], Any], channels: int):
        self.hear, self.state, self.recalled = hear, None, None
        self.pending = np.zeros((CausalAudioEncoder.CONTEXT, channels), np.float32)

    def push(self, samples: np.ndarray, state: np.ndarray) -> None:
        """samples (n, C), directly behind those of the last call, and the state (S,) at their end."""
        before, self.state = state if self.state is None else self.state, state
        known = len(self.pending) - CausalAudioEncoder.CONTEXT
        self.pending = np.concatenate([self.pending, samples])
        new = (len(self.pending) - CausalAudioEncoder.CONTEXT) // CausalAudioEncoder.TOKEN
        if new == 0:
            return
        used = new * CausalAudioEncoder.TOKEN
        wave = torch.from_numpy(self.pending[: CausalAudioEncoder.CONTEXT + used])[None]
        ends = (np.arange(1, new + 1) * CausalAudioEncoder.TOKEN - known) / len(samples)  # 0..1 of these samples
        states = before + ends[:, None] * (state - before)
        self.recalled = self.hear(wave, torch.from_numpy(states.astype(np.float32))[None], self.recalled)
        self.pending = self.pending[used:]


class Stale(Exception):
    """Nothing can be decided now: a sensor is late or missing, or the sensors do not belong together. `sensor` is it."""

    def __init__(self, sensor: str, why: str):
        super().__init__(f"{sensor}: {why}")
        self.sensor = sensor


class Senses:
    """What a robot's sensors said lately, each with the time (s) at which it was sensed, not at which it arrived.

    tolerance: how far the stamps of one observation may be apart; oldest: how old it may be, and a sensor is late before
    that where it has missed some of its own periods; both s. `place`, to be set with each state: where the robot is that a
    camera must see move, rad of its joints, or m and rad of its base. `busy`, to be set: from when to when (s) nothing was taken
    in, as while something was decided; what came then is not late for that.
    """

    def __init__(self, spec: Spec, tolerance: float = 0.05, oldest: float = 0.3):
        self.spec, self.tolerance, self.oldest = spec, tolerance, oldest
        names = [STATE, *(IMAGES + name for name in spec.cameras)]
        self.samples: dict[str, deque[tuple[float, np.ndarray]]] = {name: deque() for name in names}
        self.place: np.ndarray | None = None
        self.busy = (0.0, 0.0)
        self.alike = {name: (0, None) for name in names[1:]}  # pictures alike, and the place at the first of them
        self.sound, self.sound_from, self.text = np.zeros((0, len(spec.microphones)), np.float32), None, ""

    def sense(self, key: str, stamp: float, value: np.ndarray) -> None:
        """An image or a state. What is older than what is known, as after a jump of the clock, takes its place."""
        known = self.samples[key]
        if key in self.alike:
            self.watch(key, stamp, value)
        while known and known[-1][0] >= stamp:
            known.pop()
        known.append((stamp, value))
        while known[0][0] < stamp - KEPT:
            known.popleft()

    def watch(self, key: str, stamp: float, picture: np.ndarray) -> None:
        """Count a camera's pictures that are alike, and note where the robot was at the first of them at which that is known."""
        before, (count, first) = self.samples[key], self.alike[key]
        if not before or not np.array_equal(before[-1][1], picture):
            count, first = 0, None
        known = self.samples[STATE] and abs(stamp - self.samples[STATE][-1][0]) <= self.tolerance
        self.alike[key] = (count + 1, self.place if first is None and known else first)

    def frozen(self, key: str) -> bool:
        """Whether a camera shows the same again and again, while the robot in its picture moves."""
        count, first = self.alike[key]
        return count >= FROZEN and first is not None and bool(np.abs(self.place - first).max() > MOVED)

    def hear(self, stamp: float, samples: np.ndarray) -> None:
        """Sound (n, C) whose first sample was heard at `stamp`; a gap before it is silence, an overlap is dropped. Behind a
        long gap, or a jump of the clock, it begins anew; of what nobody takes the newest is kept."""
        rate = self.spec.sample_rate
        if self.sound_from is None or abs(stamp - self.sound_from - len(self.sound) / rate) > SILENCE:
            self.sound, self.sound_from = self.sound[:0], stamp
        gap = round((stamp - self.sound_from) * rate) - len(self.sound)
        if gap > 0:
            samples = np.concatenate([np.zeros((gap, samples.shape[1]), np.float32), samples])
        self.sound = np.concatenate([self.sound, samples[max(0, -gap) :]]).astype(np.float32)
        forgotten = max(0, len(self.sound) - round(SOUND_KEPT * rate))
        self.sound, self.sound_from = self.sound[forgotten:], self.sound_from + forgotten / rate

    def instruct(self, text: str) -> None:
        self.text = text

    def observation(self, now: float) -> dict:
        """The newest observation that all sensors agree on, with the sound since the one that was taken before. Raises
        Stale; nothing is lost then."""
        stamp = self.fresh(now)
        found = {key: min(known, key=lambda sample: abs(sample[0] - stamp)) for key, known in self.samples.items()}
        for key, (at, _) in found.items():
            if abs(at - stamp) > self.tolerance:
                raise Stale(key, f"{abs(at - stamp):.3f} s from the others, {self.tolerance} s are allowed")
        heard = {AUDIO: self.take_sound(stamp)} if self.spec.microphones else {}
        return {key: value for key, (_, value) in found.items()} | heard | {TASK: self.text, TIME: stamp}

    def fresh(self, now: float) -> float:
        """As `newest`. Raises Stale, too, where a sensor is older than it may be, or frozen."""
        stamp = self.newest()
        for key, known in self.samples.items():
            age, allowed = now - known[-1][0], self.patience(key)
            if not -self.tolerance <= age <= allowed:
                raise Stale(key, f"{age:.3f} s old, 0 to {allowed:.3f} s are allowed")
            if key in self.alike and self.frozen(key):
                raise Stale(key, f"frozen: {self.alike[key][0]} pictures alike while the robot moves")
        if self.spec.microphones and not (self.sound_from - self.tolerance <= now <= self.heard_until + self.oldest):
            raise Stale(AUDIO, f"{now - self.heard_until:.3f} s old, 0 to {self.oldest:.3f} s are allowed")
        return stamp

    @property
    def heard_until(self) -> float:
        """s; once there is sound."""
        return self.sound_from + len(self.sound) / self.spec.sample_rate

    def patience(self, key: str) -> float:
        """How old (s) the newest of a sensor may be."""
        stamps, (start, end) = [stamp for stamp, _ in self.samples[key]], self.busy
        period = float(np.median(np.diff(stamps))) if len(stamps) > 2 else self.oldest
        return min(self.oldest, max(BRIEF, MISSED * period) + max(0.0, end - max(start, stamps[-1])))

    def newest(self) -> float:
        """The stamp (s) of the newest observation that all sensors could make. Raises Stale for one that is missing."""
        missing = [key for key, known in self.samples.items() if not known]
        missing += [AUDIO] if self.spec.microphones and self.sound_from is None else []
        if missing:
            raise Stale(missing[0], "nothing has come yet")
        return min(known[-1][0] for known in self.samples.values())

    def complete(self, stamp: float) -> bool:
        """Whether everything of `stamp` and before has come."""
        sensed = all(known and known[-1][0] >= stamp - 1e-6 for known in self.samples.values())
        heard = not self.spec.microphones or self.sound_from is not None and (
            self.heard_until + 0.5 / self.spec.sample_rate >= stamp)
        return sensed and heard

    def take_sound(self, stamp: float) -> np.ndarray:
        """What was heard up to `stamp` since the last call (n, C). Raises Stale where it has not come yet."""
        start = stamp if self.sound_from is None else self.sound_from
        count = round((stamp - start) * self.spec.sample_rate)
        if count > len(self.sound) + self.tolerance * self.spec.sample_rate:
            raise Stale(AUDIO, f"{(count - len(self.sound)) / self.spec.sample_rate:.3f} s behind the others")
        taken, self.sound = self.sound[: max(count, 0)], self.sound[max(count, 0) :]
        if self.sound_from is not None:
            self.sound_from += len(taken) / self.spec.sample_rate
        return taken
