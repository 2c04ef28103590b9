"""Draws from whole vocabularies without putting them in order.

Nearly all draws fall among the most likely thousand tokens, which `rowspan.kernels.triton.sample` ranks. For the rows
whose draw did not, the token is found by halving: how much mass have all tokens that rank at least here? That reads
the row's logits once for every bit of a rank's key, in one program; all other rows' programs end at once. So the host
need not know which rows they are.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from rowspan.kernels.sampling import SamplingBatch

UNKNOWN = -1  # in place of a token: the draw fell beyond those that were ranked
BLOCK = 4096  # logits that a program looks at together
KEY_BITS = 64


def draw_beyond(token: Tensor, logits: Tensor, temperature: Tensor, batch: SamplingBatch[Tensor]) -> None:
    """Put a token in place of each UNKNOWN. They are drawn by the definition in `rowspan.worker.sampler`, of all tokens
    but what top_p and min_p leave out; `temperature`, as (N, 1), is above 0."""
    rows, vocabulary = logits.shape
    filters = (temperature, batch.top_p, batch.min_logit, batch.uniform)
    _draw[(rows,)](token, logits, *filters, vocabulary, logits.stride(0), BITS=KEY_BITS, BLOCK=BLOCK, num_warps=8)


@triton.jit
def rank_key(value, token, vocabulary):
    """Whole numbers in the order of the values, of equal ones in that of falling ids, which are their lower halves."""
    bits = tl.where(value == 0.0, 0.0, value).to(tl.int32, bitcast=True)  # -0 is 0, but not so as bits
    ordered = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.int64)
    return (ordered << 32) + (vocabulary - 1 - token)


@triton.jit
def _draw(
    tokens,
    logits,
    temperatures,
    top_ps,
    min_logits,
    uniforms,
    vocabulary,
    stride,
    BITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    if tl.load(tokens + row) < 0:
        logits += row * stride
        highest = _highest(logits, vocabulary, BLOCK)
        lowest, least = -float("inf"), tl.full((), -(1 << 63), tl.int64)
        top_p = tl.load(top_ps + row)
        if top_p < 1.0:
            total = _mass(logits, vocabulary, highest, 1.0, lowest, least, BLOCK)
            least = _last(logits, vocabulary, highest, 1.0, lowest, least, top_p * total, True, BITS, BLOCK)
        temperature, lowest = tl.load(temperatures + row).to(tl.float32), tl.load(min_logits + row)
        total = _mass(logits, vocabulary, highest, temperature, lowest, least, BLOCK)
        target = tl.load(uniforms + row) * total
        key = _last(logits, vocabulary, highest, temperature, lowest, least, target, False, BITS, BLOCK)
        tl.store(tokens + row, vocabulary - 1 - (key & 0xFFFFFFFF))


@triton.jit
def _last(
    logits, vocabulary, highest, temperature, lowest, least, target,
    OR_EQUAL: tl.constexpr, BITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The largest key with which the mass of all that are at least as large exceeds the target, or reaches it."""
    low, high = least, tl.full((), (1 << 63) - 1, tl.int64)
    for _ in range(BITS):
        middle = (low | high) - ((low ^ high) >> 1)  # of the two, rounded up; their sum would not fit
        mass = _mass(logits, vocabulary, highest, temperature, lowest, tl.maximum(middle, least), BLOCK)
        enough = mass >= target if OR_EQUAL else mass > target
        low, high = tl.where(enough, middle, low), tl.where(enough, high, middle - 1)
    return low


@triton.jit
def _mass(logits, vocabulary, highest, temperature, lowest, least, BLOCK: tl.constexpr):
    """Of all tokens with keys of `least` and more, no further than `lowest` below the highest logit."""
    masses = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, vocabulary, BLOCK):
        token = start + tl.arange(0, BLOCK)
        value = tl.load(logits + token, mask=token < vocabulary, other=0.0)
        kept = (token < vocabulary) & (rank_key(value, token, vocabulary) >= least)
        kept &= value.to(tl.float64) - highest.to(tl.float64) >= lowest
        masses += tl.where(kept, tl.exp((value - highest) / temperature), 0.0).to(tl.float64)
    return tl.sum(masses, 0)


@triton.jit
def _highest(logits, vocabulary, BLOCK: tl.constexpr):
    highest = tl.full((BLOCK,), -float("inf"), tl.float32)
    for start in range(0, vocabulary, BLOCK):
        token = start + tl.arange(0, BLOCK)
        value = tl.load(logits + token, mask=token < vocabulary, other=-float("inf"))
        highest = tl.maximum(highest, value)
    return tl.max(highest, 0)
