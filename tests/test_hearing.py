"""The utterance detector: finds speech, leaves other sounds, and does not care how the stream is cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.hearing import UtteranceDetector, speech_score
from envs.tabletop.sound import MICROPHONES, SAMPLE_RATE, Noise, Soundscape, beep, buzzer, mix, rattle
from envs.tabletop.voices import Voice, speak

SENTENCE = "put the red cube in the blue bowl"
MOUTH = (-0.2, 0.6, 0.5)


def heard(seed: int, seconds: float, snr_db: float = 25.0, **sounds) -> np.ndarray:
    """(n, 2): sounds = {name: (start, position, waveform)}, over noise."""
    scene = Soundscape(MICROPHONES, SAMPLE_RATE, np.random.default_rng(seed), snr_db)
    for start, position, waveform in sounds.values():
        scene.play(start, position, waveform)
    return mix(**scene.render(0.0, round(seconds * SAMPLE_RATE)), noise=scene.noise)


def voice_of(seed: int) -> np.ndarray:
    return speak(SENTENCE, Voice("espeak", ("en-us+f3", "en+m3", "en-gb-scotland+linda")[seed % 3], 150 + 10 * seed))


@pytest.mark.parametrize("seed", range(6))
def test_an_utterance_is_found_whole(seed):
    wave, start = voice_of(seed), 0.4 + 0.2 * seed
    sound = heard(seed, start + len(wave) / SAMPLE_RATE + 1.0, 15.0 + 5 * seed, voice=(start, MOUTH, wave))
    (found,) = UtteranceDetector(SAMPLE_RATE).push(sound, 10.0)
    end = 10.0 + start + len(wave) / SAMPLE_RATE
    assert 10.0 + start - 0.4 < found.start < 10.0 + start + 0.06
    assert end - 0.1 < found.end < end + 0.3
    assert found.waveform.dtype == np.float32
    assert len(found.waveform) == round((found.end - found.start) * SAMPLE_RATE)
    first = round((found.start - 10.0) * SAMPLE_RATE)
    assert any(np.array_equal(found.waveform, c) for c in sound[first : first + len(found.waveform)].T)


@pytest.mark.parametrize("name, speed", (("en-us+f2", 130), ("en-us+linda", 150), ("en-us+steph", 160)))
def test_a_slow_high_voice_is_no_tone(name, speed):
    wave = speak("go above the orange bowl", Voice("espeak", name, speed, range=30))
    sound = heard(1, 1.5 + len(wave) / SAMPLE_RATE, 40.0, voice=(0.5, MOUTH, wave))
    assert len(UtteranceDetector(SAMPLE_RATE).push(sound, 0.0)) == 1


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 5), st.lists(st.integers(30, 7000), min_size=1, max_size=12))
def test_any_block_sizes_give_the_same(seed, sizes):
    wave = voice_of(seed)
    again = 1.2 + len(wave) / SAMPLE_RATE
    sound = heard(seed, 2 * again + 0.5, a=(0.5, MOUTH, wave), b=(0.5 + again, MOUTH, wave))
    whole = UtteranceDetector(SAMPLE_RATE).push(sound, 3.0)
    detector, parts, at = UtteranceDetector(SAMPLE_RATE), [], 0
    while at < len(sound):
        size = sizes[at % len(sizes)]
        parts += detector.push(sound[at : at + size], 3.0 + at / SAMPLE_RATE)
        at += size
    assert len(whole) == len(parts) == 2
    for a, b in zip(whole, parts, strict=True):
        assert (a.start, a.end) == pytest.approx((b.start, b.end), abs=1e-6)
        np.testing.assert_array_equal(a.waveform, b.waveform)


def test_nothing_is_said_before_the_pause_that_ends_it():
    wave = voice_of(0)
    end, detector = round((0.5 + len(wave) / SAMPLE_RATE) * SAMPLE_RATE), UtteranceDetector(SAMPLE_RATE)
    sound = heard(0, 6.0, voice=(0.5, MOUTH, wave))
    assert not detector.push(sound[:end], 0.0)
    assert len(detector.push(sound[end : end + 8000], end / SAMPLE_RATE)) == 1
    assert not detector.push(sound[end + 8000 :], end / SAMPLE_RATE + 0.5)


def tones(rng) -> dict:
    return {f"beep {i}": (0.5 + 0.6 * i, (0.5, 0.1, 0.1), beep(rng)) for i in range(4)}


def knocks(rng) -> Soundscape:
    scene = Soundscape(MICROPHONES, SAMPLE_RATE, rng, 25.0)
    for time in rng.uniform(0.3, 3.0, 4):
        scene.impact(time, (0.5, 0.0, 0.1), *rng.choice(["wood", "plastic", "metal", "ceramic"], 2), 0.03)
    return scene


@pytest.mark.parametrize("seed", range(5))
def test_other_sounds_are_not_taken_for_speech(seed):
    rng = np.random.default_rng(seed)
    shaken = {f"shake {i}": (0.5 + 0.1 * i, (0.4, 0.0, 0.3), rattle(rng, 0.1, 0.8)) for i in range(15)}
    rings = {"buzzer": (0.5, (0.5, -0.2, 0.1), buzzer(rng, 2.5))}
    for sounds in (tones(rng), shaken, rings, {}):
        assert not UtteranceDetector(SAMPLE_RATE).push(heard(seed, 4.0, **sounds), 0.0)
    scene = knocks(rng)
    sound = mix(**scene.render(0.0, 4 * SAMPLE_RATE), noise=scene.noise)
    assert not UtteranceDetector(SAMPLE_RATE).push(sound, 0.0)


def test_after_a_steady_hum_begins_speech_is_still_found():
    """The floor rises to a sound that outlasts any utterance."""
    hum = 0.01 * np.sin(2 * np.pi * 300 * np.arange(16 * SAMPLE_RATE) / SAMPLE_RATE).astype(np.float32)
    wave = voice_of(1)
    sound = heard(3, 16.0, 30.0, hum=(0.5, (0.5, 0.5, 0.2), hum), voice=(12.0, MOUTH, wave))
    found = UtteranceDetector(SAMPLE_RATE).push(sound, 0.0)
    assert [u for u in found if u.start < 12.06 and u.end > 12.0 + len(wave) / SAMPLE_RATE - 0.1]


@pytest.mark.parametrize("speed", (140, 170))
def test_the_end_of_what_is_too_long_is_no_utterance_of_its_own(speed):
    """A sentence that outlasts LONGEST, after which an agent that took its end would press the button."""
    long = speak("please go to the table and take whatever you find there and be careful with everything else and take your time "
                 "with it and do not under any circumstances press the green button", Voice("espeak", "en-us+m3", speed))
    wave, after = voice_of(1), 2.0 + len(long) / SAMPLE_RATE
    sound = heard(4, after + len(wave) / SAMPLE_RATE + 1.0, long=(0.5, MOUTH, long), short=(after, MOUTH, wave))
    (found,) = UtteranceDetector(SAMPLE_RATE).push(sound, 0.0)
    assert len(long) > 8 * SAMPLE_RATE and after - 0.4 < found.start < after + 0.06


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2), st.integers(1000, 6000), st.integers(1, 10000), st.integers(0, 3))
def test_a_gap_in_the_stream_before_speech_does_not_deafen(seed, at, length, more):
    """Blocks that got lost, or a driver's underrun: zeros, which are quieter than any room."""
    sound = heard(seed, 5.0, 20.0, voice=(1.2, MOUTH, voice_of(seed)))
    (whole,) = UtteranceDetector(SAMPLE_RATE).push(sound, 0.0)
    sound[at : at + length] = 0.0
    for start in range(0, more * 3000, 3000):  # and blocks behind what is said
        sound[-1 - start - 320 : -1 - start] = 0.0
    (found,) = UtteranceDetector(SAMPLE_RATE).push(sound, 0.0)
    assert (found.start, found.end) == pytest.approx((whole.start, whole.end), abs=0.1)


@pytest.mark.parametrize("channels, level", [(1, -46.0), (1, -56.0), (2, -56.0)])
def test_a_sample_of_zero_at_the_very_beginning_does_not_deafen(channels, level):
    """As whole numbers, which robots send, hold them often; nothing is said for as long as an utterance may last."""
    noise = 10 ** (level / 20) * np.random.default_rng(0).normal(size=(9 * SAMPLE_RATE, channels)).astype(np.float32)
    whole = np.round(noise * 2**15) / 2**15
    whole[0] = 0.0
    detector = UtteranceDetector(SAMPLE_RATE)
    for block in np.split(whole, 90):
        detector.push(block, 0.0)
        assert not detector.active


def test_memory_stays_bounded():
    detector, noise = UtteranceDetector(SAMPLE_RATE), Noise(np.random.default_rng(0), 2, 20.0)
    for i in range(100):
        detector.push(noise.take(1600), 0.1 * i)
    assert detector._samples.shape[0] < SAMPLE_RATE


def test_a_lone_click_and_digital_silence_score_as_no_speech():
    click = np.zeros(8000, np.float32)
    click[4000] = 1.0
    assert speech_score(click, SAMPLE_RATE) < 0
    assert speech_score(np.zeros(8000, np.float32), SAMPLE_RATE) < 0
    assert not UtteranceDetector(SAMPLE_RATE).push(np.zeros((32000, 2), np.float32), 0.0)


def test_misuse_says_what_is_needed():
    with pytest.raises(ValueError, match="multiple of 100"):
        UtteranceDetector(22051)
    with pytest.raises(ValueError, match=r"\(n, channels\)"):
        UtteranceDetector(SAMPLE_RATE).push(np.zeros(100, np.float32), 0.0)
