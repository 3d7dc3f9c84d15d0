"""The five stages wired together: encoders -> input projectors -> backbone -> output projector -> generators.

The backbone reads the sound first, then K decisions of one episode, each of which goes on from the sound by itself:

    memory N  ->  body 1: images, state | text, <act> | queries ...
              ->  body 2: images, state | text, <act> | queries ...

A decision reads the sound that had been heard, its own body and the text that was known, nothing of another decision;
K decisions so share one encoding of the sound. A query is another text with an <act> of its own over the same body: in
training, many questions "where is it" to one look. Each word of the instruction is asked for, too, and the tokens that
end a thing's name learn to answer (phrase grounding, as in MDETR, Kamath et al. 2021); then the <act> token deliberates
over the words and where each points, before it points at what to go for. On the robot K is 1, and nothing but the
instruction is asked.

Legend: B samples, K decisions, R = B K rows, S streams of sound, N memory tokens of each, M body tokens, L text tokens,
Q queries, T tokens of a row, W of the memory tokens that it remembers, D width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Callable, Mapping, NamedTuple

import torch
from torch import Tensor, nn

from agent.backbone import Backbone, Thought
from agent.generators.flow import Prefix
from agent.generators.goal import Deliberation, Goal, GoalPointer, pixel_loss, point_loss
from agent.grounding import LayoutHead, ObjectHead, SkillHead, SourceHead
from agent.language import BLANK
from agent.layout import Layout, remembered
from agent.normalizer import Normalizer
from agent.processor import MAX_TEXT, MENTIONS, Batch
from agent.spec import Spec

TOOL = ("tool_x", "tool_y", "tool_z")  # names in Spec.state, m, base frame


class Mind(NamedTuple):
    """A batch after the backbone."""

    thought: Thought  # (R, W + T)
    visible: Tensor  # (R, 1, W + T) bool: what each <act> token may read
    positions: Tensor  # (R, 1) of the <act> tokens
    act: Tensor  # (B, K, D): the instruction's <act> tokens
    goal: Goal  # of the instruction (first) and the queries
    words: Goal  # of each token of the instruction
    grids: dict[str, Tensor]  # camera -> (B K, P, P, width)
    sound: Recalled


class Recalled(NamedTuple):
    """The sound that decisions remember, as the backbone thought of it."""

    thought: Thought | None  # (R, W); None of no sound
    newest: Tensor  # (B, K, D): the last memory token that had been heard, zero before the first
    heard: Tensor  # (B, K) int64: memory tokens that had been heard, also those forgotten

    @property
    def length(self) -> int:
        """W."""
        return 0 if self.thought is None else self.thought.keys[0].shape[2]


class Decision(NamedTuple):
    """What is done, and what for."""

    actions: Tensor  # (B, K, H, A) in the spec's units, within its bounds
    goal: Tensor  # (B, K, 3) m, base frame: where it goes
    spots: dict[str, Tensor]  # camera -> (B, K, 3): where it sees that, u and v in 0..1, and how surely


class EmbodiedModel(nn.Module):
    """Hears, sees, feels, reads and acts. Arguments that are callables are partials: the widths are given here.

    vision: image encoder, shared by the cameras. projectors: camera -> input projector. senses: encoders of other
    low-dimensional senses by name; what the robot does not have is left out, as proprio is where it senses no state.
    audio, speech: None for a deaf agent, and left out where the robot has no microphones. horizon: actions a chunk.
    memory: sound tokens (5 a second) that are remembered; stamped: each with the state of the arm in which it was heard.
    """

    def __init__(self, spec: Spec, vocabulary: int, image_size: int, horizon: int, memory: int,
                 vision: Callable[..., nn.Module], projectors: Mapping[str, Callable[..., nn.Module]],
                 proprio: Callable[..., nn.Module], backbone: Callable[..., nn.Module],
                 generator: Callable[..., nn.Module], audio: Callable[..., nn.Module] | None = None,
                 speech: Callable[..., nn.Module] | None = None,
                 senses: Mapping[str, Callable[..., nn.Module]] | None = None, stamped: bool = False):
        super().__init__()
        if min(horizon, memory) < 1:
            raise ValueError(f"horizon {horizon}, memory {memory}: at least 1 each is needed")
        missing = set(spec.cameras) - set(projectors)
        if missing:
            raise ValueError(f"cameras without a projector: {sorted(missing)}; projectors are for {sorted(projectors)}")
        sizes = {name: len(spec.senses[name]) for name in senses or {} if name in spec.senses}
        spec = replace(spec, senses={name: spec.senses[name] for name in sizes})
        self.spec, self.horizon, self.memory = spec, horizon, memory
        self.backbone: Backbone = backbone(vocabulary=vocabulary)
        width = self.backbone.width
        self.vision = vision(image_size=image_size)
        self.projectors = nn.ModuleDict({name: projectors[name](width_in=self.vision.width, width=width,
                                                                grid=self.vision.grid) for name in spec.cameras})
        self.proprio = proprio(size=len(spec.state)) if spec.state else None
        self.state_in = nn.Linear(self.proprio.width, width) if self.proprio else None
        self.senses = nn.ModuleDict({name: Sense(senses[name], size, width) for name, size in sizes.items()})
        ears = bool(spec.microphones)
        self.audio = audio(channels=len(spec.microphones), sample_rate=spec.sample_rate) if audio and ears else None
        self.audio_in = nn.Linear(self.audio.width, width) if self.audio else None
        self.stamp_in = nn.Linear(len(spec.state), width) if stamped and self.audio and spec.state else None
        if self.stamp_in is not None:  # a model that has learned without goes on as it is
            nn.init.zeros_(self.stamp_in.weight)
            nn.init.zeros_(self.stamp_in.bias)
        self.speech = speech(vocabulary=vocabulary, sample_rate=spec.sample_rate) if speech and ears else None
        self.kinds = nn.ParameterDict({name: nn.Parameter(0.02 * torch.randn(width))
                                       for name in [*spec.cameras, "state", "audio", "act", *sizes]})
        self.generator = generator(action_size=spec.action.size, horizon=horizon, condition_width=width,
                                   layers=self.backbone.depth, heads=self.backbone.heads,
                                   head_dim=self.backbone.head_dim)
        self.normalize_state = Normalizer(len(spec.state))
        self.normalize_action = Normalizer(spec.action.size)
        self.object_heads = nn.ModuleDict({name: ObjectHead(self.vision.width) for name in ("front", "wrist")
                                           if name in spec.cameras})
        self.skill_head = SkillHead(width)
        named = [name for name in TOOL if name in spec.state]
        self.tool_columns = [spec.state.index(name) for name in named] if len(named) == 3 else []
        self.pointer = GoalPointer(width, dict.fromkeys(spec.cameras, self.vision.grid), self.vision.width,
                                   len(spec.state))
        self.deliberation = Deliberation(width)
        self.layout_head = LayoutHead(width, MENTIONS)
        self.source_head = SourceHead(width) if self.audio else None

        if self.at_once >= self.backbone.longest:
            raise ValueError(f"a decision takes {self.at_once} positions of the backbone, which has {self.backbone.longest:g}: "
                             "fewer tokens a picture are needed, by other projectors")

    @property
    def at_once(self) -> int:
        """Positions that a decision takes at most behind those of the sound: body, text, <act> and the chunk."""
        body = sum(projector.count for projector in self.projectors.values()) + bool(self.proprio) + len(self.senses)
        return body + MAX_TEXT + 1 + self.horizon

    def train(self, mode: bool = True) -> "EmbodiedModel":
        """What is frozen stays as it is in use: nothing of it is dropped."""
        super().train(mode)
        for part in self.modules():
            trained = [p.requires_grad for p in part.parameters()]
            if trained and not any(trained):
                part.eval()
        return self

    def compile_busiest(self) -> None:
        """By torch.compile, in place, what takes most of a training step's time, each layer as a variant of its own. Pictures
        keep their size; text and sound are of any length."""
        torch._dynamo.config.cache_size_limit = max(64, torch._dynamo.config.cache_size_limit)
        self.vision.compile(dynamic=False)
        expert = getattr(self.generator, "expert", None)
        for part in (*self.backbone.layers, *self.pointer.parts, *(expert.layers if expert is not None else ())):
            part.compile(dynamic=True)

    # -- stages 1 and 2: encode and project ---------------------------------------------------------------------

    def listen(self, wave: Tensor, states: Tensor | None = None, unknown: Tensor | None = None) -> Tensor:
        """Waveform (B, CONTEXT + N TOKEN, C) -> memory tokens (B, N, D). states (B, N, S): at the end of each token, except where
        unknown (B, N) bool."""
        tokens = self.audio_in(self.audio(wave)) + self.kinds["audio"]
        if self.stamp_in is None or states is None:
            return tokens
        stamps = self.stamp_in(self.normalize_state(states))
        return tokens + (stamps if unknown is None else stamps * ~unknown[..., None])

    def memories(self, batch: Batch) -> Tensor:
        """Memory tokens (S, N, D) of a batch's streams of sound."""
        absent = batch.absent.get("state")
        return self.listen(batch.audio, batch.audio_states, None if absent is None else absent[batch.audio_of])

    def see(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Camera -> feature grids (B K, P, P, width) of its pictures (B, K, S, S, 3); all cameras' at once."""
        if not images:
            return {}
        pictures = torch.cat([pictures.flatten(0, 1) for pictures in images.values()])
        return dict(zip(images, self.vision(pictures).chunk(len(images))))

    def look(self, batch: Batch) -> tuple[list[Tensor], list[Tensor], dict[str, Tensor]]:
        """One decision's own tokens: for each camera, the state and each sense (B, K, count, D), and their presence
        (B, K, count)."""
        tokens, present, grids = [], [], self.see(batch.images)
        for name, grid in grids.items():
            seen = self.projectors[name](grid) + self.kinds[name]
            tokens.append(seen.unflatten(0, batch.known.shape))
            present.append(_present(tokens[-1], batch.absent.get(name)))
        if batch.state is not None and self.proprio is not None:
            felt = self.state_in(self.proprio(self.normalize_state(batch.state))) + self.kinds["state"]
            tokens.append(felt[:, :, None])
            present.append(_present(tokens[-1], batch.absent.get("state")))
        for name, sense in self.senses.items():
            tokens.append((sense(batch.senses[name]) + self.kinds[name])[:, :, None])
            present.append(_present(tokens[-1], batch.absent.get(name)))
        return tokens, present, grids

    # -- stage 3: the backbone ----------------------------------------------------------------------------------

    def think(self, batch: Batch, recalled: Recalled | None = None) -> Mind:
        """recalled: the sound of B = K = 1, heard before; without, that of the batch."""
        text, text_seen = self.backbone.embed(batch.text), batch.text > 0
        own, present, grids = self.look(batch)
        body, body_seen = torch.cat(own, 2), torch.cat(present, 2)
        shape = body.shape[:2]
        asks, asks_seen = self.asks(text, text_seen, batch)
        recalled = self.recall(batch) if recalled is None else recalled
        layout = Layout(recalled.length, body.shape[2], tuple(ask.shape[2] for ask in asks))
        visible = layout.visible(recalled.heard, body_seen, asks_seen, batch.absent.get("audio"))
        positions = layout.positions(recalled.heard, asks_seen)
        thought = self.backbone(torch.cat([body, *asks], 2).flatten(0, 1), visible, positions, recalled.thought)
        hidden = thought.hidden.unflatten(0, shape)
        acts, words = hidden[:, :, layout.act_indices()], hidden[:, :, layout.words()]
        surveys = self.pointer.surveys({name: grid.unflatten(0, shape) for name, grid in grids.items()})
        heard = _hide(recalled.newest, batch.absent.get("audio"))
        senses = (self.felt(batch), heard, surveys, self.tool(batch), batch.absent)
        named = self.pointer(words, *senses)
        first, guess = self.deliberation(acts[:, :, 0], words, named, asks_seen[0][..., :-1], self.tool(batch))
        acts, act = torch.cat([first, acts[:, :, 1:]], 2), layout.act_indices()[:1]
        goal = self.pointer(acts, *senses, guess)
        return Mind(thought, visible[:, act], positions[:, act], acts[:, :, 0], goal, named, grids, recalled)

    def recall(self, batch: Batch) -> Recalled:
        """All the sound of a batch, heard at once."""
        if self.audio is None or batch.audio is None:
            nothing = self.backbone.table.new_zeros(*batch.known.shape, self.backbone.width)
            return Recalled(None, nothing, torch.zeros_like(batch.known, dtype=torch.int64))
        memory, (stream, start), thought = self.memories(batch), batch.audio_at.unbind(1), None
        if size := min(memory.shape[1], self.memory):
            places = start[:, None, None] + remembered(batch.heard, size)
            thought = self.ponder(memory, start[batch.audio_of]).parts(stream, places)
        return Recalled(thought, newest(memory, stream, start, batch.heard), batch.heard)

    def hear(self, wave: Tensor, states: Tensor, before: Recalled | None = None) -> Recalled:
        """The sound of B = K = 1 that comes behind what was heard before, see `listen`: a decision on it is the one on all of
        it at once. A backbone without positions for it begins anew."""
        memory = self.listen(wave, states)
        if before is not None and int(before.heard) + memory.shape[1] + self.at_once > self.backbone.longest:
            before = None
        count, past = (0, None) if before is None else (int(before.heard), before.thought)
        thought = self.ponder(memory, torch.zeros_like(memory[..., 0], dtype=torch.int64), past, count).last(self.memory)
        return Recalled(thought, memory[:, -1:], torch.tensor([[count + memory.shape[1]]], device=memory.device))

    def ponder(self, memory: Tensor, begins: Tensor, past: Thought | None = None, count: int = 0) -> Thought:
        """What the backbone makes of memory tokens (S, N, D) alone, of which each sees the last `self.memory` up to itself of
        its own sound, which begins at token `begins` (S, N). past: what it made of the last of the `count` before."""
        new = torch.arange(count, count + memory.shape[1], device=memory.device)
        seen = torch.arange(count - (past.keys[0].shape[2] if past else 0), count + memory.shape[1], device=memory.device)
        age = new[:, None] - seen
        visible = (age >= 0) & (age < self.memory) & (seen >= begins[..., None])
        return self.backbone(memory, visible, new - begins, past)

    def felt(self, batch: Batch) -> Tensor:
        """The normalised state (B, K, S); zero where it is absent."""
        if batch.state is None:
            return self.backbone.table.new_zeros(*batch.known.shape, len(self.spec.state))
        return _hide(self.normalize_state(batch.state), batch.absent.get("state"))

    def tool(self, batch: Batch) -> Tensor:
        """Where the tool is (B, K, 3) m, for robots whose state says so; else the origin."""
        if batch.state is None or not self.tool_columns:
            return self.backbone.table.new_zeros(*batch.known.shape, 3)
        return _hide(batch.state[..., self.tool_columns], batch.absent.get("state"))

    def asks(self, text: Tensor, text_seen: Tensor, batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
        """The instruction and the queries, each with its <act> token, which starts from the mean of its text:
        (B, K, L + 1, D) and presence (B, K, L + 1)."""
        decisions = batch.known.shape[1]
        tokens = [text[:, None].expand(-1, decisions, -1, -1)]
        seen = [text_seen[:, None] & batch.known[..., None]]
        if batch.queries is not None:
            for ids in batch.queries.unbind(2):
                tokens.append(self.backbone.embed(ids))
                seen.append(ids > 0)
        act = self.kinds["act"].expand(*batch.known.shape, 1, -1)
        there = torch.ones_like(batch.known)[..., None]
        acts = [act + _mean(t, x)[:, :, None] for t, x in zip(tokens, seen)]
        return [torch.cat([t, a], 2) for t, a in zip(tokens, acts)], [torch.cat([s, there], 2) for s in seen]

    # -- stages 4 and 5: the generator --------------------------------------------------------------------------

    def prefix(self, mind: Mind) -> Prefix:
        own = torch.arange(1, self.horizon + 1, device=mind.positions.device)
        positions = (mind.positions[:, :, None] + own).flatten(1)
        condition = mind.goal.readout[:, :, 0].flatten(0, 1)[:, None]
        return Prefix(mind.thought.keys, mind.thought.values, mind.visible, condition, self.backbone.rotations(positions))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Every loss that the batch has targets for, by name."""
        losses = self.demonstration_loss(batch) if batch.action is not None else {}
        if batch.utterance is not None and self.speech is not None:
            losses["speech"] = self.speech_loss(batch)
        return losses

    def demonstration_loss(self, batch: Batch) -> dict[str, Tensor]:
        mind = self.think(batch)
        actions = self.normalize_action(batch.action)
        targets = (x.flatten(0, 1)[:, None] for x in (actions, batch.action_weight))
        losses = {"action": self.generator.loss(self.prefix(mind), *targets)}
        if batch.goal is not None:
            goal = mind.goal
            if batch.mentions is not None:
                goal, mentioned = goal.joined(mind.words.of(batch.mentions)), slice(-batch.mentions.shape[1], None)
                losses["layout"] = self.layout_head(mind.act, batch.goal[:, :, mentioned], batch.goal_weight[:, :, mentioned])
            losses["goal"] = point_loss(goal, batch.goal, batch.goal_weight)
            losses["pixel"] = pixel_loss(goal, batch.goal_pixels, batch.goal_weight, batch.absent)
        if batch.source is not None and batch.heard is not None and self.source_head:
            losses["source"] = self.source_head(mind.sound.newest, batch.source, batch.heard > 0)
        if batch.objects is not None and self.object_heads:
            rows = batch.objects.flatten(0, 1)
            each = [head(mind.grids[name], rows, name) for name, head in self.object_heads.items()]
            losses["objects"] = torch.stack(each).mean()
        if batch.skill is not None:
            losses["skill"] = self.skill_head(mind.act, batch.skill, batch.known)
        return losses

    def speech_loss(self, batch: Batch) -> Tensor:
        """Connectionist temporal classification of the utterance against the text."""
        log_probs, frames = self.speech(batch.utterance, batch.utterance_length)
        return nn.functional.ctc_loss(log_probs.transpose(0, 1).float(), batch.text, frames, (batch.text > 0).sum(1),
                                      blank=BLANK, zero_infinity=True)

    @torch.no_grad()
    def act(self, batch: Batch, generator: torch.Generator | None = None, recalled: Recalled | None = None) -> Decision:
        mind = self.think(batch, recalled)
        actions = self.generator.sample(self.prefix(mind), generator)
        actions = self.normalize_action.inverse(actions[:, 0].unflatten(0, batch.known.shape))
        low, high = (actions.new_tensor(bound) for bound in (self.spec.action.low, self.spec.action.high))
        return Decision(actions.clamp(low, high), mind.goal.point[:, :, 0], mind.goal.seen())

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.loss(batch)


class Sense(nn.Module):
    """A low-dimensional sense: its statistics, encoder and input projector. (B, K, size) in its own units -> (B, K, D)."""

    def __init__(self, encoder: Callable[..., nn.Module], size: int, width: int):
        super().__init__()
        self.normalize, self.encoder = Normalizer(size), encoder(size=size)
        self.project = nn.Linear(self.encoder.width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.encoder(self.normalize(x)))


def _mean(tokens: Tensor, seen: Tensor) -> Tensor:
    """Mean over the tokens (B, K, L, D) that are seen (B, K, L); zero where none is."""
    weight = seen.to(tokens.dtype)[..., None]
    return (tokens * weight).sum(2) / weight.sum(2).clamp(min=1.0)


def newest(memory: Tensor, stream: Tensor, start: Tensor, heard: Tensor) -> Tensor:
    """Of the memory tokens (S, N, D), the last that each decision has heard (B, K) of a sound that begins in `stream` (B,) at
    `start` (B,); zero before the first."""
    before = nn.functional.pad(memory, (0, 0, 1, 0))
    return before[stream[:, None], start[:, None] + heard] * (heard > 0)[..., None]


def _hide(values: Tensor, absent: Tensor | None) -> Tensor:
    """(B, K, S) with zeros for the samples that are absent (B,)."""
    return values if absent is None else values * ~absent[:, None, None]


def _present(tokens: Tensor, absent: Tensor | None) -> Tensor:
    present = torch.ones(tokens.shape[:3], dtype=torch.bool, device=tokens.device)
    return present if absent is None else present & ~absent[:, None, None]
