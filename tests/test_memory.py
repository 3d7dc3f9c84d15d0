"""What a decision makes of the sound before it: as far back as in training, however it came."""

import numpy as np
import torch

from agent.encoders.audio import CausalAudioEncoder
from agent.spec import AUDIO, TIME
from tests.tiny import tiny_model, tiny_sample


def test_sound_that_is_older_than_the_memory_changes_nothing():
    """A token's thought reaches back the memory once a layer, and its features by the encoder's context."""
    model, processor, _ = tiny_model()
    model.memory = 2
    sample = tiny_sample(np.random.default_rng(7), 1) | {TIME: np.array([9.0])}
    sample[AUDIO] = np.random.default_rng(8).normal(scale=0.1, size=(9 * 16000, 2)).astype(np.float32)
    reach = model.memory * (1 + model.backbone.depth) * CausalAudioEncoder.TOKEN + CausalAudioEncoder.CONTEXT
    results = []
    for older in (0.0, 0.5):
        changed = sample[AUDIO].copy()
        changed[: 9 * 16000 - reach] = older
        results.append(model.think(processor([sample | {AUDIO: changed}])).goal.readout[0, 0, 0])
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)
    changed[-CausalAudioEncoder.TOKEN :] = 0.0
    now = model.think(processor([sample | {AUDIO: changed}])).goal.readout[0, 0, 0]
    assert (now - results[1]).abs().max() > 1e-5


def test_sound_heard_piece_by_piece_is_thought_as_it_is_in_training():
    """Also where more has been heard than is remembered: what is forgotten has left its trace in what is remembered."""
    model, processor, _ = tiny_model()
    model.eval().memory = 4
    rng = np.random.default_rng(7)
    wave = rng.normal(scale=0.1, size=(1, CausalAudioEncoder.CONTEXT + 23 * CausalAudioEncoder.TOKEN, 2)).astype(np.float32)
    wave[:, : CausalAudioEncoder.CONTEXT] = 0.0
    states, recalled, at = rng.normal(size=(1, 23, len(model.spec.state))).astype(np.float32), None, 0
    for n in (3, 1, 9, 2, 8):
        piece = wave[:, at * CausalAudioEncoder.TOKEN : (at + n) * CausalAudioEncoder.TOKEN + CausalAudioEncoder.CONTEXT]
        recalled = model.hear(torch.from_numpy(piece), torch.from_numpy(states[:, at : at + n]), recalled)
        at += n
        sample = tiny_sample(rng, 1) | {TIME: np.array([at * CausalAudioEncoder.TOKEN / 16000])}
        sample |= {AUDIO: wave[0, CausalAudioEncoder.CONTEXT :][: at * CausalAudioEncoder.TOKEN], "audio_states": states[0, :at]}
        batch = processor([sample])
        at_once, piecewise = model.think(batch), model.think(batch, recalled)
        assert recalled.length == min(at, 4) and int(recalled.heard) == at
        for one, other in ((at_once.act, piecewise.act), (at_once.goal.point, piecewise.goal.point)):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
