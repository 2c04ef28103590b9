"""Turns a step's ops into a native program: buffers for its values, barriers where one thread needs another's results,
and stops at which Python must act (to communicate with another rank).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rowspan._native import BatchDim, Program
from rowspan.kernels.cpu.trace import Callout, Op, Recorded, Value
from rowspan.kernels.ops import Outputs, StepInputs
from rowspan.quant.panels import aligned


class RecordedStep:
    """A program that can be run repeatedly.

    ops: the ops that it computes, in order.
    """

    def __init__(
        self,
        ops: Sequence[Recorded],
        program: Program,
        result: Outputs[Value] | None,
        max_rows: Mapping[BatchDim, int],
        nbytes: Callable[[Value], int],
    ) -> None:
        """Build the program.

        Args:
            program: a new, empty one.
            nbytes: returns the size of a value's buffer, for the largest step.
        """
        self.ops = ops
        self._program = program
        self._result = result
        self._max_rows = max_rows
        self._places = _lay_out(ops, read_at_end(result), nbytes)
        self._callouts = [op for op in ops if isinstance(op, Callout)]
        _record(ops, program, self._places)

    def __call__(self, inputs: StepInputs) -> Outputs[NDArray[np.float32]] | None:
        logit_rows = inputs.output_rows if inputs.logit_rows is None else inputs.logit_rows
        counts = {
            BatchDim.TOKENS: len(inputs.tokens),
            BatchDim.OUTPUTS: len(inputs.output_rows),
            BatchDim.LOGITS: len(logit_rows),
        }
        if any(counts[rows] > self._max_rows[rows] for rows in counts):
            raise ValueError(f"a step of {counts}, of {self._max_rows} at most")

        def view(value: Value) -> NDArray[np.float32]:
            n_rows = counts[value.rows]
            return self._places[value][: 4 * n_rows * value.width].view(np.float32).reshape(n_rows, value.width)

        self._program.begin(
            inputs.tokens,
            inputs.starts,
            inputs.first_positions,
            list(inputs.tables),
            inputs.block_size,
            inputs.output_rows,
            inputs.logit_rows,
        )
        for segment, callout in enumerate(self._callouts):
            self._program.run(segment)
            callout.function(*(view(value) for value in callout.values))
        self._program.run(len(self._callouts))
        if self._result is None:
            return None
        hidden = self._result.hidden
        told = None if hidden is None or inputs.hidden_rows is None else view(hidden)[inputs.hidden_rows]
        logits = self._result.logits
        return Outputs(None if logits is None else view(logits), told)


def read_at_end(result: Outputs[Value] | None) -> list[Value]:
    """Values that must last until the step is done."""
    return [] if result is None else [value for value in result if value is not None]


def _record(ops: Sequence[Recorded], program: Program, places: Mapping[object, NDArray[np.uint8]]) -> None:
    """Put the ops' calls into the program."""
    since_barrier: list[_Touch] = []
    for op in ops:
        if isinstance(op, Callout):
            program.end_segment()
            since_barrier.clear()
            continue
        touched = [_Touch(op, what, _place(places, what), written=False) for what in op.read]
        touched += [_Touch(op, what, _place(places, what), written=True) for what in op.written]
        if any(now.collides(before) for now in touched for before in since_barrier):
            program.barrier()
            since_barrier.clear()
        since_barrier.extend(touched)
        if op.kind is not None:
            values = dict(op.inputs) if op.out is None else {**op.inputs, "out": op.out}
            addresses = {name: places[value].ctypes.data for name, value in values.items()}
            getattr(program, op.kind)(**addresses, **op.parameters)


@dataclass(frozen=True)
class _Touch:
    """An op's access to one of its values, or to something else that it reads or writes."""

    op: Op
    what: object
    place: int
    written: bool

    def collides(self, before: _Touch) -> bool:
        """Whether one access writes what the other one needs, in rows that may belong to different threads. Threads
        keep to their own rows in ops on the same value that divide their work by the same rows; two values that share a
        buffer have their rows at different places.
        """
        by_rows = self.op.is_by_rows and before.op.is_by_rows and self.op.rows == before.op.rows
        alike = self.what is before.what and by_rows
        return self.place == before.place and (self.written or before.written) and not alike


def _place(places: Mapping[object, NDArray[np.uint8]], what: object) -> int:
    return int(places[what].ctypes.data) if isinstance(what, Value) else id(what)


def _lay_out(
    ops: Sequence[Recorded], results: Sequence[Value], nbytes: Callable[[Value], int]
) -> dict[object, NDArray[np.uint8]]:
    """A buffer for every value, used again once its value is no longer needed."""
    last_use: dict[Value, int] = {}
    for index, op in enumerate(ops):
        last_use.update((what, index) for what in (*op.read, *op.written) if isinstance(what, Value))
    last_use.update((result, len(ops)) for result in results)

    places: dict[object, NDArray[np.uint8]] = {}
    free: list[NDArray[np.uint8]] = []
    for index, op in enumerate(ops):
        for value in op.written:
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
