"""The sound of a recording with another voice and other noise."""

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from training.data.remix import SPEEDS, remix, varied

RATE = 16000


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 20000), st.integers(2, 30000), st.integers(0, 9000))
def test_another_voice_says_it_until_the_recorded_one_ended(seed, before, said, after):
    voice = np.zeros((before + said + after, 2), np.float32)
    voice[before : before + said] = np.random.default_rng(0).normal(scale=0.1, size=(said, 2))
    world = np.random.default_rng(1).normal(scale=0.05, size=voice.shape).astype(np.float32)
    heard = remix({"world": world, "voice": voice}, np.random.default_rng(seed))
    assert heard.shape == voice.shape and heard.dtype == np.float32 and np.abs(heard).max() <= 1.0
    alone, end = remix({"world": 0 * world, "voice": voice}, np.random.default_rng(seed)), before + said
    first = max(0, end - int(np.ceil(said / SPEEDS[0])))
    for part in (alone[:first], alone[end:]):  # noise and no voice
        assert np.abs(part).max(initial=0.0) < 0.1


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 60000), st.floats(0.88, 1.2))
@example(0, 33127, 29626 / 33127)  # where (n - 1) / ((n - 1) / longest) is a hair over `longest`
@example(0, 30557, 29590 / 30557)
def test_it_is_not_longer_than_there_is_room(seed, said, room):
    longest = max(2, int(said * room + 0.5))
    voice = varied(np.ones(said, np.float32), np.random.default_rng(seed), longest)
    assert 0 < len(voice) <= longest and np.isfinite(voice).all()


def test_each_time_it_is_a_voice_of_another_pitch():
    t = np.arange(RATE) / RATE
    tone = np.stack([np.sin(2 * np.pi * 500 * t), 0.5 * np.sin(2 * np.pi * 500 * t)], 1).astype(np.float32)
    pitches = []
    for seed in range(20):
        voice = varied(tone, np.random.default_rng(seed))
        pitches.append(np.abs(np.fft.rfft(voice[:, 0])).argmax() * RATE / len(voice))
        np.testing.assert_allclose(voice[:, 1], 0.5 * voice[:, 0], atol=1e-6)  # the ears stay apart as they were
        np.testing.assert_array_equal(varied(tone[:, 0], np.random.default_rng(seed)), voice[:, 0])
    assert 500 * SPEEDS[0] - 2 <= min(pitches) < 470 < 530 < max(pitches) <= 500 * SPEEDS[1] + 2
