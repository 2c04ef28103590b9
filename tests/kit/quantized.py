"""Random quantized matrices, as GGUF files hold them."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

# The bytes of a block at which its float16 numbers start, of schemes that gguf cannot make from weights, or in which it
# makes weights nearly all 0.
HALVES = {
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "IQ4_NL": (0,),
    "IQ4_XS": (0,),
    "NVFP4": (),
    "IQ3_S": (0,),
    "IQ3_XXS": (0,),
    "IQ2_S": (0,),
    "IQ2_XS": (0,),
    "IQ2_XXS": (0,),
    "IQ1_M": (48,),
    "IQ1_S": (0,),
    "TQ2_0": (64,),
    "TQ1_0": (52,),
}


def quantized(scheme: str, rows: int, columns: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Random blocks: of schemes that gguf can make from weights, or raw ones with sane scales."""
    kind = gguf.GGMLQuantizationType[scheme]
    if scheme not in HALVES:
        weight = rng.standard_normal((rows, columns)).astype(np.float32)
        blocks: NDArray[Any] = gguf.quants.quantize(weight, kind)
        return blocks.view(np.uint8).reshape(rows, -1).copy()
    block, size = gguf.GGML_QUANT_SIZES[kind]
    raw = rng.integers(0, 256, (rows, columns // block, size), dtype=np.uint8)
    for at in HALVES[scheme]:
        set_half(scheme, raw, at, rng.uniform(1e-3, 1e-2, raw.shape[:2]))
    if scheme == "NVFP4":
        raw[..., :4] = rng.integers(1, 40, raw[..., :4].shape)
    return raw.reshape(rows, -1)


def set_half(scheme: str, blocks: NDArray[np.uint8], at: int, value: Any) -> None:
    """Set the float16 numbers at byte `at` of blocks (…, bytes)."""
    halves = np.broadcast_to(np.asarray(value, np.float16), blocks.shape[:-1]).copy()
    if scheme == "IQ1_M":  # it lies in the highest bits of four words
        words, bits = blocks[..., at : at + 8], halves.view(np.uint16)
        for word in range(4):
            words[..., 2 * word + 1] = words[..., 2 * word + 1] & 15 | (bits >> 4 * word & 15) << 4
    else:
        blocks[..., at : at + 2] = halves[..., None].view(np.uint8)
