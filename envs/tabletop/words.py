"""Instructions: a task's phrasing with its slots filled."""

from __future__ import annotations

from string import Formatter

import numpy as np

from envs.tabletop.scene import COLOUR_NAMES, KIND_NAMES
from envs.tabletop.tasks.base import Task


def instruction(task: Task | type[Task], words: dict[str, str], rng: np.random.Generator, split: str) -> str:
    """One of the task's phrasings: the held-out ones in split new_phrasings, else those of training."""
    forms = task.held_out_forms if split == "new_phrasings" else task.forms
    return str(rng.choice(forms)).format(**words)


def form_words(forms) -> set[str]:
    """The fixed words of these phrasings."""
    return {word for form in forms for text, *_ in Formatter().parse(form) for word in text.split()}


def vocabulary(tasks) -> set[str]:
    """Every word that training instructions of these tasks can hold."""
    return {word for task in tasks for word in form_words(task.forms)} | {*COLOUR_NAMES, *KIND_NAMES}
