"""From raw blocks to numbers: the reference every kernel is measured against."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch

from rowspan.quant import dense, q2_k, q3_k, q4, q4_k, q5, q6_k, q8
from rowspan.quant.scheme import SCHEMES, Scheme
from rowspan.quant.unpacking import UnpackedBlocks, values

# [n, block_bytes] uint8 → [n, 1] float32; a new tensor, except of F32.
DENSE: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "F32": dense.f32,
    "F16": dense.f16,
    "BF16": dense.bf16,
}
# [n, block_bytes] uint8 → codes, scales and minima; new tensors, except of the codes of Q8_0.
QUANTIZED: Mapping[str, Callable[[torch.Tensor], UnpackedBlocks]] = {
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
    scheme = SCHEMES[scheme_name]
    result = torch.empty(raw.shape[0], scheme.columns(raw.shape[1]), dtype=out_dtype, device=raw.device)
    for rows, blocks in chunks(scheme, raw):
        if scheme_name in DENSE:
            part = DENSE[scheme_name](blocks)
        else:
            part = values(QUANTIZED[scheme_name](blocks), scheme.group)
        result[rows].view(part.shape).copy_(part)
    return result


def chunks(scheme: Scheme, raw: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Some rows at a time: which ones, and their blocks, [n, block_bytes]."""
    if raw.numel() == 0:
        return
    rows_at_once = max(1, ELEMENTS_AT_ONCE // scheme.columns(raw.shape[1]))
    for first in range(0, raw.shape[0], rows_at_once):
        rows = slice(first, first + rows_at_once)
        yield rows, raw[rows].reshape(-1, scheme.block_bytes)
