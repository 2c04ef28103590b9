"""Groups of layers whose caches keep the same positions, and what their blocks add up to. Pure.

A group has one table of blocks for each sequence, and one pool that these blocks come from: a block is a number of
positions in the tensors of each of its layers. vLLM calls them KV cache groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

REUSABLE_SHARE = 2  # a window's pool, in what sequences hold at once: as much again is kept for equal beginnings


@dataclass(frozen=True)
class CacheGroup:
    """window: positions that a token sees in these layers, itself included; None: all before it."""

    window: int | None = None

    def first_seen(self, position: int) -> int:
        """The first position that the token at `position` sees."""
        return 0 if self.window is None else max(0, position - self.window + 1)


FULL = CacheGroup()


@dataclass(frozen=True)
class CacheLayout:
    """How a cache is shared out among groups. Its size is told as that of a group that keeps everything, in tokens or
    blocks; groups of a window get no more than they can use.

    block_size: positions in a block. parallel: sequences that run at once. step_tokens: of one step, at most.
    """

    groups: tuple[CacheGroup, ...]
    block_size: int
    parallel: int
    step_tokens: int

    def blocks_for(self, n_tokens: int) -> int:
        """Blocks that hold so many positions."""
        return -(-n_tokens // self.block_size)

    def most_held(self, group: CacheGroup) -> int | None:
        """Blocks that one sequence holds of a group at once, at most: those of a step and of the window before it, and
        one more where they do not begin on a border. None: as many as its tokens fill."""
        return None if group.window is None else self.blocks_for(group.window + self.step_tokens) + 1

    def pools(self, n_blocks: int) -> tuple[int, ...]:
        """Blocks of each group's pool."""
        each = [self.most_held(group) for group in self.groups]
        return tuple(
            n_blocks if most is None else min(n_blocks, REUSABLE_SHARE * self.parallel * most) for most in each
        )

    def nbytes(self, n_tokens: int, position_bytes: Sequence[int]) -> int:
        """Bytes that the pools take.

        Args:
            position_bytes: of one position, in all layers of each group.
        """
        capped = zip(self._caps(n_tokens), position_bytes, strict=True)
        return sum(min(n_tokens, cap) * each for cap, each in capped)

    def tokens_within(self, nbytes: float, position_bytes: Sequence[int], most: int) -> int:
        """Tokens, up to `most`, of the largest cache that takes no more than so many bytes."""
        groups = sorted(zip(self._caps(most), position_bytes, strict=True))
        slope = sum(each for _, each in groups)
        for cap, each in groups:  # beyond its cap, a group takes nothing more
            tokens = int(max(0, nbytes) // slope) if slope else most
            if tokens <= cap:
                return min(most, tokens)
            nbytes -= cap * each
            slope -= each
        return most

    def _caps(self, most: int) -> list[int]:
        """Positions that each group's pool has, at most, of a cache for up to so many tokens."""
        return [pool * self.block_size for pool in self.pools(self.blocks_for(most))]
