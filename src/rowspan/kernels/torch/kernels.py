"""The ops in plain torch, for any device torch supports: the oracle of all others."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rowspan.comm.base import Comm
from rowspan.comm.tensors import comm_of_tensors
from rowspan.kernels.isa import TORCH
from rowspan.kernels.ops import (
    AttentionOptions,
    Experts,
    Forward,
    Outputs,
    RawRows,
    Step,
    StepInputs,
    StepLimits,
    Weight,
)
from rowspan.kernels.torch import attention as paged
from rowspan.kernels.torch import linear as dense
from rowspan.kernels.torch import mixture as moe
from rowspan.kernels.torch import small_ops
from rowspan.kernels.torch.card_memory import CardMemory, Held, full_memory_told
from rowspan.kernels.torch.inputs import TensorInputs, attention_groups, tensor_inputs
from rowspan.kernels.torch.kv_cache import Cache, new_cache, write_cache
from rowspan.kernels.torch.outputs import hidden_on_host
from rowspan.kernels.torch.small_ops import Angles
from rowspan.model.rope_table import RopeTable
from rowspan.model.spec import Activation, MoeSpec
from rowspan.quant.dequantize import dequantize, dequantize_parts
from rowspan.quant.stored import StoredMatrix

CPU = torch.device("cpu")


class TorchKernels:
    """The ops in plain torch; see `rowspan.kernels.ops.Kernels` for shapes.

    dtype: type of weights and activations.
    """

    name = TORCH
    sample = None

    def __init__(self, dtype: torch.dtype, device: torch.device = CPU) -> None:
        self._dtype = dtype
        self._device = device
        self.memory = CardMemory(device, dtype) if device.type == "cuda" else None

    # What ops work on

    def matrix(self, stored: StoredMatrix) -> Weight:
        if stored.is_empty:
            return dense.pack(torch.zeros(stored.rows, stored.columns, dtype=self._dtype, device=self._device))
        if self.memory is None:
            parts = {name: _tensor(part) for name, part in stored.parts.items()}
            return dense.pack(self._scaled(dequantize_parts(stored.scheme, parts), stored).to(self._dtype))
        uploaded = self.memory.uploader.upload_parts(stored.parts)
        return self._held(dense.pack(self._scaled(dequantize_parts(stored.scheme, uploaded, self._dtype), stored)))

    def _scaled(self, matrix: Tensor, stored: StoredMatrix) -> Tensor:
        if stored.row_scales is None:
            return matrix
        return matrix.mul_(torch.from_numpy(stored.row_scales).to(matrix.device)[:, None])

    def experts(self, stored: StoredMatrix, count: int) -> Weight:
        return moe.ExpertMatrices([self.matrix(part) for part in stored.in_parts(count)])

    def join(self, weights: Sequence[Weight], biases: Sequence[Any]) -> None:
        return None

    def vector(self, values: NDArray[np.float32], *, norm: bool) -> Tensor:
        # Norms are taken in float32.
        dtype = torch.float32 if norm else self._dtype
        return self._held(torch.from_numpy(values).to(self._device, dtype, copy=True))

    def rope_table(self, table: RopeTable) -> Angles:
        cos, sin = torch.from_numpy(table.cos), torch.from_numpy(table.sin)
        return self._held(Angles(cos.to(self._device, copy=True), sin.to(self._device, copy=True), table.interleaved))

    @full_memory_told()
    def cache(
        self, n_slots: int, kv_heads: int, key_size: int, value_size: int, types: tuple[str, str], group: int = 0
    ) -> Cache:
        return new_cache(n_slots, kv_heads, key_size, value_size, types, self._device, group)

    def connect(self, comm: Comm[Any]) -> Comm[Tensor]:
        return comm_of_tensors(comm, self._device, self._dtype)

    def finish_loading(self) -> None:
        if self.memory is not None:
            self.memory.uploader.finish()

    def capture(self, forward: Forward, limits: StepLimits, *, profiling: bool = False) -> Step:
        @torch.inference_mode()
        @full_memory_told()
        def step(inputs: StepInputs) -> Outputs[NDArray[np.float32]] | None:
            outputs: Outputs[Tensor] | None = forward(tensor_inputs(inputs, self._device))
            if outputs is None:
                return None
            logits = None if outputs.logits is None else outputs.logits.cpu().numpy()
            return Outputs(logits, hidden_on_host(outputs.hidden, inputs.hidden_rows))

        return step

    def _held(self, weights: Held) -> Held:
        return weights if self.memory is None else self.memory.hold(weights)

    # Ops

    def lookup(self, table: RawRows) -> RawRows:
        return table

    def embedding(self, table: RawRows, inputs: TensorInputs) -> Tensor:
        local = (inputs.tokens - table.first).cpu()
        stored = table.stored
        inside = (local >= 0) & (local < stored.rows)
        rows = torch.zeros(len(local), stored.columns)
        rows[inside] = dequantize(stored.scheme, _tensor(stored.blocks)[local[inside]])
        return rows.to(device=self._device, dtype=self._dtype)

    def linear(self, x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
        return dense.linear(x, weight, bias) if x.shape[0] else x.new_empty(0, weight.rows)

    def logits(self, x: Tensor, weight: Weight) -> Tensor:
        return dense.logits(x, weight) if x.shape[0] else x.new_empty(0, weight.rows, dtype=torch.float32)

    def split_columns(self, x: Tensor, widths: Sequence[int]) -> Sequence[Tensor]:
        raise NotImplementedError("nothing is joined here")

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return small_ops.add(x, y)

    def scale(self, x: Tensor, factor: float) -> Tensor:
        return x * factor

    def soft_cap(self, x: Tensor, cap: float) -> Tensor:
        return small_ops.soft_cap(x, cap)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return small_ops.rms_norm(x, weight, eps, self._dtype)

    def add_rms_norm(self, x: Tensor, y: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        return small_ops.add_rms_norm(y, x, weight, eps)

    def layer_norm(self, x: Tensor, weight: Tensor, eps: float, bias: Tensor | None = None) -> Tensor:
        return small_ops.layer_norm(x, weight, eps, self._dtype, bias)

    def add_by_position(self, x: Tensor, table: Tensor, inputs: TensorInputs) -> Tensor:
        return small_ops.add_by_position(x, table, inputs.positions)

    def scale_by_position(self, x: Tensor, factors: Tensor, inputs: TensorInputs) -> Tensor:
        return small_ops.scale_by_position(x, factors, inputs.positions)

    def rope_and_cache(
        self, q: Tensor, k: Tensor, v: Tensor, table: Angles | None, cache: Cache, inputs: TensorInputs
    ) -> Tensor:
        if table is not None:
            q, k = (self.rope(x, table, cache.k.shape[2], inputs) for x in (q, k))
        self.write_cache(cache, k, v, inputs)
        return q

    def rope(self, x: Tensor, table: Angles, head_dim: int, inputs: TensorInputs) -> Tensor:
        return small_ops.rope(x, table, head_dim, inputs.positions)

    def write_cache(self, cache: Cache, k: Tensor, v: Tensor, inputs: TensorInputs) -> None:
        write_cache(cache, inputs.cache_slots[cache.group], k, v)

    def attention(
        self,
        q: Tensor,
        cache: Cache,
        inputs: TensorInputs,
        options: AttentionOptions,
        sinks: Tensor | None = None,
        gate: Tensor | None = None,
    ) -> Tensor:
        return paged.attention(q, cache, inputs.groups, options, sinks, gate)

    def gated(self, gate: Tensor, up: Tensor, activation: Activation) -> Tensor:
        return small_ops.gated(gate, up, activation)

    def activate(self, x: Tensor, activation: Activation) -> Tensor:
        return small_ops.activate(x, activation)

    def mixture(self, x: Tensor, logits: Tensor, experts: Experts, spec: MoeSpec) -> Tensor:
        return moe.mixture(x, logits, experts, spec)

    def head_linear(self, x: Tensor, weight: Weight) -> Tensor:
        return moe.head_linear(x, weight)

    def split_heads(self, x: Tensor, sizes: Sequence[int]) -> Sequence[Tensor]:
        return small_ops.split_heads(x, sizes)

    def join_heads(self, a: Tensor, b: Tensor, heads: int) -> Tensor:
        return small_ops.join_heads(a, b, heads)

    def gate_rows(self, x: Tensor, gate: Tensor) -> Tensor:
        return small_ops.gate_rows(x, gate)

    def gather_output_rows(self, x: Tensor, inputs: TensorInputs) -> Tensor:
        return x[inputs.output_rows]

    def gather_logit_rows(self, x: Tensor, inputs: TensorInputs) -> Tensor:
        return x if inputs.logit_rows is None else x[inputs.logit_rows]

    def outputs_only(self, inputs: TensorInputs) -> TensorInputs:
        if len(inputs.output_rows) == len(inputs.tokens):
            return inputs
        return replace(inputs, groups=attention_groups(inputs.step.outputs_only, self._device))


def _tensor(raw: NDArray[Any]) -> Tensor:
    with warnings.catch_warnings():
        # The file is mapped read-only, which torch cannot express and warns of; nothing here writes to it.
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(raw)
