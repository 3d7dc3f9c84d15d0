"""The language-model backbone: `pocket` (small, trained here) or a local transformers causal LM: those with a key and a value
a head and token, and positions that are learned or turned by halves (Llama, Mistral, Qwen, Gemma, Phi, SmolLM, OLMo, GPT-2, ...).

Legend: B batch, T tokens, width hidden size, L layers, G key-value heads, D head dimension.
"""

from __future__ import annotations

import inspect
from functools import cached_property
from typing import Callable, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM
from transformers.modeling_layers import GradientCheckpointingLayer

from agent.attention import Rotation, rotate
from agent.pretrained import load

TUNES = ("full", "frozen", "lora")
MASKS = ("prefix", "causal")
VARYING = {"dynamic", "longrope"}  # rotary positions whose angles depend on how many there are


class Thought(NamedTuple):
    """What a backbone makes of a sequence."""

    hidden: Tensor  # (B, T, width), after the last norm
    keys: list[Tensor]  # L of (B, G, T, D), rotated to their positions
    values: list[Tensor]  # L of (B, G, T, D)

    def parts(self, row: Tensor, index: Tensor) -> "Thought":
        """The tokens `index` (N, K, W) of rows `row` (N,), where there are that many: (N K, W)."""
        length = self.hidden.shape[1]
        places = row[:, None, None] * length + index.clamp(max=length - 1)

        def pick(x: Tensor) -> Tensor:  # (B, G, T, D); an embedding's gradient is gathered faster than an index's
            found = nn.functional.embedding(places, x.transpose(1, 2).flatten(2).flatten(0, 1))
            return found.unflatten(-1, (x.shape[1], -1)).transpose(2, 3).flatten(0, 1)

        keys, values = ([pick(x) for x in part] for part in (self.keys, self.values))
        return Thought(pick(self.hidden[:, None])[:, 0], keys, values)

    def last(self, count: int) -> "Thought":
        """The last tokens, `count` of them or as many as there are."""
        return Thought(self.hidden[:, -count:], *([x[:, :, -count:] for x in part] for part in (self.keys, self.values)))


def pocket(vocabulary: int, width: int = 160, depth: int = 4, heads: int = 4, feed: int = 416) -> PreTrainedModel:
    """A small Qwen3 (grouped queries, RMS norm, SwiGLU, rotary positions, normed queries and keys), tied embeddings."""
    if width % (2 * heads):
        raise ValueError(f"width {width}: a multiple of twice the {heads} heads is needed")
    config = Qwen3Config(vocab_size=vocabulary, hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads,
                         num_key_value_heads=heads, head_dim=width // heads, intermediate_size=feed,
                         tie_word_embeddings=True, pad_token_id=0, max_position_embeddings=4096,
                         attn_implementation="eager")  # on a CPU in bf16 twice as fast, backwards, as the fused kernel
    return Qwen3ForCausalLM(config)


def pretrained(vocabulary: int, path: str) -> PreTrainedModel:
    """A causal LM from a local directory in the hub's format (agent.pretrained). Raises ValueError where its embedding
    table is smaller than the tokenizer's `vocabulary`, and for a model that is more than a causal LM."""
    lm = load(AutoModelForCausalLM, path)
    if not hasattr(lm.config, "vocab_size"):
        raise ValueError(f"{path}: {lm.config.model_type} holds a language model among others; a causal LM alone is needed")
    if lm.config.vocab_size < vocabulary:
        raise ValueError(f"{path}: {lm.config.vocab_size} embeddings, but the tokenizer has {vocabulary} tokens")
    return lm


class Backbone(nn.Module):
    """Wraps a causal LM so that the rest of the model sees embeddings in, hidden states and plain K/V tensors out.

    lm: `pocket` or `pretrained`, called with the vocabulary's size.
    tune: "full" trains every weight, "frozen" none, "lora" low-rank additions by peft to all linear layers.
    mask: "prefix" lets the tokens of one block see each other both ways, "causal" keeps the order the LM was trained in.
    """

    def __init__(self, vocabulary: int, lm: Callable[..., PreTrainedModel], tune: str = "full", mask: str = "prefix",
                 lora_rank: int = 16):
        super().__init__()
        if tune not in TUNES:
            raise ValueError(f"tune {tune!r}: allowed are {', '.join(TUNES)}")
        if mask not in MASKS:
            raise ValueError(f"mask {mask!r}: allowed are {', '.join(MASKS)}")
        lm = lm(vocabulary=vocabulary)
        self.mask, config = mask, lm.config
        self.width, self.depth, self.heads = config.hidden_size, config.num_hidden_layers, config.num_attention_heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        if tune == "lora":
            from peft import LoraConfig, get_peft_model

            lora = LoraConfig(r=lora_rank, lora_alpha=2 * lora_rank, target_modules="all-linear")
            lm = get_peft_model(lm, lora)
        elif tune == "frozen":
            lm.requires_grad_(False)
        self.lm = lm
        self.refuse_what_does_not_fit()

    @torch.no_grad()
    def refuse_what_does_not_fit(self) -> None:
        """Raises ValueError for an LM whose keys and values cannot be read, or are turned to their positions in another way than
        those of who attends to them would be."""
        kind, seen = self._causal_lm.config.model_type, torch.ones(1, 1, 1, dtype=torch.bool)
        token, places = torch.linspace(-1, 1, self.width).expand(1, 1, -1), [torch.full((1, 1), place) for place in (0, 9)]
        try:
            thoughts = [self(token, seen, place) for place in places]
            here, there = ([rotate(keys, rotation) for keys, rotation in zip(thought.keys, self.rotations(place))]
                           for thought, place in zip(thoughts, reversed(places)))  # each turned on by the other's place
        except (AttributeError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"{kind} cannot be the backbone: its layers have no keys and values as agent.backbone knows them "
                             f"({type(error).__name__}: {error})") from error
        if self.rotates and any((x - y).abs().max() > 1e-3 * y.abs().max() for x, y in zip(here, there)):
            raise ValueError(f"{kind} cannot be the backbone: it turns its keys to their positions in another way than by halves")

    @property
    def _causal_lm(self) -> PreTrainedModel:
        return self.lm.get_base_model() if hasattr(self.lm, "get_base_model") else self.lm

    @property
    def core(self) -> PreTrainedModel:
        """The language model without its head."""
        return self._causal_lm.base_model

    @property
    def table(self) -> Tensor:
        """Token embeddings (vocabulary, width), as they are stored; some LMs scale them, see `embed`."""
        return self._causal_lm.get_input_embeddings().weight

    def embed(self, ids: Tensor) -> Tensor:
        """Tokens (...) int64 -> what the LM makes of them at its input (..., width)."""
        return self._causal_lm.get_input_embeddings()(ids)

    def logits(self, hidden: Tensor) -> Tensor:
        return self._causal_lm.get_output_embeddings()(hidden)

    @property
    def rotates(self) -> bool:
        """Whether it turns queries and keys to their positions; else it has learned these."""
        return hasattr(self.core, "rotary_emb")

    def rotations(self, positions: Tensor) -> list[Rotation]:
        """By which each layer turns its own queries and keys at `positions` (B, tokens), so that others can attend to its
        keys."""
        if not self.rotates:
            return [None] * self.depth
        known = {kind: self.core.rotary_emb(self.table, positions, *kind) for kind in set(self._rotary_kinds)}
        return [known[kind] for kind in self._rotary_kinds]

    @cached_property
    def _rotary_kinds(self) -> list[tuple[str, ...]]:
        """What each layer's rotation is asked for by: in some models they differ."""
        by_kind = "layer_type" in inspect.signature(self.core.rotary_emb.forward).parameters
        return [(kind,) for kind in self.core.config.layer_types] if by_kind else [()] * self.depth

    @property
    def longest(self) -> float:
        """Positions that it has learned; infinite where they are turned, not learned, by angles that are always the same."""
        config = self.core.config
        rope = getattr(config, "rope_parameters", None) or {}
        kinds = {rope.get("rope_type"), *(kind.get("rope_type") for kind in rope.values() if isinstance(kind, dict))}
        if self.rotates and not kinds & VARYING:
            return float("inf")
        return rope.get("original_max_position_embeddings") or getattr(config, "max_position_embeddings", float("inf"))

    def forward(self, embeddings: Tensor, visible: Tensor, positions: Tensor, past: Thought | None = None) -> Thought:
        """embeddings (B, T, width), positions (B, T), visible (B, T, P + T) bool: row sees column, where P tokens were
        thought before (`past`); the keys and values that come back are of all of them."""
        if self.mask == "causal":
            visible = visible & torch.ones_like(visible[0]).tril(visible.shape[2] - visible.shape[1])
        bias = torch.zeros_like(visible, dtype=embeddings.dtype)
        bias = bias.masked_fill(~visible, torch.finfo(embeddings.dtype).min)[:, None]
        cache = DynamicCache() if past is None else DynamicCache(list(zip(past.keys, past.values)))  # which forgets nothing
        out = self.core(inputs_embeds=embeddings, attention_mask=bias, position_ids=positions, use_cache=True,
                        **{self._cache_name: cache})
        layers = out[self._cache_name].layers
        return Thought(out.last_hidden_state, [layer.keys for layer in layers], [layer.values for layer in layers])

    @property
    def layers(self) -> list[nn.Module]:
        """The LM's own, whatever it calls them."""
        return [module for module in self.core.modules() if isinstance(module, GradientCheckpointingLayer)]

    @cached_property
    def _cache_name(self) -> str:
        """transformers renamed `past_key_values` to `cache` in 5.2x."""
        names = inspect.signature(self.core.forward).parameters
        return "cache" if "cache" in names else "past_key_values"
