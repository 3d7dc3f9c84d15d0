"""From a recogniser's frames to words: prefix beam search with n-grams of what is said to robots."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

BLANK = 0  # the CTC blank is the tokenizer's padding token; in the n-grams it stands for both ends of a sentence
SHORT, LONG = 3, 6  # tokens in a row that are looked at
TRUST = 0.75  # in the long rows: they hold the form of a sentence together, but a new form breaks them
MOST = 49152  # long rows that are remembered
PRIOR = 5.0  # occurrences that what is known from one token less is worth
WEIGHT, BONUS = 0.5, 1.5  # of the n-grams, and for each token: chosen on training voices, distorted as in training
SURELY = math.log(0.999)  # of BLANK in a frame
KNOWN_SCORES = 200_000  # rows whose score is remembered
BEAM, BRANCHES = 12, 12  # prefixes that are kept, and tokens that each is tried with
NOTHING = (BLANK,) * (LONG - 1)  # before a sentence


class NGrams(nn.Module):
    """Which token follows those before it, as counts of fixed room, so that any vocabulary's fit into a checkpoint.

    P(c | a b) = (n(a b c) + PRIOR P(c | b)) / (n(a b) + PRIOR), with P(c | b) from n(b c) and P(c) likewise, as under
    hierarchical Dirichlet priors (MacKay & Peto 1995), and so on to LONG tokens; of what SHORT and LONG ones tell a mixture
    (Jelinek & Mercer 1980).
    """

    def __init__(self, vocabulary: int):
        super().__init__()
        self.vocabulary = vocabulary
        self.register_buffer("rows", torch.zeros(MOST, LONG + 1, dtype=torch.int32))  # tokens and n, the most frequent first
        self._forget()

    def fit(self, sentences: Iterable[Sequence[int]]) -> None:
        """Count the tokens of sentences with those before each; BLANKs stand before, and one behind."""
        padded = ([*NOTHING, *ids, BLANK] for ids in sentences)
        counts = Counter(row for ids in padded for row in zip(*(ids[i:] for i in range(LONG))))
        rows = torch.tensor([(*row, n) for row, n in counts.most_common(MOST)], dtype=torch.int32)
        self.rows.zero_()
        self.rows[: len(rows)] = rows
        self._forget()

    def score(self, before: Sequence[int], token: int) -> float:
        """Natural logarithm of P(token | those before it); 0 as long as nothing was counted."""
        key = (*NOTHING[len(before):], *before[-len(NOTHING):], token)
        if key not in self._scores:
            if len(self._scores) >= KNOWN_SCORES:
                self._scores.clear()
            self._scores[key] = self._score(key)
        return self._scores[key]

    def _score(self, row: tuple[int, ...]) -> float:
        found, after = self.counts
        if not found:
            return 0.0
        chances = [(found[row[-1:]] + 0.5) / (after[()] + 0.5 * self.vocabulary)]  # by one token, by two, ...
        for start in reversed(range(len(NOTHING))):
            chances.append((found.get(row[start:], 0) + PRIOR * chances[-1]) / (after.get(row[start:-1], 0) + PRIOR))
        return math.log(TRUST * chances[-1] + (1 - TRUST) * chances[SHORT - 1])

    @property
    def counts(self) -> tuple[Counter, Counter]:
        """Of one to LONG tokens in a row; of all that follows none, one and more tokens."""
        if self._counts is None:
            self._counts = found, after = Counter(), Counter()
            for *row, n in self.rows[self.rows[:, -1] > 0].tolist():
                for i in range(LONG):
                    found[tuple(row[i:])] += n
                    after[tuple(row[i:-1])] += n
        return self._counts

    def _forget(self) -> None:
        self._counts: tuple[Counter, Counter] | None = None
        self._scores: dict[tuple[int, ...], float] = {}

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._forget()

    def search(self, log_probs: Tensor) -> tuple[list[int], float]:
        """The tokens of an utterance, given log-probabilities (T, V) of a recogniser trained by connectionist temporal
        classification: prefix beam search (Hannun et al. 2014), each token weighed by the n-grams. And how sure they are: their
        share of the probability of all that the beam holds at the end."""
        frames = collapsed(log_probs.double().cpu().numpy())
        beam = {(): (0.0, -math.inf, 0.0)}  # prefix: log-probability ending in BLANK, in its last token; of its words
        for frame in frames:
            beam = self._step(beam, frame)

        def final(item) -> float:
            prefix, (blank, token, words) = item
            return np.logaddexp(blank, token) + words + WEIGHT * self.score(prefix, BLANK)

        scores = {item[0]: final(item) for item in beam.items()}
        best = max(scores, key=scores.get)
        return list(best), float(np.exp(scores[best] - np.logaddexp.reduce(list(scores.values()))))

    def _step(self, beam: dict, frame: np.ndarray) -> dict:
        likely = np.argpartition(frame, -min(BRANCHES, len(frame)))[-BRANCHES:]
        branches = [token for token in likely.tolist() if token != BLANK]
        found: dict[tuple, list[float]] = {}
        bonus = BONUS * bool(self.counts[0])
        for prefix, (blank, token, words) in beam.items():
            whole, last = np.logaddexp(blank, token), _last(prefix)
            same = found.setdefault(prefix, [-math.inf, -math.inf, words])
            same[0] = np.logaddexp(same[0], whole + frame[BLANK])
            if prefix:
                same[1] = np.logaddexp(same[1], token + frame[last])
            for other in branches:
                longer = found.setdefault((*prefix, other), [-math.inf, -math.inf, 0.0])
                longer[1] = np.logaddexp(longer[1], (blank if other == last else whole) + frame[other])
                longer[2] = words + WEIGHT * self.score(prefix, other) + bonus
        best = sorted(found.items(), key=lambda item: -np.logaddexp(*item[1][:2]) - item[1][2])[:BEAM]
        return {prefix: tuple(values) for prefix, values in best}


def collapsed(frames: np.ndarray) -> np.ndarray:
    """Log-probabilities (T, V) without what says nothing: of neighbouring frames that are surely BLANK the first stays, which
    tells apart what is before and behind (Jung et al. 2022)."""
    blank = frames[:, BLANK] > SURELY
    return frames[~(blank & np.roll(blank, 1)) | (np.arange(len(frames)) == 0)]


def _last(prefix: tuple) -> int:
    return prefix[-1] if prefix else BLANK

