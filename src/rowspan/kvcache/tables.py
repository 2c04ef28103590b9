"""A sequence's tables of cache blocks. Apart from what hands blocks out, whose hashes need OpenSSL: 3 MB that no worker
has any other use for."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

GIVEN_BACK = 0  # in a table, instead of a block behind the window: any block that there is, since nobody reads it


def block_table(blocks: Sequence[int] | range = ()) -> array[int]:
    """Cache blocks of a sequence as 32-bit integers: at 64 sequences of 16,000 tokens, a step's tables of Python's
    integers took 3 ms to send and to read."""
    return array("i", blocks)


@dataclass(slots=True)
class BlockTable:
    """Blocks of positions 0, 1, … of a sequence in one group; those before index `first` are given back."""

    blocks: array[int] = field(default_factory=block_table)
    first: int = 0

    @property
    def held(self) -> array[int]:
        return self.blocks[self.first :]


Tables = tuple[BlockTable, ...]
"""A sequence's, one of each group. Empty: it owns nothing."""
