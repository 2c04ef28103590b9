"""Draws from whole vocabularies without putting them in order.

Nearly all draws fall among the most likely thousand tokens, which `rowspan.kernels.triton.sampling.choose_tokens`
ranks. For the rows whose draw did not, the token is searched by its rank's key, digit by digit: how much mass have all
tokens that rank at least here? One program reads the row's logits once for each digit; all other rows' programs end at
once. So the host need not know which rows they are.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from rowspan.kernels.sampling import SamplingBatch

UNKNOWN = -1  # in place of a token: the draw fell beyond those that were ranked
TOKEN_BITS = 20  # bits of a key that hold the token's id: vocabularies of up to a million
DIGITS = 18  # digits of a key in base 8
BLOCK = 1024  # logits that a program looks at together


def draw_beyond(token: Tensor, logits: Tensor, temperature: Tensor, batch: SamplingBatch[Tensor]) -> None:
    """Replace each UNKNOWN token by one that is drawn by the definition in `rowspan.worker.sampler`, from all tokens
    that top_p and min_p leave in. `temperature`, as (N, 1), is above 0.
    """
    rows, vocabulary = logits.shape
    filters = (temperature, batch.top_p, batch.min_logit, batch.uniform)
    constants = {"TOKEN_BITS": TOKEN_BITS, "DIGITS": DIGITS, "BLOCK": BLOCK}
    _draw[(rows,)](token, logits, *filters, vocabulary, logits.stride(0), **constants, num_warps=8)


@triton.jit
def rank_key(value, token, vocabulary, TOKEN_BITS: tl.constexpr):
    """Integers from 0 on, in the order of the values, and for equal values in that of falling ids, which are the lowest
    bits.
    """
    bits = tl.where(value == 0.0, 0.0, value).to(tl.int32, bitcast=True)  # -0 is 0, but not so as bits
    ordered = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.int64) + (1 << 31)
    return (ordered << TOKEN_BITS) + (vocabulary - 1 - token)


@triton.jit
def _draw(
    tokens, logits, temperatures, top_ps, min_logits, uniforms, vocabulary, stride,
    TOKEN_BITS: tl.constexpr, DIGITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    if tl.load(tokens + row) < 0:
        logits += row * stride
        highest = _highest(logits, vocabulary, BLOCK)
        lowest, least = -float("inf"), tl.full((), 0, tl.int64)
        top_p = tl.load(top_ps + row)
        if top_p < 1.0:
            least = _last(logits, vocabulary, highest, 1.0, lowest, least, top_p, True, TOKEN_BITS, DIGITS, BLOCK)
        temperature, lowest = tl.load(temperatures + row).to(tl.float32), tl.load(min_logits + row)
        uniform = tl.load(uniforms + row)
        key = _last(logits, vocabulary, highest, temperature, lowest, least, uniform, False, TOKEN_BITS, DIGITS, BLOCK)
        tl.store(tokens + row, vocabulary - 1 - key % (1 << TOKEN_BITS))


@triton.jit
def _last(
    logits, vocabulary, highest, temperature, lowest, least, share,
    REACHES: tl.constexpr, TOKEN_BITS: tl.constexpr, DIGITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The largest key for which the tokens with at least this key have more than (or, if REACHES, at least) this share
    of all probability mass.
    """
    digits = tl.arange(0, 8).to(tl.int64)
    every = _masses(logits, vocabulary, highest, temperature, lowest, digits * 0 + least, TOKEN_BITS, BLOCK)
    target = every * share
    key, unit = least * 0, tl.full((), 1 << (3 * DIGITS - 3), tl.int64)
    for _ in range(DIGITS):
        keys = tl.maximum(key + digits * unit, least)
        masses = _masses(logits, vocabulary, highest, temperature, lowest, keys, TOKEN_BITS, BLOCK)
        enough = masses >= target if REACHES else masses > target
        key += tl.maximum(tl.sum(enough.to(tl.int32), 0) - 1, 0) * unit
        unit = unit >> 3
    return key


@triton.jit
def _masses(
    logits, vocabulary, highest, temperature, lowest, keys, TOKEN_BITS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """For each of eight keys, the probability mass of all tokens with at least this key and a logit no further than
    `lowest` below the highest.
    """
    masses = tl.zeros((BLOCK, 8), tl.float64)
    for start in range(0, vocabulary, BLOCK):
        token = start + tl.arange(0, BLOCK)
        value = tl.load(logits + token, mask=token < vocabulary, other=-float("inf"))
        kept = value.to(tl.float64) - highest.to(tl.float64) >= lowest
        mass = tl.where(kept, tl.exp((value - highest) / temperature), 0.0).to(tl.float64)
        key = rank_key(value, token, vocabulary, TOKEN_BITS)
        masses += tl.where(key[:, None] >= keys[None, :], mass[:, None], 0.0)
    return tl.sum(masses, 0)


@triton.jit
def _highest(logits, vocabulary, BLOCK: tl.constexpr):
    highest = tl.full((BLOCK,), -float("inf"), tl.float32)
    for start in range(0, vocabulary, BLOCK):
        token = start + tl.arange(0, BLOCK)
        value = tl.load(logits + token, mask=token < vocabulary, other=-float("inf"))
        highest = tl.maximum(highest, value)
    return tl.max(highest, 0)
