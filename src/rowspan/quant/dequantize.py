"""Converts stored parts to numbers: the reference that every kernel is compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch

from rowspan.quant.planar import Planar, values
from rowspan.quant.scheme import SCHEMES, Scheme
from rowspan.quant.schemes import dense, iq1, iq4, iq23, mxfp4, nvfp4, q2_k, q3_k, q4, q4_k, q5, q6_k, q8, tq
from rowspan.quant.stored import BLOCKS

Parts = Mapping[str, torch.Tensor]


def _of_blocks(scheme_name: str, take_apart: Callable[[torch.Tensor], Planar]) -> Callable[[Parts], Planar]:
    """Make the function for a scheme whose only part is rows of blocks, from one that takes apart blocks (n,
    block_bytes), each as a row.
    """
    block_bytes = SCHEMES[scheme_name].block_bytes

    def planar(parts: Parts) -> Planar:
        blocks = parts[BLOCKS]
        return take_apart(blocks.reshape(-1, block_bytes)).in_rows(blocks.shape[0])

    return planar


# A stored matrix's parts taken apart. New tensors, except of the codes of Q8_0 and F32.
PLANAR: Mapping[str, Callable[[Parts], Planar]] = {
    name: _of_blocks(name, take_apart)
    for name, take_apart in {
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
        "IQ4_NL": iq4.iq4_nl,
        "IQ4_XS": iq4.iq4_xs,
        "MXFP4": mxfp4.mxfp4,
        "NVFP4": nvfp4.nvfp4,
        "IQ3_S": iq23.iq3_s,
        "IQ3_XXS": iq23.iq3_xxs,
        "IQ2_S": iq23.iq2_s,
        "IQ2_XS": iq23.iq2_xs,
        "IQ2_XXS": iq23.iq2_xxs,
        "IQ1_M": iq1.iq1_m,
        "IQ1_S": iq1.iq1_s,
        "TQ2_0": tq.tq2_0,
        "TQ1_0": tq.tq1_0,
    }.items()
}
ELEMENTS_AT_ONCE = 1 << 19  # bounds what is held beside the result, and keeps it in cache


def dequantize(scheme_name: str, raw: torch.Tensor, out_dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Dequantize rows of blocks, on the device they are on.

    Float32 results are those of ggml's reference, bit for bit; others are these, rounded.

    Args:
        raw: [rows, bytes per row] uint8.

    Returns:
        [rows, columns], a new tensor.

    Raises:
        ValueError: a row is not a whole number of blocks.
    """
    scheme = SCHEMES[scheme_name]
    result = torch.empty(raw.shape[0], scheme.columns(raw.shape[1]), dtype=out_dtype, device=raw.device)
    for rows in chunks(scheme, raw):
        result[rows].copy_(values(PLANAR[scheme_name]({BLOCKS: raw[rows]})))
    return result


def dequantize_parts(scheme_name: str, parts: Parts, out_dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Dequantize a stored matrix, [rows, columns], of any scheme: see `dequantize`."""
    if BLOCKS in parts:
        return dequantize(scheme_name, parts[BLOCKS], out_dtype)
    return values(PLANAR[scheme_name](parts)).to(out_dtype)


def chunks(scheme: Scheme, raw: torch.Tensor) -> Iterator[slice]:
    """Yield slices of some rows at a time."""
    if raw.numel() == 0:
        return
    rows_at_once = max(1, ELEMENTS_AT_ONCE // scheme.columns(raw.shape[1]))
    for first in range(0, raw.shape[0], rows_at_once):
        yield slice(first, first + rows_at_once)
