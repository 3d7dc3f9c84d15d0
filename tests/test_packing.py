"""Sounds of many lengths in few streams: each is heard as if it were alone."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agent.packing import packed
from agent.processor import CONTEXT, TOKEN
from agent.spec import AUDIO, TIME
from tests.tiny import tiny_model, tiny_sample


@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.integers(0, 3))
def test_nothing_lies_on_another_or_nearer_than_the_gap(lengths, gap):
    at, of = packed(lengths, gap)
    assert of.shape[1] == max(lengths) and len(of) <= max(1, sum(length > 0 for length in lengths))
    taken = np.zeros((len(of), max(lengths) + gap), int)
    for i, ((row, start), length) in enumerate(zip(at, lengths)):
        assert start + length <= max(lengths) and (of[row, start : start + length] == i).all()
        taken[row, start : start + (length and length + gap)] += 1
    assert taken.max(initial=0) <= 1


def test_rows_are_few():
    """141 places in rows of 50 take 3 at least; the gaps take one more."""
    at, of = packed([3, 11, 28, 5, 29, 50, 4, 11], gap=2)
    assert len(of) == 4 and at[5].tolist() == [0, 0]


def sounding(rng, tokens):
    seconds = tokens * TOKEN / 16000
    sound = rng.normal(scale=0.1, size=(tokens * TOKEN, 2)).astype(np.float32)
    return tiny_sample(rng, 2) | {AUDIO: sound, TIME: np.array([seconds * 0.6, seconds]),
                                  "audio_states": rng.normal(size=(tokens, 7)).astype(np.float32)}


@pytest.mark.parametrize("counts", [(9, 0, 3, 2, 5), (4, 4), (0, 0), (1, 7, 0)])
def test_a_sound_is_heard_among_others_as_it_is_alone(counts):
    model, processor, _ = tiny_model(stamped=True)
    torch.nn.init.normal_(model.stamp_in.weight)
    model.eval().memory = 4
    rng = np.random.default_rng(7)
    samples = [sounding(rng, tokens) for tokens in counts]
    hidden = torch.arange(len(counts)) % 2 == 1

    def thought(some):
        batch = processor([samples[i] for i in some])
        batch.absent["state"] = hidden[list(some)]
        mind = model.think(batch)
        return torch.cat([mind.act, mind.sound.newest], -1), batch

    together, batch = thought(range(len(counts)))
    assert batch.audio.shape == (len(batch.audio_of), CONTEXT + max(counts) * TOKEN, 2)
    for i in range(len(counts)):
        torch.testing.assert_close(thought([i])[0][0], together[i], rtol=1e-4, atol=1e-5)
