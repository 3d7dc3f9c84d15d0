"""Spoken instructions as the recogniser will meet them: a bank's voices in a room, cut by the run-time detector.

What the n-th batch is depends on (seed, n) alone.
"""

from __future__ import annotations


import numpy as np

from agent.hearing import UtteranceDetector
from agent.processor import Batch, Processor
from agent.spec import TASK
from envs.tabletop.ears import OPERATOR
from envs.tabletop.sound import SAMPLE_RATE, Noise, Soundscape, buzzer, mix
from envs.tabletop.voice_bank import VoiceBank
from training.data.corpus import draw_instruction, draw_words
from training.data.remix import varied

QUIET = (0.35, 0.7)  # s of no speech before and after
BUZZING = 0.15  # share of utterances into which a buzzer rings
LENGTHS = 4  # batches are drawn at once, sorted by length, and one of them taken


def bank_sentences(count: int, seed: int, words: float = 0.2) -> list[str]:
    """Instructions in training forms, and a share of known words in any order."""
    rng = np.random.default_rng(seed)
    return [draw_words(rng) if rng.random() < words else draw_instruction(rng) for _ in range(count)]


class Utterances:
    """An endless, random-access stream of batches of a bank's utterances and their texts."""

    def __init__(self, bank: VoiceBank, processor: Processor, batch: int = 32, seed: int = 0):
        self.bank, self.processor, self.batch, self.seed = bank, processor, batch, seed
        self.sentences = bank.sentences

    def __getitem__(self, n: int) -> Batch:
        """Of sentences of about the same length, so that little is padded."""
        rng = np.random.default_rng([self.seed, n])
        drawn = sorted(rng.choice(self.sentences, LENGTHS * self.batch), key=len)
        first = rng.integers(LENGTHS) * self.batch
        return self.processor([self.sample(str(sentence), rng) for sentence in drawn[first : first + self.batch]])

    def sample(self, sentence: str, rng: np.random.Generator) -> dict:
        sound = in_a_room(varied(self.bank.draw(sentence, rng), rng), self.processor.spec.microphones, rng)
        return {TASK: sentence, "utterance": cut(sound)}


def in_a_room(voice: np.ndarray, microphones, rng: np.random.Generator) -> np.ndarray:
    """(n, C): the voice from where an operator may stand, with background noise and at times a buzzer."""
    before, after = rng.uniform(*QUIET, 2)
    seconds = before + len(voice) / SAMPLE_RATE + after
    room = Soundscape(microphones, SAMPLE_RATE, rng)
    room.play(before, rng.uniform(*OPERATOR), voice, track="voice")
    if rng.random() < BUZZING:
        room.play(rng.uniform(0, seconds), rng.uniform((0.3, -0.3, 0.0), (0.7, 0.3, 0.1)), buzzer(rng, seconds))
    return mix(**room.render(0.0, round(seconds * SAMPLE_RATE)), noise=Noise(rng, len(microphones)))


def cut(sound: np.ndarray) -> np.ndarray:
    """The longest utterance that the detector finds in a mixture (n, C); all of it, mono, where it finds none."""
    silence = np.zeros((SAMPLE_RATE, sound.shape[1]), np.float32)
    detector = UtteranceDetector(SAMPLE_RATE)
    found = detector.push(np.concatenate([sound, silence]), 0.0)
    return max((u.waveform for u in found), key=len) if found else sound.mean(1)
