"""BlockManager against a model that keeps whole prefixes instead of digests, and its promises one by one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rowspan.errors import UsageError
from rowspan.kvcache.blocks import BlockManager

SIZE = 4


def computed_sequence(manager: BlockManager, tokens: list[int]) -> list[int]:
    """Allocate, compute and commit a whole sequence, without reuse."""
    blocks = manager.allocate(manager.blocks_for(len(tokens)))
    assert blocks is not None
    manager.commit(tokens, [], blocks, 0, len(tokens))
    return blocks


class BlockManagerMachine(RuleBasedStateMachine):
    """Sequences over a tiny alphabet come, share, compute piecemeal, and go."""

    def __init__(self) -> None:
        super().__init__()
        self.manager = BlockManager(n_blocks=9, block_size=SIZE)
        self.contents: dict[int, tuple[int, ...]] = {}  # block → the whole prefix its positions stand for
        self.live: list[tuple[list[int], list[bytes], list[int], int]] = []  # tokens, block_hashes, blocks, computed

    @rule(tokens=st.lists(st.integers(0, 1), min_size=1, max_size=22))
    def admit(self, tokens: list[int]) -> None:
        block_hashes: list[bytes] = []
        matched = self.manager.match(tokens, block_hashes)
        assert len(matched) * SIZE < len(tokens)
        for index, block in enumerate(matched):
            assert self.contents[block] == tuple(tokens[: (index + 1) * SIZE])
        self.manager.take(matched)
        free = self.manager.free_blocks
        missing = -(-len(tokens) // SIZE) - len(matched)
        fresh = self.manager.allocate(missing)
        if fresh is None:
            assert missing > free == self.manager.free_blocks
            self.manager.release(matched)
            return
        owned = {block for _, _, blocks, _ in self.live for block in blocks} | set(matched)
        assert len(set(fresh)) == missing
        assert not owned & set(fresh)
        for block in fresh:
            self.contents.pop(block, None)
        self.live.append((tokens, block_hashes, matched + fresh, len(matched) * SIZE))

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def compute(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.live) - 1))
        tokens, block_hashes, blocks, start = self.live[index]
        end = data.draw(st.integers(start, len(tokens)))
        for number in range(start // SIZE, end // SIZE):
            self.contents[blocks[number]] = tuple(tokens[: (number + 1) * SIZE])
        self.manager.commit(tokens, block_hashes, blocks, start, end)
        self.live[index] = (tokens, block_hashes, blocks, end)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        _, _, blocks, _ = self.live.pop(data.draw(st.integers(0, len(self.live) - 1)))
        self.manager.release(blocks)

    @invariant()
    def counts(self) -> None:
        used = {block for _, _, blocks, _ in self.live for block in blocks}
        assert self.manager.used_blocks == len(used)
        assert self.manager.free_blocks == 9 - len(used)
        assert self.manager.reusable_blocks <= self.manager.free_blocks


TestBlockManager = BlockManagerMachine.TestCase
TestBlockManager.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


@given(length=st.integers(1, 30))
def test_match_finds_every_full_block_but_leaves_the_last_token(length: int) -> None:
    manager = BlockManager(16, SIZE)
    tokens = list(range(30))
    blocks = computed_sequence(manager, tokens)
    assert manager.match(tokens[:length], []) == blocks[: (length - 1) // SIZE]


def test_equal_tokens_after_different_beginnings_are_different_blocks() -> None:
    manager = BlockManager(8, SIZE)
    computed_sequence(manager, [1, 1, 1, 1, 7, 7, 7, 7])
    assert manager.match([7, 7, 7, 7, 0], []) == []
    assert len(manager.match([1, 1, 1, 1, 2, 2, 2, 2, 7, 7, 7, 7, 0], [])) == 1


def test_only_computed_blocks_are_offered() -> None:
    manager = BlockManager(8, SIZE)
    tokens = list(range(12))
    block_hashes: list[bytes] = []
    blocks = manager.allocate(3)
    assert blocks is not None
    manager.commit(tokens, block_hashes, blocks, 0, 7)
    assert manager.match([*tokens, 0], []) == blocks[:1]
    manager.commit(tokens, block_hashes, blocks, 7, 8)
    assert manager.match([*tokens, 0], []) == blocks[:2]


def test_released_content_is_reused_until_its_space_is_needed_oldest_and_tail_first() -> None:
    manager = BlockManager(4, SIZE)
    old, young = [1] * 8, [2] * 8
    old_blocks, young_blocks = computed_sequence(manager, old), computed_sequence(manager, young)
    manager.release(old_blocks)
    manager.release(young_blocks)
    assert (manager.used_blocks, manager.free_blocks, manager.reusable_blocks) == (0, 4, 4)
    assert manager.match([*old, 0], []) == old_blocks
    for old_left, young_left in ((1, 2), (0, 2), (0, 1), (0, 0)):
        assert manager.allocate(1) is not None
        assert len(manager.match([*old, 0], [])) == old_left
        assert len(manager.match([*young, 0], [])) == young_left


def test_a_shared_prefix_lives_until_its_last_user_leaves() -> None:
    manager = BlockManager(3, SIZE)
    tokens = [1] * 8
    blocks = computed_sequence(manager, tokens)
    shared = manager.match([*tokens, 0], [])
    manager.take(shared)
    manager.release(blocks)
    assert manager.used_blocks == 2
    assert manager.allocate(2) is None
    manager.release(shared)
    assert manager.allocate(3) is not None


def test_allocation_is_all_or_nothing_and_heeds_the_spare() -> None:
    manager = BlockManager(3, SIZE)
    assert manager.allocate(4) is None
    assert manager.allocate(2, spare=2) is None
    assert manager.free_blocks == 3
    assert manager.allocate(2, spare=1) is not None
    assert manager.allocate(0) == []


def test_a_second_copy_is_not_offered_and_goes_back_blank() -> None:
    manager = BlockManager(4, SIZE)
    first, second = computed_sequence(manager, [1] * 4), computed_sequence(manager, [1] * 4)
    assert manager.match([1] * 5, []) == first
    manager.release(second)
    assert manager.reusable_blocks == 0
    assert manager.match([1] * 5, []) == first


def test_a_tail_is_found_again_when_its_evicted_beginning_was_recomputed() -> None:
    manager = BlockManager(4, SIZE)
    tokens = [1] * 4 + [2] * 4
    first = computed_sequence(manager, tokens[:4])
    second = computed_sequence(manager, tokens)  # its own copy of the beginning; only its tail is offered
    manager.release(first)
    held = manager.allocate(2)  # evicts the offered beginning
    assert held is not None
    assert manager.match([*tokens, 0], []) == []
    manager.release(held)
    again = computed_sequence(manager, tokens[:4])
    assert manager.match([*tokens, 0], []) == [again[0], second[1]]


def test_clear_forgets_references_and_content() -> None:
    manager = BlockManager(4, SIZE)
    computed_sequence(manager, [1] * 8)
    manager.clear()
    assert (manager.used_blocks, manager.free_blocks, manager.reusable_blocks) == (0, 4, 0)
    assert manager.match([1] * 9, []) == []


@pytest.mark.parametrize(("n_blocks", "block_size"), [(0, 4), (4, 0), (-1, 4)])
def test_an_empty_pool_is_refused(n_blocks: int, block_size: int) -> None:
    with pytest.raises(UsageError):
        BlockManager(n_blocks, block_size)
