"""Pools of several groups of layers: how large they are, and what of a prefix all of them can offer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowspan.errors import UsageError
from rowspan.kvcache.groups import FULL, CacheGroup, CacheLayout
from rowspan.kvcache.manager import CacheManager
from rowspan.kvcache.tables import Tables

SIZE = 4
windows = st.integers(1, 200)
layouts = st.builds(
    CacheLayout,
    st.lists(st.just(FULL) | windows.map(CacheGroup), min_size=1, max_size=3).map(tuple),
    block_size=st.integers(1, 9),
    parallel=st.integers(1, 4),
    step_tokens=st.integers(1, 40),
)


def manager(n_blocks: int, *groups: CacheGroup, parallel: int = 1, step_tokens: int = 8) -> CacheManager:
    return CacheManager(CacheLayout(groups, SIZE, parallel, step_tokens), n_blocks)


def computed_sequence(cache: CacheManager, tokens: list[int]) -> Tables:
    """Admit a sequence of which nothing is known, and compute it a block at a time."""
    tables, hashes = cache.nothing(), list[bytes]()
    assert cache.admit(tables, len(tokens), spare=0)
    for start in range(0, len(tokens), SIZE):
        end = min(start + SIZE, len(tokens))
        assert cache.grow(tables, end)
        cache.commit(tokens, hashes, tables, start, end)
        cache.advance(tables, end, len(tokens))
    return tables


def test_first_position_that_a_token_sees() -> None:
    assert [CacheGroup(3).first_seen(position) for position in range(5)] == [0, 0, 0, 1, 2]
    assert CacheGroup(1).first_seen(7) == 7
    assert FULL.first_seen(7) == 0


def test_a_window_gets_what_it_can_use_and_no_more_than_others() -> None:
    layout = CacheLayout((FULL, CacheGroup(100), CacheGroup(10)), 32, parallel=4, step_tokens=512)
    assert [layout.most_held(group) for group in layout.groups] == [None, 21, 18]
    assert layout.pools(10_000) == (10_000, 2 * 4 * 21, 2 * 4 * 18)
    assert layout.pools(150) == (150, 150, 144)


@given(layout=layouts, data=st.data(), nbytes=st.integers(-10, 10**5), most=st.integers(0, 500))
def test_the_largest_cache_within_some_bytes(layout: CacheLayout, data: st.DataObject, nbytes: int, most: int) -> None:
    n_groups = len(layout.groups)
    each = data.draw(st.lists(st.integers(0, 50), min_size=n_groups, max_size=n_groups))
    fitting = [tokens for tokens in range(most + 1) if layout.nbytes(tokens, each) <= max(0, nbytes)]
    assert layout.tokens_within(nbytes, each, most) == fitting[-1]


@given(layout=layouts, n_blocks=st.integers(0, 300), each=st.integers(0, 50))
def test_bytes_are_those_of_the_pools(layout: CacheLayout, n_blocks: int, each: int) -> None:
    pools, size = layout.pools(n_blocks), layout.block_size
    assert layout.nbytes(n_blocks * size, [each] * len(pools)) == sum(pools) * size * each


@given(position=st.integers(0, 500), window=windows, step=st.integers(1, 40), size=st.integers(1, 9))
def test_a_step_and_its_window_are_never_more_than_is_held(position: int, window: int, step: int, size: int) -> None:
    group = CacheGroup(window)
    most = CacheLayout((group,), size, 1, step).most_held(group)
    blocks = {at // size for at in range(group.first_seen(position), position + step)}
    assert most is not None
    assert len(blocks) <= most


def test_a_prefix_is_offered_if_every_group_has_what_is_seen_behind_it() -> None:
    cache = manager(64, FULL, CacheGroup(6), parallel=4)
    tokens = [1, 2] * 20
    tables = computed_sequence(cache, tokens)
    whole, window = tables
    assert (whole.first, window.first) == (0, 8)  # the next token sees positions 35 and on
    assert len(whole.blocks) == len(window.blocks) == 10
    for length in (41, 40, 25, 5, 4):  # nothing has been evicted yet
        found = cache.match(tokens[:length] if length < 41 else [*tokens, 0], [])
        n = (length - 1) // SIZE
        assert list(found[0].blocks) == list(whole.blocks[:n])
        assert found[1].first == max(0, n * SIZE - 5) // SIZE
        assert len(found[1].blocks) == n
    assert cache.match([7] * 9, [])[0].blocks == cache.nothing()[0].blocks


def test_what_one_group_has_lost_shortens_the_prefix_for_all() -> None:
    cache = manager(64, FULL, CacheGroup(6), parallel=4)
    tokens = [1, 2] * 20
    cache.release(computed_sequence(cache, tokens))
    whole, window = cache.pools
    unknown = window.free_blocks - window.reusable_blocks
    assert window.allocate(unknown + 8) is not None  # evicts what was given back first
    assert [len(table.blocks) for table in cache.match([*tokens, 0], [])] == [10, 10]
    assert len(whole.match(tokens[:25], [])) == 6
    assert [len(table.blocks) for table in cache.match(tokens[:25], [])] == [0, 0]
    assert window.allocate(1) is not None  # of the two that are left, the last one
    assert [len(table.blocks) for table in cache.match([*tokens, 0], [])] == [0, 0]


def test_shared_blocks_stay_until_the_last_sequence_leaves() -> None:
    cache = manager(64, CacheGroup(6), parallel=4)
    tokens = [1, 2] * 8
    first = computed_sequence(cache, tokens)
    second = cache.match([*tokens, 0], [])
    assert cache.admit(second, 17, spare=0)
    assert set(first[0].held) < set(second[0].held)
    cache.release(first)
    assert cache.used_blocks == len(second[0].held)
    cache.release(second)
    assert cache.used_blocks == 0


def test_growing_is_in_all_groups_or_in_none() -> None:
    cache = manager(6, FULL, CacheGroup(3), step_tokens=4)
    tables = cache.nothing()
    assert cache.admit(tables, 8, spare=1)
    held = cache.pools[1].allocate(cache.pools[1].free_blocks)
    assert held is not None
    assert not cache.grow(tables, 9)
    assert [len(table.blocks) for table in tables] == [2, 2]
    cache.pools[1].release(held)
    assert cache.grow(tables, 9)
    assert [len(table.blocks) for table in tables] == [3, 3]
    assert list(cache.joined(tables, 8)) == [*tables[0].blocks[:2], *tables[1].blocks[:2]]


def test_admission_heeds_the_spare_in_every_group() -> None:
    cache = manager(6, FULL, CacheGroup(3), step_tokens=4)
    assert not cache.admit(cache.nothing(), 24, spare=1)
    assert (cache.used_blocks, cache.free_blocks) == (0, 6)
    assert cache.admit(cache.nothing(), 20, spare=1)


def test_an_empty_cache_is_refused() -> None:
    with pytest.raises(UsageError):
        manager(0, FULL)
