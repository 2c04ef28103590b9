"""Rotary position embedding (Su et al. 2021) of q and k, and the writing of k and v to the cache, in one launch."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ELEMENTS = 1024  # of a program


def rope(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool, positions: Tensor, head_dim: int) -> Tensor:
    """Rotate the leading elements of each head of x (T, heads · head_dim) by the angles of its token's position.

    cos, sin: float32 (positions, rotated / 2).
    """
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch(out, x, None, None, cos, sin, interleaved, positions, None, None, None, None, None, head_dim)
    return out


def rope_and_cache(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    interleaved: bool,
    positions: Tensor,
    slots: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    head_dim: int,
    k_scales: Tensor | None = None,
    v_scales: Tensor | None = None,
) -> Tensor:
    """q rotated; k, rotated, and v are stored in the cache.

    Args:
        q, k, v: (T, heads · head_dim), each may be columns of a wider tensor.
        slots: (T,) where each token's k and v go; those of a token with a negative slot go nowhere.
        k_cache, v_cache: (slots, KV heads, head_dim), of float types or int8.
        k_scales, v_scales: float32 (slots, KV heads), of int8 caches: value = code · scale, the largest of a head's
            elements being 127.
    """
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    _launch(
        out, q, k, v, cos, sin, interleaved, positions, slots, k_cache, v_cache, k_scales, v_scales, head_dim
    )  # fmt: skip
    return out


def _launch(
    out: Tensor,
    q: Tensor,
    k: Tensor | None,
    v: Tensor | None,
    cos: Tensor,
    sin: Tensor,
    interleaved: bool,
    positions: Tensor,
    slots: Tensor | None,
    k_cache: Tensor | None,
    v_cache: Tensor | None,
    k_scales: Tensor | None,
    v_scales: Tensor | None,
    head_dim: int,
) -> None:
    n_tokens, q_heads = q.shape[0], q.shape[1] // head_dim
    kv_heads = 0 if k is None else k.shape[1] // head_dim
    padded = triton.next_power_of_2(head_dim)
    together = min(max(1, ELEMENTS // padded), triton.next_power_of_2(max(1, q_heads)))
    q_programs, kv_programs = triton.cdiv(q_heads, together), triton.cdiv(kv_heads, together)
    if not n_tokens or not q_programs + kv_programs:
        return
    _rotate[(n_tokens, q_programs + 2 * kv_programs)](
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
        q.stride(0),
        0 if k is None else k.stride(0),
        0 if v is None else v.stride(0),
        0 if k_cache is None else k_cache.stride(0),
        0 if k_cache is None else k_cache.stride(1),
        0 if v_cache is None else v_cache.stride(0),
        0 if v_cache is None else v_cache.stride(1),
        q_programs,
        kv_programs,
        INTERLEAVED=interleaved,
        HALF=cos.shape[1],
        D=head_dim,
        D_PAD=padded,
        TOGETHER=together,
        num_warps=max(1, together * padded // 512),
    )


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
    D: tl.constexpr,
    D_PAD: tl.constexpr,
    TOGETHER: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    program = tl.program_id(1)
    position = tl.load(positions + token).to(tl.int64)
    if program < q_programs:
        head = program * TOGETHER + tl.arange(0, TOGETHER)
        turned = _turned(q + token * q_stride, head, q_heads, cos, sin, position, INTERLEAVED, HALF, D, D_PAD)
        _store(out + token * q_heads * D, head * D, turned, head, q_heads, D, D_PAD)
    elif k is not None:
        slot = tl.load(slots + token).to(tl.int64)
        if slot >= 0:
            if program < q_programs + kv_programs:
                head = (program - q_programs) * TOGETHER + tl.arange(0, TOGETHER)
                turned = _turned(k + token * k_stride, head, kv_heads, cos, sin, position, INTERLEAVED, HALF, D, D_PAD)
                to = k_cache + slot * k_slot_stride
                if k_scales is not None:
                    _store_codes(to, head * k_head_stride, k_scales + slot * kv_heads, turned, head, kv_heads, D, D_PAD)
                else:
                    _store(to, head * k_head_stride, turned, head, kv_heads, D, D_PAD)
            else:
                head = (program - q_programs - kv_programs) * TOGETHER + tl.arange(0, TOGETHER)
                d = tl.arange(0, D_PAD)
                held = (head < kv_heads)[:, None] & (d < D)[None, :]
                values = tl.load(v + token * v_stride + head[:, None] * D + d[None, :], mask=held, other=0.0)
                to = v_cache + slot * v_slot_stride
                if v_scales is not None:
                    _store_codes(to, head * v_head_stride, v_scales + slot * kv_heads, values, head, kv_heads, D, D_PAD)
                else:
                    _store(to, head * v_head_stride, values, head, kv_heads, D, D_PAD)


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
    """Some heads of a token, rotated: each element times its pair's cosine, and its partner times the sine."""
    d = tl.arange(0, D_PAD)
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
    inside = (head < n_heads)[:, None]
    own = tl.load(x + head[:, None] * D + d[None, :], mask=inside & (d < D)[None, :], other=0.0)
    other = tl.load(x + head[:, None] * D + partner[None, :], mask=inside & turns[None, :], other=0.0)
    return (own.to(tl.float32) * c[None, :] + other.to(tl.float32) * s[None, :]).to(own.dtype)


@triton.jit
def _store(to, offsets, values, head, n_heads, D: tl.constexpr, D_PAD: tl.constexpr):
    d = tl.arange(0, D_PAD)
    held = (head < n_heads)[:, None] & (d < D)[None, :]
    tl.store(to + offsets[:, None] + d[None, :], values.to(to.dtype.element_ty), mask=held)


@triton.jit
def _store_codes(to, offsets, scales, values, head, n_heads, D: tl.constexpr, D_PAD: tl.constexpr):
    """As int8 with a scale for each head."""
    wide = values.to(tl.float32)
    scale = tl.max(tl.abs(wide), 1) / 127.0
    codes = tl.floor(wide / tl.where(scale > 0.0, scale, 1.0)[:, None] + 0.5)
    codes = tl.minimum(tl.maximum(codes, -127.0), 127.0)
    tl.store(scales + head, scale, mask=head < n_heads)
    _store(to, offsets, codes.to(tl.int8), head, n_heads, D, D_PAD)
