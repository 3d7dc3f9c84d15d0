"""The audio node: blocks whose stamps join, speech that is noticed, sayings that are spoken, mistakes that are named."""

import numpy as np
import pytest
import soundfile

from envs.tabletop.sound import SAMPLE_RATE, Noise
from envs.tabletop.voices import Voice, speak
from ros_nodes import convert
from ros_nodes.arguments import ArgumentError
from ros_nodes.audio_node import AudioNode, FileSource, sound_file
from ros_nodes.interfaces import message
from tests.by_hand import HandNode


@pytest.fixture
def spoken(tmp_path):
    """A stereo file at 48 kHz in which somebody speaks from 1.0 s on."""
    wave = np.concatenate([np.zeros(SAMPLE_RATE), speak("press the red button", Voice("espeak", "en-us+f3")), np.zeros(8000)])
    noisy = np.repeat(wave[:, None], 2, 1) + Noise(np.random.default_rng(0), 2, 30.0).take(len(wave))
    soundfile.write(tmp_path / "said.wav", np.repeat(noisy, 3, 0), 3 * SAMPLE_RATE)
    return tmp_path / "said.wav", len(wave) / SAMPLE_RATE


def test_a_file_is_heard_at_the_pace_of_the_clock_and_speech_is_noticed(spoken):
    path, seconds = spoken
    node = HandNode(source=str(path))
    AudioNode(node)
    node.run(seconds + 1.0)
    stamps = np.array([convert.seconds(a.header.stamp) for a in node.sent["audio"]])
    np.testing.assert_allclose(stamps, 100.0 + 0.02 * np.arange(len(stamps)), atol=1e-6)
    assert len(stamps) == pytest.approx((seconds + 1.0) / 0.02, abs=2)
    heard = np.concatenate([convert.from_audio(a, SAMPLE_RATE, 2) for a in node.sent["audio"]])
    assert np.abs(heard[SAMPLE_RATE : round(seconds * SAMPLE_RATE)]).max() > 0.05
    assert not heard[round((seconds + 0.1) * SAMPLE_RATE) :].any()
    assert [a.data for a in node.sent["audio/active"]] == [False, True, False]
    assert len(node.said) == 1 and node.said[0].startswith("somebody spoke from 100.")  # a little before the first word


def test_a_repeated_file_goes_on(tmp_path):
    soundfile.write(tmp_path / "tone.wav", np.linspace(-0.5, 0.5, 1000), SAMPLE_RATE, subtype="FLOAT")
    source = FileSource(str(tmp_path / "tone.wav"), SAMPLE_RATE, 2, 800, 0.0, True)
    heard = np.concatenate([samples for _, samples in source.read(0.2)])
    np.testing.assert_allclose(heard[:, 1], np.resize(np.linspace(-0.5, 0.5, 1000), len(heard)), atol=1e-3)
    assert len(heard) == 3200 and not list(source.read(0.2))


def test_a_file_goes_on_at_the_new_time_where_a_clock_jumps(tmp_path):
    soundfile.write(tmp_path / "tone.wav", np.linspace(-0.5, 0.5, 1600), SAMPLE_RATE, subtype="FLOAT")
    source = FileSource(str(tmp_path / "tone.wav"), SAMPLE_RATE, 1, 800, 0.0, True)
    first = list(source.read(0.05))
    for now in (1.8e9, 0.0, 3600.0):
        assert list(source.read(now)) == []
        first += [(stamp - now, samples) for stamp, samples in source.read(now + 0.0501)]
    np.testing.assert_allclose([stamp for stamp, _ in first], 0.0, atol=1e-3)
    np.testing.assert_allclose(np.concatenate([s for _, s in first])[:, 0], np.tile(np.linspace(-0.5, 0.5, 1600), 2), atol=1e-3)


def test_a_file_is_heard_in_blocks_as_long_as_they_may_be(spoken):
    node = HandNode(source=str(spoken[0]), block=1.0)
    AudioNode(node)
    node.run(3.2, step=0.5003)  # as a timer, a little late
    assert [round(convert.seconds(a.header.stamp), 6) for a in node.sent["audio"]] == [100.0, 101.0, 102.0]


def test_what_is_to_be_said_is_spoken(spoken):
    node, played = HandNode(source=str(spoken[0])), []
    AudioNode(node, play=played.append)
    node.heard["say"](message("std_msgs/msg/String")("I hold the red cube"))
    assert len(played) == 1 and 1.0 < len(played[0]) / SAMPLE_RATE < 3.0
    [told] = node.sent["speech"]
    assert convert.seconds(told.header.stamp) == node.time
    np.testing.assert_allclose(convert.from_audio(told, SAMPLE_RATE, 1)[:, 0], played[0], atol=1e-4)
    node.heard["say"](message("std_msgs/msg/String")(""))
    assert len(played) == len(node.sent["speech"]) == 1 and "nothing to be spoken" in node.said[-1]


def test_files_that_are_none_are_named(tmp_path):
    (tmp_path / "text.wav").write_text("no sound")
    soundfile.write(tmp_path / "five.wav", np.zeros((10, 5)), SAMPLE_RATE)
    for name, why in (("none.wav", "no file"), ("text.wav", "source"), ("five.wav", "5 channels; some in 1 or 2 are needed")):
        with pytest.raises(ArgumentError, match=why):
            sound_file(str(tmp_path / name), SAMPLE_RATE, 2)


def test_microphones_that_are_none_are_named(spoken):
    with pytest.raises(ArgumentError, match="parameter rate: sample rate 22050: a multiple of 100"):
        AudioNode(HandNode(source=str(spoken[0]), rate=22050))
    with pytest.raises(ArgumentError, match="microphone no such thing, 2 channels at 16000 Hz|PortAudio"):
        AudioNode(HandNode(device="no such thing"))
