"""What the agent remembers while it runs: heard sound as memory tokens, the last utterance, the time.

Legend: n samples, C channels, D width, N memory tokens.
"""

from __future__ import annotations

from collections import deque
from typing import Callable

import numpy as np
import torch
from torch import Tensor

from agent.encoders.audio import CausalAudioEncoder


class SoundMemory:
    """Feeds a stream of samples to a causal encoder, each sample once, and keeps the last `size` tokens.

    encode: waveform (1, CONTEXT + N TOKEN, C) -> (1, N, D). The tokens equal those of the whole recording.
    """

    def __init__(self, encode: Callable[[Tensor], Tensor], channels: int, size: int):
        self.encode = encode
        self.pending = np.zeros((CausalAudioEncoder.CONTEXT, channels), np.float32)
        self.tokens: deque[Tensor] = deque(maxlen=size)
        self.count = 0  # tokens since the beginning, also those forgotten

    def push(self, samples: np.ndarray) -> None:
        """samples (n, C), directly behind those of the last call."""
        self.pending = np.concatenate([self.pending, samples])
        new = (len(self.pending) - CausalAudioEncoder.CONTEXT) // CausalAudioEncoder.TOKEN
        if new == 0:
            return
        used = new * CausalAudioEncoder.TOKEN
        wave = torch.from_numpy(self.pending[: CausalAudioEncoder.CONTEXT + used])[None]
        self.tokens.extend(self.encode(wave)[0])
        self.pending = self.pending[used:]
        self.count += new

    def recall(self) -> Tensor | None:
        """(1, N, D), oldest first; None before the first token."""
        return torch.stack(list(self.tokens))[None] if self.tokens else None
