"""Utterances spoken beforehand by many voices: synthesis takes longer than training, so each epoch draws among them.

A folder: bank.json says for which voices it is; clips-NNNN.npy (int16 samples, one utterance behind the other) and,
written after it, clips-NNNN.json with the sentence, the voice and the place of each.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from zlib import crc32

import numpy as np

from envs.tabletop.sound import SAMPLE_RATE
from envs.tabletop.voices import draw_voice, speak

CLIPS_A_FILE = 512


class BankError(ValueError):
    """A folder with another bank than was asked for; the message names both."""


class VoiceBank:
    """wanted: (sentence, synthesiser) -> how many voices' clips count; without, all that the folder holds."""

    def __init__(self, folder: str | Path, wanted: Mapping[tuple[str, str], int] | None = None):
        """Opens the samples as memory maps. Raises FileNotFoundError where no bank was built."""
        self.folder = Path(folder)
        self.about = json.loads((self.folder / "bank.json").read_text())
        self._samples, self._clips, there = [], [], {}
        for index in _indices(self.folder):
            for clip in json.loads(index.read_text()):
                there.setdefault((clip["sentence"], clip["voice"]["engine"]), []).append(len(self._clips))
                self._clips.append((len(self._samples), clip["start"], clip["length"]))
            self._samples.append(np.load(index.with_suffix(".npy"), allow_pickle=False, mmap_mode="r"))
        self._of: dict[str, list[int]] = {}
        self._wanted = wanted or {key: len(clips) for key, clips in there.items()}
        for (sentence, engine), count in self._wanted.items():
            self._of.setdefault(sentence, []).extend(there.get((sentence, engine), [])[:count])

    def __reduce__(self) -> tuple:
        """What is sent to another process is opened there anew: a memory map would be sent with all that it shows."""
        return VoiceBank, (self.folder, self._wanted)

    def __len__(self) -> int:
        return sum(map(len, self._of.values()))

    @property
    def sentences(self) -> list[str]:
        return list(self._of)

    def clips(self, sentence: str) -> list[int]:
        """Those of one of the `sentences`."""
        return self._of[sentence]

    def waveform(self, clip: int) -> np.ndarray:
        """float32 (n,), as from voices.speak."""
        file, start, length = self._clips[clip]
        return self._samples[file][start : start + length].astype(np.float32) / 32767

    def draw(self, sentence: str, rng: np.random.Generator) -> np.ndarray:
        """One of the `sentences` by one of its voices."""
        clips = self.clips(sentence)
        return self.waveform(clips[rng.integers(len(clips))])

    @classmethod
    def build(cls, folder: str | Path, sentences: Iterable[str], split: str = "train",
              voices: Mapping[str, int] | None = None, seed: int = 0, workers: int = 1) -> VoiceBank:
        """Speak what the bank does not have yet, and open what was asked for. voices: how many of each synthesiser speak a
        sentence, 8 of espeak if nothing says.

        The k-th voice of a sentence depends on (seed, sentence, synthesiser, k) alone, so that a bank may be stopped,
        resumed and extended. Raises BankError where it is for another split or seed.
        """
        from tqdm import tqdm

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        _claim(folder / "bank.json", {"split": split, "seed": seed, "sample_rate": SAMPLE_RATE})
        clips = (clip for index in _indices(folder) for clip in json.loads(index.read_text()))
        done = Counter((clip["sentence"], clip["voice"]["engine"]) for clip in clips)
        wanted = {(s, engine): n for s in sentences for engine, n in (voices or {"espeak": 8}).items()}
        jobs = [(s, k, split, seed, engine) for (s, engine), n in wanted.items() for k in range(done[s, engine], n)]
        number = max([int(index.stem[-4:]) + 1 for index in _indices(folder)], default=0)
        with get_context("spawn").Pool(workers) as pool, tqdm(total=len(jobs), desc="speak", unit="clip") as bar:
            for first in range(0, len(jobs), CLIPS_A_FILE):
                part = jobs[first : first + CLIPS_A_FILE]
                _write(folder / f"clips-{number + first // CLIPS_A_FILE:04d}.npy", part, _spoken(pool, part, bar))
        return cls(folder, wanted)


def _indices(folder: Path) -> list[Path]:
    return sorted(folder.glob("clips-*.json"))


def _claim(file: Path, about: dict) -> None:
    if not file.exists():
        file.write_text(json.dumps(about))
    found = json.loads(file.read_text())
    if found != about:
        raise BankError(f"{file.parent} was built with {found}, now asked for {about}: take another folder")


def _voice_of(sentence: str, k: int, split: str, seed: int, engine: str):
    return draw_voice(np.random.default_rng([seed, crc32(sentence.encode()), k]), split, engine)


def _clip(job: tuple) -> np.ndarray:
    return np.round(speak(job[0], _voice_of(*job)) * 32767).astype(np.int16)


def _spoken(pool, jobs: list[tuple], bar) -> list[np.ndarray]:
    out = []
    for clip in pool.imap(_clip, jobs, chunksize=8):
        out.append(clip)
        bar.update()
    return out


def _write(file: Path, jobs: list[tuple], clips: list[np.ndarray]) -> None:
    """The index comes last: samples without one do not count."""
    starts = np.cumsum([0, *map(len, clips)]).tolist()
    index = [
        {"sentence": job[0], "voice": asdict(_voice_of(*job)), "start": start, "length": len(clip)}
        for job, start, clip in zip(jobs, starts, clips, strict=False)
    ]
    np.save(file, np.concatenate(clips), allow_pickle=False)
    half = file.with_suffix(".part")
    half.write_text(json.dumps(index))
    half.replace(file.with_suffix(".json"))
