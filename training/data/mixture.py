"""Several datasets as one stream: each sample of a batch comes from one of them."""

from __future__ import annotations

from typing import Sequence

import numpy as np

from agent.processor import Batch
from training.data.windows import DemoWindows, batch_of


class Mixture:
    """Random-access batches from datasets of one robot, each drawn with its share. What the n-th batch is depends on
    the first one's seed and on n alone. shares: one positive number a dataset."""

    def __init__(self, windows: Sequence[DemoWindows], shares: Sequence[float]):
        assert len(shares) == len(windows) and min(shares) > 0
        self.windows, self.shares = list(windows), np.array(shares) / np.sum(shares)

    def __getitem__(self, n: int) -> Batch:
        return batch_of(self.windows, self.shares, n)
