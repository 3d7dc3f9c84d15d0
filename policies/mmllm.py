"""The MM-LLM as a policy: observation in, chunk out."""

from __future__ import annotations

from collections import deque
from operator import attrgetter
from pathlib import Path
from typing import Any, Mapping, NamedTuple

import numpy as np
import torch

from agent import checkpoint
from agent.hearing import UtteranceDetector
from agent.model import EmbodiedModel, Recalled
from agent.perception import SoundMemory
from agent.processor import MAX_TEXT, Processor
from agent.spec import AUDIO, IMAGES, SENSE, STATE, TASK, TIME, Chunk, Spec, SpecError

REMEMBERED = 20  # times at which the agent spoke
CONFIDENCE = 0.4  # an utterance is taken for an instruction when its words are at least so sure; chosen on training voices


class Aim(NamedTuple):
    """Where the last decision goes. point: (3,) m, base frame. spots: camera -> (3,), where that is seen, u and v in 0..1 of
    the picture, and how surely it is in view."""

    point: np.ndarray
    spots: dict[str, np.ndarray]


class MMLLMPolicy:
    """Plays an EmbodiedModel. What was heard since the last decision must be in the next observation. `spoken`: the words
    that were understood last; `aim`: where it goes, None before the first decision; `own_voice`: from when to when (s) the agent
    itself spoke."""

    def __init__(self, model: EmbodiedModel, processor: Processor, device: str = "cpu"):
        self.model, self.processor, self.device = model.to(device).eval(), processor, device
        self.own_voice: deque[tuple[float, float]] = deque(maxlen=REMEMBERED)
        self.reset(model.spec, 0)

    @classmethod
    def load(cls, name: str | Path, device: str = "cpu") -> "MMLLMPolicy":
        """From a checkpoint directory or a shipped name. Raises agent.checkpoint.CheckpointError."""
        model, processor, _ = checkpoint.load(name)
        return cls(model, processor, device)

    def reset(self, spec: Spec, seed: int) -> None:
        """Forget everything but when the agent itself speaks: that goes on being heard. Raises SpecError where the
        robot senses or does other things than the model learned."""
        require_same(self.model.spec, spec)
        self.random = torch.Generator(self.device).manual_seed(seed)
        self.detector = self.model.speech and UtteranceDetector(spec.sample_rate)
        self.spoken, self.aim = "", None
        self.sound = None
        if self.model.audio is not None:
            self.sound = SoundMemory(self.remember, len(spec.microphones))

    def act(self, obs: Mapping[str, Any]) -> Chunk:
        """Raises SpecError for an observation that the model does not take."""
        self.model.spec.check(obs, any_size=True)  # the processor makes them of the model's
        self.hear(obs.get(AUDIO), float(obs[TIME]), obs[STATE])
        batch = self.batch(obs)
        with torch.inference_mode():
            decision = self.model.act(batch.to(self.device), self.random, self.sound and self.sound.recalled)
        spots = {name: spot[0, 0].cpu().numpy() for name, spot in decision.spots.items()}
        self.aim = Aim(decision.goal[0, 0].cpu().numpy(), spots)
        return Chunk(decision.actions[0, 0].cpu().numpy(), float(obs[TIME]), self.model.spec.control_hz)

    def warm_up(self) -> None:
        """Decide and listen once to nothing: what is slow the first time is not so on the robot. Forgets as `reset` does."""
        self.act(self.model.spec.blank())
        self.transcribe(np.zeros(self.model.spec.sample_rate, np.float32))
        self.reset(self.model.spec, 0)

    def hear(self, samples: np.ndarray, now: float, state: np.ndarray) -> None:
        """Remember the sound that ended at `now` (s) in this state, and take the words of an utterance that ended in it, as
        far as the model has ears for them."""
        if self.sound is not None:
            self.sound.push(samples, state)
        if self.detector is None:
            return
        start = now - len(samples) / self.model.spec.sample_rate
        for utterance in self.detector.push(samples, start):
            if any(utterance.start < end and begin < utterance.end for begin, end in self.own_voice):
                continue
            words, sure = self.transcribe(utterance.waveform)
            if words and sure >= CONFIDENCE and not self.refuses(words):
                self.spoken = words

    @torch.inference_mode()
    def remember(self, wave: torch.Tensor, states: torch.Tensor, before: Recalled | None) -> Recalled:
        return self.model.hear(wave.to(self.device), states.to(self.device), before)

    @property
    def listens(self) -> bool:
        """Whether it would understand a spoken instruction."""
        return self.model.speech is not None

    def refuses(self, text: str) -> str:
        """Why an instruction cannot be read; "" where it can."""
        return f"more than {MAX_TEXT} tokens, of which the end would not be read" if self.processor.is_too_long(text) else ""

    def spoke(self, start: float, end: float) -> None:
        """The agent itself speaks from start to end (s): what is heard then is no instruction."""
        self.own_voice.append((start, end))

    def transcribe(self, waveform: np.ndarray) -> tuple[str, float]:
        """Mono waveform (n,) -> (words, how sure they are, 0..1), see agent.language."""
        if self.model.speech is None:
            return "", 0.0
        wave = torch.from_numpy(np.asarray(waveform, np.float32))[None].to(self.device)
        with torch.inference_mode():
            log_probs, frames = self.model.speech(wave, torch.tensor([wave.shape[1]], device=self.device))
        ids, sure = self.model.speech.language.search(log_probs[0, : int(frames[0])])
        return self.processor.tokenizer.decode(ids).strip(), sure

    def batch(self, obs: Mapping[str, Any]):
        told = obs[TASK] or self.spoken
        if why := self.refuses(told):
            raise SpecError(f"{TASK} {told!r}: {why}")
        sample = {TASK: told, STATE: obs[STATE][None], "known": np.array([bool(told)])}
        keys = [IMAGES + name for name in self.model.spec.cameras] + [SENSE + name for name in self.model.senses]
        sample |= {key: obs[key][None] for key in keys}
        return self.processor([sample])


def require_same(learned: Spec, offered: Spec) -> None:
    """Raise SpecError naming the first thing in which a robot differs from the one the weights were trained for. An action's
    bounds and workspace may be others."""
    action = (f"action.{key}" for key in ("kind", "names", "scale", "frames", "units"))
    for name in ("cameras", "state", "senses", *action, "control_hz", "microphones", "sample_rate"):
        ours, theirs = map(attrgetter(name), (learned, offered))
        if name == "cameras":
            ours, theirs = sorted(ours), sorted(theirs)
        if name == "senses":
            theirs = {sense: theirs[sense] for sense in ours if sense in theirs}
        if name == "microphones":
            ours, theirs = len(ours), len(theirs)
        if ours != theirs:
            raise SpecError(f"the weights were trained with {name} {ours}, this robot has {theirs}")
