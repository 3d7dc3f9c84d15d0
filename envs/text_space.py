"""Words as an observation, also of environments that run beside each other.

gymnasium's AsyncVectorEnv has the observations of its environments in shared memory, of which it takes a view once. Of a
`spaces.Text` that is no view but the text that stood there at first: nothing. `Words` are read when they are looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_letters, digits, punctuation

from gymnasium import spaces
from gymnasium.vector.utils import read_from_shared_memory

LONGEST = 200  # characters


class Words(spaces.Text):
    """Up to LONGEST characters of printable ASCII."""

    def __init__(self):
        super().__init__(LONGEST, min_length=0, charset=ascii_letters + digits + punctuation + " ")


class SharedWords(Sequence):
    """The words of n environments as they stand in shared memory now; a deep copy is a tuple of them."""

    def __init__(self, space: Words, shared_memory, n: int):
        self._now = lambda: read_from_shared_memory.dispatch(spaces.Text)(space, shared_memory, n)
        self._n = n

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, index):
        return self._now()[index]

    def __deepcopy__(self, memo) -> tuple[str, ...]:
        return self._now()


read_from_shared_memory.register(Words, lambda space, shared_memory, n=1: SharedWords(space, shared_memory, n))
