"""Single sounds as they are heard at 1 m: knocks by modal synthesis, buzzers, beeps, rattling contents.

All are float32 mono and drawn from a generator: two buzzers differ in pitch, rhythm and timbre.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SAMPLE_RATE = 16000  # Hz
BAND = 7000.0  # Hz, nothing is synthesised above it
LONGEST_RING = 0.6  # s
LOUDNESS = 2.0  # amplitude at 1 m per N s of a hard knock
LOUDEST = 0.3
BLOCK = 64  # samples, see _ring
BAR = (1.0, 2.756, 5.404, 8.933)  # frequencies of a free bar over its lowest (Fletcher and Rossing, ch. 2)
PLATE = (1.0, 1.73, 2.33, 3.91, 4.11, 6.30)  # of a free round plate (ch. 3)
SOFT = (1.0, 1.9, 2.9)


@dataclass(frozen=True)
class Material:
    """lowest: Hz of the first mode; loss: tan(phi), the angle of internal friction; contact: s a knock on it lasts."""

    lowest: float
    ratios: tuple[float, ...]
    loss: float
    contact: float


MATERIALS = {
    "wood": Material(420.0, BAR, 0.020, 0.0008),
    "plastic": Material(900.0, BAR, 0.040, 0.0006),
    "metal": Material(1300.0, BAR, 0.0012, 0.0002),
    "ceramic": Material(1700.0, PLATE, 0.004, 0.0002),
    "rubber": Material(180.0, SOFT, 0.150, 0.0040),
}


def modal_impact(rng: np.random.Generator, material_a: str, material_b: str, impulse: float,
                 sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Both bodies ring: sum of a_k exp(-d_k t) sin(2 pi f_k t), with d_k = pi f_k tan(phi).

    van den Doel and Pai 1998, "The Sounds of Physical Shapes"; the damping law is Wildes and Richards 1988. A softer
    contact lasts longer and excites less of the high modes. Raises ValueError for a material that is not in MATERIALS.
    """
    for name in (material_a, material_b):
        if name not in MATERIALS:
            raise ValueError(f"material {name!r}: allowed are {', '.join(MATERIALS)}")
    pair = MATERIALS[material_a], MATERIALS[material_b]
    frequency = np.concatenate([m.lowest * rng.uniform(0.85, 1.18) * np.array(m.ratios) for m in pair])
    damping = np.pi * frequency * np.repeat([m.loss for m in pair], [len(m.ratios) for m in pair])
    contact = max(m.contact for m in pair)
    strength = rng.uniform(0.4, 1.0, len(frequency)) / (1 + (frequency * contact) ** 2)
    heard = frequency < min(BAND, 0.45 * sample_rate)
    strength *= min(LOUDNESS * impulse, LOUDEST) / np.sum(strength)
    return _ring(strength[heard], damping[heard], frequency[heard], sample_rate)


def _ring(strength, damping, frequency, rate: int) -> np.ndarray:
    """Damped sines until the slowest has fallen by 60 dB. As poles z_k: sample 64 i + j is the imaginary part of
    sum_k a_k z_k^(64 i) z_k^j, one small matrix product."""
    seconds = min(np.log(1000) / damping.min(), LONGEST_RING)
    log_pole = (-damping + 2j * np.pi * frequency) / rate
    blocks = np.arange(0, seconds * rate, BLOCK)
    coarse = strength * np.exp(np.outer(blocks, log_pole))
    fine = np.exp(np.outer(log_pole, np.arange(BLOCK)))
    wave = (coarse @ fine).imag.astype(np.float32).ravel()
    fade = len(wave) // 10
    wave[len(wave) - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
    return wave


def buzzer(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """A harsh tone that is switched on and off 6 to 12 times a second: (round(seconds * SAMPLE_RATE),)."""
    period = round(SAMPLE_RATE / rng.uniform(6.0, 12.0))
    cycles = round(rng.uniform(180.0, 450.0) * period / SAMPLE_RATE)  # whole ones, so that the period repeats itself
    partials = np.arange(cycles, BAND * period / SAMPLE_RATE, cycles).astype(int)
    spectrum = np.zeros(period // 2 + 1, complex)
    slope, phases = rng.uniform(0.3, 0.9), rng.uniform(0, 2 * np.pi, len(partials))
    spectrum[partials] = (partials / cycles) ** -slope * np.exp(1j * phases)
    wave = np.fft.irfft(spectrum, period) * _gate(period, round(rng.uniform(0.5, 0.85) * period), 0.004)
    wave *= rng.uniform(0.05, 0.09) / np.sqrt(np.mean(wave**2))
    return np.resize(wave, round(seconds * SAMPLE_RATE)).astype(np.float32)


def beep(rng: np.random.Generator, seconds: float | None = None) -> np.ndarray:
    """One short clear tone; its length is drawn from 0.2 to 0.4 s unless given."""
    drawn, pitch, overtone = rng.uniform(0.2, 0.4), rng.uniform(700.0, 2000.0), rng.uniform(0.05, 0.4)
    n = round((drawn if seconds is None else seconds) * SAMPLE_RATE)
    phase = 2 * np.pi * pitch * np.arange(n) / SAMPLE_RATE
    wave = (np.sin(phase) + overtone * np.sin(2 * phase)) * _gate(n, n, 0.008)
    return (rng.uniform(0.10, 0.16) * wave).astype(np.float32)


def rattle(rng: np.random.Generator, seconds: float, shaking: float, material: str = "metal") -> np.ndarray:
    """Small things in a box. shaking 0..1: knocks come at random, up to 60 a second, the harder the louder.

    Longer than `seconds` by the last knock's ringing; played window by window the windows join.
    """
    n = round(seconds * SAMPLE_RATE)
    starts = rng.integers(0, n, rng.poisson(60.0 * np.clip(shaking, 0, 1) * seconds))
    knocks = [modal_impact(rng, material, "plastic", 0.04 * shaking * rng.uniform(0.2, 1.0)) for _ in starts]
    out = np.zeros(max([n, *(s + len(k) for s, k in zip(starts, knocks, strict=True))]), np.float32)
    for start, knock in zip(starts, knocks, strict=True):
        out[start : start + len(knock)] += knock
    return out


def _gate(n: int, on: int, edge: float) -> np.ndarray:
    """(n,): 1 for the first `on` samples, with raised cosine edges of `edge` seconds, then 0."""
    ramp = np.sin(np.linspace(0, np.pi / 2, round(edge * SAMPLE_RATE))) ** 2
    gate = np.zeros(n)
    gate[:on] = 1.0
    gate[: len(ramp)] *= ramp
    gate[on - len(ramp) : on] *= ramp[::-1]
    return gate
