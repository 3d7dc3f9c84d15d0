"""Demonstrations -> samples for agent/processor.py: K decisions of one episode, their targets and what was heard.

What the n-th sample is depends on (seed, n) alone, so a run can stop and go on anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import numpy as np
import torch

from agent.encoders.audio import CausalAudioEncoder
from agent.generators.goal import UNKNOWN
from agent.grounding import COLUMNS
from agent.processor import MENTIONS, OBJECTS, Batch, Processor
from agent.spec import ACTION, AUDIO, IMAGES, SENSE, STATE, TASK, TIME
from envs.tabletop.scene import COLOUR_NAMES, KIND_NAMES
from envs.tabletop.tasks import TASKS
from training.data.demos import DemoReader
from training.data.frame_cache import FrameCache
from training.data.photometric import Photometric

SKILL_NAMES = list(TASKS)
SURPRISE, HEARD, FOCUS, PIXELS, SOURCE = (f"annotation.{name}" for name in (
    "surprise", "heard", "focus", "focus_pixels", "source"))
WAITING = 0.5  # share at which frames before the instruction is known are drawn
IDLE = 0.35  # weight of a frame in which nothing is done; 1 more where the first two actions are a quarter or more
NEAR = 0.06  # m: the expert goes for the object whose centre is nearer to its focus than this


def foreseen(surprise: np.ndarray, start: int, horizon: int) -> int:
    """How many actions of a chunk that is decided at frame `start` may be learned, 1..horizon.

    The chunk ends with the episode, and before the first later frame at which something unforeseen has happened: what
    the demonstrator did from there on is a reaction to what had not been sensed when the chunk was decided.
    """
    ahead = surprise[start + 1 : start + horizon]
    return int(np.argmax(ahead)) + 1 if ahead.any() else len(ahead) + 1


@dataclass
class Dropout:
    """Probabilities with which a modality is hidden from the backbone for a whole sample; sound, for one in which the task
    makes none. all_audio: with which a whole batch of such samples has no sound, which costs a fifth less time."""

    front: float = 0.02
    wrist: float = 0.05
    state: float = 0.05
    audio: float = 0.1
    senses: float = 0.05
    all_audio: float = 0.0


class DemoWindows:
    """An endless, random-access stream of batches of demonstrations.

    batch: samples a batch; decisions: K, drawn at random from one episode each. `mixer` turns an episode's sound tracks
    into what the agent heard: (tracks, rng) -> (n, C). queries: things in each view that are asked for, where labels are.
    together: batches in a row that make one step (of as many processes), which have sound or have none together, so that
    none waits for another. photometric: in what other light each camera's pictures of a sample may be.
    """

    def __init__(self, reader: DemoReader, cache: FrameCache, processor: Processor, horizon: int, batch: int = 16,
                 decisions: int = 4, seed: int = 0, mixer=None, dropout: Dropout | None = None, queries: int = 4,
                 together: int = 1, photometric: Photometric | None = None):
        self.reader, self.cache, self.processor, self.horizon = reader, cache, processor, horizon
        self.batch, self.decisions, self.seed, self.mixer, self.queries = batch, decisions, seed, mixer, queries
        self.dropout, self.together, self.photometric = dropout or Dropout(), together, photometric or Photometric()
        self.columns = reader.columns()
        lengths = np.array([e.length for e in reader.episodes])
        self.chances = np.sqrt(lengths) / np.sqrt(lengths).sum()  # short tasks are not drowned by long ones
        self.loud = self.of_sounding_tasks()
        labelled = FOCUS in self.columns and OBJECTS in self.columns
        self.kind = labelled, any(episode.tracks is not None for episode in reader.episodes)  # what its samples hold besides

    def of_sounding_tasks(self) -> np.ndarray:
        """Of each episode, whether its task is one that makes sounds, in this episode or in another."""
        sounding = self.columns[SOURCE][:, 0] > 0 if SOURCE in self.columns else np.zeros(len(self.columns[ACTION]), bool)
        heard = np.array([sounding[e.start : e.start + e.length].any() for e in self.reader.episodes])
        names = np.array([e.info.get("task_name", f"number {i}") for i, e in enumerate(self.reader.episodes)])
        return np.isin(names, names[heard])

    def __getitem__(self, n: int) -> Batch:
        return batch_of([self], [1.0], n)

    def draw(self, rng: np.random.Generator, loud: bool, deaf: bool) -> dict:
        """Of an episode in which the task makes a sound, or of one in which it makes none."""
        chances = self.chances * (self.loud == loud)
        return self.sample(int(rng.choice(len(chances), p=chances / chances.sum())), rng, deaf)

    def collate(self, samples: list[dict], louds: np.ndarray, rng: np.random.Generator) -> Batch:
        """louds (B,): of tasks that have to be heard. One who waits for a sound looks, without sound, like one who begins."""
        batch = self.processor(samples)
        for name in (*self.processor.spec.cameras, "state", "audio", *batch.senses):
            of_its_kind = self.dropout.senses if name in batch.senses else self.dropout.front  # cameras from elsewhere
            chance = getattr(self.dropout, name, of_its_kind)
            absent = rng.random(len(samples)) < chance
            batch.absent[name] = torch.from_numpy(absent & ~louds if name == "audio" else absent)
        return batch

    def sample(self, episode: int, rng: np.random.Generator, deaf: bool = False) -> dict:
        info = self.reader.episodes[episode]
        steps = np.sort(rng.choice(info.length, self.decisions, p=self.chances_within(info)))
        rows = info.start + steps
        out = {TASK: info.task, TIME: steps / self.reader.fps, STATE: self.columns[STATE][rows]}
        views = [IMAGES + name for name in self.processor.spec.cameras]
        out |= {view: self.photometric(self.cache.frames(view, rows), rng) for view in views}
        out |= {SENSE + name: self.columns[SENSE + name][rows] for name in self.processor.spec.senses}
        out |= self.targets(info, steps)
        out["source"] = self.sources(info, steps)
        if HEARD in self.columns:
            out["known"] = self.columns[HEARD][rows].astype(bool).reshape(-1)
        if FOCUS in self.columns and OBJECTS in self.columns:
            out |= self.labels(rows, out["known"], info.task, rng)
            out["skill"] = SKILL_NAMES.index(info.info["task_name"]) if info.info.get("task_name") in SKILL_NAMES else -1
        if self.mixer is not None and info.tracks is not None and not deaf:
            out[AUDIO] = self.mixer(self.reader.audio(episode, int(steps[-1])), rng)
            out["audio_states"] = self.columns[STATE][info.start + self.token_ends(int(steps[-1]))]
        return out

    def chances_within(self, info) -> np.ndarray:
        """Of each frame of an episode to be a decision. Most frames of a demonstration hold little to learn: the tool
        waits, or comes down where it is aligned already. Those in which much is done are drawn more often."""
        rows = slice(info.start, info.start + info.length)
        weight = IDLE + np.minimum(1.0, 4.0 * np.abs(self.columns[ACTION][rows, :2]).max(1))
        if HEARD in self.columns:
            weight[~self.columns[HEARD][rows].astype(bool).reshape(-1)] *= WAITING
        return weight / weight.sum()

    def labels(self, rows: np.ndarray, known: np.ndarray, task: str, rng: np.random.Generator) -> dict:
        """What the simulator knows of these rows: objects, queries for some of them, the things that the task mentions,
        and where all of these are."""
        objects, focus = self.columns[OBJECTS][rows], self.columns[FOCUS][rows]
        away = np.linalg.norm(objects[..., 2:5] - focus[:, None], axis=-1) + 10.0 * (objects[..., 0] < 0)
        aim = np.where(away.min(1) < NEAR, away.argmin(1), -1)
        order = rng.permuted(np.broadcast_to(np.arange(objects.shape[1]), objects.shape[:2]), axis=1)
        there = np.take_along_axis(objects[..., 0] >= 0, order, 1)
        order = np.take_along_axis(order, np.argsort(~there, axis=1, kind="stable"), 1)[:, : self.queries]
        mentions, things = mentioned(task, objects[0])
        chosen = np.concatenate([aim[:, None], order, np.broadcast_to(things, (len(rows), MENTIONS))], 1)
        rows_of = np.take_along_axis(objects, np.maximum(chosen, 0)[..., None], 1)
        goal, pixels = rows_of[..., 2:5].copy(), self.pixels(rows_of)
        goal[:, 0] = focus
        pixels[:, 0] = self.focus_pixels(rows, pixels[:, 0], aim >= 0)
        weight = ((chosen >= 0) & (rows_of[..., 0] >= 0)).astype(np.float32)
        weight[:, -MENTIONS:] *= known[:, None]
        weight[:, 0] = known * max(1, self.queries)  # acting takes the instruction's; it counts as much as all queries
        names = [[name_of(thing) for thing in things[1:-MENTIONS]] for things in rows_of]
        return {OBJECTS: objects, "queries": np.array(names), "mentions": mentions, "goal": goal, "goal_pixels": pixels,
                "goal_weight": weight}

    def focus_pixels(self, rows: np.ndarray, objects: np.ndarray, aimed: np.ndarray) -> np.ndarray:
        """Where the focus is in each camera (K, C, 2); data that does not say has it where the object is that is aimed at."""
        if PIXELS not in self.columns:
            return np.where(aimed[:, None, None], objects, UNKNOWN)
        order = [(COLUMNS[name] - COLUMNS["front"]) // 2 for name in self.processor.spec.cameras]
        return self.columns[PIXELS][rows][:, order]

    def sources(self, info, steps: np.ndarray) -> np.ndarray:
        """What sounded at the end of the newest whole memory token, and where (K, 4); -1 where no label says."""
        if SOURCE not in self.columns:
            return np.full((len(steps), 4), -1.0, np.float32)
        return self.columns[SOURCE][info.start + self.token_end(steps)]

    def token_ends(self, last: int) -> np.ndarray:
        """The frames nearest to the ends of the memory tokens that end by frame `last`."""
        return np.round(np.arange(1, int(last / self.token + 1e-6) + 1) * self.token).astype(int)

    def token_end(self, steps: np.ndarray) -> np.ndarray:
        """The frame nearest to the end of the newest whole memory token at each frame; 0 before the first."""
        return np.round(np.floor(steps / self.token + 1e-6) * self.token).astype(int)

    @property
    def token(self) -> float:
        """Frames that a memory token lasts."""
        return CausalAudioEncoder.TOKEN / self.processor.spec.sample_rate * self.reader.fps

    def pixels(self, objects: np.ndarray) -> np.ndarray:
        """Object rows (..., 9) -> where their centres are in each camera (..., C, 2)."""
        columns = [COLUMNS[name] for name in self.processor.spec.cameras]
        return np.stack([objects[..., c : c + 2] for c in columns], -2)

    def targets(self, info, steps: np.ndarray) -> dict:
        """Chunks (K, H, A) and weights (K, H). Behind what could be foreseen the last foreseen action is repeated with
        weight 0, so that not even a noised target holds what came later."""
        own = np.zeros(info.length, bool)
        if SURPRISE in self.columns:
            own = self.columns[SURPRISE][info.start : info.start + info.length].astype(bool).reshape(-1)
        counts = np.array([foreseen(own, s, self.horizon) for s in steps])
        counts = np.where(self.unheard(info, steps), 1, counts)[:, None]
        index = np.arange(self.horizon)
        rows = info.start + steps[:, None] + np.minimum(index, counts - 1)
        return {ACTION: self.columns[ACTION][rows], "action_weight": (index < counts).astype(np.float32)}

    def unheard(self, info, steps: np.ndarray) -> np.ndarray:
        """Whether the task's sound has begun at each of these frames, but is in no whole memory token yet."""
        if SOURCE not in self.columns:
            return np.zeros(len(steps), bool)
        sounds = self.columns[SOURCE][info.start : info.start + info.length, 0] > 0
        return sounds[steps] & ~sounds[self.token_end(steps)]


def name_of(thing: np.ndarray) -> str:
    """An object row (9,) -> "red cube"; "" for an unused row."""
    return f"{COLOUR_NAMES[int(thing[1])]} {KIND_NAMES[int(thing[0])]}" if thing[0] >= 0 else ""


def mentioned(task: str, objects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which of the objects (O, 9) an instruction names: where in it the names end, and the objects' numbers, in the
    order of the words, both (MENTIONS,) and -1 where there are no more."""
    names = [name_of(thing) for thing in objects]
    found = sorted((task.lower().index(name) + len(name), i) for i, name in enumerate(names) if name and name in task.lower())
    found = (found + [(-1, -1)] * MENTIONS)[:MENTIONS]
    return tuple(np.array(column) for column in zip(*found))


def batch_of(windows: Sequence[DemoWindows], shares: Sequence[float], n: int) -> Batch:
    """The n-th batch of datasets of one robot, each drawn with its share; it depends on the first one's seed and n. A batch is of
    datasets whose samples hold the same: labels or none, sound or none.

    Whoever has to hear a task's sound is not drawn for a batch without sound, and as much more often for the others."""
    first, of_kind = windows[0], {}
    for pair in zip(windows, shares):
        of_kind.setdefault(pair[0].kind, []).append(pair)
    if len(of_kind) > 1:
        chances = np.array([sum(share for _, share in pairs) for pairs in of_kind.values()])
        drawn = np.random.default_rng([first.seed, n // first.together, 2]).choice(len(chances), p=chances / chances.sum())
        windows, shares = zip(*list(of_kind.values())[drawn])
    rng = np.random.default_rng([first.seed, n])
    kinds = np.array([[share * w.chances[w.loud == loud].sum() for loud in (False, True)]
                      for w, share in zip(windows, shares)])  # (datasets, quiet and loud)
    quiet, loud = kinds.sum(0)
    silent = min(first.dropout.all_audio, quiet)
    deaf = bool(np.random.default_rng([first.seed, n // first.together, 1]).random() < silent)
    louds = rng.random(first.batch) < (0.0 if deaf else loud / (1 - silent))
    samples = []
    for kind in louds.astype(int):
        i = rng.choice(len(windows), p=kinds[:, kind] / kinds[:, kind].sum())
        samples.append(windows[i].draw(rng, bool(kind), deaf))
    return first.collate(samples, louds, rng)
