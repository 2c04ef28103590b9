"""Runs a few ops on given arrays, whatever the kernels: native ones only record their ops, as a model is recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowspan.comm.base import Comm, SoloGroup
from rowspan.kernels.ops import Kernels, Outputs, StepInputs, StepLimits

Floats = NDArray[np.float32]


class _Given:
    """Another rank, from which the arrays come."""

    def __init__(self, arrays: list[Any]) -> None:
        self._left = arrays

    def send(self, x: Any) -> None:
        raise AssertionError("nothing is sent back")

    def receive(self, shape: tuple[int, ...]) -> Any:
        return self._left.pop(0)


def run_ops(
    kernels: Kernels[Any],
    model: Callable[..., Any],
    *arrays: Floats,
    inputs: StepInputs | None = None,
    ops: list[Any] | None = None,
) -> Floats:
    """`model(*values, inputs)`, with a value for each of the arrays, which have a row for each token.

    Kernels must be new for every call.

    Args:
        ops: what native kernels make of it is added to this list.
    """
    tokens = len(arrays[0])
    before = kernels.connect(Comm(SoloGroup(), before=_Given(list(arrays)))).before
    assert before is not None, "it was given"

    def forward(inputs: Any) -> Any:
        return Outputs(model(*(before.receive((tokens, array.shape[1])) for array in arrays), inputs), None)

    inputs = inputs or one_sequence(tokens)
    limits = StepLimits(tokens, tokens, inputs.tables.shape[2], inputs.block_size)
    step: Any = kernels.capture(forward, limits)
    if ops is not None:
        ops += step.ops
    result = step(inputs)
    assert result is not None
    return np.asarray(result.logits).copy()  # of tensors, too


def one_sequence(tokens: int, first_position: int = 0) -> StepInputs:
    """Inputs of ops that no cache is needed for."""
    at = np.arange(tokens)
    tables = np.zeros((1, 1, first_position + tokens), np.int32)
    return StepInputs(at, np.array([0, tokens]), np.array([first_position]), tables, 1, at)


def one_token_each(positions: NDArray[np.int64]) -> StepInputs:
    """Inputs of ops that no cache is needed for: of as many sequences as there are positions."""
    n = len(positions)
    tables = np.zeros((1, n, positions.max() + 1), np.int32)
    return StepInputs(np.arange(n), np.arange(n + 1), positions, tables, 1, np.arange(n))
