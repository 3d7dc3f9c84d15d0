"""Samples of demonstrations: right rows, right labels, nothing unforeseen in a target, the same again from its number."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agent.processor import OBJECTS, Processor
from agent.generators.goal import UNKNOWN
from agent.spec import ACTION, AUDIO, IMAGES, SENSE, STATE, TIME
from agent.tokenizer import train_tokenizer
from envs.tabletop.scene import COLOUR_NAMES, KIND_NAMES
from tests.tiny import SENTENCES, tiny_model, tiny_spec
from training.data.photometric import Photometric
from training.data.windows import (
    FOCUS, HEARD, MENTIONS, PIXELS, SOURCE, SURPRISE, DemoWindows, Dropout, batch_of, mentioned, name_of,
)
from training.settings import SettingsError

LENGTHS = (9, 25)


class Recorded:
    """Two episodes whose every value tells its row."""

    fps = 10.0

    def __init__(self, surprise=()):
        rows = np.arange(sum(LENGTHS))
        starts = np.cumsum([0, *LENGTHS])[:-1]
        self.episodes = [SimpleNamespace(start=int(s), length=n, task=SENTENCES[i], tracks={"world": None},
                                         info={"task_name": "pick_up"})
                         for i, (s, n) in enumerate(zip(starts, LENGTHS))]
        objects = np.full((len(rows), 10, 9), -1.0, np.float32)
        objects[:, :3] = [[0, 0, 0.4, 0.1, 0.02, 0.5, 0.5, -1, -1], [2, 1, 0.5, -0.2, 0.02, 0.2, 0.7, 0.1, 0.1],
                          [3, 4, 0.6, 0.2, 0.02, 0.9, 0.1, -1, -1]]
        self.data = {STATE: np.tile(rows[:, None], (1, 7)).astype(np.float32),
                     SENSE + "force": np.tile(rows[:, None], (1, 3)).astype(np.float32),
                     ACTION: np.tile(rows[:, None] / 100, (1, 5)).astype(np.float32),
                     FOCUS: np.tile(np.float32([0.5, -0.2, 0.03]), (len(rows), 1)), OBJECTS: objects,
                     SURPRISE: np.isin(rows, surprise), HEARD: rows >= 3}

    def columns(self):
        return self.data

    def audio(self, index, frames=-1):
        n = LENGTHS[index] * 1600
        return {"world": np.tile(np.arange(n, dtype=np.float32)[:, None] / n, (1, 2)), "voice": np.zeros((n, 2), np.float32)}

    def frames(self, key, rows):
        return np.tile(np.asarray(rows, np.uint8)[:, None, None, None], (1, 32, 32, 3))


def windows(**changes):
    recorded = Recorded(changes.pop("surprise", ()))
    processor = Processor(tiny_spec(), train_tokenizer(SENTENCES), 32)
    settings = {"horizon": 4, "batch": 3, "decisions": 2, "seed": 0, "mixer": lambda tracks, rng: tracks["world"]}
    return DemoWindows(recorded, recorded, processor, **settings | changes), recorded


def test_everything_of_a_decision_is_of_its_row():
    data, recorded = windows()
    for n in range(20):
        sample = data.sample(1, np.random.default_rng(n))
        rows = sample[STATE][:, 0].astype(int)
        assert (np.diff(rows) >= 0).all() and (rows >= LENGTHS[0]).all()
        np.testing.assert_allclose(sample[TIME], (rows - LENGTHS[0]) / 10)
        assert (sample[IMAGES + "front"][:, 0, 0, 0] == rows).all()
        assert (sample["known"] == (rows >= 3)).all()


def test_targets_follow_the_row_and_stop_at_the_end_and_before_a_surprise():
    data, _ = windows(surprise=(20,))
    sample = data.targets(data.reader.episodes[1], np.array([0, 9, 24]))
    np.testing.assert_allclose(sample[ACTION][0, :, 0] * 100, [9, 10, 11, 12], atol=1e-4)
    np.testing.assert_allclose(sample[ACTION][1, :, 0] * 100, [18, 19, 19, 19], atol=1e-4)  # row 20 is the surprise
    np.testing.assert_allclose(sample[ACTION][2, :, 0] * 100, [33] * 4, atol=1e-4)
    assert sample["action_weight"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]]


def test_a_target_before_a_cue_does_not_know_of_it():
    """Whatever the demonstrator does after the cue, targets that were decided before it are the same."""
    data, recorded = windows(surprise=(20,))
    before = data.targets(data.reader.episodes[1], np.arange(0, 11))
    recorded.data[ACTION][20:] = 0.77
    after = data.targets(data.reader.episodes[1], np.arange(0, 11))
    assert all(np.array_equal(before[key], after[key]) for key in before)


def test_labels_name_what_they_point_at():
    data, recorded = windows(queries=4)
    sample = data.sample(1, np.random.default_rng(0))
    assert sample["goal"].shape == (2, 5 + MENTIONS, 3) and sample["goal_pixels"].shape == (2, 5 + MENTIONS, 2, 2)
    np.testing.assert_allclose(sample["goal"][:, 0], recorded.data[FOCUS][:2])
    np.testing.assert_allclose(sample["goal_pixels"][0, 0], [[0.2, 0.7], [0.1, 0.1]])  # of the object at the focus
    places = {name_of(thing): thing[2:5] for thing in recorded.data[OBJECTS][0, :3]}
    for name, point, weight in zip(sample["queries"][0], sample["goal"][0, 1:], sample["goal_weight"][0, 1:]):
        assert weight == (name != "")
        if name:
            np.testing.assert_allclose(point, places.pop(name))
    assert not places and name_of(recorded.data[OBJECTS][0, 5]) == ""
    assert name_of(np.float32([0, 0] + [0] * 7)) == f"{COLOUR_NAMES[0]} {KIND_NAMES[0]}"


def test_things_that_the_instruction_names_are_asked_for():
    """In the order of the words, each with its own place, and only once the instruction is known."""
    data, recorded = windows(queries=1)
    scene = recorded.data[OBJECTS][0]
    ends, things = mentioned("Put the green ball and the red cube in the blue bowl", scene)
    assert ends.tolist() == [18, 35, -1, -1] and things.tolist() == [1, 0, -1, -1]
    for n in range(20):
        sample = data.sample(1, np.random.default_rng(n))
        assert sample["mentions"].tolist() == [len(SENTENCES[1]), -1, -1, -1]
        np.testing.assert_allclose(sample["goal"][:, 2], np.tile(scene[1, 2:5], (2, 1)))
        np.testing.assert_allclose(sample["goal_weight"][:, 2], sample["known"])
        assert not sample["goal_weight"][:, 3:].any()


def test_the_sound_label_is_of_the_newest_token_that_was_heard():
    """Tokens end at every second frame."""
    data, recorded = windows()
    assert (data.sample(1, np.random.default_rng(0))["source"] == -1).all()
    recorded.data[SOURCE] = np.tile(recorded.data[STATE][:, :1], (1, 4))
    for n in range(10):
        sample = data.sample(1, np.random.default_rng(n))
        steps = sample[STATE][:, 0] - LENGTHS[0]
        np.testing.assert_array_equal(sample["source"][:, 0] - LENGTHS[0], steps - steps % 2)


def test_nothing_beside_the_instruction_may_be_asked():
    batch = windows(queries=0)[0][0]
    assert batch.queries.shape[2] == 0 and batch.goal.shape[2] == 1 + MENTIONS
    losses = tiny_model()[0].loss(batch)
    assert all(torch.isfinite(losses[name]) for name in ("goal", "pixel", "layout"))


def test_a_focus_on_nothing_points_at_no_pixel():
    data, recorded = windows()
    recorded.data[FOCUS][:] = (0.0, 0.9, 0.9)
    assert (data.sample(0, np.random.default_rng(0))["goal_pixels"][:, 0] == UNKNOWN).all()


def test_a_focus_with_pixels_of_its_own_is_pointed_at_there():
    """As the spot behind what is to be pushed, which is no object; in the order of the robot's cameras."""
    data, recorded = windows()
    recorded.data[PIXELS] = np.tile(np.float32([[0.3, 0.4], [0.6, 0.7]]), (sum(LENGTHS), 1, 1))
    sample = data.sample(0, np.random.default_rng(0))
    assert list(data.processor.spec.cameras) == ["front", "wrist"]
    np.testing.assert_allclose(sample["goal_pixels"][:, 0], np.tile(recorded.data[PIXELS][0], (2, 1, 1)))


def test_a_batch_depends_on_its_number_alone():
    one, _ = windows()
    other, _ = windows()
    other[3]
    a, b, c = one[7], other[7], one[8]
    for name in ("text", "state", "audio", "action", "heard", "goal"):
        assert torch.equal(getattr(a, name), getattr(b, name))
    assert not torch.equal(a.state, c.state)
    assert all(torch.equal(a.absent[name], b.absent[name]) for name in a.absent)


def test_sound_ends_with_the_decision():
    data, _ = windows(batch=1, decisions=1)
    for n in range(10):
        batch = data[n]
        seconds = batch.heard.item() * 0.2
        row = int(batch.state[0, 0, 0])
        step = row if row < LENGTHS[0] else row - LENGTHS[0]
        assert seconds == pytest.approx(step / 10 - (step % 2) / 10)


def test_dropout_hides_as_often_as_it_says():
    data, _ = windows(batch=64, dropout=Dropout(front=0.0, wrist=1.0, state=0.5, audio=0.0))
    absent = data[0].absent
    assert not absent["front"].any() and absent["wrist"].all() and 0.3 < absent["state"].float().mean() < 0.7


def test_cameras_from_elsewhere_are_hidden_as_the_front_one():
    recorded, spec = Recorded(), replace(tiny_spec(), cameras={"corner": (32, 32)})
    del recorded.data[FOCUS]  # nobody says what is where
    data = DemoWindows(recorded, recorded, Processor(spec, train_tokenizer(SENTENCES), 32), 4, 3, 1, 0,
                       lambda tracks, rng: tracks["world"], Dropout(front=1.0, wrist=0.0))
    absent = data[0].absent
    assert absent["corner"].all() and "front" not in absent


def test_who_must_hear_is_never_drawn_deaf_and_no_less_often():
    """Episode 1 is of a task that makes a sound."""
    recorded = Recorded()
    recorded.episodes[1].info = {"task_name": "press_buzzer"}
    recorded.data[SOURCE] = np.zeros((sum(LENGTHS), 4), np.float32)
    recorded.data[SOURCE][20:, 0] = 1.0
    data = DemoWindows(recorded, recorded, Processor(tiny_spec(), train_tokenizer(SENTENCES), 32), 4, 4, 1, 0,
                       lambda tracks, rng: tracks["world"], Dropout(all_audio=0.3))
    assert data.loud.tolist() == [False, True]
    batches = [data[n] for n in range(400)]
    loud = np.array([(batch.state[:, 0, 0] >= LENGTHS[0]).numpy() for batch in batches])
    deaf = np.array([batch.audio is None for batch in batches])
    assert not loud[deaf].any() and deaf.mean() == pytest.approx(0.3, abs=0.06)
    assert loud.mean() == pytest.approx(data.chances[1], abs=0.05)


def test_batches_of_one_step_have_sound_together():
    data, _ = windows(dropout=Dropout(all_audio=0.5), together=2)
    deaf = np.array([data[n].audio is None for n in range(60)]).reshape(30, 2)
    assert (deaf[:, 0] == deaf[:, 1]).all() and 5 < deaf[:, 0].sum() < 25
    assert (data[0].state != data[1].state).any()


def test_no_sample_that_must_hear_is_without_sound():
    data, _ = windows(batch=64, dropout=Dropout(audio=0.5))
    louds = np.arange(64) < 32
    samples = [data.sample(1, np.random.default_rng(n)) for n in range(64)]
    absent = data.collate(samples, louds, np.random.default_rng(0)).absent["audio"].numpy()
    assert not absent[louds].any() and 0.25 < absent[~louds].mean() < 0.75


@given(st.integers(4, 24))
def test_a_target_holds_no_reaction_to_a_sound_that_is_in_no_memory_token_yet(begins):
    """The sound begins in the middle of a token or at its end; a decision that has not got that token may learn one action."""
    data, recorded = windows(surprise=(LENGTHS[0] + begins,))
    recorded.data[SOURCE] = np.zeros((sum(LENGTHS), 4), np.float32)
    recorded.data[SOURCE][LENGTHS[0] + begins :, 0] = 1.0
    steps = np.arange(LENGTHS[1])
    learned = data.targets(data.reader.episodes[1], steps)["action_weight"].sum(1)
    heard_until = steps // 2 * 2  # frames: a token lasts two
    reacts = steps[:, None] + np.arange(4) >= begins + 1  # the first action that could be a reaction
    taught = np.arange(4) < learned[:, None]
    assert not (taught & reacts)[heard_until < begins].any()
    assert (learned[heard_until >= begins] == np.minimum(4, LENGTHS[1] - steps[heard_until >= begins])).all()


def test_data_from_elsewhere_needs_no_labels():
    data, recorded = windows()
    for key in (FOCUS, OBJECTS, SURPRISE, HEARD):
        del recorded.data[key]
    batch = data[0]
    assert batch.goal is None and batch.objects is None and batch.known.all() and batch.action is not None
    assert AUDIO not in recorded.data


def test_a_batch_of_unlike_datasets_is_of_those_that_hold_the_same():
    """Simulated episodes with labels and sound, recorded ones with sound alone, and others without both."""
    simulated, _ = windows()
    recorded, silent = Recorded(), Recorded()
    for reader in (recorded, silent):
        for key in (FOCUS, OBJECTS, SURPRISE, HEARD):
            del reader.data[key]
        reader.data[STATE] = reader.data[STATE] + 1000.0
    for episode in silent.episodes:
        episode.tracks = None
    others = [DemoWindows(reader, reader, simulated.processor, 4, simulated.batch, simulated.decisions, 0, simulated.mixer)
              for reader in (recorded, silent)]
    drawn = [batch_of([simulated, *others], [2.0, 1.0, 1.0], n) for n in range(200)]
    kinds = np.array([(batch.objects is not None, batch.audio is not None) for batch in drawn])
    assert all(len(set((batch.state[:, 0, 0] >= 1000.0).tolist())) == 1 for batch in drawn)
    assert kinds[:, 0].mean() == pytest.approx(0.5, abs=0.1) and kinds[:, 1].mean() == pytest.approx(0.75, abs=0.1)


@given(st.integers(0, 2**32 - 1), *[st.floats(0, 0.9)] * 3)
def test_another_light_is_one_growing_function_of_each_channel(seed, exposure, tint, gamma):
    light = Photometric(exposure, tint, gamma)
    images = np.random.default_rng(seed).integers(0, 256, (3, 8, 9, 3), np.uint8)
    seen = light(images, np.random.default_rng(seed))
    assert seen.shape == images.shape and seen.dtype == np.uint8
    for before, after in zip(images.reshape(-1, 3).T, seen.reshape(-1, 3).T):
        assert (np.diff(after[np.argsort(before)].astype(int)) >= 0).all()
        assert all(len(np.unique(after[before == value])) == 1 for value in before)
    np.testing.assert_array_equal(seen, light(images, np.random.default_rng(seed)))
    np.testing.assert_array_equal(images, Photometric()(images, np.random.default_rng(seed)))


def test_each_camera_of_each_sample_stands_in_a_light_of_its_own():
    data, recorded = windows(photometric=Photometric(exposure=0.5, tint=0.5))
    recorded.frames = lambda key, rows: np.full((len(rows), 32, 32, 3), 100, np.uint8)
    lit = data[0].images
    assert all((views == views[:, :1, :1, :1]).all() for views in lit.values())  # one light at all decisions of a sample
    colours = torch.cat([views[:, 0, 0, 0] for views in lit.values()])
    assert len(colours.unique(dim=0)) == len(colours)


@pytest.mark.parametrize("wrong", ({"exposure": -0.1}, {"tint": 1.0}, {"gamma": float("nan")}))
def test_a_light_that_is_no_light_is_refused(wrong):
    with pytest.raises(SettingsError, match="from 0 to below 1"):
        Photometric(**wrong)
