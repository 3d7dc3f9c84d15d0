"""What the simulator tells a learner: labels that are true, at the right time and the right place."""

import numpy as np
import pytest

from agent.spec import IMAGES
from envs.tabletop.env import TabletopEnv
from envs.tabletop.scene import COLOUR_NAMES, COLOURS, KIND_NAMES
from envs.tabletop.tasks.base import lifted
from envs.tabletop.tasks.motions import tray


def test_object_labels_point_at_their_pixels():
    env = TabletopEnv("pick_up", image_size=128)
    obs, info = env.reset(seed=4)
    rows, scene = info["annotation"]["objects"], env.world.scene
    for row, item in zip(rows, scene.items):
        assert (KIND_NAMES[int(row[0])], COLOUR_NAMES[int(row[1])]) == (item.kind, item.colour)
        u, v = row[5:7]
        pixel = obs[IMAGES + "front"][int(v * 128), int(u * 128)].astype(float)
        distance = {name: np.linalg.norm(_hue(pixel) - _hue(np.array(rgb))) for name, rgb in COLOURS.items()}
        assert min(distance, key=distance.get) == item.colour
    assert (rows[len(scene.items) :] == -1).all()
    target = scene.items.index(scene.role("target"))
    np.testing.assert_allclose(info["annotation"]["focus_pixels"].ravel(), rows[target, 5:9])


def test_storing_looks_at_the_object_then_at_the_tray_then_at_the_tab():
    env = TabletopEnv("store", lazy_images=True)
    env.reset(seed=5)
    task, world, looked = env.task, env.world, []
    done = False
    while not done:
        _, _, *ended, info = env.step(env.expert_action())
        done = any(ended)
        places = {"object": world.position(task.item.name), "tray": tray(world, task.drawer), "tab": world.part(task.drawer.name)}
        near = min(places, key=lambda name: np.linalg.norm(places[name] - info["annotation"]["focus"]))
        looked += [near] if looked[-1:] != [near] else []
    assert info["success"] and looked == ["object", "tray", "tab"]


def test_a_silent_box_is_to_go_where_it_is_then_set_down_and_a_rattling_one_stays_the_goal():
    env = TabletopEnv("find_rattle", lazy_images=True)
    env.reset(seed=0)
    task, world, goals, over = env.task, env.world, {}, False
    task.full = min(task.boxes, key=lambda box: world.position(box.name)[1])  # the last one tried
    while not over:
        _, _, *ended, info = env.step(env.expert_action())
        box, over = task.in_hand(world), any(ended)
        if box is not None and task.shaken(world):
            goals.setdefault(box.name, []).append(info["annotation"]["focus"])
    assert info["success"] and len(goals) == 3
    for box in task.boxes:
        there = world.position(box.name)
        if box is task.full:
            np.testing.assert_allclose(goals[box.name][-1], there, atol=0.01)
        else:
            assert np.linalg.norm(np.array(goals[box.name]) - there, axis=1).max() < 0.03


def test_the_source_label_says_when_and_where_the_tasks_sound_is_made():
    env = TabletopEnv("press_buzzer", lazy_images=True)
    _, info = env.reset(seed=3, options={"instruct": "text"})
    ringing = [info["annotation"]["source"]]
    while env.time < env.task.rings_at + 0.3:
        *_, info = env.step(env.expert_action())
        ringing.append(info["annotation"]["source"])
    first = int(np.floor(env.task.rings_at / env.period + 1e-6)) + 1
    assert not np.any(ringing[:first]) and np.all(np.array(ringing[first:])[:, 0] == 1)
    np.testing.assert_allclose(ringing[-1][1:], env.world.position(env.task.target.name), atol=1e-3)


@pytest.mark.parametrize("task, surprises", [("push", False), ("stack", False), ("find_rattle", True)])
def test_what_is_pushed_or_set_down_has_not_slipped(task, surprises):
    """An expert that nothing disturbs is surprised by sounds alone."""
    env = TabletopEnv(task, lazy_images=True)
    for seed in range(3):
        env.reset(seed=seed)
        surprised, over = False, False
        while not over:
            *_, terminated, truncated, info = env.step(env.expert_action())
            surprised, over = surprised or info["annotation"]["surprise"], terminated or truncated
        assert info["success"] and surprised == surprises


def test_what_slips_out_of_the_fingers_is_a_surprise():
    env = TabletopEnv("pick_up", lazy_images=True)
    env.reset(seed=0)
    item = env.task.item if hasattr(env.task, "item") else env.world.scene.role("target")
    while not lifted(env.world, item, 0.03):
        *_, info = env.step(env.expert_action())
        assert not info["annotation"]["surprise"]
    first = env.world.model.body(item.name).jntadr[0]
    place = env.world.model.jnt_qposadr[first]
    env.world.data.qpos[place : place + 3] = (0.3, 0.3, 0.03)  # snatched away
    *_, info = env.step(env.expert_action())
    assert info["annotation"]["surprise"]


def test_the_end_of_what_was_written_too_surprises_nobody():
    for way, surprises in (("voice", 1), ("both", 0)):
        env = TabletopEnv("pick_up", lazy_images=True, instruct=way)
        env.reset(seed=0)
        labels = []
        while env.time < env.voice_end + 0.3:
            *_, info = env.step(np.array((0, 0, 0, 0, 1.0)))
            labels.append(info["annotation"]["surprise"])
        assert sum(labels) == surprises


def _hue(rgb):
    return rgb / np.linalg.norm(rgb)


@pytest.mark.parametrize("task, term", [("place_then_press", "inside"), ("sort_two", "first"), ("put_two", "first")])
def test_the_reward_for_a_step_stays_while_the_next_ones_are_done(task, term):
    """Closing the gripper for the next thing undoes nothing."""
    env = TabletopEnv(task, lazy_images=True)
    env.reset(seed=0)
    paid, over = [], False
    while not over:
        *_, terminated, truncated, info = env.step(env.expert_action())
        paid.append(info["reward_terms"][term])
        over = terminated or truncated
    assert info["success"] and set(paid) == {0.0, 1.0} and paid == sorted(paid)
