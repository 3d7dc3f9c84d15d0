"""Raw samples -> Batch: the collate function in training and the input path on the robot, one and the same.

A sample is a stretch of one episode with K decisions in it, in the project's keys (agent/spec.py), stacked over K:

    observation.images.NAME (K, H, W, 3)   observation.state (K, S)   timestamp (K,), seconds since the sound's start
    observation.SENSE (K, n): other senses that the robot has, as wrist force
    observation.audio.mic (n, C): all that was heard from the sound's start to the last decision; optional
    audio_states (N, S): the state at the end of each memory token of it; optional
    task: str   known (K,) bool: the instruction had been given by then; optional, True
    utterance (n,): an instruction as spoken, mono; optional
    action (K, H, A), action_weight (K, H): training targets; optional
    annotation.objects (K, O, 9): what a simulator knows; training only, optional
    source (K, 4): whether the newest whole memory token holds the task's own sound (1, 0, or -1 if nothing says), and
        where that comes from, m; training only, optional
    skill: int, class of the task that is asked for, -1 if nothing says; training only, optional
    queries (K, Q) str: names of things, asked beside the instruction; training only, optional
    mentions (M,): how many characters of the task end with the name of a thing, -1 for none; training only, optional
    goal (K, 1 + Q + M, 3), goal_pixels (K, 1 + Q + M, C, 2), goal_weight (K, 1 + Q + M): where the instruction's, the
        queries' and the mentioned things are, in space and in each camera's image; training only, optional

On the robot K is 1. Legend: B samples, L text tokens, N memory tokens, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Mapping, Sequence

import cv2
import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from agent.encoders.audio import CausalAudioEncoder
from agent.packing import packed
from agent.spec import ACTION, AUDIO, IMAGES, SENSE, STATE, TASK, TIME, Spec, SpecError
from agent.tokenizer import encode

TOKEN, CONTEXT = CausalAudioEncoder.TOKEN, CausalAudioEncoder.CONTEXT  # samples
OBJECTS = "annotation.objects"
MAX_TEXT = 48  # tokens of an instruction that are read
KNOWN_TEXTS = 10_000  # whose tokens are remembered
MENTIONS = 4  # things named in an instruction at most


@dataclass
class Batch:
    """Tensors of B samples; what is absent is None."""

    text: Tensor  # (B, L) int64, 0 where padded
    known: Tensor  # (B, K) bool
    images: dict[str, Tensor] = field(default_factory=dict)  # (B, K, H, W, 3) uint8
    state: Tensor | None = None  # (B, K, S)
    senses: dict[str, Tensor] = field(default_factory=dict)  # (B, K, n)
    audio: Tensor | None = None  # (streams, CONTEXT + N TOKEN, C): the samples' sounds, packed
    audio_at: Tensor | None = None  # (B, 2) int64: the stream and the memory token in which each sample's sound begins
    audio_of: Tensor | None = None  # (streams, N) int64: the sample that each memory token is of
    audio_states: Tensor | None = None  # (streams, N, S): at the end of each memory token
    heard: Tensor | None = None  # (B, K) int64: memory tokens that had been heard by then
    utterance: Tensor | None = None  # (B, n)
    utterance_length: Tensor | None = None  # (B,) samples; 0 where there was none
    action: Tensor | None = None  # (B, K, H, A), physical units
    action_weight: Tensor | None = None  # (B, K, H)
    objects: Tensor | None = None  # (B, K, O, 9)
    source: Tensor | None = None  # (B, K, 4)
    skill: Tensor | None = None  # (B,) int64
    queries: Tensor | None = None  # (B, K, Q, L') int64
    mentions: Tensor | None = None  # (B, M) int64: the token of `text` that ends a thing's name, -1 for none
    goal: Tensor | None = None  # (B, K, 1 + Q + M, 3) m
    goal_pixels: Tensor | None = None  # (B, K, 1 + Q + M, C, 2)
    goal_weight: Tensor | None = None  # (B, K, 1 + Q + M)
    absent: dict[str, Tensor] = field(default_factory=dict)  # modality -> (B,) bool: masked from the backbone

    def to(self, device) -> "Batch":
        def move(x):
            if isinstance(x, dict):
                return {k: v.to(device) for k, v in x.items()}
            return x if x is None else x.to(device)

        return Batch(**{f.name: move(getattr(self, f.name)) for f in fields(self)})


class Processor:
    """Makes batches for one robot (`spec`), one tokenizer and one image size (pixels, square)."""

    def __init__(self, spec: Spec, tokenizer: PreTrainedTokenizerBase, image_size: int):
        self.spec, self.tokenizer, self.image_size = spec, tokenizer, image_size
        self._known_ids: dict[str, list[int]] = {}

    def __call__(self, samples: Sequence[Mapping]) -> Batch:
        batch = Batch(text=self.text([s[TASK] for s in samples]), known=self.known(samples))
        batch.images = {name: self.images(samples, name) for name in self.spec.cameras if IMAGES + name in samples[0]}
        batch.state = _stack(samples, STATE)
        batch.senses = {name: _stack(samples, SENSE + name) for name in self.spec.senses if SENSE + name in samples[0]}
        if self.spec.microphones and AUDIO in samples[0]:
            self.add_audio(batch, samples)
        batch.utterance, batch.utterance_length = self.utterances(samples)
        batch.action, batch.action_weight = _stack(samples, ACTION), _stack(samples, "action_weight")
        batch.objects = _stack(samples, OBJECTS)
        if "skill" in samples[0]:
            batch.skill = torch.tensor([s["skill"] for s in samples])
        for key in ("source", "goal", "goal_pixels", "goal_weight"):
            setattr(batch, key, _stack(samples, key))
        if "queries" in samples[0]:
            names = np.stack([s["queries"] for s in samples])
            batch.queries = self.text(names.ravel().tolist()).unflatten(0, names.shape)
        if "mentions" in samples[0]:
            batch.mentions = torch.tensor([[self.token_at(s[TASK], end) for end in s["mentions"]] for s in samples])
        return batch

    def token_at(self, sentence: str, end: int) -> int:
        """The token with which the first `end` characters of a sentence end; -1 for end -1 and behind MAX_TEXT tokens.
        Tokens do not cross words, so these are the tokens of the beginning alone."""
        count = len(self.ids(sentence[:end])) if end >= 0 else 0
        return count - 1 if count <= MAX_TEXT else -1

    def ids(self, text: str) -> list[int]:
        """The tokens of a text. The same few names and sentences come again and again in training."""
        if text not in self._known_ids:
            if len(self._known_ids) >= KNOWN_TEXTS:
                self._known_ids.clear()
            self._known_ids[text] = encode(self.tokenizer, text)
        return self._known_ids[text]

    def is_too_long(self, text: str) -> bool:
        """Whether the end of a text is not read."""
        return len(self.ids(text)) > MAX_TEXT

    def text(self, sentences: Sequence[str]) -> Tensor:
        """(B, L), at most MAX_TEXT tokens of each."""
        ids = [self.ids(s)[:MAX_TEXT] for s in sentences]
        out = torch.zeros(len(ids), max(map(len, ids), default=0), dtype=torch.int64)
        for row, one in zip(out, ids):
            row[: len(one)] = torch.tensor(one, dtype=torch.int64)
        return out

    def known(self, samples) -> Tensor:
        steps = [s["known"] if "known" in s else np.ones(len(s.get(TIME, [0.0])), bool) for s in samples]
        return torch.as_tensor(np.stack(steps))

    def images(self, samples, name: str) -> Tensor:
        return torch.from_numpy(np.stack([resize(s[IMAGES + name], self.image_size) for s in samples]))

    def add_audio(self, batch: Batch, samples) -> None:
        """Sound from each sample's start to its last decision, in whole memory tokens, with the encoder's context of zeros
        before it."""
        ends = np.stack([np.asarray(s[TIME], np.float64) for s in samples]) * self.spec.sample_rate
        heard = np.floor(ends / TOKEN + 1e-6).astype(np.int64)
        counts, sensed = heard.max(1), "audio_states" in samples[0]
        at, of = packed(counts.tolist(), gap=-(-CONTEXT // TOKEN))
        wave = np.zeros((len(of), CONTEXT + of.shape[1] * TOKEN, len(self.spec.microphones)), np.float32)
        states = np.zeros((*of.shape, len(self.spec.state)), np.float32)
        for sample, (stream, start), count in zip(samples, at, counts):
            sound, begin = sample[AUDIO][: count * TOKEN], CONTEXT + start * TOKEN
            wave[stream, begin : begin + len(sound)] = sound
            if sensed:
                states[stream, start : start + count] = np.asarray(sample["audio_states"], np.float32)[:count]
        batch.audio, batch.audio_at, batch.audio_of, batch.heard = map(torch.from_numpy, (wave, at, of, heard))
        batch.audio_states = torch.from_numpy(states) if sensed else None

    def utterances(self, samples) -> tuple[Tensor | None, Tensor | None]:
        waves = [np.asarray(s.get("utterance", ()), np.float32) for s in samples]
        lengths = np.array([len(w) for w in waves])
        if not lengths.any():
            return None, None
        out = np.zeros((len(waves), lengths.max()), np.float32)
        for row, wave in zip(out, waves):
            row[: len(wave)] = wave
        return torch.from_numpy(out), torch.from_numpy(lengths)


def resize(images: np.ndarray, size: int) -> np.ndarray:
    """(K, H, W, 3) uint8 -> (K, size, size, 3) by area averaging (shrinking) or cubic interpolation (growing)."""
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
        raise SpecError(f"images: uint8 (K, H, W, 3) is needed, got {images.dtype} {images.shape}")
    if images.shape[1:3] == (size, size):
        return images
    way = cv2.INTER_AREA if min(images.shape[1:3]) > size else cv2.INTER_CUBIC
    return np.stack([cv2.resize(image, (size, size), interpolation=way) for image in images])


def _stack(samples, key: str) -> Tensor | None:
    if key not in samples[0]:
        return None
    return torch.from_numpy(np.stack([np.asarray(s[key], np.float32) for s in samples]))
