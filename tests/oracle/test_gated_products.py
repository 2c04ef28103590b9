"""activation(gate) · up of two products that are worked out side by side: the bits of the same three ops apart."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from typing import Any

import numpy as np
import pytest
from kit.native_isas import EMULATED, NATIVE
from kit.quantized import quantized
from kit.run_ops import Floats, run_ops

from rowspan.kernels.cpu.kernels import CpuKernels
from rowspan.model.spec import Activation
from rowspan.quant.panels import PackedMatrix
from rowspan.quant.stored import StoredMatrix

pytestmark = pytest.mark.usefixtures("poisoned_buffers")

TOKENS = (1, 2, 7, 8, 9, 33, 257, 300)
Model = Callable[[CpuKernels, Any, PackedMatrix, PackedMatrix, Activation], Any]


def matrix(kernels: CpuKernels, scheme: str, shape: tuple[int, int], rng: np.random.Generator) -> PackedMatrix:
    return kernels.matrix(StoredMatrix.of_blocks(scheme, quantized(scheme, *shape, rng)))


def with_biases(kernels: CpuKernels, x: Any, gate: PackedMatrix, up: PackedMatrix, activation: Activation) -> Any:
    """What has a bias is not worked out side by side; one of zeros changes no bits."""
    zeros = np.zeros(gate.rows, np.float32)
    return kernels.gated(kernels.linear(x, gate, zeros), kernels.linear(x, up, zeros), activation)


def plain(kernels: CpuKernels, x: Any, gate: PackedMatrix, up: PackedMatrix, activation: Activation) -> Any:
    return kernels.gated(kernels.linear(x, gate), kernels.linear(x, up), activation)


def ops_and_result(
    isa: str,
    threads: int,
    int8: bool,
    kinds: tuple[str, str],
    shape: tuple[int, int],
    activation: Activation,
    x: Floats,
    model: Model,
) -> tuple[int, Floats]:
    kernels = CpuKernels(isa, threads, int8=int8)
    rng = np.random.default_rng(shape)
    gate, up = (matrix(kernels, kind, shape, rng) for kind in kinds)
    ops: list[Any] = []
    y = run_ops(kernels, lambda x, inputs: model(kernels, x, gate, up, activation), x, ops=ops)
    return len(ops), y


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "IQ4_NL", "F32", "BF16"])
@pytest.mark.parametrize("isa", NATIVE + EMULATED)
def test_products_side_by_side(isa: str, kind: str) -> None:
    rng = np.random.default_rng([*isa.encode(), *kind.encode()])
    for tokens, activation in zip(TOKENS, cycle(Activation)):
        shape = int(rng.choice([1, 16, 17, 48, 80, 100])), 32 * int(rng.integers(1, 20))
        x = rng.standard_normal((tokens, shape[1])).astype(np.float32)
        how = isa, int(rng.choice([1, 2, 3])), bool(rng.integers(2)), (kind, kind), shape, activation, x
        few, together = ops_and_result(*how, plain)
        many, apart = ops_and_result(*how, with_biases)
        assert many - few == 2
        assert np.array_equal(together, apart)
        assert together.any()


def test_what_else_there_is_stays_apart() -> None:
    """Products of other kinds are multiplied as they were."""
    x = np.random.default_rng(0).standard_normal((9, 64)).astype(np.float32)
    how = NATIVE[0], 2, True, ("Q8_0", "Q4_0"), (48, 64), Activation.SILU, x
    steps, y = ops_and_result(*how, plain)
    same, expected = ops_and_result(*how, with_biases)
    assert steps == same
    assert np.array_equal(y, expected)


@pytest.mark.parametrize("isa", NATIVE)
def test_a_product_that_is_read_again_is_written(isa: str) -> None:
    def read_again(of: Model) -> Model:
        def model(kernels: CpuKernels, x: Any, gate: PackedMatrix, up: PackedMatrix, activation: Activation) -> Any:
            return kernels.add(of(kernels, x, gate, up, activation), kernels.linear(x, up))

        return model

    def read_the_same(kernels: CpuKernels, x: Any, gate: PackedMatrix, up: PackedMatrix, activation: Activation) -> Any:
        first, second = kernels.linear(x, gate), kernels.linear(x, up)
        return kernels.add(kernels.gated(first, second, activation), second)

    x = np.random.default_rng(1).standard_normal((9, 64)).astype(np.float32)
    how = isa, 2, True, ("Q8_0", "Q8_0"), (48, 64), Activation.SILU, x
    _, expected = ops_and_result(*how, read_again(with_biases))
    _, y = ops_and_result(*how, read_the_same)
    assert np.array_equal(y, expected)
