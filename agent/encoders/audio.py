"""Audio features and the causal audio encoder.

Legend: B batch, n samples, C channels, F feature frames, N memory tokens (5 a second).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

RATE = 16000  # Hz, for which the numbers of samples below are made
WINDOW = 512  # samples, 32 ms
LAGS = 32  # largest inter-channel lag that is kept, samples: 2 ms, a path difference of 0.69 m


def mel_filters(bands: int, bins: int, sample_rate: int) -> Tensor:
    """Triangular filters (bins, bands), equally spaced on the HTK mel scale from 50 Hz to the Nyquist frequency."""
    top = sample_rate / 2
    mel = torch.linspace(_mel(50.0), _mel(top), bands + 2)
    edges = 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    freq = torch.linspace(0, top, bins)[:, None]
    rise = (freq - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - freq) / (edges[2:] - edges[1:-1])
    return torch.minimum(rise, fall).clamp(min=0.0)


def _mel(hertz: float) -> float:
    return 2595.0 * math.log10(1.0 + hertz / 700.0)


def scaled_bands(scale: Tensor, bands: int, sample_rate: int) -> Tensor:
    """Where in `mel_filters` (in bands, fractional) the frequencies lie that are `scale` (B,) times those of the filters'
    middles: (B, bands)."""
    low, top = _mel(50.0), _mel(sample_rate / 2)
    step = (top - low) / (bands + 1)
    middle = 700.0 * (10.0 ** ((low + step * torch.arange(1, bands + 1)) / 2595.0) - 1.0)
    mel = 2595.0 * torch.log10(1.0 + scale[:, None] * middle.to(scale) / 700.0)
    return (mel - low) / step - 1.0


class Features(nn.Module):
    """Waveform (B, n, C) -> (B, F, size): log-mel of each channel, and for each further channel its phase against the
    first as a generalised cross-correlation with phase transform (GCC-PHAT, Knapp & Carter 1976) at lags of +-2 ms.

    Log-mel alone throws phase away, and with it the direction that two ears hear. Frame f reads the samples
    [f hop, f hop + WINDOW): no padding, so F = (n - WINDOW) // hop + 1.
    """

    def __init__(self, channels: int, hop: int, bands: int = 32, sample_rate: int = 16000):
        super().__init__()
        if sample_rate != RATE:
            raise ValueError(f"microphones at {sample_rate} Hz: sound is heard at {RATE} Hz, to which it has to be brought first")
        self.hop = hop
        self.size = channels * bands + (channels - 1) * (2 * LAGS + 1)
        self.register_buffer("window", torch.hann_window(WINDOW, periodic=False), persistent=False)
        self.register_buffer("filters", mel_filters(bands, WINDOW // 2 + 1, sample_rate), persistent=False)

    def forward(self, wave: Tensor) -> Tensor:
        """One recording after the other: so all stays in the processor's cache, which takes a third of the time. In fp32 also
        amid training in bf16: what is heard there is what is heard on the robot."""
        with torch.autocast(wave.device.type, enabled=False):
            return torch.cat([self.of(one) for one in wave.float().split(1)])

    def of(self, wave: Tensor) -> Tensor:
        frames = wave.transpose(1, 2).unfold(2, WINDOW, self.hop) * self.window
        real, imaginary = torch.view_as_real(torch.fft.rfft(frames.float())).unbind(-1)  # B, C, F, bins
        power = real.square() + imaginary.square()
        logmel = _channels_last((torch.log(power @ self.filters + 1e-5) + 4.0) / 4.0)
        if wave.shape[2] == 1:
            return logmel
        (first, real), (first_imaginary, imaginary) = ((x[:, :1], x[:, 1:]) for x in (real, imaginary))
        whiten = (power[:, 1:] * power[:, :1]).clamp(min=1e-12).rsqrt()
        phase = torch.complex((real * first + imaginary * first_imaginary) * whiten,
                              (imaginary * first - real * first_imaginary) * whiten)
        lags = torch.fft.irfft(phase, n=WINDOW)
        lags = torch.cat([lags[..., -LAGS:], lags[..., : LAGS + 1]], dim=-1) * 4.0
        return torch.cat([logmel, _channels_last(lags)], dim=-1)


def _channels_last(x: Tensor) -> Tensor:
    """(B, C, F, k) -> (B, F, C k)."""
    return x.permute(0, 2, 1, 3).flatten(2)


class CausalAudioEncoder(nn.Module):
    """Stereo sound -> one memory token each 0.2 s, each from the sound up to its own end and `CONTEXT` before it.

    forward: (B, CONTEXT + N * TOKEN, C) -> (B, N, width). All convolutions are valid ones, so a stream that is fed
    TOKEN new samples behind its last CONTEXT samples gives the tokens of the whole recording; a recording starts
    with CONTEXT zeros.
    """

    HOP = 320  # samples, 20 ms at 16 kHz
    TOKEN = 10 * HOP  # samples a memory token
    CONTEXT = 15 * HOP + WINDOW  # samples before it: what the valid convolutions below consume

    def __init__(self, channels: int, sample_rate: int = 16000, bands: int = 32, hidden: int = 96, width: int = 128):
        super().__init__()
        self.width, self.channels = width, channels
        self.features = Features(channels, self.HOP, bands, sample_rate)
        self.net = nn.Sequential(
            nn.Conv1d(self.features.size, hidden, 5), nn.SiLU(),
            nn.Conv1d(hidden, hidden, 4, stride=2), nn.SiLU(),
            nn.Conv1d(hidden, width, 10, stride=5), nn.SiLU(),
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, wave: Tensor) -> Tensor:
        if wave.shape[1] < self.CONTEXT or (wave.shape[1] - self.CONTEXT) % self.TOKEN:
            raise ValueError(f"{wave.shape[1]} samples: {self.CONTEXT} + a multiple of {self.TOKEN} are needed")
        if wave.shape[1] == self.CONTEXT:
            return wave.new_zeros(len(wave), 0, self.width)
        return self.norm(self.net(self.features(wave).transpose(1, 2)).transpose(1, 2))
