"""Geometry, energy and streaming of the simulated sound, and what knocks in the simulated world."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.arm import PANDA, JointState, ik, tool_pose
from envs.tabletop.env import TabletopEnv
from envs.tabletop.physics import World
from envs.tabletop.scene import KINDS, Item, Look, Scene
from envs.tabletop.sound import MICROPHONES, SAMPLE_RATE, SPEECH_RMS, Noise, Soundscape, beep, buzzer, mix, rattle
from envs.tabletop.waveforms import MATERIALS, modal_impact

seeds = st.integers(0, 2**32 - 1)
places = st.tuples(st.floats(0.28, 0.9), st.floats(-0.9, 0.9), st.floats(0.0, 0.7))


def soundscape(seed=0, **kwargs) -> Soundscape:
    return Soundscape(MICROPHONES, SAMPLE_RATE, np.random.default_rng(seed), **kwargs)


def band_noise(seed: int, n: int = 4000) -> np.ndarray:
    """White up to 6 kHz, silent above, fading in and out."""
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(n))
    spectrum[int(6000 / SAMPLE_RATE * n) :] = 0
    return (0.1 * np.fft.irfft(spectrum, n) * np.hanning(n)).astype(np.float32)


def delay_between(a: np.ndarray, b: np.ndarray) -> float:
    """Samples by which b comes after a: the slope of the cross spectrum's phase about the peak of the correlation."""
    n = 2 * len(a)
    cross = np.fft.rfft(b, n) * np.conj(np.fft.rfft(a, n))
    correlation = np.fft.irfft(cross, n)
    whole = int(np.argmax(correlation))
    omega = 2 * np.pi * np.arange(len(cross)) / n
    phase = np.angle(cross * np.exp(1j * omega * whole))
    rest = -np.sum(np.abs(cross) * omega * phase) / np.sum(np.abs(cross) * omega**2)
    return (whole + rest + n / 2) % n - n / 2


@settings(max_examples=25, deadline=None)
@given(places, st.floats(0.0, 0.2), seeds)
def test_time_and_level_differences_are_those_of_the_geometry(place, time, seed):
    scene = soundscape()
    scene.play(time, place, band_noise(seed))
    left, right = scene.render(0.0, 9600)["world"].T
    far = np.linalg.norm(np.array(MICROPHONES) - place, axis=1)
    assert delay_between(left, right) == pytest.approx((far[1] - far[0]) / 343.0 * SAMPLE_RATE, abs=0.02)
    assert np.linalg.norm(left) / np.linalg.norm(right) == pytest.approx(far[1] / far[0], rel=0.01)


@settings(max_examples=15, deadline=None)
@given(places, seeds)
def test_level_falls_with_the_distance_and_arrival_is_never_early(place, seed):
    wave, scene = band_noise(seed), soundscape()
    scene.play(0.05, place, wave, gain=0.5)
    left = scene.render(0.0, 9600)["world"][:, 0]
    far = np.linalg.norm(np.array(MICROPHONES[0]) - place)
    assert np.linalg.norm(left) == pytest.approx(0.5 * np.linalg.norm(wave) / far, rel=0.01)
    assert not left[: int(0.05 * SAMPLE_RATE + far / 343.0 * SAMPLE_RATE)].any()


@settings(max_examples=20, deadline=None)
@given(seeds, st.lists(st.integers(1, 3000), min_size=2, max_size=8))
def test_windows_equal_one_big_rendering(seed, sizes):
    def scene():
        rng, out = np.random.default_rng(seed), soundscape(seed)
        for _ in range(3):
            place, materials = rng.uniform(0, 0.6, 3), rng.choice(list(MATERIALS), 2)
            out.impact(rng.uniform(0, 0.5), place, *materials, rng.uniform(0, 0.2))
        out.play(rng.uniform(0, 0.5), rng.uniform(0, 0.6, 3), buzzer(rng, 0.4))
        out.play(rng.uniform(0, 0.5), rng.uniform(0, 0.6, 3), band_noise(seed), track="voice")
        return out

    whole_scene, scene, starts = scene(), scene(), np.cumsum([0, *sizes])
    whole = whole_scene.render(0.0, int(starts[-1]))
    parts = [scene.render(s / SAMPLE_RATE, n) for s, n in zip(starts, sizes, strict=False)]
    for track, sound in whole.items():
        np.testing.assert_array_equal(np.concatenate([p[track] for p in parts]), sound)
    heard = [mix(**p, noise=scene.noise) for p in parts]
    np.testing.assert_allclose(np.concatenate(heard), mix(**whole, noise=whole_scene.noise), atol=1e-6)


def test_a_sound_emitted_window_by_window_joins_without_a_seam():
    wave, whole, pieces = buzzer(np.random.default_rng(3), 0.5), soundscape(), soundscape()
    whole.play(0.1, (0.5, 0.2, 0.05), wave)
    heard = [pieces.render(0.0, 1600)["world"]]
    for i in range(5):
        pieces.play(0.1 * (i + 1), (0.5, 0.2, 0.05), wave[1600 * i : 1600 * (i + 1)])
        heard.append(pieces.render(0.1 * (i + 1), 1600)["world"])
    np.testing.assert_allclose(np.concatenate(heard), whole.render(0.0, 9600)["world"], atol=1e-6)


def test_tracks_stay_apart_and_the_voice_lasts_over_many_windows():
    scene, wave = soundscape(), np.full(8000, 0.1, np.float32)
    scene.play(0.15, (0.3, 0.0, 0.3), wave, track="voice")
    windows = [scene.render(0.1 * i, 1600) for i in range(8)]
    assert not any(w["world"].any() for w in windows)
    assert [bool(w["voice"].any()) for w in windows] == [False, *[True] * 6, False]


def test_the_same_generator_gives_the_same_sound():
    def once(seed):
        scene = soundscape(seed)
        scene.impact(0.01, (0.4, 0, 0), "metal", "wood", 0.05)
        return mix(**scene.render(0.0, 3200), noise=scene.noise)

    np.testing.assert_array_equal(once(5), once(5))
    assert np.abs(once(5) - once(6)).max() > 1e-3


def test_misuse_says_what_is_allowed():
    scene = soundscape()
    with pytest.raises(ValueError, match="world, voice"):
        scene.play(0.0, (0, 0, 0), np.zeros(8), track="voices")
    with pytest.raises(ValueError, match="glass.*wood, plastic, metal, ceramic, rubber"):
        scene.impact(0.0, (0, 0, 0), "glass", "wood", 0.1)
    scene.render(0.0, 1600)
    with pytest.raises(ValueError, match="must begin at 0.1000 s"):
        scene.render(0.2, 1600)
    with pytest.raises(ValueError, match="rendered up to 0.1000 s"):
        scene.play(0.05, (0, 0, 0), np.zeros(8))


@given(seeds, st.sampled_from(list(MATERIALS)), st.sampled_from(list(MATERIALS)))
@settings(max_examples=30, deadline=None)
def test_a_knock_decays_and_grows_with_its_impulse(seed, a, b):
    soft, hard = (modal_impact(np.random.default_rng(seed), a, b, impulse) for impulse in (0.02, 0.04))
    np.testing.assert_allclose(hard, 2 * soft, rtol=1e-4, atol=1e-7)
    energy = [float(np.sum(part**2)) for part in np.array_split(hard, 6)]
    assert energy[0] > 2 * energy[2] > 4 * energy[5]
    assert np.abs(hard[-8:]).max() < 1e-3 * np.abs(hard).max() + 1e-4
    assert np.abs(modal_impact(np.random.default_rng(seed), a, b, 100.0)).max() <= 0.3


def test_metal_rings_longer_than_ceramic_than_wood_than_rubber():
    def ringing(material):
        wave = modal_impact(np.random.default_rng(0), material, material, 0.05)
        return np.sum(wave**2 * np.arange(len(wave))) / np.sum(wave**2)

    order = [ringing(m) for m in ("metal", "ceramic", "wood", "rubber")]
    assert order == sorted(order, reverse=True)


def test_buzzers_differ_and_beeps_are_short_clear_tones():
    def spectrum(wave):
        power = np.abs(np.fft.rfft(wave * np.hanning(len(wave)))) ** 2
        return power / power.sum()

    pitches = {int(np.argmax(spectrum(beep(np.random.default_rng(s), 0.3)))) for s in range(8)}
    assert len(pitches) == 8
    assert max(spectrum(beep(np.random.default_rng(1)))) > 0.2
    first, second = (buzzer(np.random.default_rng(s), 1.0) for s in (0, 1))
    assert np.sqrt(spectrum(first) * spectrum(second)).sum() < 0.5
    assert len(first) == SAMPLE_RATE and 0.04 < np.sqrt(np.mean(first**2)) < 0.1


def test_shaking_harder_rattles_more():
    def energy(shaking):
        waves = [rattle(np.random.default_rng(s), 0.3, shaking) for s in range(10)]
        return sum(float(np.sum(w**2)) for w in waves)

    assert energy(0.0) == 0.0 < energy(0.3) < 0.5 * energy(1.0)


@settings(max_examples=10, deadline=None)
@given(seeds, st.floats(5.0, 40.0))
def test_noise_has_the_level_asked_for_in_every_colour_and_ears_are_independent(seed, snr_db):
    noise = Noise(np.random.default_rng(seed), 2, snr_db).take(80000)
    rms = np.sqrt(np.mean(noise**2))
    assert 20 * np.log10(SPEECH_RMS / rms) == pytest.approx(snr_db, abs=0.5)
    assert abs(np.corrcoef(noise.T)[0, 1]) < 0.1


def test_mixing_never_leaves_the_range_of_samples():
    loud = np.full((100, 2), 0.8, np.float32)
    assert mix(loud, loud).max() == 1.0
    assert mix(loud, -loud).dtype == np.float32


# ---- what knocks


def little_world(*places) -> World:
    """Cubes whose undersides are at these places (3,), and the hand before them, open."""
    items = [Item(f"cube_{i}", "cube", "red", (1, 0, 0), 0.02, 0.04, (x, y, z + 0.02), 0.0, "other")
             for i, (x, y, z) in enumerate(places)]
    look = Look((0.6, 0.6, 0.5), (0.0, 0.0, -1.0), 1.0, (0.0,) * 3, (0.0,) * 3)
    return World(Scene(tuple(items), look, (0.38, -0.046, 0.02, 0.0)), PANDA, 10.0)


def knocks(world: World, steps: int, way=(0.0, 0.0, 0.0)) -> list:
    """The impacts while the tool goes on by `way` (m) in each of the control steps."""
    found = []
    for _ in range(steps):
        q = ik(PANDA, tool_pose(*(world.target[:3] + way), 0.0), world.command.position)
        world.step(JointState(world.time, q, PANDA.max_opening))
        found += world.impacts
    return found


def played(task: str, seed: int):
    """The environment after each of the expert's steps."""
    env = TabletopEnv(task, lazy_images=True)
    env.reset(seed=seed)
    done = False
    while not done:
        *_, terminated, truncated, _ = env.step(env.expert_action())
        done = terminated or truncated
        yield env


@pytest.mark.parametrize("height", [0.03, 0.06, 0.12])
def test_what_falls_knocks_once_with_its_momentum(height):
    [hit] = knocks(little_world((0.5, 0.0, height)), 8)
    time = np.sqrt(2 * height / 9.81)
    assert 1.0 < hit.impulse / (KINDS["cube"].mass * 9.81 * time) < 1.25  # it bounces a little
    assert hit.materials == ("wood", "wood") and time - 0.01 < hit.time < time + 0.03


def test_two_things_that_collide_knock_once():
    [hit] = knocks(little_world((0.5, 0.0, 0.0), (0.5, 0.0, 0.10)), 8)
    assert hit.impulse > KINDS["cube"].mass and hit.position[2] > 0.05


def test_what_is_struck_at_rest_knocks_and_what_rests_does_not():
    world = little_world((0.5, 0.0, 0.0), (0.6, 0.2, 0.0))
    assert not knocks(world, 5)
    first, *_ = knocks(world, 4, way=(0.04, 0.0, 0.0))
    assert first.impulse > 0.2 * KINDS["cube"].mass and first.materials == ("wood", "metal")
    np.testing.assert_allclose(first.position, (0.5, 0.0, 0.02), atol=0.02)


def test_nothing_knocks_that_is_carried():
    held = []
    for env in played("place_in", 0):
        item = env.task.item
        if env.world.held(item.name) and env.world.position(item.name)[2] > 2 * item.height:
            held.append(len(env.world.impacts))
    assert len(held) > 5 and not any(held)


def test_shaking_a_box_does_not_knock():
    shaken = [len(env.world.impacts) for env in played("find_rattle", 0) if env.task.jolt > 0.1]
    assert len(shaken) > 5 and sum(shaken) <= 1


def test_a_drawer_that_is_slammed_knocks():
    found = [hit for env in played("close_drawer", 0) for hit in env.world.impacts]
    assert found and all("wood" in hit.materials for hit in found)
