"""From raw blocks to numbers: the reference every kernel is measured against."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from rowspan.quant import dense, q2_k, q3_k, q4, q4_k, q5, q6_k, q8
from rowspan.quant.scheme import SCHEMES

# [n, block_bytes] uint8 → [n, block_size] float32; a new tensor, except of F32.
BLOCK_FUNCTIONS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "F32": dense.f32,
    "F16": dense.f16,
    "BF16": dense.bf16,
    "Q8_0": q8.q8_0,
    "Q4_0": q4.q4_0,
    "Q4_1": q4.q4_1,
    "Q5_0": q5.q5_0,
    "Q5_1": q5.q5_1,
    "Q2_K": q2_k.q2_k,
    "Q3_K": q3_k.q3_k,
    "Q4_K": q4_k.q4_k,
    "Q5_K": q4_k.q5_k,
    "Q6_K": q6_k.q6_k,
}
ELEMENTS_AT_ONCE = 1 << 19  # bounds what is held beside the result, and keeps it in cache


def dequantize(scheme_name: str, raw: torch.Tensor, out_dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Dequantize rows of blocks, on the device they are on.

    Float32 results are those of ggml's reference, bit for bit; others are these, rounded.

    Args:
        raw: [rows, bytes per row] uint8, as `Checkpoint.read` returns them.

    Returns:
        [rows, columns], a new tensor.

    Raises:
        ValueError: a row is not a whole number of blocks.
    """
    scheme, block_function = SCHEMES[scheme_name], BLOCK_FUNCTIONS[scheme_name]
    n_rows, row_bytes = raw.shape
    if row_bytes % scheme.block_bytes:
        raise ValueError(f"rows of {row_bytes} bytes are not whole {scheme.name} blocks of {scheme.block_bytes}")
    n_columns = row_bytes // scheme.block_bytes * scheme.block_size
    result = torch.empty(n_rows, n_columns, dtype=out_dtype, device=raw.device)
    rows_at_once = max(1, ELEMENTS_AT_ONCE // max(1, n_columns))
    for first in range(0, n_rows, rows_at_once):
        some = slice(first, first + rows_at_once)
        blocks = raw[some].reshape(-1, scheme.block_bytes)
        result[some] = block_function(blocks).view(-1, n_columns)
    return result
