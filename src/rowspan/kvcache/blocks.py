"""Paging of the KV cache, and the reuse of prefixes it makes possible. Bookkeeping only: the kernels hold the tensors.

The cache of a group of layers is a pool of blocks of `block_size` token positions. A sequence owns a table of blocks,
in order; sequences that begin alike may share their first, full blocks. Paging: Kwon et al. 2023,
https://arxiv.org/abs/2309.06180. `rowspan.kvcache.manager` is over the pools of all groups.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

from rowspan.errors import UsageError
from rowspan.kvcache.groups import FULL, CacheGroup
from rowspan.kvcache.tables import GIVEN_BACK

NO_PARENT = b""


class BlockManager:
    """Hands out blocks, counts references to them, and remembers what the full ones hold.

    A block's *hash* is a 256-bit digest of everything the keys and values in it depend on: the hash of the
    block before it and its own token ids. It is strong enough to be trusted without comparing tokens, and it depends
    on content only, so it outlives the block: a prefix that was evicted and computed again leads to the same blocks.
    A sequence keeps its block hashes in a list that grows with it, so that no token is ever hashed twice.

    An unreferenced block with known content stays reusable until its space is needed, the one released longest ago
    going first.
    """

    def __init__(self, n_blocks: int, block_size: int, group: CacheGroup = FULL) -> None:
        """
        Args:
            n_blocks: size of the pool.
            block_size: token positions in a block.
            group: whose pool it is.

        Raises:
            UsageError: either is less than 1.
        """
        if n_blocks < 1 or block_size < 1:
            raise UsageError(
                f"A cache of {n_blocks} blocks of {block_size} tokens cannot hold anything.",
                fix="Give the cache at least one block of at least one token.",
            )
        self.n_blocks = n_blocks
        self.block_size = block_size
        self.group = group
        self.clear()

    @property
    def free_blocks(self) -> int:
        """Number of blocks that nobody refers to, which `allocate` can hand out."""
        return len(self._blank) + len(self._reusable)

    @property
    def used_blocks(self) -> int:
        """Number of blocks that at least one sequence refers to."""
        return self.n_blocks - self.free_blocks

    @property
    def reusable_blocks(self) -> int:
        """Number of free blocks whose content is known and can still be matched."""
        return len(self._reusable)

    def blocks_for(self, n_tokens: int) -> int:
        """Number of blocks that hold `n_tokens` positions."""
        return -(-n_tokens // self.block_size)

    def first_needed(self, n_tokens: int) -> int:
        """Of a sequence's blocks, the first one that the token behind so many sees anything in."""
        return self.group.first_seen(n_tokens) // self.block_size

    def match(self, tokens: Sequence[int], block_hashes: list[bytes], most: int | None = None) -> list[int]:
        """Find the blocks that already hold the beginning of a sequence; `take` them before anything is allocated.

        Args:
            tokens: all known tokens of the sequence.
            block_hashes: those that are known so far; grows by the missing ones.
            most: blocks of the beginning, at most; None: all.

        Returns:
            Full blocks, in order, never covering the last token: it has to be computed to give logits. What is behind
            the window of the token after them need not be there, and is `GIVEN_BACK`.
        """
        self._extend_hashes(tokens, block_hashes)
        end = (len(tokens) - 1) // self.block_size
        end = end if most is None else min(most, end)
        if self.group.window is None:
            matched = []
            for block_hash in block_hashes[:end]:
                block = self._registered.get(block_hash)
                if block is None:
                    break
                matched.append(block)
            return matched
        at = end
        while at > self.first_needed(end * self.block_size):
            at -= 1
            if block_hashes[at] not in self._registered:
                end = at
        return [GIVEN_BACK] * at + [self._registered[block_hash] for block_hash in block_hashes[at:end]]

    def take(self, blocks: Sequence[int]) -> None:
        """Add a reference to each of these matched blocks."""
        for block in blocks:
            if not self._references[block]:
                del self._reusable[block]
            self._references[block] += 1

    def allocate(self, n: int, spare: int = 0) -> list[int] | None:
        """Hand out `n` blocks to be written, with one reference each.

        Returns:
            None, with nothing done, unless `spare` more blocks would stay free.
        """
        if n + spare > self.free_blocks:
            return None
        blocks = [self._blank.pop() if self._blank else self._evict() for _ in range(n)]
        for block in blocks:
            self._references[block] = 1
        return blocks

    def commit(
        self, tokens: Sequence[int], block_hashes: list[bytes], blocks: Sequence[int], start: int, end: int
    ) -> None:
        """Offer the blocks of a sequence that became full when its positions start … end - 1 were computed.

        They must not be written again. A block whose like is offered already remains its sequence's own.
        """
        first, last = start // self.block_size, end // self.block_size
        if first == last:
            return
        self._extend_hashes(tokens, block_hashes)
        for block, block_hash in zip(blocks[first:last], block_hashes[first:last], strict=True):
            if self._registered.setdefault(block_hash, block) == block:
                self._hash_of[block] = block_hash

    def release(self, blocks: Sequence[int]) -> None:
        """Drop one reference from each block of a block table, from its end, so that the beginning stays cached
        longest.
        """
        for block in reversed(blocks):
            self._references[block] -= 1
            if self._references[block]:
                continue
            if block in self._hash_of:
                self._reusable[block] = None
            else:
                self._blank.append(block)

    def clear(self) -> None:
        """Forget every reference and all content."""
        self._references = [0] * self.n_blocks
        self._blank = list(range(self.n_blocks - 1, -1, -1))  # free, content unknown; a stack
        self._reusable: OrderedDict[int, None] = OrderedDict()  # free, content known; least recently released first
        self._registered: dict[bytes, int] = {}  # block hash → the block that holds it
        self._hash_of: dict[int, bytes] = {}  # the reverse

    def _evict(self) -> int:
        block, _ = self._reusable.popitem(last=False)
        del self._registered[self._hash_of.pop(block)]
        return block

    def _extend_hashes(self, tokens: Sequence[int], block_hashes: list[bytes]) -> None:
        size = self.block_size
        parent = block_hashes[-1] if block_hashes else NO_PARENT
        for start in range(len(block_hashes) * size, len(tokens) - size + 1, size):
            content = array("q", tokens[start : start + size]).tobytes()
            parent = blake2b(parent + content, digest_size=32).digest()
            block_hashes.append(parent)
