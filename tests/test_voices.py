"""Synthesised speech: levels, ends, splits, determinism; the bank of utterances."""

from __future__ import annotations

import json
import subprocess
import sys
from copy import copy
from zlib import crc32

import numpy as np
import pytest

from agent import checkpoint
from envs.tabletop import voices
from envs.tabletop.sound import SAMPLE_RATE, SPEECH_RMS
from envs.tabletop.voice_bank import VoiceBank
from envs.tabletop.voices import Voice, available_engines, draw_voice, speak
from training.data.speech import Utterances

TEXT = "put the red cube in the blue bowl"
needs = {name: pytest.mark.skipif(name not in available_engines(), reason=f"{voices.ENGINES[name]} is not installed")
         for name in voices.ENGINES}
needs_flite = needs["flite"]
ONE_OF_EACH = [pytest.param(voice, marks=needs[voice.engine]) for voice in (
    Voice("espeak", "en-us+f3"), Voice("flite", "slt"), Voice("pico", "en-GB", pitch=60), Voice("festival", "ked_diphone"),
    Voice("piper", "joe"), Voice("hibari", "heart"))]


def frame_rms(wave: np.ndarray) -> np.ndarray:
    return np.sqrt(np.mean(wave[: len(wave) // 80 * 80].reshape(-1, 80) ** 2, axis=1))


def mean_spectrum(wave: np.ndarray) -> np.ndarray:
    """dB in 32 bands up to 8 kHz."""
    frames = np.lib.stride_tricks.sliding_window_view(wave, 512)[::256] * np.hanning(512)
    power = np.mean(np.abs(np.fft.rfft(frames)) ** 2, axis=0)[:256]
    return 10 * np.log10(power.reshape(32, 8).mean(1) + 1e-9)


@pytest.mark.parametrize("voice", ONE_OF_EACH)
def test_speech_is_trimmed_levelled_and_in_range(voice):
    wave = speak(TEXT, voice)
    assert wave.dtype == np.float32 and wave.ndim == 1 and 1.0 < len(wave) / SAMPLE_RATE < 3.0
    level = frame_rms(wave)
    loud = np.flatnonzero(level > level.max() * 10 ** (-45 / 20)) * 80 / SAMPLE_RATE
    assert loud[0] < 0.03 and len(wave) / SAMPLE_RATE - loud[-1] < 0.03
    active = level[level > level.max() * 10 ** (-30 / 20)]
    assert np.sqrt(np.mean(active**2)) == pytest.approx(SPEECH_RMS, rel=0.05)
    assert np.abs(wave).max() < 1.0


@pytest.mark.parametrize("voice", ONE_OF_EACH)
def test_a_higher_speed_makes_it_shorter(voice):
    slow, fast = (len(speak(TEXT, Voice(voice.engine, voice.name, speed))) for speed in (140, 200))
    least = 1.05 if voice.engine in ("piper", "hibari") else 1.25  # whose sounds last a whole number of frames
    assert least < slow / fast < 1.6


def test_variants_accents_and_pitch_change_the_sound():
    plain = speak(TEXT, Voice("espeak", "en-us+m1"))
    for other in (Voice("espeak", "en-us+f3"), Voice("espeak", "en-us+anika"), Voice("espeak", "en-us+m1", pitch=80)):
        assert np.abs(mean_spectrum(speak(TEXT, other)) - mean_spectrum(plain)).mean() > 1.5
    accents = {speak(TEXT, Voice("espeak", f"{accent}+f3")).tobytes() for accent in voices._TRAIN_ACCENTS}
    assert len(accents) == len(set(voices._TRAIN_ACCENTS))


def test_every_drawable_variant_speaks_with_a_voice_of_its_own():
    variants = voices._TRAIN_VARIANTS + voices._NEW_VARIANTS
    assert len({speak("open it", Voice("espeak", f"en-us+{v}")).tobytes() for v in variants}) == len(variants)


def test_what_was_spoken_before_does_not_matter_nor_does_the_process():
    voice = Voice("espeak", "en-gb-x-rp+f2", 155, 60, 70)
    first = speak(TEXT, voice)
    speak("good morning", Voice("espeak", "en-us+klatt3", 200, 80, 20))
    np.testing.assert_array_equal(speak(TEXT, voice), first)
    code = f"""
from zlib import crc32
from envs.tabletop.voices import Voice, speak
print(crc32(speak({TEXT!r}, {voice!r}).tobytes()))"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(said) == crc32(first.tobytes())


def test_training_never_hears_a_voice_of_the_new_ones():
    def drawn(split):
        return [draw_voice(np.random.default_rng(s), split) for s in range(600)]

    def variants(drawn):
        return {voice.name.split("+")[1] for voice in drawn if voice.engine == "espeak"}

    train, new = drawn("train"), drawn("new_voices")
    assert len(variants(train)) > 50 and len(variants(new)) >= 20
    assert not variants(train) & variants(new)
    assert {v.engine for v in train} == {"espeak"}
    assert {v.name for v in new if v.engine == "flite"} == set(voices._FLITE_VOICES)
    assert all(130 <= v.speed <= 210 and 0 <= v.pitch <= 99 for v in train + new)
    assert drawn("train") == train and drawn("new_scenes") == train
    others = {engine: {draw_voice(np.random.default_rng(s), "train", engine).name for s in range(50)}
              for engine in voices.LEARNED_FROM[1:]}
    assert others == {engine: set(names) for engine, names in voices._MORE_TO_LEARN_FROM.items()}
    with pytest.raises(ValueError, match="'flite' is not for training: allowed are espeak, pico, festival, piper, hibari"):
        draw_voice(np.random.default_rng(0), "train", "flite")


def test_errors_say_what_is_missing_or_allowed(monkeypatch):
    with pytest.raises(ValueError, match="marytts.*espeak, flite, pico, festival, piper, hibari"):
        speak(TEXT, Voice("marytts", "x"))
    for name in ("en-us+nobody", "nowhere+f3"):
        with pytest.raises(ValueError, match=f"no voice '{name.replace('+', '.')}'"):
            speak(TEXT, Voice("espeak", name))
    with pytest.raises(ValueError, match="nothing to be spoken"):
        speak("", Voice("espeak", "en-us+f3"))
    monkeypatch.setattr(voices.shutil, "which", lambda name: None)
    assert "flite" not in available_engines()
    with pytest.raises(RuntimeError, match="apt-get install flite"):
        speak(TEXT, Voice("flite", "slt"))


@needs_flite
def test_all_flite_voices_differ():
    waves = {speak("open the drawer", Voice("flite", name)).tobytes() for name in voices._FLITE_VOICES}
    assert len(waves) == len(voices._FLITE_VOICES)
    with pytest.raises(ValueError, match="allowed are kal16, awb, rms, slt"):
        speak(TEXT, Voice("flite", "nobody"))


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    return VoiceBank.build(tmp_path_factory.mktemp("bank"), ["go", "open the drawer"], "train", voices={"espeak": 3}, seed=1)


def test_a_bank_draws_the_asked_sentence_by_several_voices(bank):
    rng = np.random.default_rng(0)
    drawn = {bank.draw("open the drawer", rng).tobytes() for _ in range(30)}
    assert len(drawn) == 3
    spoken = speak("open the drawer", _voice_of_first_clip(bank, "open the drawer"))
    np.testing.assert_allclose(bank.waveform(bank.clips("open the drawer")[0]), spoken, atol=1 / 32767)


def _voice_of_first_clip(bank, sentence) -> Voice:
    clips = json.loads((bank.folder / "clips-0000.json").read_text())
    return Voice(**next(clip["voice"] for clip in clips if clip["sentence"] == sentence))


def test_a_bank_is_extended_and_what_was_there_stays(bank):
    before = {c: bank.waveform(c).tobytes() for c in range(len(bank))}
    (bank.folder / "clips-0001.npy").write_bytes(b"cut off while writing")
    more = VoiceBank.build(bank.folder, ["go", "open the drawer", "stop"], "train", voices={"espeak": 4}, seed=1)
    assert [len(more.clips(s)) for s in ("go", "open the drawer", "stop")] == [4, 4, 4]
    assert all(more.waveform(c).tobytes() == samples for c, samples in before.items())
    assert len({more.waveform(c).tobytes() for c in range(len(more))}) == 12
    less = VoiceBank.build(bank.folder, ["stop", "go"], "train", voices={"espeak": 2}, seed=1)  # of a bank that holds more
    assert less.sentences == ["stop", "go"] and len(less) == 4 and less.clips("go") == more.clips("go")[:2]
    sent = copy(less)  # as to another process: opened anew, for nothing that was spoken is sent along
    assert sent.clips("go") == less.clips("go") and sent._samples[0] is not less._samples[0]
    with pytest.raises(ValueError, match="another folder"):
        VoiceBank.build(bank.folder, ["go"], "new_voices", voices={"espeak": 1}, seed=1)


def test_a_batch_of_utterances_is_of_about_the_same_length_and_every_sentence_has_its_turn(tmp_path):
    sentences = [" ".join(["open", "it"] * n) for n in range(1, 17)]
    bank = VoiceBank.build(tmp_path, sentences, voices={"espeak": 1})
    _, processor, _ = checkpoint.load("pocket")
    batches = Utterances(bank, processor, batch=4, seed=3)
    drawn = [batches[n].utterance_length.numpy() for n in range(24)]
    assert np.mean([np.ptp(lengths) for lengths in drawn]) < 0.5 * np.ptp(np.concatenate(drawn))
    np.testing.assert_array_equal(batches[5].utterance, batches[5].utterance)
    told = [tuple(row) for n in range(24) for row in batches[n].text.tolist()]
    assert {row[: len(row) - row[::-1].index(next(filter(None, row[::-1])))] for row in told} == {
        tuple(processor.ids(sentence)) for sentence in sentences}
