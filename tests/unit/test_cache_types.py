"""The table of cache types, against what the kernels really allocate and what native kernels have."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rowspan.kernels.cpu.kernels import CpuKernels
from rowspan.kernels.isa import available_isas, is_native, native_module
from rowspan.kernels.torch.kv_cache import new_cache
from rowspan.quant.cache_types import (
    CACHE_TYPES,
    CacheKernels,
    CacheType,
    cache_bytes,
    cache_options,
    cache_type,
    cache_type_for,
)

SLOTS, HEADS = 32, 3


def of(kernels: CacheKernels) -> list[CacheType]:
    return [each for each in CACHE_TYPES if kernels in each.kernels]


def test_users_names() -> None:
    assert cache_options(CacheKernels.NATIVE, CacheKernels.TENSORS) == ["f32", "f16", "bf16", "q8_0", "i16"]
    assert cache_options(CacheKernels.LLAMACPP) == [
        "f32",
        "f16",
        "bf16",
        "q8_0",
        "q5_1",
        "q5_0",
        "q4_1",
        "q4_0",
        "iq4_nl",
    ]
    for kernels in CacheKernels:
        options = [each.option for each in of(kernels)]
        assert len(options) == len(set(options))
        for each in of(kernels):
            assert cache_type_for(each.option, kernels) is each
    assert cache_type_for("i16", CacheKernels.LLAMACPP) is None
    q8_0 = [cache_type_for("q8_0", kernels) for kernels in CacheKernels]
    assert [each and each.dtype for each in q8_0] == ["q8_0", "int8", "q8_0"]
    with pytest.raises(KeyError):
        cache_type("float8")


@pytest.mark.parametrize("kind", of(CacheKernels.TENSORS), ids=lambda kind: kind.dtype)
@pytest.mark.parametrize("head_dim", [0, 20, 64, 128])
def test_tensors_are_as_large_as_the_table_says(kind: CacheType, head_dim: int) -> None:
    cache = new_cache(SLOTS, HEADS, head_dim, head_dim, (kind.dtype, kind.dtype), torch.device("cpu"))
    expected = 2 * SLOTS * HEADS * cache_bytes(head_dim, kind.dtype)
    assert cache.nbytes == expected + (2 * SLOTS * HEADS * kind.head_bytes if not head_dim else 0)


@pytest.mark.skipif(not is_native(available_isas()[0]), reason="no native kernels here")
@pytest.mark.parametrize("kind", of(CacheKernels.NATIVE), ids=lambda kind: kind.dtype)
@pytest.mark.parametrize("head_dim", [64, 96, 128])
def test_native_caches_are_as_large_as_the_table_says(kind: CacheType, head_dim: int) -> None:
    kernels = CpuKernels(available_isas()[0], 1, int8=False)
    cache = kernels.cache(SLOTS, HEADS, head_dim, head_dim, (kind.dtype, kind.dtype))
    assert cache.nbytes == 2 * SLOTS * HEADS * cache_bytes(head_dim, kind.dtype)
    assert (cache.k.type.name, cache.v.type.name) == kind.native
    assert cache.k.data.dtype == np.dtype(kind.numpy)


def test_every_native_type_is_in_the_table() -> None:
    named = {name for kind in of(CacheKernels.NATIVE) for name in kind.native or ()}
    native = native_module()
    assert native is not None
    assert named == {each.name for each in native.CacheType}
