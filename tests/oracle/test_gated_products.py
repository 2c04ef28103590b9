"""silu(gate) · up of two products that are worked out side by side: the bits of the same three ops apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from kit.native_isas import EMULATED, NATIVE
from kit.quantized import quantized
from kit.run_ops import Floats, run_ops

from rowspan.kernels.cpu.kernels import CpuKernels
from rowspan.quant.panels import PackedMatrix

pytestmark = pytest.mark.usefixtures("poisoned_buffers")

TOKENS = (1, 2, 7, 8, 9, 33, 257, 300)
Model = Callable[[CpuKernels, Any, PackedMatrix, PackedMatrix], Any]


def matrix(kernels: CpuKernels, scheme: str, shape: tuple[int, int], rng: np.random.Generator) -> PackedMatrix:
    return kernels.matrix(scheme, quantized(scheme, *shape, rng), shape)


def with_biases(kernels: CpuKernels, x: Any, gate: PackedMatrix, up: PackedMatrix) -> Any:
    """What has a bias is not worked out side by side; one of zeros changes no bits."""
    zeros = np.zeros(gate.rows, np.float32)
    return kernels.gated_silu(kernels.linear(x, gate, zeros), kernels.linear(x, up, zeros))


def plain(kernels: CpuKernels, x: Any, gate: PackedMatrix, up: PackedMatrix) -> Any:
    return kernels.gated_silu(kernels.linear(x, gate), kernels.linear(x, up))


def ops_and_result(
    isa: str, threads: int, int8: bool, kinds: tuple[str, str], shape: tuple[int, int], x: Floats, model: Model
) -> tuple[int, Floats]:
    kernels = CpuKernels(isa, threads, int8=int8)
    rng = np.random.default_rng(shape)
    gate, up = (matrix(kernels, kind, shape, rng) for kind in kinds)
    y = run_ops(kernels, lambda x, inputs: model(kernels, x, gate, up), x)
    return len(kernels._trace.steps), y


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "F32", "BF16"])
@pytest.mark.parametrize("isa", NATIVE + EMULATED)
def test_products_side_by_side(isa: str, kind: str) -> None:
    rng = np.random.default_rng([*isa.encode(), *kind.encode()])
    for tokens in TOKENS:
        shape = int(rng.choice([1, 16, 17, 48, 80, 100])), 32 * int(rng.integers(1, 20))
        x = rng.standard_normal((tokens, shape[1])).astype(np.float32)
        how = isa, int(rng.choice([1, 2, 3])), bool(rng.integers(2)), (kind, kind), shape, x
        few, together = ops_and_result(*how, plain)
        many, apart = ops_and_result(*how, with_biases)
        assert many - few == 2
        assert np.array_equal(together, apart)
        assert together.any()


def test_what_else_there_is_stays_apart() -> None:
    """Products of other kinds are multiplied as they were."""
    x = np.random.default_rng(0).standard_normal((9, 64)).astype(np.float32)
    shape = (48, 64)
    steps, y = ops_and_result(NATIVE[0], 2, True, ("Q8_0", "Q4_0"), shape, x, plain)
    same, expected = ops_and_result(NATIVE[0], 2, True, ("Q8_0", "Q4_0"), shape, x, with_biases)
    assert steps == same
    assert np.array_equal(y, expected)


def test_a_product_that_was_used_up_cannot_be_read() -> None:
    def read_again(kernels: CpuKernels, x: Any, gate: PackedMatrix, up: PackedMatrix) -> Any:
        first, second = kernels.linear(x, gate), kernels.linear(x, up)
        return kernels.add(kernels.gated_silu(first, second), second)

    with pytest.raises(KeyError):
        ops_and_result(NATIVE[0], 1, True, ("Q8_0", "Q8_0"), (48, 64), np.ones((9, 64), np.float32), read_again)
