"""The ops on a card: Triton's functions, and torch's where there is nothing to gain."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rowspan.comm.base import Comm, SoloGroup
from rowspan.comm.nccl import NcclGroup, NcclLink
from rowspan.comm.tensors import comm_of_tensors
from rowspan.kernels.isa import TRITON
from rowspan.kernels.ops import Fetch, Forward, RawRows, Step, StepInputs, StepLimits, Weight
from rowspan.kernels.sampling import SamplingBatch
from rowspan.kernels.torch.attention import Cache
from rowspan.kernels.torch.card import CardMemory, full_memory_told
from rowspan.kernels.torch.kernels import Angles
from rowspan.kernels.torch.linear import DenseWeight
from rowspan.kernels.triton.attention import attention
from rowspan.kernels.triton.gate import gated_silu
from rowspan.kernels.triton.graphs import DecodeGraphs, Recorder, graph_sizes
from rowspan.kernels.triton.inputs import CardInputs, InputBuffers, Staging, no_sequences, to_card
from rowspan.kernels.triton.join import join
from rowspan.kernels.triton.linear import linear
from rowspan.kernels.triton.norm import add_rms_norm, rms_norm
from rowspan.kernels.triton.pack import pack
from rowspan.kernels.triton.rope import rope_and_cache
from rowspan.kernels.triton.sample import sample
from rowspan.model.rope import RopeTable
from rowspan.quant.dequantize import dequantize

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LookupTable:
    """An embedding's rows in their file's blocks, on the card: uint8 (rows, bytes per row)."""

    scheme: str
    blocks: Tensor
    columns: int
    first: int


class TritonKernels:
    """See `rowspan.kernels.ops.Kernels` for shapes."""

    name = TRITON

    def __init__(
        self, dtype: torch.dtype, device: torch.device, memory: CardMemory, new_recorder: Callable[[], Recorder] | None
    ) -> None:
        """
        Args:
            dtype: of activations, and of weights that are not quantized.
            new_recorder: makes what captures graphs; None: steps are launched op by op.
        """
        self._dtype = dtype
        self._device = device
        self._new_recorder = new_recorder
        self._n_slots = 0  # of the cache
        self._asked = Staging(device)  # of the sampler
        self._chosen = torch.empty(0, dtype=torch.int32, device=device)  # tokens of the last step
        self._memory = memory
        self.memory = memory if device.type == "cuda" else None

    # What ops work on

    def matrix(self, scheme: str, raw: NDArray[np.uint8], shape: tuple[int, int]) -> Weight:
        if not raw.size:
            return DenseWeight(torch.zeros(shape, dtype=self._dtype, device=self._device))
        return self._memory.hold(pack(scheme, self._memory.uploader.upload(raw), self._dtype))

    def join(self, weights: Sequence[Weight], biases: Sequence[Tensor | None]) -> tuple[Weight, Tensor | None] | None:
        """One launch for several: of small matrices each would leave most of a card idle."""
        whole = join(weights)
        missing = [bias is None for bias in biases]
        if whole is None or any(missing) != all(missing):
            return None
        for part in (*weights, *biases):
            if part is not None:
                self._memory.drop(part)
        present = [bias for bias in biases if bias is not None]
        return self._memory.hold(whole), self._memory.hold(torch.cat(present)) if present else None

    def vector(self, values: NDArray[np.float32], *, norm: bool) -> Tensor:
        return self._memory.hold(torch.from_numpy(values).to(self._device, torch.float32 if norm else self._dtype))

    def rope_table(self, table: RopeTable) -> Angles:
        cos, sin = (torch.from_numpy(angles).to(self._device) for angles in (table.cos, table.sin))
        return self._memory.hold(Angles(cos, sin, table.interleaved))

    def lookup(self, table: RawRows) -> LookupTable:
        blocks = self._memory.uploader.upload(table.blocks)
        return self._memory.hold(LookupTable(table.scheme, blocks, table.columns, table.first))

    @full_memory_told()
    def cache(self, n_slots: int, kv_heads: int, head_dim: int, types: tuple[str, str]) -> Cache:
        self._n_slots = n_slots
        shape = (n_slots + 1, kv_heads, head_dim)  # one for sequences that only fill up a graph
        k, v = (torch.empty(shape, dtype=getattr(torch, name), device=self._device) for name in types)
        return Cache(k, v)

    def connect(self, comm: Comm[Any]) -> Comm[Tensor]:
        talks = (comm.group, comm.before, comm.after)
        if self._new_recorder is not None and not all(
            talk is None or isinstance(talk, SoloGroup | NcclGroup | NcclLink) for talk in talks
        ):
            self._new_recorder = None
            log.warning(
                "Steps are launched op by op: what goes through the host's memory cannot be captured in a graph."
            )
        return comm_of_tensors(comm, self._device, self._dtype)

    def finish_loading(self) -> None:
        self._memory.uploader.finish()

    def capture(self, forward: Forward, limits: StepLimits, *, rehearsal: bool = False) -> Step:
        with torch.inference_mode(), full_memory_told():
            buffers = InputBuffers(self._device, limits, self._n_slots)
            self._chosen = buffers.chosen

        def logits(inputs: CardInputs) -> Tensor | None:
            buffers.take_chosen(inputs.tokens)
            result: Tensor | None = forward(inputs)
            return None if result is None else result.float()

        @torch.inference_mode()
        @full_memory_told()
        def step(inputs: StepInputs) -> Tensor | None:
            n = len(inputs.blocks)
            decodes = len(inputs.tokens) == n == len(inputs.output_rows)
            size = graphs.size_for(n) if graphs is not None and decodes else None
            if graphs is None or size is None:
                return logits(buffers.fill(inputs))
            buffers.fill_decode(inputs, size)
            return graphs.replay(size, n)

        graphs = None if rehearsal else self._record(buffers, limits, logits)
        return step

    @torch.inference_mode()
    @full_memory_told()
    def sample(self, logits: Tensor, batch: SamplingBatch[NDArray[np.generic]]) -> Fetch:
        """See `rowspan.kernels.ops.Sample`. Fetching the tokens is the one time in a step that the host waits."""
        answer = sample(logits, to_card(batch, self._asked, self._device))
        self._chosen[: len(answer)].copy_(answer[:, 0])
        on_host = answer.to("cpu", non_blocking=True)  # pinned
        if self._device.type != "cuda":
            return on_host.numpy
        there = torch.cuda.Event()
        there.record()

        def fetch() -> NDArray[np.float64]:
            there.synchronize()
            array: NDArray[np.float64] = on_host.numpy()
            return array

        return fetch

    def _record(
        self, buffers: InputBuffers, limits: StepLimits, logits: Callable[[CardInputs], Tensor | None]
    ) -> DecodeGraphs | None:
        if self._new_recorder is None:
            return None
        sizes = graph_sizes(limits.outputs)
        try:
            with torch.inference_mode(), full_memory_told():
                buffers.fill_decode(no_sequences(limits.block_size), limits.outputs)
                return DecodeGraphs(
                    self._new_recorder(), sizes, lambda size: logits(buffers.decode_views(size, limits.block_size))
                )
        except RuntimeError as error:
            log.warning("Steps are launched op by op: decoding could not be captured in a graph (%s).", error)
            return None

    # Ops

    def embedding(self, table: LookupTable, inputs: CardInputs) -> Tensor:
        n_rows = len(table.blocks)
        if not n_rows:  # all of it is other ranks'
            return torch.zeros(len(inputs.tokens), table.columns, dtype=self._dtype, device=self._device)
        local = inputs.tokens - table.first
        inside = (local >= 0) & (local < n_rows)
        rows = dequantize(table.scheme, table.blocks.index_select(0, local.clamp(0, n_rows - 1)))
        return torch.where(inside[:, None], rows, 0.0).to(self._dtype)

    def linear(self, x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
        return linear(x, weight, bias) if x.shape[0] else x.new_empty(0, weight.rows)

    def split_columns(self, x: Tensor, widths: Sequence[int]) -> Sequence[Tensor]:
        return torch.split(x, list(widths), dim=1)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return rms_norm(x, weight, eps)

    def add_rms_norm(self, x: Tensor, y: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        return add_rms_norm(y, x, weight, eps)

    def rope_and_cache(
        self, q: Tensor, k: Tensor, v: Tensor, table: Angles, head_dim: int, cache: Cache, inputs: CardInputs
    ) -> Tensor:
        if not k.numel():
            return q
        places = (inputs.positions, inputs.cache_slots, cache.k, cache.v, head_dim)
        return rope_and_cache(q, k, v, table.cos, table.sin, table.interleaved, *places)

    def attention(self, q: Tensor, cache: Cache, inputs: CardInputs, window: int | None) -> Tensor:
        table = (inputs.blocks, inputs.starts, inputs.positions, inputs.block_size, inputs.max_query)
        return attention(q, cache.k, cache.v, *table, window) if q.numel() else q

    def gated_silu(self, gate: Tensor, up: Tensor) -> Tensor:
        return gated_silu(gate, up) if gate.numel() else gate

    def outputs(self, x: Tensor, inputs: CardInputs) -> Tensor:
        return x if inputs.output_rows is None else x.index_select(0, inputs.output_rows)
