"""One layer's keys and values as tensors: made, written and read.

As int8, each head of a token has a scale of its own: value = code · scale, the largest code being 127.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cache:
    """Keys and values, each (slots, KV heads, head size); of int8 with scales, float32 (slots, KV heads)."""

    k: Tensor
    v: Tensor
    k_scales: Tensor | None = None
    v_scales: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """As `rowspan.plan.fit.cache_bytes` foretells."""
        parts = (self.k, self.v, self.k_scales, self.v_scales)
        return sum(part.nbytes for part in parts if part is not None)


def new_cache(n_slots: int, kv_heads: int, head_dim: int, types: tuple[str, str], device: torch.device) -> Cache:
    """Of torch's types, by name; not initialized."""
    k, v = (torch.empty(n_slots, kv_heads, head_dim, dtype=getattr(torch, name), device=device) for name in types)
    k_scales, v_scales = (
        torch.empty(n_slots, kv_heads, dtype=torch.float32, device=device) if name == "int8" else None for name in types
    )
    return Cache(k, v, k_scales, v_scales)


def write_cache(cache: Cache, slots: Tensor, k: Tensor, v: Tensor) -> None:
    """Store each token's k and v (T, KV heads · head size) in its slot, int64 (T,)."""
    for side, scales, new in ((cache.k, cache.k_scales, k), (cache.v, cache.v_scales, v)):
        values = new.view(len(slots), *side.shape[1:])
        if scales is not None:
            values, scale = quantize(values)
            scales.index_copy_(0, slots, scale)
        side.index_copy_(0, slots, values.to(side.dtype))


def read_cache(side: Tensor, scales: Tensor | None, slots: Tensor) -> Tensor:
    """Keys or values of these slots, (n,), as float32 (n, KV heads, head size)."""
    values = side.index_select(0, slots).float()
    return values if scales is None else values.mul_(scales.index_select(0, slots)[:, :, None])


def quantize(values: Tensor) -> tuple[Tensor, Tensor]:
    """Codes, whole numbers from -127 to 127 in float32, and their scales, one for each last dimension. Rounded as
    `kernels/triton/rope.py` does, so that both write the same."""
    values = values.float()
    scales = values.abs().amax(-1) / 127.0
    codes = torch.floor(values / torch.where(scales > 0.0, scales, 1.0)[..., None] + 0.5)
    return codes.clamp_(-127.0, 127.0), scales
