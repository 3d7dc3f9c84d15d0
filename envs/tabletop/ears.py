"""What the microphones hear in one episode: impacts, the task's sounds, noise, and the operator's voice on its own track."""

from __future__ import annotations

import numpy as np

from envs.tabletop.physics import World
from envs.tabletop.sound import MICROPHONES, SAMPLE_RATE, Soundscape, mix
from envs.tabletop.tasks.base import Task

LOUDSPEAKER = (-0.15, 0.0, 0.30)  # of the agent, behind the arm, m
OPERATOR = ((-0.40, -0.90, 0.30), (0.20, 0.90, 0.70))  # (min, max) of where the operator's mouth is, m
VOICE_STARTS = (0.2, 1.0)  # s


class Ears:
    """`heard_at` (s) is the end of the spoken instruction, 0 when there is none. utterance: words, or a recording (n,) in
    [-1, 1]. `source`: where the task's last sound came from (3,) m, and `silent_from` (s) when it had all been emitted."""

    def __init__(self, rng: np.random.Generator, split: str, utterance: str | np.ndarray | None):
        self.soundscape = Soundscape(MICROPHONES, SAMPLE_RATE, rng)
        self.heard_at, self.silent_from, self.source = 0.0, -np.inf, np.zeros(3)
        position, start = rng.uniform(*OPERATOR), rng.uniform(*VOICE_STARTS)
        if utterance is not None:
            waveform = _spoken(utterance, rng, split) if isinstance(utterance, str) else _checked("utterance", utterance)
            self.soundscape.play(start, position, waveform, track="voice")
            self.heard_at = start + len(waveform) / SAMPLE_RATE

    def emit(self, world: World, task: Task, duration: float) -> None:
        """What the scene itself will emit in the coming `duration`."""
        for position, waveform in task.sounds(world, duration):
            self.soundscape.play(world.time, position, waveform)
            self.source, self.silent_from = np.array(position), world.time + len(waveform) / SAMPLE_RATE

    def say(self, time: float, waveform: np.ndarray) -> None:
        """The agent's own voice, from `time` (s) on, which its microphones hear, too. Raises ValueError."""
        self.soundscape.play(time, LOUDSPEAKER, _checked("what is said", waveform))

    def sounding(self, since: float) -> np.ndarray:
        """(4,): whether the task's sound was emitted after `since` (s), and where; zeros if not."""
        return np.array((1.0, *self.source) if self.silent_from > since + 1e-6 else np.zeros(4), np.float32)

    def listen(self, world: World, start: float, duration: float) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """(mixed (n, C), noiseless tracks) of [start, start + duration), the impacts of the world's last step included."""
        for hit in world.impacts:
            self.soundscape.impact(hit.time, hit.position, *hit.materials, hit.impulse)
        tracks = self.soundscape.render(start, round(duration * SAMPLE_RATE))
        return mix(**tracks, noise=self.soundscape.noise), tracks


def _checked(what: str, waveform: np.ndarray) -> np.ndarray:
    wave = np.asarray(waveform)
    if wave.ndim != 1 or not len(wave) or wave.dtype.kind != "f" or not np.abs(wave).max() <= 1.0:  # as NaN is not, either
        raise ValueError(f"{what}: floats (n,) in [-1, 1] are needed, not {wave.dtype} {wave.shape}, or NaN or more in it")
    return wave


def _spoken(utterance: str, rng: np.random.Generator, split: str) -> np.ndarray:
    from envs.tabletop.voices import draw_voice, speak  # loads the synthesisers, which a written instruction needs not

    return speak(utterance, draw_voice(rng, split))
