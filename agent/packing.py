"""Sequences of many lengths in few rows, so that little of what is computed is padding."""

from __future__ import annotations

from typing import Sequence

import numpy as np


def packed(lengths: Sequence[int], gap: int) -> tuple[np.ndarray, np.ndarray]:
    """Lay B sequences into rows of N, the longest one's length, with `gap` places or more between any two of a row: the
    longest first, each into the first row that has room (first-fit decreasing, Johnson 1973; as language models are
    trained on packed sequences, Krell et al. 2021).

    Returns where each begins, (B, 2) int64 of row and place, and of which sequence each place is, (rows, N) int64; a
    place behind a sequence's end counts as its own. An empty sequence begins at the first place of the first row.
    """
    most, ends = max(lengths), [-gap]
    at = np.zeros((len(lengths), 2), np.int64)
    order = sorted((i for i, length in enumerate(lengths) if length), key=lambda i: -lengths[i])
    for i in order:
        row = next((row for row, end in enumerate(ends) if end + gap + lengths[i] <= most), len(ends))
        if row == len(ends):
            ends.append(-gap)
        at[i] = row, ends[row] + gap
        ends[row] += gap + lengths[i]
    of = np.zeros((len(ends), most), np.int64)
    for i in order:  # within a row, in the order of the places
        of[at[i, 0], at[i, 1] :] = i
    return at, of
