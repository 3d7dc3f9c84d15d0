"""From a recogniser's frames to words: prefix beam search with a bigram of what is said to robots."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

BLANK = 0  # the CTC blank is the tokenizer's padding token; in the bigram it stands for both ends of a sentence
MOST = 16384  # pairs of tokens that are remembered
PRIOR = 5.0  # occurrences of any token that its share of all tokens is worth after a given one
WEIGHT, BONUS = 0.5, 1.5  # of the bigram, and for each token: chosen on training voices, distorted as in training
BEAM, BRANCHES = 12, 12  # prefixes that are kept, and tokens that each is tried with


class Bigram(nn.Module):
    """Which token follows which, as counts of fixed room, so that any vocabulary's fit into a checkpoint.

    P(b | a) = (n(a b) + PRIOR P(b)) / (n(a) + PRIOR), as under a Dirichlet prior (MacKay & Peto 1995).
    """

    def __init__(self, vocabulary: int):
        super().__init__()
        self.vocabulary = vocabulary
        self.register_buffer("pairs", torch.zeros(MOST, 3, dtype=torch.int32))  # (a, b, n), the most frequent first
        self._known: dict[int, dict[int, int]] | None = None

    def fit(self, sentences: Iterable[Sequence[int]]) -> None:
        """Count the pairs of neighbours in sentences of token ids, the BLANK before and behind each counted in."""
        counts = Counter(pair for ids in sentences for pair in pairwise((BLANK, *ids, BLANK)))
        rows = torch.tensor([(*pair, n) for pair, n in counts.most_common(MOST)], dtype=torch.int32)
        self.pairs.zero_()
        self.pairs[: len(rows)] = rows
        self._known = None

    def score(self, before: int, token: int) -> float:
        """Natural logarithm of P(token | before); 0 as long as nothing was counted."""
        if self._known is None:
            self._count()
        if not self._known:
            return 0.0
        after = self._known.get(before, {})
        share = (self._total.get(token, 0) + 0.5) / self._all
        return math.log((after.get(token, 0) + PRIOR * share) / (self._after.get(before, 0) + PRIOR))

    def _count(self) -> None:
        self._known, self._total = defaultdict(dict), Counter()
        for a, b, n in self.pairs[self.pairs[:, 2] > 0].tolist():
            self._known[a][b] = n
            self._total[b] += n
        self._after = {a: sum(after.values()) for a, after in self._known.items()}
        self._all = sum(self._total.values()) + 0.5 * self.vocabulary

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._known = None

    def search(self, log_probs: Tensor) -> list[int]:
        """The tokens of an utterance, given log-probabilities (T, V) of a recogniser trained by connectionist temporal
        classification: prefix beam search (Hannun et al. 2014), each token weighed by the bigram."""
        frames = log_probs.double().cpu().numpy()
        beam = {(): (0.0, -math.inf, 0.0)}  # prefix: log-probability ending in BLANK, in its last token; of its words
        for frame in frames:
            beam = self._step(beam, frame)

        def final(item) -> float:
            prefix, (blank, token, words) = item
            return np.logaddexp(blank, token) + words + WEIGHT * self.score(_last(prefix), BLANK)

        return list(max(beam.items(), key=final)[0])

    def _step(self, beam: dict, frame: np.ndarray) -> dict:
        likely = np.argpartition(frame, -min(BRANCHES, len(frame)))[-BRANCHES:]
        branches = [token for token in likely.tolist() if token != BLANK]
        found: dict[tuple, list[float]] = {}
        for prefix, (blank, token, words) in beam.items():
            whole, last = np.logaddexp(blank, token), _last(prefix)
            same = found.setdefault(prefix, [-math.inf, -math.inf, words])
            same[0] = np.logaddexp(same[0], whole + frame[BLANK])
            if prefix:
                same[1] = np.logaddexp(same[1], token + frame[last])
            for other in branches:
                longer = found.setdefault((*prefix, other), [-math.inf, -math.inf, 0.0])
                longer[1] = np.logaddexp(longer[1], (blank if other == last else whole) + frame[other])
                longer[2] = words + WEIGHT * self.score(last, other) + BONUS * bool(self._known)
        best = sorted(found.items(), key=lambda item: -np.logaddexp(*item[1][:2]) - item[1][2])[:BEAM]
        return {prefix: tuple(values) for prefix, values in best}


def _last(prefix: tuple) -> int:
    return prefix[-1] if prefix else BLANK
