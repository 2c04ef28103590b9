"""TQ1_0 and TQ2_0: 256 elements `d * (q - 1)`.

TQ2_0: q of 2 bits. Block: q[64] · d float16. Elements lie as in Q2_K.
TQ1_0: q is 0, 1 or 2. Block: five[32] · five[16] · four[4] · d float16. A byte holds five (in the end four) elements in
base 3, as a fraction of 256, first digit first: the first elements of all 32 bytes, then the second ones, and so on;
then those of the 16 bytes, and of the 4.
"""

from __future__ import annotations

import torch

from rowspan.quant.planar import Planar, bit_fields, halves


def tq2_0(blocks: torch.Tensor) -> Planar:
    return _planar(bit_fields(blocks[:, :64], bits=2, width=32), halves(blocks, 64))


def tq1_0(blocks: torch.Tensor) -> Planar:
    codes = [_digits(blocks[:, start:end], digits) for start, end, digits in ((0, 32, 5), (32, 48, 5), (48, 52, 4))]
    return _planar(torch.cat(codes, dim=1), halves(blocks, 52))


def _digits(packed: torch.Tensor, digits: int) -> torch.Tensor:
    """The digits of bytes, (n, bytes) → (n, digits · bytes)."""
    powers = torch.tensor([3**place for place in range(digits)], dtype=torch.uint8, device=packed.device)
    left = packed.unsqueeze(1) * powers.view(1, -1, 1)  # modulo 256: what is left once the digits before are cut off
    return (left.short() * 3 >> 8).to(torch.uint8).flatten(1)


def _planar(codes: torch.Tensor, d: torch.Tensor) -> Planar:
    ones = torch.ones(len(codes), 8, dtype=torch.int8, device=codes.device)
    return Planar(codes.view(torch.int8).sub_(1), d, sub_scales=ones)
