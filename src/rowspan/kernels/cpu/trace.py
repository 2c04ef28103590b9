"""Records a model's ops as a native program: buffers for its values, barriers where one thread needs another's results,
and the places where Python must act in between (a word with another rank)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rowspan.kernels.ops import StepInputs
from rowspan.quant.panels import aligned

T = TypeVar("T")


class BatchDim(IntEnum):
    """What a value has rows for: `BatchDim` of native/program.hpp."""

    TOKENS = 0
    OUTPUTS = 1


@dataclass(eq=False)
class Value:
    """What an op works out: float32 (rows, width), or the kernels' own form of these for matrix products."""

    rows: BatchDim
    width: int
    packed_as: int | None = None


Addresses = Callable[[Any], int]
"""Where a value's buffer is."""


@dataclass
class Op:
    """One call of the program.

    reads, writes: values; or other objects that calls leave something in for later ones, such as a cache.
    by_rows: its work is cut by rows, in the one way that all such ops share.
    adds: it can add a residual to what it works out.
    """

    emit: Callable[[Any, Addresses], None]
    reads: list[Any]
    writes: Any
    by_rows: bool
    rows: BatchDim
    adds: bool
    residual: Value | None = None


@dataclass
class Callout:
    """Something that Python does between two parts of the program, with the rows of some values."""

    function: Callable[..., object]
    values: Sequence[Value]
    writes: Sequence[Value]


@dataclass
class Trace:
    """What has been recorded so far."""

    steps: list[Op | Callout] = field(default_factory=list)
    kept: list[Any] = field(default_factory=list)

    def keep(self, what: T) -> T:
        """Something whose address the program has: it must live as long."""
        self.kept.append(what)
        return what

    def op(
        self,
        emit: Callable[[Any, Addresses], None],
        reads: Sequence[Any],
        writes: Any,
        *,
        rows: BatchDim = BatchDim.TOKENS,
        by_rows: bool = True,
        adds: bool = False,
    ) -> Op:
        op = Op(emit, list(reads), writes, by_rows, rows, adds)
        self.steps.append(op)
        return op

    def call(self, function: Callable[..., object], values: Sequence[Value], writes: Sequence[Value]) -> None:
        self.steps.append(Callout(function, values, writes))

    def fuse_sum(self, addend: Value, other: Value) -> Value | None:
        """Have the op recorded last add `other` itself, if it can and `addend` is what it works out: the sum takes the
        addend's place, which cannot be used any more."""
        last = self.steps[-1] if self.steps else None
        if not isinstance(last, Op) or not last.adds or last.writes is not addend or last.residual is not None:
            return None
        last.residual = other
        last.reads.append(other)
        total = Value(addend.rows, addend.width)
        last.writes = total
        return total

    def take_back(self, *ops: Op) -> bool:
        """Forget these ops, in the order of recording, if they are the last ones, so that nothing has read what they
        write. Nothing can any more."""
        if [id(op) for op in self.steps[-len(ops) :]] != [id(op) for op in ops]:
            return False
        del self.steps[-len(ops) :]
        return True

    def compile(
        self, program: Any, result: Value | None, max_rows: dict[BatchDim, int], nbytes: Callable[[Value], int]
    ) -> RecordedStep:
        """Lay out buffers and put the calls into a native program. nbytes: of a value with the most rows."""
        places = _lay_out(self.steps, result, nbytes)

        def address(what: Any) -> int:
            return 0 if what is None else int(places[what].ctypes.data)

        since_barrier: list[_Touch] = []
        callouts = []
        for step in self.steps:
            if isinstance(step, Callout):
                program.end_segment()
                since_barrier.clear()
                callouts.append((step.function, [(places[value], value) for value in step.values]))
                continue
            touched = [_Touch(step, what, _place(places, what), written=False) for what in step.reads]
            touched.append(_Touch(step, step.writes, _place(places, step.writes), written=True))
            if any(now.collides(before) for now in touched for before in since_barrier):
                program.barrier()
                since_barrier.clear()
            since_barrier.extend(touched)
            step.emit(program, address)
        kept = [*self.kept, *places.values()]
        return RecordedStep(program, callouts, None if result is None else (places[result], result), max_rows, kept)


@dataclass(frozen=True)
class _Touch:
    """What an op does to one of its values, or whatever else it reads or writes."""

    op: Op
    what: Any
    place: int
    written: bool

    def collides(self, before: _Touch) -> bool:
        """One of them writes what the other one needs, and threads do not keep to themselves. They do in ops on the
        same value that cut their work by the same rows; two values that share a buffer have their rows elsewhere."""
        alike = self.what is before.what and self.op.by_rows and before.op.by_rows and self.op.rows == before.op.rows
        return self.place == before.place and (self.written or before.written) and not alike


def _place(places: dict[Any, NDArray[np.uint8]], what: Any) -> int:
    return int(places[what].ctypes.data) if isinstance(what, Value) else id(what)


def _lay_out(
    steps: Sequence[Op | Callout], result: Value | None, nbytes: Callable[[Value], int]
) -> dict[Any, NDArray[np.uint8]]:
    """A buffer for every value, used again once its value is no longer needed."""
    last_use: dict[Any, int] = {}
    for index, step in enumerate(steps):
        touched = [*step.reads, step.writes] if isinstance(step, Op) else [*step.values, *step.writes]
        last_use.update((what, index) for what in touched if isinstance(what, Value))
    if result is not None:
        last_use[result] = len(steps)

    places: dict[Any, NDArray[np.uint8]] = {}
    free: list[NDArray[np.uint8]] = []
    for index, step in enumerate(steps):
        for value in [step.writes] if isinstance(step, Op) else step.writes:
            if not isinstance(value, Value) or value in places:
                continue
            needed = nbytes(value)
            fitting = [buffer for buffer in free if needed <= buffer.nbytes <= 2 * needed]
            if fitting:
                place = min(fitting, key=lambda buffer: buffer.nbytes)
                free = [buffer for buffer in free if buffer is not place]
            else:
                place = aligned((needed,), np.uint8)
            places[value] = place
        free.extend(places[value] for value, last in last_use.items() if last == index)
    return places


class RecordedStep:
    """A program, ready to be run over and over."""

    def __init__(
        self,
        program: Any,
        callouts: Sequence[tuple[Callable[..., object], Sequence[tuple[NDArray[np.uint8], Value]]]],
        result: tuple[NDArray[np.uint8], Value] | None,
        max_rows: dict[BatchDim, int],
        kept: Sequence[Any],
    ) -> None:
        self._kept = kept
        self._program = program
        self._callouts = callouts
        self._result = result
        self._max_rows = max_rows

    def __call__(self, inputs: StepInputs) -> NDArray[np.float32] | None:
        counts = {BatchDim.TOKENS: len(inputs.tokens), BatchDim.OUTPUTS: len(inputs.output_rows)}
        if any(counts[rows] > self._max_rows[rows] for rows in BatchDim):
            raise ValueError(f"a step of {counts}, of {self._max_rows} at most")

        def view(place: NDArray[np.uint8], value: Value) -> NDArray[np.float32]:
            n_rows = counts[value.rows]
            return place[: 4 * n_rows * value.width].view(np.float32).reshape(n_rows, value.width)

        self._program.begin(
            inputs.tokens, inputs.starts, inputs.first_positions, inputs.blocks, inputs.block_size, inputs.output_rows
        )
        for segment, (function, values) in enumerate(self._callouts):
            self._program.run(segment)
            function(*(view(place, value) for place, value in values))
        self._program.run(len(self._callouts))
        return None if self._result is None else view(*self._result)
