"""Rotary position embedding (Su et al. 2021) of q and k, and the writing of k and v to the cache, in one launch; or of
models without it, the writing alone."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from rowspan.kernels.torch.kv_cache import Cache
from rowspan.kernels.torch.small_ops import Angles

ELEMENTS = 1024  # of a program


def rope_and_cache(
    q: Tensor, k: Tensor, v: Tensor, table: Angles | None, positions: Tensor, slots: Tensor, cache: Cache
) -> Tensor:
    """Rotate the leading elements of each head of q and k by the angles of their token's position, store k and v in the
    cache, and return q.

    Args:
        q, k, v: (T, heads · key size), v of the value size; each may be columns of a wider tensor.
        table: None: nothing is rotated, and q is returned as it is.
        positions: (T,)
        slots: (T,) the slot for each token's k and v; those of a token with a negative slot are not stored.
        cache: of float types, or int8 with scales: value = code · scale, the largest of a head's elements being 127.
    """
    (kv_heads, key_size), value_size = cache.k.shape[1:], cache.v.shape[2]
    n_tokens, q_heads = q.shape[0], q.shape[1] // key_size
    out = q if table is None else torch.empty(q.shape, dtype=q.dtype, device=q.device)
    key_padded, value_padded = triton.next_power_of_2(key_size), triton.next_power_of_2(value_size)
    padded = max(key_padded, value_padded)
    together = min(max(1, ELEMENTS // padded), triton.next_power_of_2(max(1, q_heads)))
    q_programs = 0 if table is None else triton.cdiv(q_heads, together)
    kv_programs = triton.cdiv(kv_heads, together)
    if not n_tokens or not q_programs + kv_programs:
        return out
    _rotate[(n_tokens, q_programs + 2 * kv_programs)](
        out,
        q,
        k,
        v,
        None if table is None else table.cos,
        None if table is None else table.sin,
        positions,
        slots,
        cache.k,
        cache.v,
        cache.k_scales,
        cache.v_scales,
        q_heads,
        kv_heads,
        q.stride(0),
        k.stride(0),
        v.stride(0),
        cache.k.stride(0),
        cache.k.stride(1),
        cache.v.stride(0),
        cache.v.stride(1),
        q_programs,
        kv_programs,
        INTERLEAVED=table is not None and table.interleaved,
        HALF=0 if table is None else table.cos.shape[1],
        K=key_size,
        K_PAD=key_padded,
        V=value_size,
        V_PAD=value_padded,
        TOGETHER=together,
        num_warps=max(1, together * padded // 512),
    )
    return out


@triton.jit
def _rotate(
    out,
    q,
    k,
    v,
    cos,
    sin,
    positions,
    slots,
    k_cache,
    v_cache,
    k_scales,
    v_scales,
    q_heads,
    kv_heads,
    q_stride,
    k_stride,
    v_stride,
    k_slot_stride,
    k_head_stride,
    v_slot_stride,
    v_head_stride,
    q_programs,  # of a token: first those of q, then of k, then of v
    kv_programs,
    INTERLEAVED: tl.constexpr,
    HALF: tl.constexpr,
    K: tl.constexpr,
    K_PAD: tl.constexpr,
    V: tl.constexpr,
    V_PAD: tl.constexpr,
    TOGETHER: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    program = tl.program_id(1)
    position = tl.load(positions + token).to(tl.int64)
    if program < q_programs:
        head = program * TOGETHER + tl.arange(0, TOGETHER)
        turned = _turned(q + token * q_stride, head, q_heads, cos, sin, position, INTERLEAVED, HALF, K, K_PAD)
        _store(out + token * q_heads * K, head * K, turned, head, q_heads, K, K_PAD)
    else:
        slot = tl.load(slots + token).to(tl.int64)
        if slot >= 0:
            if program < q_programs + kv_programs:
                head = (program - q_programs) * TOGETHER + tl.arange(0, TOGETHER)
                turned = _turned(k + token * k_stride, head, kv_heads, cos, sin, position, INTERLEAVED, HALF, K, K_PAD)
                to = k_cache + slot * k_slot_stride
                if k_scales is not None:
                    _store_codes(to, head * k_head_stride, k_scales + slot * kv_heads, turned, head, kv_heads, K, K_PAD)
                else:
                    _store(to, head * k_head_stride, turned, head, kv_heads, K, K_PAD)
            else:
                head = (program - q_programs - kv_programs) * TOGETHER + tl.arange(0, TOGETHER)
                d = tl.arange(0, V_PAD)
                held = (head < kv_heads)[:, None] & (d < V)[None, :]
                values = tl.load(v + token * v_stride + head[:, None] * V + d[None, :], mask=held, other=0.0)
                to = v_cache + slot * v_slot_stride
                if v_scales is not None:
                    _store_codes(to, head * v_head_stride, v_scales + slot * kv_heads, values, head, kv_heads, V, V_PAD)
                else:
                    _store(to, head * v_head_stride, values, head, kv_heads, V, V_PAD)


@triton.jit
def _turned(
    x,
    head,
    n_heads,
    cos,
    sin,
    position,
    INTERLEAVED: tl.constexpr,
    HALF: tl.constexpr,
    D: tl.constexpr,
    D_PAD: tl.constexpr,
):
    """Rotate some heads of a token: each element times its pair's cosine, and its partner times the sine."""
    d = tl.arange(0, D_PAD)
    inside = (head < n_heads)[:, None]
    own = tl.load(x + head[:, None] * D + d[None, :], mask=inside & (d < D)[None, :], other=0.0)
    if cos is not None:
        turns = d < 2 * HALF
        if INTERLEAVED:
            pair = d // 2
            partner = d ^ 1
            leads = d % 2 == 0
        else:
            pair = d % HALF
            partner = (d + HALF) % (2 * HALF)
            leads = d < HALF
        c = tl.load(cos + position * HALF + pair, mask=turns, other=1.0)
        s = tl.load(sin + position * HALF + pair, mask=turns, other=0.0)
        s = tl.where(leads, -s, s)
        other = tl.load(x + head[:, None] * D + partner[None, :], mask=inside & turns[None, :], other=0.0)
        own = (own.to(tl.float32) * c[None, :] + other.to(tl.float32) * s[None, :]).to(own.dtype)
    return own


@triton.jit
def _store(to, offsets, values, head, n_heads, D: tl.constexpr, D_PAD: tl.constexpr):
    d = tl.arange(0, D_PAD)
    held = (head < n_heads)[:, None] & (d < D)[None, :]
    tl.store(to + offsets[:, None] + d[None, :], values.to(to.dtype.element_ty), mask=held)


@triton.jit
def _store_codes(to, offsets, scales, values, head, n_heads, D: tl.constexpr, D_PAD: tl.constexpr):
    """Store values as int8 with a scale for each head."""
    wide = values.to(tl.float32)
    scale = tl.max(tl.abs(wide), 1) / 127.0
    codes = tl.floor(wide / tl.where(scale > 0.0, scale, 1.0)[:, None] + 0.5)
    codes = tl.minimum(tl.maximum(codes, -127.0), 127.0)
    tl.store(scales + head, scale, mask=head < n_heads)
    _store(to, offsets, codes.to(tl.int8), head, n_heads, D, D_PAD)
