"""What is made of sound: features, memory tokens, and what the recogniser hears in training."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agent.encoders.audio import LAGS, CausalAudioEncoder, Features, mel_filters, scaled_bands
from agent.encoders.speech import SpeechEncoder, masked, progress, warped
from agent.encoders.vision import GroupNorm
from agent.perception import SoundMemory
from agent.spec import TIME
from tests.tiny import tiny_model, tiny_sample


@given(st.integers(0, 99), st.sampled_from([(1, 8, 2, 1), (2, 48, 5, 3), (3, 96, 4, 4)]), st.floats(-3, 3), st.floats(0.1, 4))
def test_group_norm_is_that_of_pytorch(seed, shape, mean, deviation):
    torch.manual_seed(seed)
    ours = GroupNorm(8, shape[1])
    torch.nn.init.normal_(ours.weight), torch.nn.init.normal_(ours.bias)
    x = (mean + deviation * torch.randn(shape)).contiguous(memory_format=torch.channels_last)
    exact = torch.nn.functional.group_norm(x.double(), 8, ours.weight.double(), ours.bias.double())
    assert torch.allclose(ours(x).double(), exact, atol=1e-4) and ours(x).shape == x.shape


def test_sound_in_pieces_equals_sound_at_once():
    torch.manual_seed(0)
    encoder = CausalAudioEncoder(2, hidden=16, width=16)

    def joined(wave, states, before):
        tokens = torch.cat([encoder(wave), states], -1)
        return tokens if before is None else torch.cat([before, tokens], 1)

    rng = np.random.default_rng(0)
    wave = rng.normal(size=(CausalAudioEncoder.TOKEN * 9 + 77, 2)).astype(np.float32)
    whole = np.concatenate([np.zeros((CausalAudioEncoder.CONTEXT, 2), np.float32), wave])[None]
    offline = encoder(torch.from_numpy(whole[:, : CausalAudioEncoder.CONTEXT + 9 * CausalAudioEncoder.TOKEN]))[0]
    memory, at, before = SoundMemory(joined, 2), 0, 0
    while at < len(wave):
        before, at = at, min(at + int(rng.integers(1, 5000)), len(wave))
        memory.push(wave[before:at], np.array([0.5 * at]))  # the state moves evenly
    torch.testing.assert_close(memory.recalled[0, :, :-1], offline, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(memory.recalled[0, :, -1].detach(), 0.5 * CausalAudioEncoder.TOKEN * np.arange(1, 10))


@given(st.integers(1, 4), st.integers(1, 30), st.integers(1, 12), st.integers(0, 40), st.integers(0, 40), st.integers(0, 9))
def test_masks_hide_one_group_of_bands_and_one_stretch(batch, frames, bands, most_bands, most_frames, seed):
    torch.manual_seed(seed)
    for row in masked(torch.ones(batch, frames, bands), most_bands, most_frames):
        columns, rows = (row == 0).all(0), (row == 0).all(1)
        assert torch.equal(row == 0, columns[None] | rows[:, None])
        if not (columns.all() or rows.all()):
            for hidden, most in ((columns, most_bands), (rows, most_frames)):
                assert hidden.sum() <= most and (hidden.int().diff() == 1).sum() + hidden[0] <= 1


def test_warping_moves_time_and_frequency_and_nothing_else():
    """Without strength nothing changes; a scaled throat moves a tone to where the scaled frequency lies; time only runs
    forwards, from end to end."""
    torch.manual_seed(0)
    features, frames = torch.randn(3, 50, 40), torch.tensor([50, 30, 1])
    same, counts = warped(features, frames, 16000, 0.0, 0.0, 0.0)
    assert counts.tolist() == [50, 30, 1]
    for row, own, n in zip(same, features, counts):
        torch.testing.assert_close(row[:n], own[:n], atol=1e-4, rtol=1e-4)
        assert not row[n:].any()
    filters, bins = mel_filters(40, 257, 16000), torch.linspace(0, 8000, 257)
    for scale in (0.85, 1.0, 1.15):
        at = scaled_bands(torch.tensor([scale]), 40, 16000)[0]
        middle = (filters * bins[:, None]).sum(0) / filters.sum(0)
        expected = torch.tensor(np.interp(scale * middle[20:30], middle, np.arange(40.0)), dtype=torch.float32)
        torch.testing.assert_close(at[20:30], expected, atol=0.05, rtol=0)
    course = progress(torch.linspace(0, 1, 50).expand(8, -1), 0.5)
    assert (course.diff() > 0).all() and course[:, 0].abs().max() == 0 and (course[:, -1] - 1).abs().max() < 1e-5


@pytest.mark.parametrize("rest", range(4))
def test_an_utterance_alone_is_recognised_as_in_a_batch(rest):
    """In which it is padded to the longest."""
    torch.manual_seed(rest)
    encoder, n = SpeechEncoder(50, width=36, depth=2).eval(), (160 * (40 + rest))
    wave = 0.1 * torch.randn(1, n)
    with torch.inference_mode():
        alone, frames = encoder(wave, torch.tensor([n]))
        padded, _ = encoder(torch.nn.functional.pad(wave, (0, 16000)), torch.tensor([n]))
    torch.testing.assert_close(alone[:, : frames[0]], padded[:, : frames[0]], rtol=1e-4, atol=1e-4)


def test_sound_token_ends_when_it_says():
    """Token n is made of sound before its own end only, and its last samples count."""
    torch.manual_seed(0)
    encoder = CausalAudioEncoder(2, hidden=16, width=16)
    wave = torch.randn(1, encoder.CONTEXT + 4 * encoder.TOKEN, 2) * 0.1
    end = encoder.CONTEXT + 2 * encoder.TOKEN
    later, last = wave.clone(), wave.clone()
    later[:, end:] = 0
    last[:, end - 100 : end] = 0
    assert torch.equal(encoder(wave)[:, :2], encoder(later)[:, :2])
    assert not torch.allclose(encoder(wave)[:, 1], encoder(last)[:, 1])


@pytest.mark.parametrize("lag", [-12, -3, 0, 5, 14])
def test_direction_survives_the_features(lag):
    """A sound that reaches the right ear `lag` samples after the left shows as a peak at that lag."""
    rng = np.random.default_rng(0)
    source = rng.normal(size=9000).astype(np.float32)
    left, right = source[100:8100], source[100 - lag : 8100 - lag]
    features = Features(2, hop=320)(torch.from_numpy(np.stack([left, right], 1))[None])
    assert int(features[0, :, -(2 * LAGS + 1) :].mean(0).argmax()) == LAGS + lag


def test_what_is_heard_amid_training_in_bf16_is_what_is_heard_in_use():
    features, wave = Features(2, hop=320), torch.randn(2, 8000, 2, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        amid = features(wave)
    assert torch.equal(amid, features(wave))


@pytest.mark.parametrize("stamped, hidden", [(True, False), (True, True), (False, False)])
def test_remembered_sound_holds_the_state_in_which_it_was_heard(stamped, hidden):
    """Where it is to, and the state is not hidden. A model that is only now to remember it thinks as it did before."""
    model, processor, _ = tiny_model(stamped=stamped)
    sample = tiny_sample(np.random.default_rng(7), 1) | {TIME: np.array([2.0])}
    states = np.random.default_rng(8).normal(size=(10, 7)).astype(np.float32)

    def memory(states):
        batch = processor([sample | {"audio_states": states}])
        batch.absent["state"] = torch.tensor([hidden])
        return model.memories(batch)

    torch.testing.assert_close(memory(states), memory(2 * states))
    if stamped:
        torch.nn.init.normal_(model.stamp_in.weight)
    moved = (memory(states) - memory(np.concatenate([states[:5], 2 * states[5:]]))).abs().amax((0, 2))
    assert (moved[:5] < 1e-5).all() and ((moved[5:] > 1e-3) == (stamped and not hidden)).all()
    model.normalize_state.low.fill_(-3.0)  # so that a state of zeros is one like others
    if hidden:
        torch.testing.assert_close(memory(states), model.memories(processor([sample])))
