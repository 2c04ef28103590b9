"""Matrices joined below each other: their products are each one's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kit import triton_device  # noqa: F401  # before any kernel
from kit.fake_card import CPU, FakeCard, FakeMemory

from rowspan.kernels.ops import Weight
from rowspan.kernels.torch.linear import DenseWeight
from rowspan.kernels.triton.kernels import TritonKernels
from rowspan.kernels.triton.linear.join import join
from rowspan.kernels.triton.linear.layout import PlanarWeight
from rowspan.kernels.triton.linear.pack import pack
from rowspan.quant.stored import StoredMatrix


def dense(rows: int, columns: int = 64) -> DenseWeight:
    return DenseWeight(torch.randn(rows, columns))


def quantized(scheme: str, rows: int, block_bytes: int, factors: torch.Tensor | None = None) -> Weight:
    return pack(scheme, torch.randint(0, 100, (rows, 2 * block_bytes), dtype=torch.uint8), torch.float32, factors)


def test_each_row_keeps_its_factor() -> None:
    factors = torch.rand(5)
    joined = join([quantized("NVFP4", 3, 36, factors[:3]), quantized("NVFP4", 2, 36, factors[3:])])
    assert isinstance(joined, PlanarWeight)
    assert joined.row_scales is not None
    assert torch.equal(joined.row_scales, factors)


def test_rows_come_below_each_other() -> None:
    a, b = dense(3), dense(5)
    joined = join([a, b])
    assert isinstance(joined, DenseWeight)
    assert torch.equal(joined.matrix, torch.cat([a.matrix, b.matrix]))
    parts = [quantized("Q6_K", rows, 210) for rows in (4, 2, 7)]
    whole = join(parts)
    assert whole is not None
    assert (whole.rows, whole.columns) == (13, parts[0].columns)
    assert whole.nbytes == sum(part.nbytes for part in parts)


@pytest.mark.parametrize(
    "weights",
    [
        lambda: [dense(3), dense(0)],
        lambda: [dense(3), dense(3, 32)],
        lambda: [dense(3), quantized("Q8_0", 3, 34)],
        lambda: [quantized("Q8_0", 3, 34), quantized("Q4_0", 3, 18)],
        lambda: [quantized("NVFP4", 3, 36), quantized("NVFP4", 3, 36, torch.rand(3))],
    ],
    ids=["no rows", "other columns", "dense and not", "other scheme", "only one has factors"],
)
def test_what_is_held_differently_stays_apart(weights: object) -> None:
    assert join(weights()) is None  # type: ignore[operator]


def test_the_parts_are_not_held_beside_the_whole() -> None:
    card = FakeCard(1 << 20)
    kernels = TritonKernels(torch.float32, CPU, FakeMemory(card), None)
    rng = np.random.default_rng(0)
    parts = [kernels.matrix(StoredMatrix.of_blocks("Q8_0", rng.integers(0, 100, (8, 68), np.uint8))) for _ in range(2)]
    biases = [kernels.vector(np.ones(8, np.float32), norm=False) for _ in range(2)]
    held = sum(part.nbytes for part in parts) + 64
    free = (1 << 20) - held
    assert kernels._memory.free_and_total()[0] == free
    joined = kernels.join(parts, biases)
    assert joined is not None
    assert joined[0].rows == 16
    assert kernels._memory.free_and_total()[0] == free
    assert kernels.join(parts, [biases[0], None]) is None
