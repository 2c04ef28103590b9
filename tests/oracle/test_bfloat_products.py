"""Products of bfloat16 weights, whose tokens are rounded to bfloat16 where the processor has instructions for them: to
the bit against what is documented of these, in emulation and where there are any on the machine itself.

- VDPBF16PS adds, in each lane, the product of the second elements of two pairs, then that of the first.
- TDPBF16PS adds up both kinds of products of a tile's row apart, from zero, then their sum to what was there.

Each addition rounds to nearest once; denormal numbers are read and written as zeros (Intel's Software Developer's
Manual).
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kit.native_isas import BFLOATS
from kit.run_ops import Floats, run_ops
from numpy.typing import NDArray

from rowspan._native import Cpu, Form
from rowspan.kernels.cpu.kernels import CpuKernels
from rowspan.quant.stored import StoredMatrix

TOKENS = (1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 101, 300)
TILE_COLUMNS = 32

pytestmark = [
    pytest.mark.usefixtures("poisoned_buffers"),
    pytest.mark.skipif(not BFLOATS, reason="products of bfloat16: neither here nor emulated"),
]
each_isa = pytest.mark.parametrize("isa", BFLOATS)


def bfloats(values: Floats) -> Floats:
    """Rounded to nearest."""
    rounded: Floats = torch.from_numpy(values).bfloat16().float().numpy()
    return rounded


def in_file(values: Floats) -> NDArray[np.uint8]:
    """Rows of a matrix, as bfloat16."""
    return torch.from_numpy(values).bfloat16().view(torch.int16).numpy().view(np.uint8)


def linear(isa: str, w: Floats, x: Floats, threads: int = 1, *, int8: bool = True) -> Floats:
    kernels = CpuKernels(isa, threads, int8=int8)
    packed = kernels.matrix(StoredMatrix.of_blocks("BF16", in_file(w)))
    return run_ops(kernels, lambda x, inputs: kernels.linear(x, packed), x)


def as_documented(isa: str, w: Floats, x: Floats) -> Floats:
    """x · w.T of bfloat16 numbers. In float32 their products are exact, and an addition rounds once."""
    padding = ((0, 0), (0, -w.shape[1] % TILE_COLUMNS))
    w, x = np.pad(w, padding), np.pad(x, padding)
    products = (x[:, None, c] * w[None, :, c] for c in range(w.shape[1]))
    total = np.zeros((len(x), len(w)), np.float32)
    for _ in range(0, w.shape[1], TILE_COLUMNS):
        if isa.startswith("amx"):
            sums = np.zeros((2, *total.shape), np.float32)
            for _ in range(TILE_COLUMNS // 2):
                sums[0] += next(products)
                sums[1] += next(products)
            total += sums[0] + sums[1]
        else:
            for _ in range(TILE_COLUMNS // 2):
                first, second = next(products), next(products)
                total = (total + second) + first
    return total


@each_isa
@pytest.mark.parametrize("seed", range(4))
def test_every_bit_is_as_documented(isa: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = int(rng.choice([1, 15, 16, 17, 33, 48, 100]))
    columns = [1, 33, 517, 1056][seed]
    w = bfloats(rng.standard_normal((rows, columns)).astype(np.float32))
    for tokens in TOKENS:
        x = rng.standard_normal((tokens, columns)).astype(np.float32) * 10.0 ** rng.integers(-3, 3, (tokens, 1))
        x = x.astype(np.float32)
        y = linear(isa, w, x, threads=int(rng.choice([1, 2, 3])))
        assert np.array_equal(y, as_documented(isa, w, bfloats(x)))


@each_isa
def test_against_exact_products(isa: str) -> None:
    """What rounding costs: half a unit in the last of 8 bits of an activation, on top of float32 sums."""
    rng = np.random.default_rng(5)
    w, x = rng.standard_normal((40, 600)).astype(np.float32), rng.standard_normal((70, 600)).astype(np.float32)
    bias, residual = rng.standard_normal(40).astype(np.float32), rng.standard_normal((70, 40)).astype(np.float32)
    kernels = CpuKernels(isa, 2, int8=True)
    packed = kernels.matrix(StoredMatrix.of_blocks("BF16", in_file(w)))
    y = run_ops(kernels, lambda x, r, inputs: kernels.add(r, kernels.linear(x, packed, bias)), x, residual)
    weights = bfloats(w).astype(np.float64)
    magnitudes = np.abs(x) @ np.abs(weights.T) + np.abs(residual) + np.abs(bias)
    assert (np.abs(y - (x @ weights.T + bias + residual)) <= (2.0**-9 + 600 * 2.0**-24) * magnitudes).all()


@each_isa
def test_bits_do_not_depend_on_company_or_threads(isa: str) -> None:
    rng = np.random.default_rng(7)
    w, x = rng.standard_normal((72, 1100)).astype(np.float32), rng.standard_normal((600, 1100)).astype(np.float32)
    whole = linear(isa, w, x)
    for part, threads in ((slice(0, 600), 3), (slice(2, 3), 2), (slice(1, 12), 2), (slice(0, 250), 1)):
        assert np.array_equal(linear(isa, w, x[part].copy(), threads), whole[part])


@each_isa
def test_float32_stays_exact(isa: str) -> None:
    rng = np.random.default_rng(8)
    w, x = rng.standard_normal((20, 100)).astype(np.float32), rng.standard_normal((33, 100)).astype(np.float32)
    assert np.array_equal(linear(isa, w, x, int8=False), linear("avx512", w, x))


def test_f16_weights_keep_all_their_bits() -> None:
    """As bfloat16 they would lose three."""
    w = np.full((16, 32), 1 + 2.0**-10, np.float16)
    for isa in BFLOATS:
        kernels = CpuKernels(isa, 1, int8=True)
        packed = kernels.matrix(StoredMatrix.of_blocks("F16", w.view(np.uint8)))
        y = run_ops(kernels, lambda x, inputs, k=kernels, w=packed: k.linear(x, w), np.eye(32, dtype=np.float32))
        assert (y == 1 + 2.0**-10).all()


@each_isa
@pytest.mark.parametrize(
    ("weight", "activation"),
    [(2.0**-130, 2.0**20), (2.0**20, 2.0**-130), (2.0**-70, -(2.0**-60))],
    ids=["weight", "activation", "product"],
)
def test_denormal_numbers_are_zeros(isa: str, weight: float, activation: float) -> None:
    w, x = np.zeros((3, 64), np.float32), np.zeros((5, 64), np.float32)
    w[:, 40], x[:, 40] = weight, activation
    assert not linear(isa, w, x).any()
    assert linear(isa, w, x, int8=False).all()


@each_isa
def test_room_for_many_tokens_is_room_for_fewer(isa: str) -> None:
    cpu = Cpu(isa, 1)
    for columns in (1, 96, 513):
        sizes = [cpu.packed_bytes(Form.BFLOATS, tokens, columns) for tokens in range(1, 70)]
        assert sizes == sorted(sizes)


@each_isa
def test_shapes_without_elements(isa: str) -> None:
    assert linear(isa, np.zeros((0, 64), np.float32), np.ones((3, 64), np.float32)).shape == (3, 0)
    y = linear(isa, np.zeros((5, 0), np.float32), np.ones((3, 0), np.float32))
    assert np.array_equal(y, np.zeros((3, 5)))
