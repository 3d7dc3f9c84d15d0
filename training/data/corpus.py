"""Sentences: what the tabletop's instructions can be, and text for the tokenizer."""

from __future__ import annotations

from itertools import product
from string import Formatter

import numpy as np

from envs.tabletop.scene import COLOUR_NAMES, KIND_NAMES
from envs.tabletop.tasks import TASKS
from envs.tabletop.words import vocabulary


def draw_instruction(rng: np.random.Generator) -> str:
    """A training form of a drawn task with its slots filled by drawn colours and kinds."""
    task = TASKS[str(rng.choice(sorted(TASKS)))]
    form = str(rng.choice(task.forms))
    slots = [name for _, name, *_ in Formatter().parse(form) if name]
    return form.format(**{name: f"{rng.choice(COLOUR_NAMES)} {rng.choice(KIND_NAMES)}" for name in slots})


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
