"""The five stages wired together: encoders -> input projectors -> backbone -> output projector -> generators.

One packed sequence holds K decisions of one episode:

    [ text L | memory N | decision 1: images, state, <act> | decision 2 | ... | decision K ]

A decision sees the text that was known, the sound that had been heard and its own block, nothing of another decision;
K decisions so share one encoding of text and sound. On the robot K is 1.

Legend: B samples, K decisions, L text tokens, N memory tokens, M tokens a decision, T = L + N + K M, D width.
"""

from __future__ import annotations

from typing import Callable, Mapping, NamedTuple

import torch
from torch import Tensor, nn

from agent.backbone import Backbone, Thought
from agent.generators.flow import Prefix
from agent.grounding import FocusHead, ObjectHead
from agent.normalizer import Normalizer
from agent.processor import Batch
from agent.projectors import SpokenText
from agent.spec import Spec
from agent.encoders.speech import BLANK

GAP = 256  # positions between text and what follows, so that a long instruction never overlaps the memory


class Mind(NamedTuple):
    """A batch after the backbone."""

    thought: Thought
    visible: Tensor  # (B, K, T) bool: what each decision may read
    positions: Tensor  # (B, K) of the <act> tokens
    act: Tensor  # (B, K, D) hidden states of the <act> tokens
    grids: dict[str, Tensor]  # camera -> (B K, P, P, width)


class EmbodiedModel(nn.Module):
    """Hears, sees, feels, reads and acts. Arguments that are callables are partials: the widths are given here.

    vision: image encoder, shared by the cameras. projectors: camera -> input projector. audio, speech: None for a deaf
    agent. horizon: actions a chunk. memory: sound tokens (5 a second) that are remembered.
    """

    def __init__(self, spec: Spec, vocabulary: int, image_size: int, horizon: int, memory: int,
                 vision: Callable[..., nn.Module], projectors: Mapping[str, Callable[..., nn.Module]],
                 proprio: Callable[..., nn.Module], backbone: Callable[..., nn.Module],
                 generator: Callable[..., nn.Module], audio: Callable[..., nn.Module] | None = None,
                 speech: Callable[..., nn.Module] | None = None):
        super().__init__()
        missing = set(spec.cameras) - set(projectors)
        if missing:
            raise ValueError(f"cameras without a projector: {sorted(missing)}; projectors are for {sorted(projectors)}")
        self.spec, self.horizon, self.memory = spec, horizon, memory
        self.backbone: Backbone = backbone(vocabulary=vocabulary)
        width = self.backbone.width
        self.vision = vision(image_size=image_size)
        self.projectors = nn.ModuleDict({name: projectors[name](width_in=self.vision.width, width=width,
                                                                grid=self.vision.grid) for name in spec.cameras})
        self.proprio = proprio(size=len(spec.state))
        self.state_in = nn.Linear(self.proprio.width, width)
        self.audio = audio(channels=len(spec.microphones), sample_rate=spec.sample_rate) if audio else None
        self.audio_in = nn.Linear(self.audio.width, width) if audio else None
        self.speech = speech(vocabulary=vocabulary, sample_rate=spec.sample_rate) if speech else None
        self.spoken = SpokenText()
        self.kinds = nn.ParameterDict({name: nn.Parameter(0.02 * torch.randn(width))
                                       for name in [*spec.cameras, "state", "audio", "act"]})
        self.generator = generator(action_size=spec.action.size, horizon=horizon, condition_width=width,
                                   layers=self.backbone.depth, heads=self.backbone.heads,
                                   head_dim=self.backbone.head_dim)
        self.normalize_state = Normalizer(len(spec.state))
        self.normalize_action = Normalizer(spec.action.size)
        self.object_heads = nn.ModuleDict({name: ObjectHead(self.vision.width) for name in ("front", "wrist")
                                           if name in spec.cameras})
        self.focus_head = FocusHead(width)

    # -- stages 1 and 2: encode and project ---------------------------------------------------------------------

    def read(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Text slot: typed tokens, then the spoken ones -> (B, L, D), mask (B, L)."""
        table = self.backbone.table
        tokens, mask = nn.functional.embedding(batch.text, table), batch.text > 0
        if self.speech is not None and batch.utterance is not None:
            spoken, heard = self.spoken(*self.speech(batch.utterance, batch.utterance_length), table)
            tokens, mask = torch.cat([tokens, spoken.to(tokens)], 1), torch.cat([mask, heard], 1)
        return tokens, mask

    def listen(self, wave: Tensor) -> Tensor:
        """Waveform (B, CONTEXT + N TOKEN, C) -> memory tokens (B, N, D); what the robot caches."""
        return self.audio_in(self.audio(wave)) + self.kinds["audio"]

    def remember(self, batch: Batch) -> Tensor:
        if batch.memory is not None:
            return batch.memory
        if self.audio is None or batch.audio is None:
            return self.backbone.table.new_zeros(len(batch.text), 0, self.backbone.width)
        return self.listen(batch.audio)

    def look(self, batch: Batch) -> tuple[list[Tensor], list[Tensor], dict[str, Tensor]]:
        """One decision's own tokens: for each camera and the state (B, K, count, D) and their presence (B, K, count)."""
        tokens, present, grids = [], [], {}
        for name, images in batch.images.items():
            grids[name] = self.vision(images.flatten(0, 1))
            seen = self.projectors[name](grids[name]) + self.kinds[name]
            tokens.append(seen.unflatten(0, images.shape[:2]))
            present.append(_present(tokens[-1], batch.absent.get(name)))
        if batch.state is not None:
            felt = self.state_in(self.proprio(self.normalize_state(batch.state))) + self.kinds["state"]
            tokens.append(felt[:, :, None])
            present.append(_present(tokens[-1], batch.absent.get("state")))
        return tokens, present, grids

    # -- stage 3: the backbone ----------------------------------------------------------------------------------

    def think(self, batch: Batch) -> Mind:
        text, text_seen = self.read(batch)
        memory = self.remember(batch)
        own, present, grids = self.look(batch)
        rows, decisions = own[0].shape[:2]
        own.append(self.kinds["act"].expand(rows, decisions, 1, -1))
        present.append(_present(own[-1], None))
        block, block_seen = torch.cat(own, 2), torch.cat(present, 2)
        heard = batch.heard if batch.heard is not None else batch.known.new_zeros(rows, decisions, dtype=torch.int64)
        layout = Layout(text.shape[1], memory.shape[1], decisions, block.shape[2])
        visible = layout.visible(text_seen, batch.known, heard, block_seen, self.memory, batch.absent.get("audio"))
        positions = layout.positions(heard)
        thought = self.backbone(torch.cat([text, memory, block.flatten(1, 2)], 1), visible, positions)
        at = layout.act_index(visible.device)
        return Mind(thought, visible[:, at], positions[:, at], thought.hidden[:, at], grids)

    # -- stages 4 and 5: the generator --------------------------------------------------------------------------

    def prefix(self, mind: Mind) -> Prefix:
        own = torch.arange(1, self.horizon + 1, device=mind.positions.device)
        positions = (mind.positions[:, :, None] + own).flatten(1)
        return Prefix(mind.thought.keys, mind.thought.values, mind.visible, mind.act,
                      self.backbone.rotation(positions))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Every loss that the batch has targets for, by name."""
        losses = {}
        if batch.action is not None:
            losses |= self.demonstration_loss(batch)
        if batch.utterance is not None and self.speech is not None:
            losses["speech"] = self.speech_loss(batch)
        return losses

    def demonstration_loss(self, batch: Batch) -> dict[str, Tensor]:
        mind = self.think(batch)
        actions = self.normalize_action(batch.action)
        losses = {"action": self.generator.loss(self.prefix(mind), actions, batch.action_weight)}
        if batch.focus is not None:
            losses["focus"] = self.focus_head.loss(mind.act, batch.focus, batch.known.float())
        if batch.objects is not None and self.object_heads:
            rows = batch.objects.flatten(0, 1)
            each = [head(mind.grids[name], rows, name) for name, head in self.object_heads.items()]
            losses["objects"] = torch.stack(each).mean()
        return losses

    def speech_loss(self, batch: Batch) -> Tensor:
        """Connectionist temporal classification of the utterance against the text."""
        log_probs, frames = self.speech(batch.utterance, batch.utterance_length)
        return nn.functional.ctc_loss(log_probs.transpose(0, 1).float(), batch.text, frames, (batch.text > 0).sum(1),
                                      blank=BLANK, zero_infinity=True)

    @torch.no_grad()
    def act(self, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        """Actions (B, K, H, A) in the spec's units, clipped to its bounds."""
        actions = self.normalize_action.inverse(self.generator.sample(self.prefix(self.think(batch)), generator))
        low, high = (actions.new_tensor(bound) for bound in (self.spec.action.low, self.spec.action.high))
        return actions.clamp(low, high)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.loss(batch)


class Layout(NamedTuple):
    """Where the parts of a packed sequence lie, who sees whom, and at which positions."""

    text: int
    memory: int
    decisions: int
    block: int

    def visible(self, text_seen: Tensor, known: Tensor, heard: Tensor, block_seen: Tensor, window: int,
                deaf: Tensor | None = None) -> Tensor:
        """(B, T, T) bool. text_seen (B, L), known (B, K), heard (B, K), block_seen (B, K, M), deaf (B,)."""
        rows, device = len(heard), heard.device
        total = self.text + self.memory + self.decisions * self.block
        out = torch.zeros(rows, total, total, dtype=torch.bool, device=device)
        start, first = self.text, self.text + self.memory
        out[:, :start, :start] = text_seen[:, None]
        index = torch.arange(self.memory, device=device)
        age = index[:, None] - index
        out[:, start:first, start:first] = (age >= 0) & (age < window)
        out[:, first:, :start] = (known[..., None] & text_seen[:, None]).repeat_interleave(self.block, 1)
        sound = (index < heard[..., None]) & (index >= heard[..., None] - window)
        if deaf is not None:
            sound = sound & ~deaf[:, None, None]
        out[:, first:, start:first] = sound.repeat_interleave(self.block, 1)
        for k in range(self.decisions):
            at = slice(first + k * self.block, first + (k + 1) * self.block)
            out[:, at, at] = block_seen[:, k, None]
        return out | torch.eye(total, dtype=torch.bool, device=device)

    def positions(self, heard: Tensor) -> Tensor:
        """(B, T): the newest decision's block starts at GAP; sound lies before it by its age, text at the beginning."""
        rows, device = len(heard), heard.device
        newest = heard.max(1, keepdim=True)[0]
        text = torch.arange(self.text, device=device).expand(rows, -1)
        memory = GAP - newest + torch.arange(self.memory, device=device)
        starts = GAP + heard - newest
        blocks = (starts[..., None] + torch.arange(self.block, device=device)).flatten(1)
        return torch.cat([text, memory, blocks], 1)

    def act_index(self, device) -> Tensor:
        first = self.text + self.memory
        return first + self.block - 1 + self.block * torch.arange(self.decisions, device=device)


def _present(tokens: Tensor, absent: Tensor | None) -> Tensor:
    present = torch.ones(tokens.shape[:3], dtype=torch.bool, device=tokens.device)
    return present if absent is None else present & ~absent[:, None, None]
