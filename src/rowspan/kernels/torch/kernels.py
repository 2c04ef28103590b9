"""The ops in plain torch, for any device torch supports: the oracle of all others."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rowspan.kernels.ops import LayerCache, RawRows, RopeTable, StepInputs, Weight
from rowspan.kernels.torch import attention as paged
from rowspan.kernels.torch import linear as dense
from rowspan.quant.dequantize import dequantize

CPU = torch.device("cpu")


class TorchKernels:
    """See `rowspan.kernels.ops.Kernels` for shapes.

    dtype: of weights and activations.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device = CPU) -> None:
        self._dtype = dtype
        self._device = device

    def pack(self, scheme: str, raw: Tensor, shape: tuple[int, int]) -> Weight:
        matrix = dequantize(scheme, raw) if raw.numel() else torch.zeros(shape)
        return dense.pack(matrix.to(self._device, self._dtype))

    def embedding(self, tokens: Tensor, table: RawRows, first_row: int) -> Tensor:
        local = (tokens - first_row).to(table.blocks.device)
        inside = (local >= 0) & (local < table.blocks.shape[0])
        rows = torch.zeros(tokens.shape[0], table.columns)
        rows[inside] = dequantize(table.scheme, table.blocks[local[inside]])
        return rows.to(device=tokens.device, dtype=self._dtype)

    def linear(self, x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
        return dense.linear(x, weight, bias)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return F.rms_norm(x.float(), weight.shape, weight, eps).to(x.dtype)

    def rope(self, x: Tensor, angles: RopeTable) -> Tensor:
        half = angles.cos.shape[1]
        cos, sin = angles.cos[:, None], angles.sin[:, None]
        turned, rest = x[..., : 2 * half].float(), x[..., 2 * half :]
        if angles.interleaved:
            a, b = turned[..., 0::2], turned[..., 1::2]
            turned = torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)
        else:
            a, b = turned[..., :half], turned[..., half:]
            turned = torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)
        return torch.cat((turned.to(x.dtype), rest), dim=-1) if rest.shape[-1] else turned.to(x.dtype)

    def write_cache(self, cache: LayerCache, slots: Tensor, k: Tensor, v: Tensor) -> None:
        paged.write_cache(cache, slots, k, v)

    def attention(self, q: Tensor, cache: LayerCache, inputs: StepInputs, window: int | None) -> Tensor:
        return paged.attention(q, cache, inputs, window)

    def gated_silu(self, gate: Tensor, up: Tensor) -> Tensor:
        return F.silu(gate).mul_(up)
