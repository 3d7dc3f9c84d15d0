"""The sound of a recording as it would be with another voice and other noise.

Legend: n samples, C microphones.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.signal import lfilter

from envs.tabletop.sound import Noise, mix

COLOURED = 0.7  # share of voices that go through a drawn tone control
SPEEDS = (0.88, 1.14)  # playing speed, moves pitch and formants together


def varied(voice: np.ndarray, rng: np.random.Generator, longest: float = np.inf) -> np.ndarray:
    """The same words (n,) or (n, C) in a somewhat other voice: played faster or slower (speed perturbation, Ko et al. 2015),
    though not longer than `longest` samples, with more or less treble."""
    speed = max(rng.uniform(*SPEEDS), (len(voice) - 1) / longest)
    at = speed * np.arange(min(np.ceil((len(voice) - 1) / speed), longest))
    below = np.minimum(at.astype(int), len(voice) - 2)  # where rounding led to the end
    share = (at - below).astype(voice.dtype).reshape(-1, *[1] * (voice.ndim - 1))
    voice = (1 - share) * voice[below] + share * voice[below + 1]
    if rng.random() < COLOURED:
        tone = rng.uniform(-0.6, 0.6)
        taps = ([1.0, -tone], [1.0]) if rng.random() < 0.5 else ([1.0], [1.0, -tone])
        voice = lfilter(*taps, voice, axis=0)
    return voice.astype(np.float32)


def remix(tracks: Mapping[str, np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """The recorded tracks (n, C) by the environment's mixer, with fresh background noise and the operator's voice varied.
    It ends when the recorded one did, so that nothing is done about what is not said yet."""
    world, voice = tracks["world"], tracks["voice"]
    said = np.flatnonzero(voice) // voice.shape[1]
    if len(said) and said[-1] > said[0]:
        first, end = said[0], said[-1] + 1
        spoken = varied(voice[first:end], rng, longest=end)
        voice = np.zeros_like(voice)
        voice[end - len(spoken) : end] = spoken
    return mix(world, voice, Noise(rng, world.shape[1]))
