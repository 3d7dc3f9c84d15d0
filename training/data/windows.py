"""Demonstrations -> samples for agent/processor.py: K decisions of one episode, their targets and what was heard.

What the n-th sample is depends on (seed, n) alone, so a run can stop and go on anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from agent.processor import FOCUS, OBJECTS, Batch, Processor
from agent.spec import ACTION, AUDIO, IMAGES, STATE, TASK, TIME
from envs.tabletop.scene import COLOUR_NAMES, KIND_NAMES
from training.data.demos import DemoReader
from training.data.frame_cache import FrameCache

SURPRISE, HEARD = "annotation.surprise", "annotation.heard"


def foreseen(surprise: np.ndarray, start: int, horizon: int) -> int:
    """How many actions of a chunk that is decided at frame `start` may be learned, 1..horizon.

    The chunk ends with the episode, and before the first later frame at which something unforeseen has happened: what
    the demonstrator did from there on is a reaction to what had not been sensed when the chunk was decided.
    """
    ahead = surprise[start + 1 : start + horizon]
    return int(np.argmax(ahead)) + 1 if ahead.any() else len(ahead) + 1


def draw_queries(objects: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Object rows (K, O, 9) -> names (K, count) like "red cube", "" where there are fewer, and places (K, count, 3)."""
    names, points = np.full((len(objects), count), "", dtype="<U32"), np.zeros((len(objects), count, 3), np.float32)
    for row, things in enumerate(objects):
        there = np.flatnonzero(things[:, 0] >= 0)
        for column, i in enumerate(rng.permutation(there)[:count]):
            names[row, column] = f"{COLOUR_NAMES[int(things[i, 1])]} {KIND_NAMES[int(things[i, 0])]}"
            points[row, column] = things[i, 2:5]
    return names, points


@dataclass
class Dropout:
    """Probabilities with which a modality is hidden from the backbone for a whole sample."""

    front: float = 0.02
    wrist: float = 0.05
    state: float = 0.05
    audio: float = 0.1


class DemoWindows:
    """An endless, random-access stream of batches of demonstrations.

    batch: samples a batch; decisions: K, drawn at random from one episode each. `mixer` turns an episode's sound tracks
    into what the agent heard: (tracks, rng) -> (n, C). queries: things in each view that are asked for, where labels are.
    """

    def __init__(self, reader: DemoReader, cache: FrameCache, processor: Processor, horizon: int, batch: int = 16,
                 decisions: int = 4, seed: int = 0, mixer=None, dropout: Dropout | None = None, queries: int = 4):
        self.reader, self.cache, self.processor, self.horizon = reader, cache, processor, horizon
        self.batch, self.decisions, self.seed, self.mixer, self.queries = batch, decisions, seed, mixer, queries
        self.dropout = dropout or Dropout()
        self.columns = reader.columns()
        lengths = np.array([e.length for e in reader.episodes])
        self.chances = lengths / lengths.sum()

    def __getitem__(self, n: int) -> Batch:
        rng = np.random.default_rng([self.seed, n])
        episodes = rng.choice(len(self.chances), self.batch, p=self.chances)
        batch = self.processor([self.sample(int(e), rng) for e in episodes])
        for name, chance in vars(self.dropout).items():
            batch.absent[name] = _draw(rng, self.batch, chance)
        return batch

    def sample(self, episode: int, rng: np.random.Generator) -> dict:
        info = self.reader.episodes[episode]
        steps = np.sort(rng.integers(0, info.length, self.decisions))
        rows = info.start + steps
        out = {TASK: info.task, TIME: steps / self.reader.fps, STATE: self.columns[STATE][rows]}
        out |= {IMAGES + name: self.cache.frames(IMAGES + name, rows) for name in self.processor.spec.cameras}
        out |= self.targets(info, steps)
        if FOCUS in self.columns:
            out[FOCUS] = self.columns[FOCUS][rows]
        if OBJECTS in self.columns:
            out[OBJECTS] = self.columns[OBJECTS][rows]
            out["queries"], out["query_points"] = draw_queries(out[OBJECTS], self.queries, rng)
        if HEARD in self.columns:
            out["known"] = self.columns[HEARD][rows].astype(bool).reshape(-1)
        if self.mixer is not None and info.tracks is not None:
            out[AUDIO] = self.mixer(self.reader.audio(episode), rng)
        return out

    def targets(self, info, steps: np.ndarray) -> dict:
        """Chunks (K, H, A) and weights (K, H). Behind what could be foreseen the last foreseen action is repeated with
        weight 0, so that not even a noised target holds what came later."""
        own = np.zeros(info.length, bool)
        if SURPRISE in self.columns:
            own = self.columns[SURPRISE][info.start : info.start + info.length].astype(bool).reshape(-1)
        counts = np.array([foreseen(own, s, self.horizon) for s in steps])[:, None]
        index = np.arange(self.horizon)
        rows = info.start + steps[:, None] + np.minimum(index, counts - 1)
        return {ACTION: self.columns[ACTION][rows], "action_weight": (index < counts).astype(np.float32)}


def _draw(rng: np.random.Generator, count: int, chance: float):
    import torch

    return torch.from_numpy(rng.random(count) < chance)
