"""Native CPU kernels: float32 activations, weights that stay quantized as in the file, value for value.

What has no native kernel (yet) goes to torch: weights that are not quantized, caches that are not float32, embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rowspan.kernels.isa import native_module
from rowspan.kernels.ops import AttentionGroup, LayerCache, RawRows, RopeTable, StepInputs, Weight
from rowspan.kernels.torch.kernels import TorchKernels
from rowspan.quant.groups import grouped
from rowspan.quant.panels import PackedPanels, panels

LARGEST_HEAD = 256  # native attention keeps a head's accumulators on the stack


class CpuKernels:
    """See `rowspan.kernels.ops.Kernels` for shapes. Tensors are passed as addresses; every method first makes sure of
    their type and layout."""

    def __init__(self, isa: str, threads: int) -> None:
        self._cpu = native_module().Cpu(isa, threads)
        self._torch = TorchKernels(torch.float32)

    def pack(self, scheme: str, raw: Tensor, shape: tuple[int, int]) -> Weight:
        groups = grouped(scheme, raw) if raw.numel() else None
        return self._torch.pack(scheme, raw, shape) if groups is None else panels(groups)

    def embedding(self, tokens: Tensor, table: RawRows, first_row: int) -> Tensor:
        return self._torch.embedding(tokens, table, first_row)

    def linear(self, x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
        if not isinstance(weight, PackedPanels):
            return self._torch.linear(x, weight, bias)
        x = _plain(x)
        y = torch.empty(x.shape[0], weight.rows)
        self._cpu.linear(
            x.data_ptr(),
            x.shape[0],
            weight.codes.data_ptr(),
            weight.scales.data_ptr(),
            0 if weight.minima is None else weight.minima.data_ptr(),
            weight.rows,
            weight.columns,
            weight.group,
            weight.four_bit,
            0 if bias is None else bias.data_ptr(),
            y.data_ptr(),
        )
        return y

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        x = _plain(x)
        out = torch.empty_like(x)
        width = x.shape[-1]
        self._cpu.rms_norm(x.data_ptr(), weight.data_ptr(), eps, x.numel() // width, width, out.data_ptr())
        return out

    def rope(self, x: Tensor, angles: RopeTable) -> Tensor:
        x = _plain(x)
        out = torch.empty_like(x)
        tokens, heads, size = x.shape
        self._cpu.rope(
            x.data_ptr(),
            angles.cos.data_ptr(),
            angles.sin.data_ptr(),
            tokens,
            heads,
            size,
            angles.cos.shape[1],
            angles.interleaved,
            out.data_ptr(),
        )
        return out

    def write_cache(self, cache: LayerCache, slots: Tensor, k: Tensor, v: Tensor) -> None:
        self._torch.write_cache(cache, slots, k, v)

    def attention(self, q: Tensor, cache: LayerCache, inputs: StepInputs, window: int | None) -> Tensor:
        tokens, heads, size = q.shape
        if size > LARGEST_HEAD or cache.k.dtype != torch.float32 or cache.v.dtype != torch.float32:
            return self._torch.attention(q, cache, inputs, window)
        if not heads:
            return q.view(tokens, 0)
        q = _plain(q)
        if len(inputs.groups) == 1:  # its tokens are all there are, in order
            return self._attend(q, cache, inputs.groups[0], window).view(tokens, heads * size)
        out = torch.empty_like(q)
        for group in inputs.groups:
            rows = group.token_rows.flatten()
            out[rows] = self._attend(q[rows], cache, group, window)
        return out.view(tokens, heads * size)

    def gated_silu(self, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = _plain(gate), _plain(up)
        out = torch.empty_like(gate)
        self._cpu.gated_silu(gate.data_ptr(), up.data_ptr(), gate.numel(), out.data_ptr())
        return out

    def _attend(self, q: Tensor, cache: LayerCache, group: AttentionGroup, window: int | None) -> Tensor:
        """q (B·M, heads, D), sequence by sequence."""
        n_sequences, n_tokens = group.positions.shape
        kv_heads = cache.k.shape[1]
        out = torch.empty_like(q)
        first_positions = group.positions[:, 0].contiguous()
        self._cpu.attention(
            q.data_ptr(),
            cache.k.data_ptr(),
            cache.v.data_ptr(),
            group.slots.data_ptr(),
            first_positions.data_ptr(),
            out.data_ptr(),
            n_sequences,
            n_tokens,
            group.slots.stride(0),
            kv_heads,
            q.shape[1] // kv_heads,
            q.shape[2],
            window or 0,
        )
        return out


def _plain(x: Tensor) -> Tensor:
    """What the native side takes a tensor for."""
    if x.dtype != torch.float32 or x.device.type != "cpu":
        raise TypeError(f"a float32 tensor on the CPU is due, not {x.dtype} on {x.device}")
    return x.contiguous()
