"""Sentences: what the tabletop's instructions can be, and text for the tokenizer."""

from __future__ import annotations

from functools import cache
from itertools import product
from string import Formatter

import numpy as np

from envs.tabletop.env import streams
from envs.tabletop.scene import COLOUR_NAMES, KIND_NAMES
from envs.tabletop.tasks import TASKS
from envs.tabletop.words import vocabulary

SENSIBLE = 0.8  # share of instructions about things that their task is about
SCENES = 40  # of a task, that tell what kinds of things it is about


def draw_instruction(rng: np.random.Generator) -> str:
    """A training form of a drawn task with its slots filled by drawn colours and kinds, mostly kinds that make sense."""
    name = str(rng.choice(sorted(TASKS)))
    form = str(rng.choice(TASKS[name].forms))
    sensible = kinds(name) if rng.random() < SENSIBLE else {}
    slots = [slot for _, slot, *_ in Formatter().parse(form) if slot]
    return form.format(**{slot: f"{rng.choice(COLOUR_NAMES)} {rng.choice(sensible.get(slot, KIND_NAMES))}" for slot in slots})


@cache
def kinds(task: str) -> dict[str, tuple[str, ...]]:
    """Slot of a task's forms -> the kinds of things that fill it, from some scenes."""
    found: dict[str, set[str]] = {}
    for seed in range(SCENES):
        for slot, label in TASKS[task]().scene(streams("train", seed)[0], "train").words.items():
            found.setdefault(slot, set()).add(label.split()[1])
    return {slot: tuple(sorted(names)) for slot, names in found.items()}


def draw_words(rng: np.random.Generator, most: int = 7) -> str:
    """Known words in any order: teaches a recogniser words, not sentences."""
    words = sorted(vocabulary(TASKS.values()))
    return " ".join(rng.choice(words, rng.integers(2, most + 1)))


def tokenizer_text() -> list[str]:
    """Enough text that every word of every instruction becomes one token."""
    pairs = [f"{c} {k}" for c, k in product(COLOUR_NAMES, KIND_NAMES)]
    forms = [form for task in TASKS.values() for form in task.forms]
    filled = [Formatter().vformat(form, (), _Anything(pairs[i % len(pairs)])) for i, form in enumerate(forms)]
    return pairs + filled


class _Anything(dict):
    """Fills every slot with one value."""

    def __init__(self, value: str):
        self.value = value

    def __getitem__(self, key: str) -> str:
        return self.value
