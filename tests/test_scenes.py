"""What a scene promises in every split, and that another object than the named one fails."""

from dataclasses import replace

import numpy as np
import pytest

from envs.tabletop.env import TabletopEnv, streams
from envs.tabletop.scene import HELD_OUT, KINDS, SPLITS
from envs.tabletop.tasks import TASKS
from envs.tabletop.words import form_words, vocabulary

WRONG = [  # task, role, role of what is taken for it
    ("reach", "target", "other"), ("pick_up", "target", "other"),
    ("place_in", "target", "other"), ("place_in", "goal", "other_goal"),
    ("push", "target", "other"), ("push", "goal", "other_goal"),
    ("place_on", "target", "other"), ("place_on", "goal", "other_goal"),
    ("stack", "target", "other"), ("stack", "target", "goal"), ("stack", "goal", "other"),
    ("open_drawer", "target", "other"), ("close_drawer", "target", "other"), ("press_button", "target", "other"),
    ("sort_two", "first", "other"), ("sort_two", "first_bowl", "other_bowl"), ("sort_two", "first_bowl", "second_bowl"),
    ("put_two", "first", "other"), ("put_two", "second", "other"), ("put_two", "bowl", "other_bowl"),
    ("place_then_press", "target", "other"), ("place_then_press", "button", "other_button"),
    ("store", "target", "other"), ("store", "goal", "other_goal"),
    ("press_buzzer", "target", "other"), ("start_on_beep", "target", "other"), ("find_rattle", "target", "other"),
]  # fmt: skip


def scene_of(task: str, split: str, seed: int):
    return TASKS[task]().scene(np.random.default_rng(seed), split)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("task", TASKS)
def test_scenes_keep_their_promises(task, split):
    for seed in range(25):
        items = scene_of(task, split, seed).items
        assert len({item.label for item in items}) == len(items)
        pairs = {(item.colour, item.kind) for item in items}
        if split == "new_combinations" and any("{" in form for form in TASKS[task].forms):
            assert pairs & set(HELD_OUT)
        else:
            assert not pairs & set(HELD_OUT)
        assert nearest(items) > 0.07
        assert nearest([item for item in items if item.kind == "buzzer"]) > 0.125


def nearest(items) -> float:
    """Smallest distance between two of the items, m."""
    spots = np.array([item.position[:2] for item in items]).reshape(-1, 2)
    return (np.linalg.norm(spots[:, None] - spots, axis=-1) + np.eye(len(spots))).min(initial=1.0)


@pytest.mark.parametrize("task", TASKS)
def test_three_things_could_be_meant_and_two_places_for_them(task):
    """Whatever an instruction makes one choose among: of the kinds that what it means can be of, there are so many."""
    roles = {role for name, role, _ in WRONG if name == task}
    kinds = {role: {scene_of(task, "train", seed).role(role).kind for seed in range(25)} for role in roles}
    for split in SPLITS:
        for seed in range(5):
            items = scene_of(task, split, seed).items
            counts = {role: sum(item.kind in kinds[role] for item in items) for role in roles}
            assert roles and all(n >= (3 if role in ("target", "first", "second") else 2) for role, n in counts.items())


def test_shift_leaves_the_training_sizes():
    for seed in range(10):
        for item in scene_of("pick_up", "shift", seed).items:
            low, high = KINDS[item.kind].radius
            assert not low < item.radius < high


def test_shift_leaves_the_training_light_table_and_camera():
    def looks(split, seeds):
        found = [scene_of("reach", split, seed).look for seed in range(seeds)]
        return np.array([(*x.table_rgb, x.brightness, *x.light_direction[:2], *x.camera_shift, *x.look_shift) for x in found])

    trained, shifted = looks("train", 300), looks("shift", 100)
    low, high = trained.min(0), trained.max(0)
    assert ((shifted < low) | (shifted > high)).all()
    assert (shifted < low).any(0).all() and (shifted > high).any(0).all()  # to either side


@pytest.mark.parametrize("task", TASKS.values())
def test_held_out_phrasings_are_new_sentences_of_known_words(task):
    assert len(task.forms) >= 6 and len(task.held_out_forms) >= 3
    assert not set(task.forms) & set(task.held_out_forms)
    assert form_words(task.held_out_forms) <= vocabulary(TASKS.values())


def mistaken(task: str, role: str, other: str, seed: int) -> tuple[bool, bool]:
    """(success, failure) of an expert that takes an item of role `other` for that of `role`."""
    env = TabletopEnv(task, lazy_images=True)
    env.reset(seed=seed)
    actor, world, mean = TASKS[task](), env.world, env.world.scene
    believed = swapped(mean, role, other)
    world.scene = believed
    actor.begin(world, env.heard_at, streams("train", seed)[3])
    terminated = truncated = False
    while not (terminated or truncated):
        world.scene = believed
        actor.sounds(world, env.period)
        action = actor.expert(world)
        world.scene = mean
        *_, terminated, truncated, info = env.step(np.clip(action, -1, 1))
        actor.after_step(world)
    return info["success"], terminated and not info["success"]


def swapped(scene, role: str, other: str):
    """The same scene with the roles of two items exchanged."""
    right, wrong = scene.role(role), scene.roles(other)[0]
    roles = {right.name: other, wrong.name: role}
    return replace(scene, items=tuple(replace(item, role=roles.get(item.name, item.role)) for item in scene.items))


def test_every_task_has_something_to_mistake():
    assert {task for task, *_ in WRONG} == set(TASKS)


@pytest.mark.parametrize("task, role, other", WRONG)
def test_the_wrong_object_fails(task, role, other):
    success, failure = mistaken(task, role, other, seed=0)
    assert failure and not success
