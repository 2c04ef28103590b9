"""IQ4_NL and IQ4_XS: elements of 4 bits that stand for numbers of a table, closer together near zero.

IQ4_NL: 32 elements `d * TABLE[q]`. Block: d float16 · q[16], as in Q4_0.
IQ4_XS: 256 elements `d * (scale - 32) * TABLE[q]`, in 8 groups with scales of 6 bits. Block: d float16 · high uint16 ·
low[4] · q[128]. Each 16 bytes of `q` hold a group as in Q4_0. Scales: the low 4 bits in `low`, a byte's low half first;
the high 2 bits in `high`, from the lowest on.
"""

from __future__ import annotations

import torch

from rowspan.quant.planar import Planar, bit_fields, halves
from rowspan.quant.schemes.tables import table_of


def iq4_nl(blocks: torch.Tensor) -> Planar:
    q = bit_fields(blocks[:, 2:], bits=4, width=16)
    return Planar(q, halves(blocks, 0), table=table_of("IQ4_NL", blocks))


def iq4_xs(blocks: torch.Tensor) -> Planar:
    low = bit_fields(blocks[:, 4:8], bits=4, width=1)
    scale = low | (bit_fields(blocks[:, 2:4], bits=2, width=1) << 4)
    q = bit_fields(blocks[:, 8:], bits=4, width=16)
    return Planar(q, halves(blocks, 0), sub_scales=scale.view(torch.int8).sub_(32), table=table_of("IQ4_XS", blocks))
