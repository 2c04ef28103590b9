"""Holds the keys and values of one layer, in the types that the native kernels read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowspan import _native
from rowspan._native import CacheType
from rowspan.errors import UnsupportedModelError
from rowspan.quant.cache_types import cache_type
from rowspan.quant.panels import aligned

TILED = (CacheType.I16_KEYS, CacheType.I16_VALUES)
TILE_SLOTS = 16  # neighbouring slots of an int16 cache, whose codes lie as attention multiplies them
SCALED = cache_type("q8_0").grain  # elements of a q8_0 cache that share a scale


@dataclass(frozen=True, eq=False)
class CacheSide:
    """Keys or values of one layer: (KV heads, slots, head size). q8_0 has a float16 scale per 32 elements; int16 has a
    float32 scale per row, and codes in tiles (native/kernels.hpp).
    """

    type: CacheType
    data: NDArray[Any]
    scales: NDArray[Any] | None
    native: _native.CacheSide = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "native", _native.CacheSide(self.type, self.data, self.scales))

    @classmethod
    def empty(cls, dtype: str, side: int, n_slots: int, kv_heads: int, size: int) -> CacheSide:
        """Allocate room for keys (side 0) or values (1). It is not touched: the system provides pages when they are
        first written.

        Args:
            dtype: as `rowspan.quant.cache_types` names it.

        Raises:
            UnsupportedModelError: attention has no room for such heads.
        """
        if size > _native.MAX_HEAD:
            raise UnsupportedModelError(
                f"The native kernels cannot compute attention heads of {size} elements.",
                why=f"They have room for {_native.MAX_HEAD}.",
                fix="Set ROWSPAN_CPU_ISA=torch, which has no such limit and is slower, or use a GPU.",
            )
        kind = cache_type(dtype)
        if size % kind.grain:
            raise UnsupportedModelError(
                f"A cache of {kind.option} cannot hold attention heads of {size} elements.",
                why=f"It takes {kind.grain} elements at a time.",
                fix="Use --cache-type-k f16 --cache-type-v f16.",
            )
        assert kind.native is not None, f"native kernels have no caches of {dtype}"
        type: CacheType = getattr(CacheType, kind.native[side])
        rows, scales = (kv_heads, n_slots), None
        if type is CacheType.Q8_0:
            scales = aligned((*rows, size // SCALED), np.float16)
        elif type in TILED:
            scales = aligned(rows, np.float32)
        return cls(type, aligned((*rows, size), np.dtype(kind.numpy)), scales)

    @property
    def nbytes(self) -> int:
        return self.data.nbytes + (0 if self.scales is None else self.scales.nbytes)


@dataclass(frozen=True, eq=False)
class Cache:
    k: CacheSide
    v: CacheSide
    kv_heads: int
    key_size: int
    value_size: int
    group: int = 0  # see `rowspan.kernels.ops.LayerCache`

    @property
    def nbytes(self) -> int:
        return self.k.nbytes + self.v.nbytes
