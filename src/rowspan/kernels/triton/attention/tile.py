"""The part that both attention kernels do with one tile of keys: fetch it through the block table, and take it into the
running softmax (flash attention, Dao et al. 2022).

Tiles begin at absolute positions, multiples of their length, and a tile that a row does not see leaves its running sums
as they are. So a row's bits depend neither on how its prompt was cut into chunks nor on who shares the step. Only what
some row of the tile may see is read from the cache: the rest may be NaN.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from rowspan.errors import UsageError
from rowspan.kernels.ops import AttentionOptions
from rowspan.kernels.triton.attention.tile_sizes import WIDEST

LOG2_E = tl.constexpr(1.4426950408889634)  # weights are powers of two: cards have exp2, and make exp of it

TRITON_TYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


def matrix_type(q: Tensor, k_cache: Tensor) -> tl.dtype:
    """The type in which products are computed: the cache's, since it has most of the numbers; for codes of int8, q's
    type.

    float32 queries stay float32: whoever asks for float32 wants its precision, not the matrix units.
    """
    return TRITON_TYPES[q.dtype if q.dtype == torch.float32 or k_cache.dtype == torch.int8 else k_cache.dtype]


def score_factors(options: AttentionOptions, key_size: int) -> tuple[float, float | None]:
    """The factor of a product q · k, and SOFT_CAP, the factor of the hyperbolic tangent of it."""
    scale = key_size**-0.5 if options.scale is None else options.scale
    if options.soft_cap is None:
        return scale * LOG2_E.value, None
    return scale / options.soft_cap, options.soft_cap * LOG2_E.value


def check_heads(q: Tensor, k_cache: Tensor, v_cache: Tensor) -> None:
    """Raise UsageError if kernels cannot read the cache, or if heads are too wide for them."""
    if k_cache.dtype != v_cache.dtype:
        raise UsageError(
            f"Keys are {k_cache.dtype} and values {v_cache.dtype}.",
            why="The kernels for cards read both in one type.",
            fix="Give --cache-type-k and --cache-type-v the same type.",
        )
    widest = max(k_cache.shape[2], v_cache.shape[2])
    if widest > WIDEST:
        raise UsageError(
            f"The model's attention has heads of {widest} elements.",
            why=f"The kernels for cards take up to {WIDEST}: wider ones do not fit into a card's registers.",
            fix="Run it on the processor (--devices cpu:0), or with another backend (--backend llamacpp).",
        )
    alike = k_cache.shape[2] != v_cache.shape[2] or k_cache.stride() == v_cache.stride()
    if k_cache.stride(2) != 1 or v_cache.stride(2) != 1 or not alike or q.stride(1) != 1:
        raise ValueError("keys and values of one size lie alike in memory, heads in one piece")


@triton.jit
def tanh(x):
    """The hyperbolic tangent without overflow, from one exponential."""
    e = tl.exp(-2.0 * tl.abs(x))
    magnitude = (1.0 - e) / (1.0 + e)
    return tl.where(x < 0.0, -magnitude, magnitude)


@triton.jit
def attend_tile(
    # The running softmax of M rows: highest score, sum of weights, weighted sum of values. Scores are in powers of 2.
    highest,
    total,
    weighted,  # of the V_PAD columns of values that begin at first_value
    q,  # (M, K_PAD), of type MATRIX
    first_value,
    row_at,  # (M,) positions of the rows
    first,  # position of the tile's first key
    low,  # positions from low to stop - 1 are read
    stop,
    blocks,  # the sequence's row of the block table
    k,  # one head's keys and values, and of int8 their scales
    v,
    k_scales,
    v_scales,
    k_slot_stride,
    v_slot_stride,
    scale_stride,
    scale,  # of scores: see `score_factors`
    BLOCK_SIZE: tl.constexpr,
    WINDOW: tl.constexpr,  # 0: none
    SOFT_CAP: tl.constexpr,  # log2(e) included; None: none
    K: tl.constexpr,  # elements of a key
    K_PAD: tl.constexpr,
    V: tl.constexpr,  # of a value
    V_PAD: tl.constexpr,
    BLOCK_N: tl.constexpr,
    MATRIX: tl.constexpr,
    MASKED: tl.constexpr,  # False: every row sees every key of this tile
):
    at = first + tl.arange(0, BLOCK_N)
    d = tl.arange(0, K_PAD)
    if MASKED:
        read = (at >= low) & (at < stop)
        block = tl.load(blocks + at // BLOCK_SIZE, mask=read, other=0)
    else:
        block = tl.load(blocks + at // BLOCK_SIZE)
    slot = block.to(tl.int64) * BLOCK_SIZE + at % BLOCK_SIZE
    value = first_value + tl.arange(0, V_PAD)
    k_offsets = slot[:, None] * k_slot_stride
    v_offsets = k_offsets if K == V else slot[:, None] * v_slot_stride
    if MASKED:
        keys = tl.load(k + k_offsets + d[None, :], mask=read[:, None] & (d < K)[None, :], other=0)
        values = tl.load(v + v_offsets + value[None, :], mask=read[:, None] & (value < V)[None, :], other=0)
    else:
        if K_PAD > K:
            keys = tl.load(k + k_offsets + d[None, :], mask=(d < K)[None, :], other=0)
        else:
            keys = tl.load(k + k_offsets + d[None, :])
        if V & (V - 1):  # V_PAD may be a part of the next power of two
            values = tl.load(v + v_offsets + value[None, :], mask=(value < V)[None, :], other=0)
        else:
            values = tl.load(v + v_offsets + value[None, :])

    scores = tl.dot(q, tl.trans(keys.to(MATRIX)), input_precision="ieee") * scale
    if k_scales is not None:
        if MASKED:
            key_scale = tl.load(k_scales + slot * scale_stride, mask=read, other=0.0)
            value_scale = tl.load(v_scales + slot * scale_stride, mask=read, other=0.0)
        else:
            key_scale = tl.load(k_scales + slot * scale_stride)
            value_scale = tl.load(v_scales + slot * scale_stride)
        scores *= key_scale[None, :]
    if SOFT_CAP is not None:
        scores = tanh(scores) * SOFT_CAP
    if MASKED:
        seen = at[None, :] <= row_at[:, None]
        if WINDOW:
            seen &= at[None, :] > row_at[:, None] - WINDOW
        scores = tl.where(seen, scores, float("-inf"))

    new_highest = tl.maximum(highest, tl.max(scores, 1))
    base = new_highest
    if MASKED:  # rows that have seen nothing yet: no inf - inf
        base = tl.where(new_highest == float("-inf"), 0.0, new_highest)
    weights = tl.exp2(scores - base[:, None])
    shrink = tl.exp2(highest - base)
    total = total * shrink + tl.sum(weights, 1)
    if v_scales is not None:
        weights *= value_scale[None, :]
    weighted = tl.dot(weights.to(MATRIX), values.to(MATRIX), weighted * shrink[:, None], input_precision="ieee")
    return new_highest, total, weighted
