"""Sensors brought together by their stamps: what belongs together is found, what is late or missing is named."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.perception import Senses, Stale
from agent.spec import AUDIO, IMAGES, STATE, TASK, TIME
from tests.tiny import tiny_spec

FRONT, WRIST, RATE = IMAGES + "front", IMAGES + "wrist", 16000


def picture(number: int) -> np.ndarray:
    return np.full((2, 2, 3), number, np.uint8)


def sensing(front=(0.0,), wrist=(0.0,), state=(0.0,), heard: float = 10.0) -> Senses:
    senses = Senses(tiny_spec(), tolerance=0.05, oldest=0.3)
    for key, stamps in ((FRONT, front), (WRIST, wrist)):
        for stamp in stamps:
            senses.sense(key, stamp, picture(round(20 * stamp)))
    for stamp in state:
        senses.sense(STATE, stamp, np.full(7, stamp))
    senses.hear(0.0, np.arange(round(heard * RATE), dtype=np.float32)[:, None].repeat(2, 1))
    return senses


def test_an_observation_is_of_one_time_and_has_the_sound_up_to_it():
    """The slowest camera says when; of the others the nearest sample counts, not the newest."""
    senses = sensing(front=(0.0, 0.1, 0.2), wrist=(0.0, 0.11), state=np.arange(0, 0.3, 0.01))
    senses.instruct("go")
    obs = senses.observation(0.25)
    assert obs[TIME] == 0.11 and obs[TASK] == "go"
    assert obs[FRONT][0, 0, 0] == obs[WRIST][0, 0, 0] == 2
    np.testing.assert_allclose(obs[STATE], 0.11)
    np.testing.assert_array_equal(obs[AUDIO][:, 0], np.arange(0.11 * RATE))
    senses.sense(WRIST, 0.21, picture(21))
    np.testing.assert_array_equal(senses.observation(0.25)[AUDIO][:, 1], np.arange(0.11 * RATE, 0.2 * RATE))


@pytest.mark.parametrize("senses, now, sensor", [
    (Senses(tiny_spec()), 0.0, STATE),
    (sensing(wrist=()), 0.0, WRIST),
    (sensing(front=(0.0, 1.0), state=(0.0, 1.0)), 1.0, WRIST),
    (sensing(front=(0.0, 0.2), wrist=(0.1,), state=(0.1,)), 0.2, FRONT),
    (sensing(heard=0.0), 0.0, None),
    (sensing(front=(0.2,), wrist=(0.2,), state=(0.2,), heard=0.05), 0.2, AUDIO),
])
def test_what_is_late_or_missing_is_named(senses, now, sensor):
    if sensor is None:
        assert len(senses.observation(now)[AUDIO]) == 0
        return
    with pytest.raises(Stale) as stale:
        senses.observation(now)
    assert stale.value.sensor == sensor and str(stale.value).startswith(sensor)


def test_a_sensor_is_late_when_it_has_missed_some_of_its_own_periods():
    quick = np.arange(0, 1, 0.02)
    senses = sensing(front=quick, wrist=quick, state=quick)
    assert senses.fresh(1.04) == quick[-1]
    with pytest.raises(Stale, match="0.080 s old, 0 to 0.070 s are allowed"):
        senses.fresh(1.06)
    with pytest.raises(Stale, match="-0.180 s old"):
        senses.fresh(0.8)
    slow = sensing(front=np.arange(0, 1, 0.1), wrist=quick, state=quick)
    assert slow.fresh(1.04) == pytest.approx(0.9)


def test_what_waited_while_something_was_decided_is_not_late_for_that():
    stamps = np.arange(0.0, 1.001, 0.02)
    senses = sensing(stamps, stamps, stamps)
    with pytest.raises(Stale, match="0.110 s old, 0 to 0.070"):
        senses.fresh(1.11)
    senses.busy = (0.99, 1.1)
    assert senses.fresh(1.11) == pytest.approx(1.0)
    for now in (1.18, 1.31):  # nothing has come since then, either; older than an observation may be
        with pytest.raises(Stale, match="0 to 0.170"):
            senses.fresh(now)


def test_microphones_that_never_spoke_fell_silent_or_have_another_clock_are_named():
    senses, quick = Senses(tiny_spec()), np.arange(0, 1, 0.02)
    for stamp in quick:
        for key, value in ((STATE, np.zeros(7)), (FRONT, picture(0)), (WRIST, picture(0))):
            senses.sense(key, stamp, value)
    with pytest.raises(Stale, match=f"{AUDIO}: nothing has come yet"):
        senses.fresh(0.98)
    for start, why in ((0.0, None), (0.3, "0.430 s old"), (-2.0, "2.730 s old"), (3600.0, "-3599.270 s old")):
        senses.sound_from = None
        senses.hear(start, np.zeros((4000, 2), np.float32) if why else np.zeros((RATE, 2), np.float32))
        if why is None:
            assert senses.fresh(0.98) == quick[-1]
            continue
        with pytest.raises(Stale, match=why) as stale:
            senses.fresh(0.98)
        assert stale.value.sensor == AUDIO


def test_pictures_alike_are_no_fault_where_the_robot_came_to_a_stand_unseen():
    """Its joint states were gone while it braked."""
    senses = sensing()
    for stamp in np.arange(0.02, 2.0, 0.02):
        if not 0.5 < stamp < 1.5:
            senses.place = np.full(7, min(stamp, 0.8))
            senses.sense(STATE, stamp, senses.place)
        senses.sense(FRONT, stamp, picture(int(255 * min(stamp, 0.8))))
    assert not senses.frozen(FRONT)
    senses.place = senses.place + 0.1
    assert senses.frozen(FRONT)


@pytest.mark.parametrize("speed, changing, frozen", [(0.5, False, True), (0.0, False, False), (0.5, True, False)])
def test_a_camera_is_frozen_that_shows_the_same_while_the_robot_moves(speed, changing, frozen):
    senses = sensing()
    for stamp in np.arange(0.02, 0.5, 0.02):
        senses.sense(STATE, stamp, np.zeros(7))
        senses.place = np.full(7, speed * stamp)
        senses.sense(WRIST, stamp, picture(round(100 * stamp) % 250))
        senses.sense(FRONT, stamp, picture(round(100 * stamp) if changing else 0))
    if not frozen:
        assert senses.fresh(0.5) == pytest.approx(0.48)
        return
    with pytest.raises(Stale, match="front: frozen") as stale:
        senses.fresh(0.5)
    assert stale.value.sensor == FRONT


def test_sound_that_nobody_takes_does_not_grow_for_ever_and_a_long_gap_begins_it_anew():
    senses = Senses(tiny_spec())
    for second in range(40):
        senses.hear(float(second), np.full((RATE, 2), second, np.float32))
    assert len(senses.sound) == 16 * RATE and senses.sound_from == 24.0
    np.testing.assert_array_equal(senses.take_sound(40.0)[:: RATE, 0], np.arange(24, 40))
    senses.hear(3600.0, np.ones((RATE, 2), np.float32))
    assert len(senses.sound) == RATE and senses.sound_from == 3600.0
    senses.hear(0.0, np.ones((RATE, 2), np.float32))
    assert senses.sound_from == 0.0


def test_a_clock_that_goes_back_begins_anew():
    senses = sensing(front=(5.0,), wrist=(5.0,), state=(5.0,))
    for key, value in ((FRONT, picture(1)), (WRIST, picture(2)), (STATE, np.zeros(7))):
        senses.sense(key, 0.1, value)
    assert senses.newest() == 0.1


@given(st.lists(st.tuples(st.integers(-300, 300), st.integers(1, 500)), min_size=1, max_size=20))
def test_sound_keeps_its_time_through_gaps_and_overlaps(pieces):
    """Each sample that is taken is the one that was heard then, or silence."""
    senses, truth, end = Senses(tiny_spec()), {}, 1000
    for shift, length in pieces:
        start = max(1000, end + shift)
        samples = np.arange(start, start + length, dtype=np.float32)
        senses.hear(start / RATE, samples[:, None].repeat(2, 1))
        truth |= {int(s): s for s in samples}
        end = max(end, start + length)
    first = round(senses.sound_from * RATE)
    taken = senses.take_sound(end / RATE)[:, 0]
    assert len(taken) == end - first
    assert all(value in (0.0, truth.get(first + i)) for i, value in enumerate(taken))
    if all(shift >= 0 for shift, _ in pieces):
        assert (taken != 0).sum() == len(truth)


def test_complete_means_that_all_of_a_time_is_there():
    senses = sensing(front=(0.0, 0.1), wrist=(0.0, 0.1), state=(0.0, 0.1), heard=0.1)
    assert senses.complete(0.1) and not senses.complete(0.2)
    assert not sensing(front=(0.1,), wrist=(0.1,), state=(0.1,), heard=0.09).complete(0.1)
