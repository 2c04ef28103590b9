"""Records a step's ops as plain data: what each reads, writes and takes as parameters. `fuse.py` and `recorded_step.py`
decide what becomes of them once all are known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rowspan._native import BatchDim, Form

SHARED_OTHERWISE = frozenset({"linear", "gated_linear", "mixture", "head_linear", "attention", "all_reduce", "gather"})
"""Kinds of ops whose work threads do not share by rows, as they do in all others."""


@dataclass(eq=False)
class Value:
    """The result of an op: float32 (rows, width), or these in the packed form that matrix products take."""

    rows: BatchDim
    width: int
    packed_as: Form | None = None


@dataclass(frozen=True, eq=False)
class Op:
    """One call of the program.

    kind: the method of the native module's `Program`; inputs, parameters and `out` are its arguments of these names.
    None: no call, and `out` is whatever its buffer holds.
    reads, changes: other objects, in which calls leave something for later ones, such as a cache.
    """

    kind: str | None
    inputs: Mapping[str, Value]
    out: Value | None
    parameters: Mapping[str, Any]
    reads: Sequence[object] = ()
    changes: object | None = None

    @property
    def is_by_rows(self) -> bool:
        return self.kind not in SHARED_OTHERWISE

    @property
    def rows(self) -> BatchDim:
        """The dimension whose rows threads share as work."""
        return BatchDim.TOKENS if self.out is None else self.out.rows

    @property
    def read(self) -> list[object]:
        return [*self.inputs.values(), *self.reads]

    @property
    def written(self) -> list[object]:
        return [what for what in (self.out, self.changes) if what is not None]


@dataclass(frozen=True, eq=False)
class Callout:
    """A Python function to call between two parts of the program, with the rows of some values."""

    function: Callable[..., object]
    values: Sequence[Value]
    written: Sequence[Value]

    @property
    def read(self) -> Sequence[Value]:
        return self.values


Recorded = Op | Callout


@dataclass(eq=False)
class Trace:
    """The ops that have been recorded so far."""

    ops: list[Recorded] = field(default_factory=list)

    def op(
        self,
        kind: str | None,
        inputs: Mapping[str, Value],
        out: Value,
        *,
        reads: Sequence[object] = (),
        **parameters: Any,
    ) -> Value:
        """Record an op and return its result, `out`."""
        self.ops.append(Op(kind, inputs, out, parameters, reads))
        return out

    def change(self, kind: str, inputs: Mapping[str, Value], changes: object, **parameters: Any) -> None:
        """Record an op that has no result, but changes something else, such as a cache."""
        self.ops.append(Op(kind, inputs, None, parameters, changes=changes))

    def call(self, function: Callable[..., object], values: Sequence[Value], written: Sequence[Value]) -> None:
        self.ops.append(Callout(function, values, written))
