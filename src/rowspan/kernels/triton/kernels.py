"""The ops on a card: Triton's kernels, and torch's where Triton would gain nothing."""

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
from rowspan.errors import UnsupportedModelError
from rowspan.kernels.isa import TRITON
from rowspan.kernels.ops import (
    AttentionOptions,
    Experts,
    Forward,
    Outputs,
    RawRows,
    Step,
    StepInputs,
    StepLimits,
    WaitForTokens,
    Weight,
)
from rowspan.kernels.sampling import SamplingBatch
from rowspan.kernels.torch import small_ops
from rowspan.kernels.torch.card_memory import CardMemory, full_memory_told
from rowspan.kernels.torch.kv_cache import Cache, new_cache
from rowspan.kernels.torch.linear import DenseWeight
from rowspan.kernels.torch.outputs import hidden_on_host
from rowspan.kernels.torch.small_ops import Angles
from rowspan.kernels.triton import torch_path
from rowspan.kernels.triton.activation import activate, gated
from rowspan.kernels.triton.attention.paged import attention
from rowspan.kernels.triton.card_family import card_of
from rowspan.kernels.triton.graphs import DecodeGraphs, Recorder, graph_sizes
from rowspan.kernels.triton.inputs import CardInputs, InputBuffers, Staging, no_sequences, to_card
from rowspan.kernels.triton.linear import torch_fallback
from rowspan.kernels.triton.linear import unpacked as linear_unpacked
from rowspan.kernels.triton.linear.configs import Unpacked, unpacked
from rowspan.kernels.triton.linear.dispatch import linear
from rowspan.kernels.triton.linear.join import join
from rowspan.kernels.triton.linear.layout import PlanarWeight
from rowspan.kernels.triton.linear.pack import pack
from rowspan.kernels.triton.linear.tuned import config_for
from rowspan.kernels.triton.norm import add_rms_norm, rms_norm
from rowspan.kernels.triton.rope import rope_and_cache
from rowspan.kernels.triton.sampling.choose_tokens import (
    profile,
    rank_keys,
    sample,
    torch_draw_beyond,
    torch_rank_keys,
)
from rowspan.kernels.triton.sampling.draw import draw_beyond
from rowspan.kernels.triton.usable import UsableKernels
from rowspan.model.rope_table import RopeTable
from rowspan.model.spec import Activation, MoeSpec
from rowspan.quant.dequantize import dequantize
from rowspan.quant.stored import StoredMatrix

log = logging.getLogger(__name__)

DECODING, PREFILL = "attention of single tokens", "attention of prompts"  # as `UsableKernels` knows them


@dataclass(frozen=True)
class LookupTable:
    """An embedding's rows in their file's blocks, on the card: uint8 (rows, bytes per row)."""

    scheme: str
    blocks: Tensor
    columns: int
    first: int


class TritonKernels:
    """The ops on a card; see `rowspan.kernels.ops.Kernels` for shapes."""

    name = TRITON

    def __init__(
        self, dtype: torch.dtype, device: torch.device, memory: CardMemory, new_recorder: Callable[[], Recorder] | None
    ) -> None:
        """Compute on one card.

        Args:
            dtype: type of activations, and of weights that are not quantized.
            new_recorder: makes an object that captures graphs; None: steps are launched op by op.
        """
        self._dtype = dtype
        self._device = device
        self._new_recorder = new_recorder
        self._n_slots: dict[int, int] = {}  # of the caches of each group of layers
        self._asked = Staging(device)  # of the sampler
        self._chosen = torch.empty(0, dtype=torch.int32, device=device)  # tokens of the last step
        self._has_peers = False
        self._usable = UsableKernels(card_of(device).name)
        self._memory = memory
        self.memory = memory if device.type == "cuda" else None

    # What ops work on

    def matrix(self, stored: StoredMatrix) -> Weight:
        if stored.is_empty:
            return DenseWeight(torch.zeros(stored.rows, stored.columns, dtype=self._dtype, device=self._device))
        blocks, scales = self._memory.uploader.upload(stored.blocks), stored.row_scales
        row_scales = None if scales is None else torch.from_numpy(scales).to(self._device)
        return self._memory.hold(pack(stored.scheme, blocks, self._dtype, row_scales))

    def experts(self, stored: StoredMatrix, count: int) -> Weight:
        raise UnsupportedModelError(
            "Mixtures of experts cannot be run on cards by Rowspan's own engine yet.",
            fix="Use --backend llamacpp, or --devices cpu.",
        )

    def join(self, weights: Sequence[Weight], biases: Sequence[Tensor | None]) -> tuple[Weight, Tensor | None] | None:
        """Join matrices, so that one launch computes several: separate small ones would leave most of a card idle."""
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
        stored, blocks = table.stored, self._memory.uploader.upload(table.stored.blocks)
        return self._memory.hold(LookupTable(stored.scheme, blocks, stored.columns, table.first))

    @full_memory_told()
    def cache(
        self, n_slots: int, kv_heads: int, key_size: int, value_size: int, types: tuple[str, str], group: int = 0
    ) -> Cache:
        self._n_slots[group] = n_slots
        more = n_slots + 1  # one for sequences that only fill up a graph
        return new_cache(more, kv_heads, key_size, value_size, types, self._device, group)

    def connect(self, comm: Comm[Any]) -> Comm[Tensor]:
        talks = (comm.group, comm.before, comm.after)
        self._has_peers = not all(talk is None or isinstance(talk, SoloGroup) for talk in talks)
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

    def capture(self, forward: Forward, limits: StepLimits, *, profiling: bool = False) -> Step:
        with torch.inference_mode(), full_memory_told():
            n_slots = [self._n_slots.get(group, 0) for group in range(limits.groups)]
            buffers = InputBuffers(self._device, limits, n_slots)
            self._chosen = buffers.chosen

        def outputs(inputs: CardInputs) -> Outputs[Tensor] | None:
            self._usable.run(
                "taking chosen tokens",
                lambda: buffers.take_chosen(inputs.tokens),
                lambda: buffers.take_chosen_with_torch(inputs.tokens),
            )
            result: Outputs[Tensor] | None = forward(inputs)
            if result is not None and result.logits is not None and profiling:
                profile(result.logits, self._rank_keys, self._draw_beyond)
            return result

        @torch.inference_mode()
        @full_memory_told()
        def step(inputs: StepInputs) -> Outputs[Any] | None:
            n = len(inputs.first_positions)
            decodes = len(inputs.tokens) == n == len(inputs.output_rows) and inputs.hidden_rows is None
            size = graphs.size_for(n) if graphs is not None and decodes else None
            if graphs is not None and size is not None:
                buffers.fill_decode(inputs, size)
                logits = graphs.replay(size, n)
                return None if logits is None else Outputs(logits, None)
            result = outputs(buffers.fill(inputs))
            if result is None:
                return None
            return Outputs(result.logits, hidden_on_host(result.hidden, inputs.hidden_rows))

        graphs = None if profiling else self._record(buffers, limits, outputs)
        return step

    @torch.inference_mode()
    @full_memory_told()
    def sample(self, logits: Tensor, batch: SamplingBatch[NDArray[np.generic]]) -> WaitForTokens:
        """A `rowspan.kernels.ops.Sample`. Only the fetching of the tokens makes the host wait, once in a step."""
        answer = sample(logits, to_card(batch, self._asked, self._device), self._rank_keys, self._draw_beyond)
        self._chosen[: len(answer)].copy_(answer[:, 0])
        on_host = answer.to("cpu", non_blocking=True)  # pinned
        if self._device.type != "cuda":
            return on_host.numpy
        there = torch.cuda.Event()
        there.record()

        def wait_for_tokens() -> NDArray[np.float64]:
            there.synchronize()
            array: NDArray[np.float64] = on_host.numpy()
            return array

        return wait_for_tokens

    def _record(
        self, buffers: InputBuffers, limits: StepLimits, outputs: Callable[[CardInputs], Outputs[Tensor] | None]
    ) -> DecodeGraphs | None:
        if self._new_recorder is None:
            return None
        sizes = graph_sizes(limits.logits)

        def decode(size: int) -> Tensor | None:
            result = outputs(buffers.decode_views(size, limits.block_size))
            return None if result is None else result.logits

        try:
            with torch.inference_mode(), full_memory_told():
                buffers.fill_decode(no_sequences(limits.block_size, limits.groups), limits.logits)
                if not self._usable.lacks(DECODING):
                    return DecodeGraphs(self._new_recorder(), sizes, decode)
                log.warning("Steps are launched op by op: torch's attention cannot be captured in a graph.")
                for size in reversed(sizes if self._has_peers else []):
                    decode(size)  # as those that capture do before, who would wait for this rank's sums
                return None
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
        return self._linear(x, weight, bias, x.dtype)

    def logits(self, x: Tensor, weight: Weight) -> Tensor:
        return self._linear(x, weight, None, torch.float32)

    def _linear(self, x: Tensor, weight: Weight, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        tokens = x.shape[0]
        if not isinstance(weight, PlanarWeight) or not (tokens and weight.rows and weight.columns):
            return linear(x, weight, bias, dtype=dtype) if tokens else x.new_empty(0, weight.rows, dtype=dtype)
        config = config_for(weight.scheme, tokens, weight.rows, weight.columns, x.dtype, x.device)
        if isinstance(config, Unpacked):
            return self._linear_unpacked(x, weight, bias, config, dtype)
        return self._usable.run(
            f"{type(config).__name__.lower()} linear of {weight.scheme}",
            lambda: linear(x, weight, bias, config, dtype),
            lambda: self._linear_unpacked(x, weight, bias, unpacked(weight.columns), dtype),
            variant=(config, dtype),
        )

    def _linear_unpacked(
        self, x: Tensor, weight: PlanarWeight, bias: Tensor | None, config: Unpacked, dtype: torch.dtype
    ) -> Tensor:
        """Torch's product with weights that Triton unpacks in one launch; torch would take some twenty."""
        return self._usable.run(
            f"unpacking {weight.scheme}",
            lambda: linear_unpacked.linear(x, weight, bias, config, dtype),
            lambda: torch_fallback.linear(x, weight, bias, dtype),
        )

    def split_columns(self, x: Tensor, widths: Sequence[int]) -> Sequence[Tensor]:
        return torch.split(x, list(widths), dim=1)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return small_ops.add(x, y)

    def scale(self, x: Tensor, factor: float) -> Tensor:
        return x * factor

    def soft_cap(self, x: Tensor, cap: float) -> Tensor:
        return small_ops.soft_cap(x, cap)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return self._usable.run(
            "rms_norm",
            lambda: rms_norm(x, weight, eps, self._dtype),
            lambda: small_ops.rms_norm(x, weight, eps, self._dtype),
        )

    def add_rms_norm(self, x: Tensor, y: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        return self._usable.run(
            "rms_norm of a sum",
            lambda: add_rms_norm(y, x, weight, eps),
            lambda: small_ops.add_rms_norm(y, x, weight, eps),
        )

    def layer_norm(self, x: Tensor, weight: Tensor, eps: float, bias: Tensor | None = None) -> Tensor:
        return small_ops.layer_norm(x, weight, eps, self._dtype, bias)

    def add_by_position(self, x: Tensor, table: Tensor, inputs: CardInputs) -> Tensor:
        return small_ops.add_by_position(x, table, inputs.positions)

    def scale_by_position(self, x: Tensor, factors: Tensor, inputs: CardInputs) -> Tensor:
        return small_ops.scale_by_position(x, factors, inputs.positions)

    def rope_and_cache(
        self, q: Tensor, k: Tensor, v: Tensor, table: Angles | None, cache: Cache, inputs: CardInputs
    ) -> Tensor:
        if not k.numel():
            return q
        return self._usable.run(
            "rope and cache writes",
            lambda: rope_and_cache(q, k, v, table, inputs.positions, inputs.cache_slots[cache.group], cache),
            lambda: torch_path.rope_and_cache(q, k, v, table, cache, inputs),
            variant=(_sizes(cache), table is None),
        )

    def attention(
        self,
        q: Tensor,
        cache: Cache,
        inputs: CardInputs,
        options: AttentionOptions,
        sinks: Tensor | None = None,
        gate: Tensor | None = None,
    ) -> Tensor:
        table = (inputs.tables[cache.group], inputs.starts, inputs.positions, inputs.block_size, inputs.max_query)
        return self._usable.run(
            PREFILL if inputs.max_query > 1 else DECODING,
            lambda: attention(q, cache, *table, options, sinks, gate),
            lambda: torch_path.attention(q, cache, inputs, options, sinks, gate),
            variant=(_sizes(cache), options, sinks is None, gate is None),
        )

    def gated(self, gate: Tensor, up: Tensor, activation: Activation) -> Tensor:
        return self._usable.run(
            "activations", lambda: gated(gate, up, activation), lambda: small_ops.gated(gate, up, activation)
        )

    def activate(self, x: Tensor, activation: Activation) -> Tensor:
        return self._usable.run(
            "activations", lambda: activate(x, activation), lambda: small_ops.activate(x, activation)
        )

    def _draw_beyond(self, token: Tensor, logits: Tensor, temperature: Tensor, batch: SamplingBatch[Tensor]) -> None:
        self._usable.run(
            "draws from whole vocabularies",
            lambda: draw_beyond(token, logits, temperature, batch),
            lambda: torch_draw_beyond(token, logits, temperature, batch),
        )

    def _rank_keys(self, logits: Tensor) -> Tensor:
        return self._usable.run("sampling", lambda: rank_keys(logits), lambda: torch_rank_keys(logits))

    def mixture(self, x: Tensor, logits: Tensor, experts: Experts, spec: MoeSpec) -> Tensor:
        raise NotImplementedError("experts are refused when they are loaded")

    def head_linear(self, x: Tensor, weight: Weight) -> Tensor:
        raise NotImplementedError("matrices of heads are refused when they are loaded")

    def split_heads(self, x: Tensor, sizes: Sequence[int]) -> Sequence[Tensor]:
        return small_ops.split_heads(x, sizes)

    def join_heads(self, a: Tensor, b: Tensor, heads: int) -> Tensor:
        return small_ops.join_heads(a, b, heads)

    def gate_rows(self, x: Tensor, gate: Tensor) -> Tensor:
        return small_ops.gate_rows(x, gate)

    def gather_output_rows(self, x: Tensor, inputs: CardInputs) -> Tensor:
        return x if inputs.output_rows is None else x.index_select(0, inputs.output_rows)

    def gather_logit_rows(self, x: Tensor, inputs: CardInputs) -> Tensor:
        return x if inputs.logit_rows is None else x.index_select(0, inputs.logit_rows)

    def outputs_only(self, inputs: CardInputs) -> CardInputs:
        return inputs.outputs_only


def _sizes(cache: Cache) -> tuple[int, int]:
    """Elements of a key and of a value: layers may have different ones, and each its own kernels."""
    return cache.k.shape[2], cache.v.shape[2]
