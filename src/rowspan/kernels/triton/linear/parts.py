"""Splits a matrix's columns over programs, if it has fewer rows than keep a card busy: each part of the columns gives
float32 sums of its own, which a second kernel adds up in order. No sum depends on which program came first.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024  # numbers that one adding program handles


@triton.jit
def units_of_part(part, units, UNITS: tl.constexpr, SPLIT: tl.constexpr):
    """The first unit of a part, and the one behind its last: whole steps of UNITS, except at a row's end."""
    each = tl.cdiv(tl.cdiv(units, UNITS), SPLIT) * UNITS
    return part * each, tl.minimum((part + 1) * each, units)


@triton.jit
def add_parts_kernel(parts, bias, y, numbers, rows, SPLIT: tl.constexpr, BLOCK: tl.constexpr):
    """Add parts up: float32 (SPLIT, numbers), with `rows` numbers per token → y (numbers,)."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    given = at < numbers
    total = tl.zeros((BLOCK,), tl.float32)
    for part in tl.static_range(SPLIT):
        total += tl.load(parts + part * numbers + at, mask=given, other=0.0)
    if bias is not None:
        total += tl.load(bias + at % rows, mask=given, other=0.0).to(tl.float32)
    tl.store(y + at, total.to(y.dtype.element_ty), mask=given)


def outputs(x: Tensor, rows: int, split: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Allocate the result (tokens, rows), and the tensor that programs write: the same one or, for several parts, their
    sums.
    """
    tokens = x.shape[0]
    y = torch.empty(tokens, rows, dtype=dtype, device=x.device)
    return y, y if split == 1 else torch.empty(split, tokens, rows, dtype=torch.float32, device=x.device)


def add_parts(parts: Tensor, bias: Tensor | None, y: Tensor) -> None:
    """Add parts (split, tokens, rows) up into y (tokens, rows)."""
    numbers = y.numel()
    add_parts_kernel[(triton.cdiv(numbers, BLOCK),)](
        parts, bias, y, numbers, y.shape[1], SPLIT=parts.shape[0], BLOCK=BLOCK
    )
