"""MXFP4: 32 elements `2^(e - 128) * TABLE[q]`. Block: e uint8 · q[16], as in Q4_0.

The table is OCP's E2M1 doubled, hence 128 in place of 127
(https://www.opencompute.org/documents/ocp-microscaling-formats-mx-v1-0-spec-final-pdf).
"""

from __future__ import annotations

import torch

from rowspan.quant.planar import Planar, bit_fields
from rowspan.quant.schemes.tables import table_of


def mxfp4(blocks: torch.Tensor) -> Planar:
    q = bit_fields(blocks[:, 1:], bits=4, width=16)
    return Planar(q, powers(blocks[:, :1]), table=table_of("MXFP4", blocks))


def powers(exponents: torch.Tensor) -> torch.Tensor:
    """2^(exponent - 128) for bytes, float32; the two smallest are subnormal."""
    e = exponents.int()
    bits: torch.Tensor = torch.where(e < 2, (e + 1) << 21, (e - 1) << 23)
    return bits.view(torch.float32)


def exponents(powers: torch.Tensor) -> torch.Tensor:
    """Undo `powers`: the exponents, uint8."""
    bits = powers.contiguous().view(torch.int32)
    return torch.where(bits < 1 << 23, bits >> 22, (bits >> 23) + 1).to(torch.uint8)
