"""How large the cache becomes, and what a shard weighs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.dense_spec import dense_spec
from kit.gguf_builder import TinyModel

from rowspan.errors import OutOfMemoryError, UsageError
from rowspan.kvcache.groups import FULL, CacheLayout
from rowspan.model.open_checkpoint import open_checkpoint, read_spec
from rowspan.plan.device import Device
from rowspan.plan.fit import CacheSize, shard_bytes, size_cache
from rowspan.plan.split import split
from rowspan.plan.split_mode import SplitMode

SPEC = dense_spec(n_layers=2, n_heads=4, n_kv_heads=2, ffn_size=128, context_length=4096)
GIB = 2**30


def size(
    context: int | None = None,
    tokens: int | None = None,
    parallel: int = 4,
    free: int | None = GIB,
    each: int = 1024,
    tables: int = 0,
    claimed: int = 4096,
) -> CacheSize:
    return size_cache(
        replace(SPEC, context_length=claimed),
        context_size=context,
        cache_tokens=tokens,
        layout=CacheLayout((FULL,), 32, parallel, 512),
        position_bytes=[each],
        free_bytes=free,
        table_bytes=tables,
    )


def test_plenty_of_memory_gives_every_request_the_whole_context() -> None:
    assert size() == CacheSize(4096, 4 * 4096 // 32, 4 * 4096 // 32)


def test_what_was_asked_for_is_what_it_gets() -> None:
    assert size(context=1000) == CacheSize(1000, 125, 125)
    assert size(context=1000, tokens=3333) == CacheSize(1000, 105, 105)  # the last block is not full
    assert size(context=1000, free=None) == CacheSize(1000, 125, 125)


def test_scarce_memory_shortens_the_cache_and_then_the_context() -> None:
    assert size(free=10_000 * 1024) == CacheSize(4096, 5000 // 32 + 1, 512)  # half of what is free, 5000 tokens
    assert size(free=2_000 * 1024) == CacheSize(1000, 1000 // 32 + 1, 125)


@pytest.mark.parametrize("claimed", [2**24, 2**27, 2**31 - 1])
def test_a_context_is_not_believed_beyond_what_memory_takes(claimed: int) -> None:
    """Tables of angles have a row for each position of the context, whatever the cache holds."""
    found = size(claimed=claimed, each=8, tables=512)
    assert found.context_size * 512 <= GIB / 8
    assert found.context_size * 512 + found.n_blocks * 32 * 8 <= GIB
    with pytest.raises(OutOfMemoryError):
        size(context=claimed, claimed=claimed, each=8, tables=512)


@given(
    context=st.none() | st.integers(32, 4096),
    tokens=st.none() | st.integers(32, 10**6),
    parallel=st.integers(1, 64),
    free=st.integers(-GIB, GIB),
    each=st.integers(0, 10**6),
)
def test_it_fits_or_is_refused(context: int | None, tokens: int | None, parallel: int, free: int, each: int) -> None:
    try:
        cache = size(context, tokens, parallel, free, each)
    except OutOfMemoryError:
        return
    assert 32 <= cache.context_size <= 4096
    assert context in (None, cache.context_size)
    assert (cache.n_blocks - 1) * 32 * each <= max(0, free)
    if tokens is None:
        assert cache.n_blocks * 32 >= cache.context_size


def test_a_cache_smaller_than_a_block_is_refused() -> None:
    with pytest.raises(UsageError, match="31 tokens is too small"):
        size(tokens=31)


@pytest.mark.parametrize(
    ("context", "tokens", "free"), [(4096, None, GIB // 1024), (None, 10**7, GIB), (None, None, -1)]
)
def test_too_little_memory_is_refused(context: int | None, tokens: int | None, free: int) -> None:
    with pytest.raises(OutOfMemoryError, match="GiB"):
        size(context, tokens, free=free)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("mode", SplitMode)
def test_shards_together_weigh_what_the_file_does(tmp_path: Path, mode: SplitMode, tied: bool) -> None:
    model = TinyModel(scheme="Q8_0", n_layers=3, tied=tied, vocab_size=400)
    checkpoint = open_checkpoint(model.write(tmp_path / "m.gguf"))
    spec = read_spec(checkpoint)
    plan = split(spec, checkpoint.tensors, [Device("cpu", 0), Device("cpu", 1), Device("cpu", 2)], mode)
    sizes = [
        shard_bytes(plan, shard, checkpoint.tensors, "bfloat16", ("float16", "float32"), native=False)
        for shard in plan.shards
    ]

    matrices = [info for info in checkpoint.tensors.values() if len(info.shape) == 2]
    vectors = sum(info.nbytes for info in checkpoint.tensors.values() if len(info.shape) == 1)
    embedding = 400 * 64
    lookup_copy = (embedding // 32 * 34) if tied and mode is SplitMode.LAYER else 0  # the first stage's and the last's
    repeated_norms = (len(plan.shards) - 1) * vectors if mode is SplitMode.ROW else 0
    assert sum(s.file for s in sizes) == sum(i.nbytes for i in matrices) + vectors + lookup_copy + repeated_norms
    elements = sum(info.shape[0] * info.shape[1] for info in matrices) - (0 if tied else embedding)
    assert sum(s.weights for s in sizes) == 2 * elements + vectors + repeated_norms
    assert sum(s.cache_per_token for s in sizes) == 3 * 2 * 16 * (2 + 4)  # layers · KV heads · head_dim · (K + V)
