"""From an instruction's words to a scene in which they make sense: `soma run` sets it up for what it is told."""

from __future__ import annotations

import re
from difflib import SequenceMatcher

from envs.tabletop.env import streams
from envs.tabletop.scene import COLOUR_NAMES, KIND_NAMES
from envs.tabletop.tasks import TASKS
from training.settings import SettingsError

SLOT = re.compile(r"\{(\w+)\}")
LABEL = re.compile(rf"\b({'|'.join(COLOUR_NAMES)}) ({'|'.join(KIND_NAMES)})\b")
ALIKE = 0.6  # similarity from which words are taken for a phrasing
SEEDS = 5000  # tried before a scene is said not to exist


def understand(text: str) -> tuple[str, dict[str, str]]:
    """(task, what fills the slots of its phrasings). Raises SettingsError for words like no phrasing."""
    labels, shape = [" ".join(pair) for pair in LABEL.findall(text.lower())], LABEL.sub("{}", text.lower())
    best, task, slots = max(_likeness(shape, len(labels)), default=(0.0, "", ()))
    if best < ALIKE:
        examples = "; ".join(_filled(task.forms[0]) for task in TASKS.values())
        raise SettingsError(f"{text!r}: no task is asked for like this; examples: {examples}; or take scene=TASK")
    return task, dict(zip(slots, labels))


def _likeness(shape: str, labels: int):
    """(similarity, task, slots) of every phrasing with that many slots."""
    for name, task in TASKS.items():
        for form in (*task.forms, *task.held_out_forms):
            slots = tuple(SLOT.findall(form))
            if len(slots) == labels:
                yield SequenceMatcher(None, shape, SLOT.sub("{}", form)).ratio(), name, slots


def _filled(form: str) -> str:
    words = iter(("red cube", "blue bowl", "green ball"))
    return SLOT.sub(lambda _: next(words), form)


def find_scene(task: str, words: dict[str, str], split: str, first: int) -> int:
    """The first seed from `first` on whose scene has these things in these roles. Raises SettingsError."""
    for seed in range(first, first + SEEDS):
        scene = TASKS[task]().scene(streams(split, seed)[0], split)
        if all(scene.words.get(slot) == label for slot, label in words.items()):
            return seed
    raise SettingsError(f"no scene of {task} in split {split} has {', '.join(words.values())}; "
                        "split=new_combinations has the pairs that the others leave out")
