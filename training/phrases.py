"""From an instruction's words to a scene in which they make sense: `soma run` sets it up for what it is told."""

from __future__ import annotations

import re
from difflib import SequenceMatcher

from envs.tabletop.env import streams
from envs.tabletop.scene import COLOUR_NAMES, HELD_OUT, KIND_NAMES
from envs.tabletop.tasks import TASKS
from training.data.corpus import kinds
from training.settings import SettingsError

SLOT = re.compile(r"\{(\w+)\}")
LABEL = re.compile(rf"\b({'|'.join(COLOUR_NAMES)}) ({'|'.join(KIND_NAMES)})\b")
ALIKE = 0.6  # similarity from which words are taken for a phrasing
SEEDS = 50000  # tried before a scene is said not to be found; two pairs of labels are one of some 4000


def understand(text: str) -> tuple[str, dict[str, str]]:
    """(task, what fills the slots of its phrasings). Raises SettingsError for words like no phrasing."""
    labels, shape = [" ".join(pair) for pair in LABEL.findall(text.lower())], LABEL.sub("{}", text.lower())
    alike = [found for found in _candidates(shape, labels) if found[1] >= ALIKE]
    if not alike:
        examples = "; ".join(map(_example, TASKS))
        raise SettingsError(f"{text!r}: no task is asked for like this; examples: {examples}; or take scene=TASK")
    _, _, task, slots = max(alike)
    return task, dict(zip(slots, labels))


def _candidates(shape: str, labels: list[str]):
    """(whether the task has such things in these slots, similarity, task, slots) of every phrasing with that many."""
    for name, task in TASKS.items():
        for form in (*task.forms, *task.held_out_forms):
            slots = tuple(SLOT.findall(form))
            if len(slots) == len(labels):
                fits = all(label.split()[1] in kinds(name)[slot] for slot, label in zip(slots, labels))
                yield fits, SequenceMatcher(None, shape, SLOT.sub("{}", form)).ratio(), name, slots


def _example(task: str) -> str:
    """The first phrasing of a task, about the things of one scene."""
    return TASKS[task].forms[0].format(**TASKS[task]().scene(streams("train", 0)[0], "train").words)


def find_scene(task: str, words: dict[str, str], split: str, first: int) -> int:
    """The first seed from `first` on whose scene has these things in these roles. Raises SettingsError."""
    held_out = [label for label in words.values() if tuple(label.split()) in HELD_OUT]
    if held_out and split != "new_combinations":
        raise SettingsError(f"{', '.join(held_out)}: only split=new_combinations has it, split={split} has not")
    for seed in range(first, first + SEEDS):
        scene = TASKS[task]().scene(streams(split, seed)[0], split)
        if all(scene.words.get(slot) == label for slot, label in words.items()):
            return seed
    raise SettingsError(f"none of {SEEDS} scenes of {task} in split {split} has {', '.join(words.values())}")
