"""Native CPU kernels. Their ops do not compute: they are recorded (`trace.py`), and become a program (`fuse.py`,
`recorded_step.py`) that then runs every step.

Weights stay quantized as in the file, value for value. Activations are float32; for products with quantized weights
they are rounded to int8 in groups of 32, for those with bfloat16 weights to bfloat16 where the processor multiplies
these faster, unless exact products are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowspan import _native
from rowspan._native import BatchDim, Form
from rowspan.comm.base import Comm
from rowspan.kernels.cpu.cache import TILE_SLOTS, TILED, Cache, CacheSide
from rowspan.kernels.cpu.fuse import fuse
from rowspan.kernels.cpu.recorded_comm import record_comm
from rowspan.kernels.cpu.recorded_step import RecordedStep, read_at_end
from rowspan.kernels.cpu.trace import Trace, Value
from rowspan.kernels.ops import AttentionOptions, Experts, Forward, Outputs, RawRows, StepLimits, Weight
from rowspan.model.rope_table import RopeTable
from rowspan.model.spec import Activation, MoeSpec
from rowspan.quant.large_pages import LargePages
from rowspan.quant.panels import PackedMatrix, pack
from rowspan.quant.scheme import PANEL, Codes
from rowspan.quant.stored import StoredMatrix


@dataclass(frozen=True)
class PackedExperts:
    """`count` experts' matrices, of `rows` rows each, in one: each begins with a panel of its own."""

    packed: PackedMatrix
    rows: int
    count: int

    @property
    def columns(self) -> int:
        return self.packed.columns

    @property
    def nbytes(self) -> int:
        return self.packed.nbytes


class CpuKernels:
    """The ops as native code; see `rowspan.kernels.ops.Kernels` for shapes."""

    memory = None
    sample = None

    def __init__(self, isa: str, threads: int, *, int8: bool, progress: int = 0) -> None:
        """Compute with one instruction set.

        Args:
            int8: round activations for products with quantized weights to int8, and to bfloat16 for those with bfloat16
                weights if the processor has instructions for it.
            progress: address of a 64-bit progress counter, kept up for others to see; 0: none is kept.
        """
        self.name = isa
        self._cpu = _native.Cpu(isa, threads)
        self._int8 = int8
        self._progress = progress
        self._weights = LargePages()
        self._trace = Trace()
        self._needs_tiles = False

    # What ops work on

    def matrix(self, stored: StoredMatrix) -> PackedMatrix:
        return pack(_native, self._cpu, stored, self._weights.array)

    def experts(self, stored: StoredMatrix, count: int) -> PackedExperts:
        rows = stored.rows // count if count else 0
        return PackedExperts(self.matrix(stored.padded(count, PANEL)), rows, count)

    def join(self, weights: Sequence[Weight], biases: Sequence[Any]) -> None:
        return None

    def vector(self, values: NDArray[np.float32], *, norm: bool) -> NDArray[np.float32]:
        return values

    def rope_table(self, table: RopeTable) -> RopeTable:
        return table

    def cache(
        self, n_slots: int, kv_heads: int, key_size: int, value_size: int, types: tuple[str, str], group: int = 0
    ) -> Cache:
        """Raises UnsupportedModelError: heads are too large."""
        k = CacheSide.empty(types[0], 0, n_slots, kv_heads, key_size)
        v = CacheSide.empty(types[1], 1, n_slots, kv_heads, value_size)
        return Cache(k, v, kv_heads, key_size, value_size, group)

    def connect(self, comm: Comm[Any]) -> Comm[Value]:
        return record_comm(comm, self._trace)

    def finish_loading(self) -> None:
        pass

    def capture(self, forward: Forward, limits: StepLimits, *, profiling: bool = False) -> RecordedStep:
        result: Outputs[Value] | None = forward(SimpleNamespace(tokens=_Tokens()))
        if self._needs_tiles and limits.block_size % TILE_SLOTS:
            raise ValueError(f"blocks of an int16 cache are whole tiles of {TILE_SLOTS} slots, not {limits.block_size}")
        max_rows = {BatchDim.TOKENS: limits.tokens, BatchDim.OUTPUTS: limits.tokens, BatchDim.LOGITS: limits.logits}

        def nbytes(value: Value) -> int:
            if value.packed_as is None:
                return 4 * max_rows[value.rows] * value.width
            return self._cpu.packed_bytes(value.packed_as, max_rows[value.rows], value.width)

        ops = fuse(self._trace.ops, read_at_end(result))
        return RecordedStep(ops, _native.Program(self._cpu, self._progress), result, max_rows, nbytes)

    # Ops

    def lookup(self, table: RawRows) -> RawRows:
        return table

    def embedding(self, table: RawRows, inputs: Any) -> Value:
        stored = table.stored
        parameters: dict[str, Any] = {"scheme": stored.scheme, "blocks": stored.blocks, "first": table.first}
        return self._trace.op("embedding", {}, Value(BatchDim.TOKENS, stored.columns), **parameters)

    def linear(self, x: Value, weight: Weight, bias: NDArray[np.float32] | None = None) -> Value:
        if not isinstance(weight, PackedMatrix):
            raise TypeError(f"{type(weight).__name__} is another kernels' layout")
        parameters: dict[str, Any] = {"form": self._form(weight), "w": _matrix(weight), "bias": bias}
        return self._trace.op("linear", {"x": x}, Value(x.rows, weight.rows), rows=x.rows, **parameters)

    def logits(self, x: Value, weight: Weight) -> Value:
        return self.linear(x, weight)

    def split_columns(self, x: Value, widths: Sequence[int]) -> Sequence[Value]:
        raise NotImplementedError("nothing is joined here")

    def add(self, x: Value, y: Value) -> Value:
        return self._trace.op("add", {"x": x, "y": y}, _like(x), rows=x.rows, width=x.width)

    def scale(self, x: Value, factor: float) -> Value:
        return self._trace.op("scale", {"x": x}, _like(x), rows=x.rows, factor=factor, width=x.width)

    def soft_cap(self, x: Value, cap: float) -> Value:
        return self._trace.op("soft_cap", {"x": x}, _like(x), rows=x.rows, cap=cap, width=x.width)

    def rms_norm(self, x: Value, weight: NDArray[np.float32], eps: float) -> Value:
        parameters: dict[str, Any] = {"weight": weight, "eps": eps, "heads": x.width // len(weight)}
        return self._trace.op("rms_norm", {"x": x}, _like(x), rows=x.rows, **parameters)

    def add_rms_norm(self, x: Value, y: Value, weight: NDArray[np.float32], eps: float) -> tuple[Value, Value]:
        total = self.add(x, y)
        return self.rms_norm(total, weight, eps), total

    def layer_norm(
        self, x: Value, weight: NDArray[np.float32], eps: float, bias: NDArray[np.float32] | None = None
    ) -> Value:
        return self._trace.op("layer_norm", {"x": x}, _like(x), rows=x.rows, weight=weight, bias=bias, eps=eps)

    def add_by_position(self, x: Value, table: NDArray[np.float32], inputs: Any) -> Value:
        return self._trace.op("add_by_position", {"x": x}, _like(x), table=table)

    def scale_by_position(self, x: Value, factors: NDArray[np.float32], inputs: Any) -> Value:
        return self._trace.op("scale_by_position", {"x": x}, _like(x), factors=factors, width=x.width)

    def rope_and_cache(self, q: Value, k: Value, v: Value, table: RopeTable | None, cache: Cache, inputs: Any) -> Value:
        if table is not None:
            q, k = self.rope(q, table, cache.key_size, inputs), self.rope(k, table, cache.key_size, inputs)
        self.write_cache(cache, k, v, inputs)
        return q

    def rope(self, x: Value, table: RopeTable, size: int, inputs: Any) -> Value:
        parameters: dict[str, Any] = {"cos": table.cos, "sin": table.sin, "interleaved": table.interleaved}
        return self._trace.op("rope", {"x": x}, _like(x), heads=x.width // size, size=size, **parameters)

    def write_cache(self, cache: Cache, k: Value, v: Value, inputs: Any) -> None:
        for x, side in ((k, cache.k), (v, cache.v)):
            self._needs_tiles |= side.type in TILED
            self._trace.change("write_cache", {"x": x}, side, side=side.native, table=cache.group)

    def attention(
        self,
        q: Value,
        cache: Cache,
        inputs: Any,
        options: AttentionOptions,
        sinks: NDArray[np.float32] | None = None,
        gate: Value | None = None,
    ) -> Value:
        heads = q.width // cache.key_size
        return self._trace.op(
            "attention",
            {"q": q} if gate is None else {"q": q, "gate": gate},
            Value(q.rows, heads * cache.value_size),
            reads=(cache.k, cache.v),
            rows=q.rows,
            table=cache.group,
            k=cache.k.native,
            v=cache.v.native,
            group=heads // cache.kv_heads if cache.kv_heads else 0,
            scale=options.scale,
            window=options.window,
            soft_cap=options.soft_cap,
            sinks=sinks,
            exact=not self._int8,
            causal=options.causal,
        )

    def gated(self, gate: Value, up: Value, activation: Activation) -> Value:
        parameters: dict[str, Any] = {"activation": _native.Activation[activation.name], "width": gate.width}
        return self._trace.op("gated", {"gate": gate, "up": up}, _like(gate), rows=gate.rows, **parameters)

    def activate(self, x: Value, activation: Activation) -> Value:
        if activation is Activation.CLAMPED_SWIGLU:
            raise ValueError(f"{activation} takes a gate")
        parameters: dict[str, Any] = {"activation": _native.Activation[activation.name], "width": x.width}
        return self._trace.op("activate", {"x": x}, _like(x), rows=x.rows, **parameters)

    def mixture(self, x: Value, logits: Value, experts: Experts, spec: MoeSpec) -> Value:
        gate, up, down = experts.gate, experts.up, experts.down
        if not isinstance(up, PackedExperts) or not isinstance(down, PackedExperts):
            raise TypeError(f"{type(up).__name__} is another kernels' layout")
        matrix = _matrix(gate.packed) if isinstance(gate, PackedExperts) else None
        form = self._form(up.packed)
        if isinstance(gate, PackedExperts) and self._form(gate.packed) is not form:
            form = Form.FLOATS  # both are multiplied with the same tokens
        return self._trace.op(
            "mixture",
            {"x": x, "logits": logits},
            Value(x.rows, down.rows),
            rows=x.rows,
            router=_router(experts, spec),
            gate=matrix,
            up=_matrix(up.packed),
            down=_matrix(down.packed),
            held=up.count,
            first=experts.first,
            gate_bias=experts.gate_bias,
            up_bias=experts.up_bias,
            down_bias=experts.down_bias,
            activation=_native.Activation[spec.expert.activation.name],
            weighs_input=spec.weighs_input,
            form=form,
            down_form=self._form(down.packed),
            width=up.rows,
            hidden=down.rows,
        )

    def head_linear(self, x: Value, weight: Weight) -> Value:
        if not isinstance(weight, PackedExperts):
            raise TypeError(f"{type(weight).__name__} is another kernels' layout")
        parameters: dict[str, Any] = {"form": self._form(weight.packed), "w": _matrix(weight.packed)}
        heads, out = weight.count, Value(x.rows, weight.count * weight.rows)
        return self._trace.op("head_linear", {"x": x}, out, rows=x.rows, heads=heads, width=weight.rows, **parameters)

    def split_heads(self, x: Value, sizes: Sequence[int]) -> Sequence[Value]:
        size, parts, first = sum(sizes), [], 0
        heads = x.width // size
        for count in sizes:
            part: dict[str, Any] = {"heads": heads, "size": size, "first": first, "count": count}
            parts.append(self._trace.op("split_heads", {"x": x}, Value(x.rows, heads * count), rows=x.rows, **part))
            first += count
        return parts

    def join_heads(self, a: Value, b: Value, heads: int) -> Value:
        if not heads:
            return a
        sizes: dict[str, Any] = {"heads": heads, "a_size": a.width // heads, "b_size": b.width // heads}
        return self._trace.op("join_heads", {"a": a, "b": b}, Value(a.rows, a.width + b.width), rows=a.rows, **sizes)

    def gate_rows(self, x: Value, gate: Value) -> Value:
        return self._trace.op("gate_rows", {"x": x, "gate": gate}, _like(x), rows=x.rows, width=x.width)

    def gather_output_rows(self, x: Value, inputs: Any) -> Value:
        return self._select(x, BatchDim.OUTPUTS)

    def gather_logit_rows(self, x: Value, inputs: Any) -> Value:
        return self._select(x, BatchDim.LOGITS)

    def outputs_only(self, inputs: Any) -> Any:
        return inputs  # a value tells what it has rows for

    def _select(self, x: Value, rows: BatchDim) -> Value:
        return self._trace.op("select", {"x": x}, Value(rows, x.width), rows=rows, width=x.width)

    def _form(self, weight: PackedMatrix) -> Form:
        """The form in which tokens are multiplied with this weight."""
        if self._int8 and not weight.is_dense:
            return Form.INT8
        return Form.BFLOATS if self._int8 and weight.kind is Codes.BF16 and self._cpu.has_bfloats else Form.FLOATS


def _like(x: Value) -> Value:
    return Value(x.rows, x.width)


def _matrix(weight: PackedMatrix) -> _native.Matrix:
    arrays = (weight.codes, weight.scales, weight.exponents, weight.minima, weight.sub_scales, weight.sub_minima)
    sizes = (weight.rows, weight.columns, weight.group, weight.zero)
    rest = (weight.e4m3, weight.odd_factors, weight.row_scales)
    return _native.Matrix(_native.Codes[weight.kind.name], *arrays, weight.table, *sizes, *rest)


def _router(experts: Experts, spec: MoeSpec) -> _native.Router:
    return _native.Router(
        experts=spec.experts,
        used=spec.used,
        gating=_native.Gating[spec.gating.name],
        normalize=spec.normalize,
        scale=spec.scale,
        groups=spec.n_groups,
        groups_used=spec.groups_used,
        selection_bias=experts.selection_bias,
        scales=experts.scales,
    )


class _Tokens:
    """Stands for a step's tokens while it is recorded: their number is not known yet."""

    def __len__(self) -> int:
        return 0
