"""The cache of a model: a pool of blocks for each of its groups of layers, and a sequence's tables in all of them.

A group of full attention keeps every block of a sequence. One of a window takes back those that no token to come will
see. What they held stays known until its space is needed, so that a prefix can be reused if every group still has what
the token behind it sees.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from rowspan.kvcache.blocks import BlockManager
from rowspan.kvcache.groups import CacheLayout
from rowspan.kvcache.tables import GIVEN_BACK, BlockTable, Tables, block_table


class CacheManager:
    """Pages the cache of every group alike: what is asked for is had in all of them, or in none."""

    def __init__(self, layout: CacheLayout, n_blocks: int) -> None:
        """Args: n_blocks: of a group that keeps everything; see `CacheLayout`.

        Raises:
            UsageError: there is no block at all.
        """
        self.layout = layout
        self.block_size = layout.block_size
        pools = zip(layout.groups, layout.pools(n_blocks), strict=True)
        self.pools = tuple(BlockManager(size, layout.block_size, group) for group, size in pools)
        self._most_held = [layout.most_held(group) for group in layout.groups]
        self._has_windows = any(most is not None for most in self._most_held)

    @property
    def n_blocks(self) -> int:
        """Of all pools together."""
        return sum(pool.n_blocks for pool in self.pools)

    @property
    def used_blocks(self) -> int:
        """Those of them that at least one sequence refers to."""
        return sum(pool.used_blocks for pool in self.pools)

    @property
    def reusable_blocks(self) -> int:
        """Those of them that nobody refers to, whose content is known and can still be matched."""
        return sum(pool.reusable_blocks for pool in self.pools)

    @property
    def free_blocks(self) -> int:
        """What can be handed out in every group."""
        return min(pool.free_blocks for pool in self.pools)

    @property
    def longest(self) -> int | None:
        """Tokens of the longest sequence that there is room for; None: any."""
        pools = zip(self.pools, self._most_held, strict=True)
        lengths = [pool.n_blocks * self.block_size for pool, most in pools if most is None or pool.n_blocks < most]
        return min(lengths, default=None)

    def match(self, tokens: Sequence[int], block_hashes: list[bytes]) -> Tables:
        """Find the longest beginning of a sequence that every group can offer. `admit` takes it; see
        `BlockManager.match`."""
        matched: list[list[int]] = []
        shortest: int | None = None
        while not matched or any(len(blocks) != shortest for blocks in matched):
            matched = []
            for pool in self.pools:
                matched.append(pool.match(tokens, block_hashes, shortest))
                shortest = len(matched[-1])
        return tuple(
            BlockTable(block_table(blocks), pool.first_needed(len(blocks) * self.block_size))
            for pool, blocks in zip(self.pools, matched, strict=True)
        )

    def nothing(self) -> Tables:
        """What is matched of a sequence that nothing is known of."""
        return tuple(BlockTable() for _ in self.pools)

    def positions(self, tables: Tables) -> int:
        """Positions that every table has a place for."""
        return min(len(table.blocks) for table in tables) * self.block_size

    def admit(self, tables: Tables, n_tokens: int, spare: int) -> bool:
        """Give a sequence what was matched of it, and blocks for all of its tokens; in groups of a window for as many
        of them as it holds at once. So only decoding can run out of them.

        False, and nothing is done, unless `spare` more blocks would stay free in every group.
        """
        for pool, table in zip(self.pools, tables, strict=True):
            pool.take(table.held)
        missing = self._missing(tables, n_tokens)
        if any(n + spare > pool.free_blocks for n, pool in zip(missing, self.pools, strict=True)):
            self.release(tables)
            return False
        self._extend(tables, missing)
        return True

    def grow(self, tables: Tables, n_tokens: int) -> bool:
        """See that a sequence has blocks for so many positions. False, and nothing is done, if a group lacks them."""
        end = self._blocks_for(n_tokens)
        for table in tables:
            if len(table.blocks) < end:
                break
        else:
            return True
        missing = [max(0, end - len(table.blocks)) for table in tables]
        if any(n > pool.free_blocks for n, pool in zip(missing, self.pools, strict=True)):
            return False
        self._extend(tables, missing)
        return True

    def advance(self, tables: Tables, computed: int, n_tokens: int) -> None:
        """Take back the blocks that are behind the window of the token at position `computed`, and give the sequence
        others in their place, for the positions up to `n_tokens`, as long as there are any.

        Steps under way may still read what is taken back: workers run plans in order.
        """
        if not self._has_windows:
            return
        for pool, table in zip(self.pools, tables, strict=True):
            first = pool.first_needed(computed)
            if first > table.first:
                pool.release(table.blocks[table.first : first])
                table.blocks[table.first : first] = block_table([GIVEN_BACK] * (first - table.first))
                table.first = first
        missing = self._missing(tables, n_tokens)
        self._extend(tables, [min(n, pool.free_blocks) for n, pool in zip(missing, self.pools, strict=True)])

    def commit(self, tokens: Sequence[int], block_hashes: list[bytes], tables: Tables, start: int, end: int) -> None:
        """See `BlockManager.commit`; before these positions are taken back."""
        for pool, table in zip(self.pools, tables, strict=True):
            pool.commit(tokens, block_hashes, table.blocks, start, end)

    def release(self, tables: Tables) -> None:
        """Take back all that a sequence has."""
        for pool, table in zip(self.pools, tables, strict=True):
            pool.release(table.held)

    def clear(self) -> None:
        """Forget every reference and all content."""
        for pool in self.pools:
            pool.clear()

    def joined(self, tables: Tables, n_tokens: int) -> array[int]:
        """The tables of so many positions, one behind the other: a copy, as chunks have it."""
        n_blocks = self._blocks_for(n_tokens)
        joined = tables[0].blocks[:n_blocks]
        for table in tables[1:]:
            joined += table.blocks[:n_blocks]
        return joined

    def _blocks_for(self, n_tokens: int) -> int:
        return -(-n_tokens // self.block_size)

    def _missing(self, tables: Tables, n_tokens: int) -> list[int]:
        """Blocks of each group that a sequence lacks for its tokens, or for as many as it holds at once."""
        end = self._blocks_for(n_tokens)
        return [
            max(0, (end if most is None else min(end, table.first + most)) - len(table.blocks))
            for table, most in zip(tables, self._most_held, strict=True)
        ]

    def _extend(self, tables: Tables, missing: Sequence[int]) -> None:
        for pool, table, n in zip(self.pools, tables, missing, strict=True):
            fresh = pool.allocate(n)
            assert fresh is not None, "there are as many free"
            table.blocks.extend(fresh)
