"""Speech encoders: one utterance -> log-probabilities of tokens, of which `language` makes words for the text slot.

Legend: B batch, n samples, F feature frames (100 a second), T encoder frames (25 a second), V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from agent.attention import attention
from agent.encoders.audio import WINDOW, Features, scaled_bands
from agent.language import NGrams
from agent.pretrained import load, preprocessor
from agent.projectors import head_count

HOP = 160  # samples, 10 ms at 16 kHz


class SpeechEncoder(nn.Module):
    """A convolution-attention recogniser trained by connectionist temporal classification (CTC, Graves et al. 2006).

    forward: mono (B, n), lengths (B,) in samples -> log-probabilities (B, T, V) and lengths (B,) in frames.
    """

    def __init__(self, vocabulary: int, width: int = 144, depth: int = 4, bands: int = 40, sample_rate: int = 16000):
        super().__init__()
        self.features, self.sample_rate = Features(1, HOP, bands, sample_rate), sample_rate
        self.stem = nn.Sequential(
            nn.Conv1d(bands, width, 5, stride=2, padding=2), nn.SiLU(),
            nn.Conv1d(width, width, 5, stride=2, padding=2), nn.SiLU(),
        )
        self.layers = nn.ModuleList(ConvAttention(width) for _ in range(depth))
        self.head, self.language = nn.Linear(width, vocabulary), NGrams(vocabulary)

    def forward(self, wave: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        wave = nn.functional.pad(wave, (0, WINDOW + 8 * HOP))  # so that the stem sees beyond its end what it does in a batch
        features = self.features(wave[..., None])
        frames = lengths // HOP
        seen = torch.arange(features.shape[1], device=wave.device) < frames[:, None]
        features = normalised(features, seen)
        if self.training:
            features, frames = warped(features, frames, self.sample_rate)
            features = masked(features)
        x = self.stem(features.transpose(1, 2)).transpose(1, 2)
        frames = (frames + 3) // 4
        seen = torch.arange(x.shape[1], device=wave.device) < frames[:, None]
        for layer in self.layers:
            x = layer(x, seen)
        return self.head(x).log_softmax(-1), frames


def normalised(features: Tensor, seen: Tensor) -> Tensor:
    """Zero mean and unit deviation over an utterance's own frames: level and colour of the microphone drop out."""
    weight = seen[..., None].to(features.dtype)
    count = weight.sum(1, keepdim=True).clamp(min=1.0)
    mean = (features * weight).sum(1, keepdim=True) / count
    centred = (features - mean) * weight
    scale = (centred.square().sum((1, 2), keepdim=True) / (count * features.shape[-1])).sqrt()
    return centred / (scale + 1e-3)


def warped(features: Tensor, frames: Tensor, sample_rate: int, throat: float = 0.2, tempo: float = 0.25,
           rhythm: float = 0.25) -> tuple[Tensor, Tensor]:
    """Features (B, F, M) of `frames` (B,) frames as other speakers might have said the same: the frequencies scaled by up
    to 1 + throat or its inverse (vocal tract length perturbation, Jaitly & Hinton 2013), as a whole faster or slower by
    up to 1 + tempo, and unevenly in time, with deviation `rhythm` of the logarithm of the speed. -> (B, F', M), frames."""
    rows, bands, device = len(features), features.shape[2], features.device
    scale, speed = (torch.pow(1.0 + most, 2 * torch.rand(rows, device=device) - 1) for most in (throat, tempo))
    longer = (frames * speed).round().long()
    share = torch.arange(int(longer.max()), device=device) / longer.clamp(min=1)[:, None]
    source = progress(share, rhythm) * frames[:, None]
    grid = torch.stack(torch.broadcast_tensors(scaled_bands(scale, bands, sample_rate)[:, None] * 2 / (bands - 1) - 1,
                                               source[..., None] * 2 / (features.shape[1] - 1) - 1), -1)
    out = nn.functional.grid_sample(features[:, None].float(), grid, padding_mode="border", align_corners=True)[:, 0]
    return out * (share < 1.0)[..., None], longer


def progress(share: Tensor, rhythm: float, pieces: int = 6) -> Tensor:
    """Monotone random course from 0 at 0 to 1 at 1, drawn for each row, at `share` (B, F): straight in each of `pieces`,
    whose slopes' logarithms have deviation `rhythm`."""
    ends = (rhythm * torch.randn(len(share), pieces, device=share.device)).exp().cumsum(1)
    ends = nn.functional.pad(ends / ends[:, -1:], (1, 0))
    place = share.clamp(0.0, 1.0) * pieces
    piece = place.long().clamp(max=pieces - 1)
    start, end = ends.gather(1, piece), ends.gather(1, piece + 1)
    return start + (place - piece) * (end - start)


def masked(features: Tensor, bands: int = 8, frames: int = 20) -> Tensor:
    """Features (B, F, M) without a random group of bands and a random stretch of frames, of up to these widths, in each
    utterance, so that no single cue is relied on (SpecAugment, Park et al. 2019)."""
    for dim, longest in ((2, bands), (1, frames)):
        size = features.shape[dim]
        width = torch.randint(0, longest + 1, (len(features), 1), device=features.device)
        first = (torch.rand(len(features), 1, device=features.device) * (size - width).clamp(min=0)).long()
        index = torch.arange(size, device=features.device)
        hidden = (index >= first) & (index < first + width)
        features = features.masked_fill(hidden.unsqueeze(3 - dim), 0.0)
    return features


class ConvAttention(nn.Module):
    """A light conformer block (Gulati et al. 2020): attention, depthwise convolution, feed-forward."""

    def __init__(self, width: int, kernel: int = 9):
        super().__init__()
        self.heads = head_count(width, 36)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.gate, self.mix = nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 3 * width), nn.SiLU(), nn.Linear(3 * width, width))

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        x = x + self.attend(self.norms[0](x), seen)
        x = x + self.convolve(self.norms[1](x), seen)
        return x + self.feed(self.norms[2](x))

    def attend(self, x: Tensor, seen: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(attention(q, k, v, seen[:, None, None]))

    def convolve(self, x: Tensor, seen: Tensor) -> Tensor:
        x = nn.functional.glu(self.gate(x), -1) * seen[..., None]
        y = self.depthwise(x.transpose(1, 2)).transpose(1, 2)
        return self.mix(nn.functional.silu(y))


class WhisperSpeech(nn.Module):
    """A local Whisper checkpoint's encoder (Radford et al. 2022) under the same CTC head: same interface as
    SpeechEncoder. Utterances are padded to the 30 s that Whisper takes; T counts 50 frames a second.

    train: whether the encoder's own weights are trained; the head always is.
    """

    def __init__(self, vocabulary: int, path: str, train: bool = False, sample_rate: int = 16000):
        super().__init__()
        from transformers import AutoModel, WhisperFeatureExtractor

        self.extract = preprocessor(WhisperFeatureExtractor, path)
        if self.extract.sampling_rate != sample_rate:
            raise ValueError(f"{path} hears at {self.extract.sampling_rate} Hz, the robot at {sample_rate} Hz")
        self.encoder = load(AutoModel, path).get_encoder()
        self.encoder.requires_grad_(train)
        self.head, self.language = nn.Linear(self.encoder.config.d_model, vocabulary), NGrams(vocabulary)

    def forward(self, wave: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        cut = [row[: int(n)].cpu().numpy() for row, n in zip(wave, lengths)]
        features = self.extract(cut, sampling_rate=self.extract.sampling_rate, return_tensors="pt").input_features
        states = self.encoder(features.to(wave.device)).last_hidden_state
        frames = (lengths // (2 * HOP)).clamp(max=states.shape[1])
        return self.head(states).log_softmax(-1), frames
