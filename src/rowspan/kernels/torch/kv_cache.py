"""Allocates, writes and reads one layer's keys and values as tensors.

As int8, each head of a token has a scale of its own: value = code · scale, the largest code being 127.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from rowspan.quant.cache_types import cache_type


@dataclass(frozen=True)
class Cache:
    """Keys (slots, KV heads, key size) and values (slots, KV heads, value size); of int8 with scales, float32
    (slots, KV heads). group: see `rowspan.kernels.ops.LayerCache`."""

    k: Tensor
    v: Tensor
    k_scales: Tensor | None = None
    v_scales: Tensor | None = None
    group: int = field(default=0, kw_only=True)

    @property
    def nbytes(self) -> int:
        """Bytes of both tensors, as `rowspan.quant.cache_types.cache_bytes` predicts them."""
        parts = (self.k, self.v, self.k_scales, self.v_scales)
        return sum(part.nbytes for part in parts if part is not None)


def new_cache(
    n_slots: int,
    kv_heads: int,
    key_size: int,
    value_size: int,
    types: tuple[str, str],
    device: torch.device,
    group: int = 0,
) -> Cache:
    """Allocate a layer's cache, uninitialized, with torch's types by name."""
    k, v = (
        torch.empty(n_slots, kv_heads, size, dtype=getattr(torch, name), device=device)
        for size, name in zip((key_size, value_size), types, strict=True)
    )
    k_scales, v_scales = (
        torch.empty(n_slots, kv_heads, dtype=torch.float32, device=device) if cache_type(name).head_bytes else None
        for name in types
    )
    return Cache(k, v, k_scales, v_scales, group=group)


def write_cache(cache: Cache, slots: Tensor, k: Tensor, v: Tensor) -> None:
    """Store each token's k (T, KV heads · key size) and v (T, KV heads · value size) in its slot, int64 (T,)."""
    for side, scales, new in ((cache.k, cache.k_scales, k), (cache.v, cache.v_scales, v)):
        values = new.view(len(slots), *side.shape[1:])
        if scales is not None:
            values, scale = quantize(values)
            scales.index_copy_(0, slots, scale)
        side.index_copy_(0, slots, values.to(side.dtype))


def read_cache(side: Tensor, scales: Tensor | None, slots: Tensor) -> Tensor:
    """Keys or values in these slots, (n,), as float32 (n, KV heads, head size)."""
    values = side.index_select(0, slots).float()
    return values if scales is None else values.mul_(scales.index_select(0, slots)[:, :, None])


def quantize(values: Tensor) -> tuple[Tensor, Tensor]:
    """Codes, integers from -127 to 127 held in float32, and their scales, one per stretch of the last dimension.
    Rounded as in `kernels/triton/rope.py`, so that both write the same.
    """
    values = values.float()
    scales = values.abs().amax(-1) / 127.0
    codes = torch.floor(values / torch.where(scales > 0.0, scales, 1.0)[..., None] + 0.5)
    return codes.clamp_(-127.0, 127.0), scales
