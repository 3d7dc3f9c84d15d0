"""Text <-> ids: a small byte-level BPE of our own, or the tokenizer that comes with a Hugging Face backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Iterable

from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from agent.pretrained import LOCAL

MAX_MERGES = 2000
FILES = ("tokenizer*", "vocab.*", "*.model")
SPECIAL = ["<pad>", "<end>", "<act>", "<image>", "<audio>", "<state>"]


def normalise(text: str) -> str:
    """One form for typed and spoken words: lower case, single spaces, no punctuation at the end."""
    return " ".join(text.lower().replace(",", " ").split()).strip(" .!?")


def train_tokenizer(sentences: Iterable[str], merges: int = MAX_MERGES) -> PreTrainedTokenizerFast:
    """A byte-level BPE whose merges never cross words: the pre-tokeniser splits at spaces first. Any text can be
    encoded; <pad> is id 0."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=len(SPECIAL) + len(alphabet) + merges, special_tokens=SPECIAL,
                                  initial_alphabet=sorted(alphabet), show_progress=False)
    bpe.train_from_iterator(map(normalise, sentences), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", eos_token="<end>")


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """A tokenizer directory in the hub's format, local files only. Raises FileNotFoundError where there is none (transformers
    makes an empty one of a model's config)."""
    if not any(file for pattern in FILES for file in Path(path).glob(pattern)):
        raise FileNotFoundError(f"no tokenizer in {path}: files like {', '.join(FILES)} are needed")
    return AutoTokenizer.from_pretrained(str(path), **LOCAL)


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of the normalised text, without special tokens; [] for ""."""
    text = normalise(text)
    return tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
