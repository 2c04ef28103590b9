"""Joins ops that one native call can do together: fewer barriers, and fewer values that go through memory. Results keep
their bits.

Three patterns are looked for wherever they stand in the record:

- Adding something to a matrix product, or to the ranks' sum: the product or the all-reduce does the addition itself.
- activation(gate) · up of two products of one input: both are computed side by side, and never written.
- Products of one input share its packing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeGuard

from rowspan._native import Form
from rowspan.kernels.cpu.trace import Callout, Op, Recorded, Value

ADDS_RESIDUAL = ("linear", "all_reduce")
PRODUCTS = ("linear", "gated_linear")


def fuse(ops: Sequence[Recorded], results: Sequence[Value]) -> list[Recorded]:
    """Join the ops of a recorded step. results: the values that are read when all is done."""
    return _share_packing(_join_gates(_add_residuals(ops, results), results))


def _add_residuals(ops: Sequence[Recorded], results: Sequence[Value]) -> list[Recorded]:
    uses = _uses(ops, results)
    fused: list[Recorded | None] = list(ops)
    writers: dict[object, int] = {}  # index of the last op that writes each value
    for index, op in enumerate(ops):
        if isinstance(op, Op) and op.kind == "add":
            # What is written first is there when the other is worked out.
            residual, term = sorted(op.inputs.values(), key=writers.__getitem__)
            writer = fused[writers[term]]
            if _is(writer, *ADDS_RESIDUAL) and "residual" not in writer.inputs and uses[term] == 1:
                fused[writers[term]] = replace(writer, inputs={**writer.inputs, "residual": residual}, out=op.out)
                fused[index] = None
                writers[op.out] = writers[term]
                continue
        writers.update(dict.fromkeys(op.written, index))
    return _kept(fused)


def _join_gates(ops: Sequence[Recorded], results: Sequence[Value]) -> list[Recorded]:
    uses = _uses(ops, results)
    fused: list[Recorded | None] = list(ops)
    writers: dict[object, int] = {}
    for index, op in enumerate(ops):
        if isinstance(op, Op) and op.kind == "gated":
            places = writers[op.inputs["gate"]], writers[op.inputs["up"]]
            gate, up = fused[places[0]], fused[places[1]]
            if (
                _is(gate, "linear")
                and _is(up, "linear")
                and _go_together(gate, up)
                and all(uses[value] == 1 for value in op.inputs.values())
                and writers[gate.inputs["x"]] < min(places)
            ):
                parameters = {
                    "rows": gate.parameters["rows"],
                    "form": gate.parameters["form"],
                    "gate": gate.parameters["w"],
                    "up": up.parameters["w"],
                    "activation": op.parameters["activation"],
                }
                fused[places[0]] = fused[places[1]] = None
                fused[index] = Op("gated_linear", gate.inputs, op.out, parameters)
        writers.update(dict.fromkeys(op.written, index))
    return _kept(fused)


def _go_together(gate: Op, up: Op) -> bool:
    """Whether both products take the same tokens, are used nowhere else, and have weights of one kind and shape."""
    are_alone = all(set(op.inputs) == {"x"} and op.parameters["bias"] is None for op in (gate, up))
    return are_alone and gate.inputs["x"] is up.inputs["x"] and bool(gate.parameters["w"].is_like(up.parameters["w"]))


def _share_packing(ops: Iterable[Recorded]) -> list[Recorded]:
    packings: dict[tuple[object, Form], Value] = {}
    packed: list[Recorded] = []
    for op in ops:
        if _is(op, *PRODUCTS):
            inputs = dict(op.inputs)
            x, form = inputs.pop("x"), op.parameters["form"]
            if (x, form) not in packings:
                out = packings[x, form] = Value(x.rows, x.width, packed_as=form)
                packed.append(Op("pack", {"x": x}, out, {"rows": x.rows, "form": form, "columns": x.width}))
            op = replace(op, inputs={"packed": packings[x, form], **inputs})
        elif isinstance(op, Callout):  # Python may overwrite a value that was packed
            packings = {key: value for key, value in packings.items() if key[0] not in op.written}
        packed.append(op)
    return packed


def _is(op: Recorded | None, *kinds: str) -> TypeGuard[Op]:
    return isinstance(op, Op) and op.kind in kinds


def _uses(ops: Sequence[Recorded], results: Sequence[Value]) -> Counter[object]:
    """How often each value is read. A value that Python writes again counts as read there, too."""
    uses: Counter[object] = Counter(results)
    for op in ops:
        uses.update(op.read)
    return uses


def _kept(ops: Iterable[Recorded | None]) -> list[Recorded]:
    return [op for op in ops if op is not None]
