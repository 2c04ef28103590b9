"""Native CPU kernels. Their ops do not compute: they record a program (`trace.py`) that then runs every step.

Weights stay quantized as in the file, value for value. Activations are float32; for products with quantized weights
they are rounded to int8 in groups of 32, for those with bfloat16 weights to bfloat16 where the processor multiplies
these faster, unless exact products are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowspan.comm.base import Comm
from rowspan.kernels.cpu.recorded_comm import record_comm
from rowspan.kernels.cpu.trace import BatchDim, Op, Trace, Value
from rowspan.kernels.isa import native_module
from rowspan.kernels.ops import Forward, RawRows, Step, StepLimits, Weight
from rowspan.model.rope_table import RopeTable
from rowspan.quant.large_pages import LargePages
from rowspan.quant.panels import PackedMatrix, aligned, pack
from rowspan.quant.scheme import SCHEMES, Codes

CACHE_CODES = {  # of keys and of values: `CacheType` of native/kernels.hpp
    "float32": (0, 0),
    "float16": (1, 1),
    "bfloat16": (2, 2),
    "q8_0": (3, 3),
    "int16": (4, 5),
}
CACHE_DTYPES = {
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": np.uint16,
    "q8_0": np.int8,
    "int16": np.int16,
}
SCALED = 32  # elements of a q8_0 cache that share a scale
TILE_SLOTS = 16  # neighbouring slots of an int16 cache, whose codes lie as attention multiplies them


class Form(IntEnum):
    """What products take their tokens as: `Form` of native/kernels.hpp."""

    FLOATS = 0
    INT8 = 1
    BFLOATS = 2


@dataclass(frozen=True)
class CacheSide:
    """Keys or values of one layer: (KV heads, slots, head size); of q8_0 float16 scales of each 32, of int16 a float32
    scale of each row, and codes in tiles (native/kernels.hpp)."""

    type: str
    code: int  # `CacheType`
    data: NDArray[Any]
    scales: NDArray[Any] | None

    @property
    def native(self) -> tuple[int, int, int, int]:
        """As the native module takes it: type, addresses, slots."""
        scales = 0 if self.scales is None else self.scales.ctypes.data
        return self.code, self.data.ctypes.data, scales, self.data.shape[1]

    @property
    def nbytes(self) -> int:
        return self.data.nbytes + (0 if self.scales is None else self.scales.nbytes)


@dataclass(frozen=True, eq=False)
class Cache:
    k: CacheSide
    v: CacheSide
    kv_heads: int
    head_dim: int

    @property
    def nbytes(self) -> int:
        return self.k.nbytes + self.v.nbytes


class CpuKernels:
    """See `rowspan.kernels.ops.Kernels` for shapes."""

    memory = None
    sample = None

    def __init__(self, isa: str, threads: int, *, int8: bool, progress: int = 0) -> None:
        """
        Args:
            int8: round activations for products with quantized weights to int8, and to bfloat16 for those with bfloat16
                weights where there are instructions for it.
            progress: address of a 64-bit count of the work done, kept up for others to see; 0: none is kept.
        """
        self.name = isa
        self._native = native_module()
        self._cpu = self._native.Cpu(isa, threads)
        self._int8 = int8
        self._progress = progress
        self._weights = LargePages()
        self._trace = Trace()
        self._packed: dict[tuple[Value, Form], Value] = {}  # one for all products that share an input
        self._products: dict[Value, _Product] = {}  # that values are, without bias
        self._needs_tiles = False

    # What ops work on

    def matrix(self, scheme: str, raw: NDArray[np.uint8], shape: tuple[int, int]) -> PackedMatrix:
        if not all(shape):
            raw = np.empty((shape[0], SCHEMES[scheme].row_bytes(shape[1])), np.uint8)
        return pack(self._native, self._cpu, scheme, raw, self._weights.array)

    def join(self, weights: Sequence[Weight], biases: Sequence[Any]) -> None:
        return None

    def vector(self, values: NDArray[np.float32], *, norm: bool) -> NDArray[np.float32]:
        return values

    def rope_table(self, table: RopeTable) -> RopeTable:
        return table

    def cache(self, n_slots: int, kv_heads: int, head_dim: int, types: tuple[str, str]) -> Cache:
        def side(type: str, which: int) -> CacheSide:
            rows = (kv_heads, n_slots)
            scales = None
            if type == "q8_0":
                scales = aligned((*rows, head_dim // SCALED), np.float16)
            elif type == "int16":
                scales = aligned(rows, np.float32)
            return CacheSide(type, CACHE_CODES[type][which], aligned((*rows, head_dim), CACHE_DTYPES[type]), scales)

        return Cache(side(types[0], 0), side(types[1], 1), kv_heads, head_dim)

    def connect(self, comm: Comm[Any]) -> Comm[Value]:
        return record_comm(comm, self._trace)

    def finish_loading(self) -> None:
        pass

    def capture(self, forward: Forward, limits: StepLimits, *, profiling: bool = False) -> Step:
        result = forward(SimpleNamespace(tokens=_Tokens()))
        if self._needs_tiles and limits.block_size % TILE_SLOTS:
            raise ValueError(f"blocks of an int16 cache are whole tiles of {TILE_SLOTS} slots, not {limits.block_size}")
        max_rows = {BatchDim.TOKENS: limits.tokens, BatchDim.OUTPUTS: limits.outputs}

        def nbytes(value: Value) -> int:
            if value.packed_as is None:
                return 4 * max_rows[value.rows] * value.width
            return int(self._cpu.packed_bytes(value.packed_as, max_rows[value.rows], value.width))

        return self._trace.compile(self._native.Program(self._cpu, self._progress), result, max_rows, nbytes)

    # Ops

    def lookup(self, table: RawRows) -> RawRows:
        return table

    def embedding(self, table: RawRows, inputs: Any) -> Value:
        out = Value(BatchDim.TOKENS, table.columns)
        scheme, blocks = SCHEMES[table.scheme], self._trace.keep(table.blocks)
        place = (scheme.ggml_type, blocks.ctypes.data, blocks.strides[0], table.first, blocks.shape[0], table.columns)
        self._trace.op(lambda program, at: program.embedding(*place, at(out)), [], out)
        return out

    def linear(self, x: Value, weight: Weight, bias: NDArray[np.float32] | None = None) -> Value:
        if not isinstance(weight, PackedMatrix):
            raise TypeError(f"{type(weight).__name__} is another kernels' layout")
        form = self._form(weight)
        packed = self._pack(x, form)
        matrix = self._matrix(weight)
        bias_at = 0 if bias is None else self._trace.keep(bias).ctypes.data
        out = Value(x.rows, weight.rows)
        op = self._trace.op(
            lambda program, at: program.linear(
                x.rows, form, at(packed), matrix, bias_at, at(op.residual), at(op.writes)
            ),
            [packed],
            out,
            rows=x.rows,
            by_rows=False,
            adds=True,
        )
        if bias is None:
            self._products[out] = _Product(op, packed, form, weight)
        return out

    def logits(self, x: Value, weight: Weight) -> Value:
        return self.linear(x, weight)

    def split_columns(self, x: Value, widths: Sequence[int]) -> Sequence[Value]:
        raise NotImplementedError("nothing is joined here")

    def add(self, x: Value, y: Value) -> Value:
        total = self._trace.fuse_sum(y, x)
        if total is not None:
            return total
        out = Value(x.rows, x.width)
        self._trace.op(
            lambda program, at: program.add(x.rows, at(x), at(y), x.width, at(out)), [x, y], out, rows=x.rows
        )
        return out

    def rms_norm(self, x: Value, weight: NDArray[np.float32], eps: float) -> Value:
        out, width = Value(x.rows, x.width), len(weight)
        address = self._trace.keep(weight).ctypes.data
        self._trace.op(
            lambda program, at: program.rms_norm(x.rows, at(x), address, eps, x.width // width, width, at(out)),
            [x],
            out,
            rows=x.rows,
        )
        return out

    def add_rms_norm(self, x: Value, y: Value, weight: NDArray[np.float32], eps: float) -> tuple[Value, Value]:
        total = self.add(x, y)
        return self.rms_norm(total, weight, eps), total

    def rope_and_cache(
        self, q: Value, k: Value, v: Value, table: RopeTable, head_dim: int, cache: Cache, inputs: Any
    ) -> Value:
        q, k = self.rope(q, table, head_dim, inputs), self.rope(k, table, head_dim, inputs)
        self.write_cache(cache, k, v, inputs)
        return q

    def rope(self, x: Value, table: RopeTable, head_dim: int, inputs: Any) -> Value:
        out = Value(x.rows, x.width)
        cos, sin = self._trace.keep(table.cos).ctypes.data, self._trace.keep(table.sin).ctypes.data
        shape = (x.width // head_dim, head_dim, table.cos.shape[1], table.interleaved)
        self._trace.op(lambda program, at: program.rope(at(x), cos, sin, *shape, at(out)), [x], out)
        return out

    def write_cache(self, cache: Cache, k: Value, v: Value, inputs: Any) -> None:
        for x, side in ((k, cache.k), (v, cache.v)):
            self._write(x, cache, self._trace.keep(side))

    def attention(self, q: Value, cache: Cache, inputs: Any, window: int | None) -> Value:
        out = Value(q.rows, q.width)
        group = q.width // cache.head_dim // cache.kv_heads if cache.kv_heads else 0
        heads = (cache.kv_heads, group, cache.head_dim, window or 0)
        sides = (cache.k.native, cache.v.native)
        self._trace.op(
            lambda program, at: program.attention(q.rows, at(q), *sides, *heads, not self._int8, at(out)),
            [q, cache.k, cache.v],
            out,
            rows=q.rows,
            by_rows=False,
        )
        return out

    def gated_silu(self, gate: Value, up: Value) -> Value:
        """Products that were recorded last are worked out side by side, and never written to memory."""
        first, second = self._products.get(gate), self._products.get(up)
        if first and second and first.goes_with(second) and self._trace.take_back(first.op, second.op):
            return self._gated_linear(first, second)
        out = Value(gate.rows, gate.width)
        self._trace.op(
            lambda program, at: program.gated_silu(gate.rows, at(gate), at(up), gate.width, at(out)),
            [gate, up],
            out,
            rows=gate.rows,
        )
        return out

    def gather_output_rows(self, x: Value, inputs: Any) -> Value:
        out = Value(BatchDim.OUTPUTS, x.width)
        self._trace.op(lambda program, at: program.select(at(x), x.width, at(out)), [x], out, rows=BatchDim.OUTPUTS)
        return out

    def outputs_only(self, inputs: Any) -> Any:
        return inputs  # a value tells what it has rows for

    def _gated_linear(self, gate: _Product, up: _Product) -> Value:
        packed, form, matrices = gate.packed, gate.form, (self._matrix(gate.weight), self._matrix(up.weight))
        out = Value(packed.rows, gate.weight.rows)
        self._trace.op(
            lambda program, at: program.gated_linear(packed.rows, form, at(packed), *matrices, at(out)),
            [packed],
            out,
            rows=packed.rows,
            by_rows=False,
        )
        return out

    def _matrix(self, weight: PackedMatrix) -> Any:
        return self._native.Matrix(*self._trace.keep(weight).addresses)

    def _write(self, x: Value, cache: Cache, side: CacheSide) -> None:
        self._needs_tiles |= side.type == "int16"
        self._trace.op(
            lambda program, at: program.write_cache(at(x), cache.kv_heads, cache.head_dim, side.native), [x], side
        )

    def _form(self, weight: PackedMatrix) -> Form:
        """Of the tokens that this weight is multiplied with."""
        if self._int8 and not weight.is_dense:
            return Form.INT8
        return Form.BFLOATS if self._int8 and weight.kind is Codes.BF16 and self._cpu.has_bfloats else Form.FLOATS

    def _pack(self, x: Value, form: Form) -> Value:
        if (x, form) not in self._packed:
            packed = Value(x.rows, x.width, packed_as=form)
            self._trace.op(
                lambda program, at: program.pack(x.rows, form, at(x), x.width, at(packed)),
                [x],
                packed,
                rows=x.rows,
            )
            self._packed[x, form] = packed
        return self._packed[x, form]


@dataclass(frozen=True)
class _Product:
    op: Op
    packed: Value
    form: Form
    weight: PackedMatrix

    def goes_with(self, other: _Product) -> bool:
        """Both can be worked out side by side: of the same tokens, and weights of the same shape and kind."""
        return self.packed is other.packed and self.weight.layout == other.weight.layout


class _Tokens:
    """Stands for a step's tokens while it is recorded: their number is not known yet."""

    def __len__(self) -> int:
        return 0
