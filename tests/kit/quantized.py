"""Random quantized matrices, as GGUF files hold them."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray


def quantized(scheme: str, rows: int, columns: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Random blocks: of schemes that gguf can make from weights, or raw ones with sane scales."""
    kind = gguf.GGMLQuantizationType[scheme]
    try:
        weight = rng.standard_normal((rows, columns)).astype(np.float32)
        blocks: NDArray[Any] = gguf.quants.quantize(weight, kind)
        return blocks.view(np.uint8).reshape(rows, -1).copy()
    except NotImplementedError:
        block, size = gguf.GGML_QUANT_SIZES[kind]
        raw = rng.integers(0, 256, (rows, columns // block, size), dtype=np.uint8)
        for at in {
            "Q2_K": (80, 82),
            "Q3_K": (108,),
            "Q4_K": (0, 2),
            "Q5_K": (0, 2),
            "Q6_K": (208,),
            "IQ4_NL": (0,),
            "IQ4_XS": (0,),
        }[scheme]:
            halves = rng.uniform(1e-3, 1e-2, (rows, columns // block, 1)).astype(np.float16)
            raw[:, :, at : at + 2] = halves.view(np.uint8).reshape(rows, columns // block, 2)
        return raw.reshape(rows, -1)
