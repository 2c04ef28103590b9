"""Native CPU kernels against torch and plain arithmetic, for every instruction set this machine has, on random shapes.

Ops of the native kernels only record; here each test's ops are a program of their own, whose inputs are put into it as
another rank's hidden states would be, and whose buffers are full of NaN before it runs: what is left out shows.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from kit.native_isas import NATIVE, TILED
from kit.quantized import quantized
from kit.run_ops import Floats, one_sequence, run_ops
from numpy.typing import NDArray

from rowspan._native import BatchDim, Cpu, Form
from rowspan.kernels.cpu.kernels import CpuKernels
from rowspan.kernels.cpu.trace import Value
from rowspan.kernels.torch.kernels import TorchKernels
from rowspan.model.rope_table import RopeTable
from rowspan.model.spec import Activation
from rowspan.quant.dequantize import dequantize
from rowspan.quant.stored import StoredMatrix

ORACLE = TorchKernels(torch.float32)
pytestmark = pytest.mark.usefixtures("poisoned_buffers")


@pytest.fixture(params=NATIVE)
def isa(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=list(dict.fromkeys(NATIVE + TILED)))  # other sets add no products of integers to AVX-512
def linear_isa(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def any_threads(rng: np.random.Generator) -> int:
    return int(rng.integers(1, 4))


SMALL_BLOCKS = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "MXFP4", "NVFP4"]
SUPER_BLOCKS = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"]
SUPER_BLOCKS += ["IQ3_XXS", "IQ2_S", "TQ1_0"]  # IQ3_S, other IQ2, IQ1 and TQ2_0 lie as one of these
TOKENS = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 101, 300)


def shape_of(scheme: str, rng: np.random.Generator) -> tuple[int, int]:
    block = 256 if scheme in SUPER_BLOCKS else 64 if scheme == "NVFP4" else 32
    return int(rng.choice([1, 15, 16, 17, 48, 100, 333])), block * int(rng.integers(1, 20 if block < 256 else 6))


@pytest.mark.parametrize("scheme", [*SMALL_BLOCKS, *SUPER_BLOCKS, "F32", "F16", "BF16"])
@pytest.mark.parametrize("seed", range(2))
def test_exact_linear(isa: str, scheme: str, seed: int) -> None:
    rng = np.random.default_rng([seed, *scheme.encode()])
    rows, columns = shape_of(scheme, rng)
    raw = quantized(scheme, rows, columns, rng)
    exact = dequantize(scheme, torch.from_numpy(raw)).double().numpy()
    packed = CpuKernels(isa, any_threads(rng), int8=False).matrix(StoredMatrix.of_blocks(scheme, raw))
    assert (packed.rows, packed.columns) == (rows, columns)
    for tokens in TOKENS:
        x = rng.standard_normal((tokens, columns)).astype(np.float32)
        bias = rng.standard_normal(rows).astype(np.float32) if tokens % 2 else None
        kernels = CpuKernels(isa, any_threads(rng), int8=False)
        y = run_ops(kernels, lambda x, inputs, k=kernels, b=bias: k.linear(x, packed, b), x)
        expected = x.astype(np.float64) @ exact.T + (0 if bias is None else bias)
        # Float32 sums of n terms err by about n · 2⁻²⁴ of the sum of their magnitudes; much less in practice.
        allowed = 2.0**-24 * columns * (np.abs(x) @ np.abs(exact.T) + 1)
        assert (np.abs(y - expected) <= allowed).all()


@pytest.mark.parametrize("scheme", [*SMALL_BLOCKS, *SUPER_BLOCKS])
@pytest.mark.parametrize("seed", range(2))
def test_int8_linear(linear_isa: str, scheme: str, seed: int) -> None:
    """Against the same rounding of activations in plain arithmetic: that it is right is a matter of float32 sums."""
    rng = np.random.default_rng([seed, *scheme.encode()])
    rows, columns = shape_of(scheme, rng)
    raw = quantized(scheme, rows, columns, rng)
    exact = dequantize(scheme, torch.from_numpy(raw)).double().numpy()
    packed = CpuKernels(linear_isa, any_threads(rng), int8=False).matrix(StoredMatrix.of_blocks(scheme, raw))
    for tokens in TOKENS:
        x = rng.standard_normal((tokens, columns)).astype(np.float32) * 10.0 ** rng.integers(-3, 3, (tokens, 1))
        x = x.astype(np.float32)
        x[rng.integers(tokens), : columns // 2] = 0.0
        residual = rng.standard_normal((tokens, rows)).astype(np.float32)
        kernels = CpuKernels(linear_isa, any_threads(rng), int8=True)
        y = run_ops(kernels, lambda x, r, inputs, k=kernels: k.add(r, k.linear(x, packed)), x, residual)
        rounded = rounded_to_int8(x)
        allowed = 2.0**-23 * columns * (np.abs(rounded) @ np.abs(exact.T) + np.abs(residual)) + 1e-30
        assert (np.abs(y - (rounded @ exact.T + residual)) <= allowed + rounding_ties(x, exact)).all()


def rounded_to_int8(x: Floats) -> NDArray[np.float64]:
    groups = x.reshape(len(x), -1, 32).astype(np.float64)
    scale = np.abs(groups).max(axis=2, keepdims=True) / 127
    rounded: NDArray[np.float64] = np.rint(groups / np.where(scale == 0, 1, scale)) * scale
    return rounded.reshape(x.shape)


def rounding_ties(x: Floats, exact: NDArray[np.float64]) -> NDArray[np.float64]:
    """What it may cost that an activation within a float32's precision of the middle of two codes takes the other."""
    groups = x.reshape(len(x), -1, 32).astype(np.float64)
    scale = np.abs(groups).max(axis=2, keepdims=True) / 127
    codes = groups / np.where(scale == 0, 1, scale)
    tie = np.abs(codes - np.floor(codes) - 0.5) < 1e-4
    cost: NDArray[np.float64] = (tie * scale).reshape(x.shape) @ np.abs(exact.T)
    return cost


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("scheme", ["Q8_0", "Q4_1", "Q6_K", "IQ4_NL"])
def test_bits_do_not_depend_on_company_or_threads(linear_isa: str, scheme: str, int8: bool) -> None:
    rng = np.random.default_rng(7)
    rows, columns = 72, 512
    raw = quantized(scheme, rows, columns, rng)
    x = rng.standard_normal((300, columns)).astype(np.float32)
    results = []
    for part, threads in ((slice(0, 300), 1), (slice(0, 300), 3), (slice(2, 3), 2), (slice(1, 12), 2)):
        kernels = CpuKernels(linear_isa, threads, int8=int8)
        packed = kernels.matrix(StoredMatrix.of_blocks(scheme, raw))
        y = run_ops(kernels, lambda x, inputs, k=kernels, w=packed: k.linear(x, w), x[part].copy())
        results.append(y[2 - part.start])
    assert all(np.array_equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("scheme", [*SMALL_BLOCKS, *SUPER_BLOCKS])
def test_tiles_have_the_bits_of_avx512(scheme: str, int8: bool) -> None:
    rng = np.random.default_rng([3, *scheme.encode()])
    for tiles in TILED:
        for rows, columns in ((16 * 5 + 7, 512 + 256), shape_of(scheme, rng)):
            raw = quantized(scheme, rows, columns, rng)
            for tokens in (8, 9, 16, 17, 33, 300):
                x = rng.standard_normal((tokens, columns)).astype(np.float32)
                results = []
                for isa in (tiles, "avx512"):
                    kernels = CpuKernels(isa, any_threads(rng), int8=int8)
                    packed = kernels.matrix(StoredMatrix.of_blocks(scheme, raw))
                    results.append(run_ops(kernels, lambda x, inputs, k=kernels, w=packed: k.linear(x, w), x))
                assert np.array_equal(results[0], results[1])


@pytest.mark.parametrize("form", [Form.FLOATS, Form.INT8])
def test_room_for_many_tokens_is_room_for_fewer(linear_isa: str, form: Form) -> None:
    cpu = Cpu(linear_isa, 1)
    for columns in (32, 96, 512):
        sizes = [cpu.packed_bytes(form, tokens, columns) for tokens in range(1, 70)]
        assert sizes == sorted(sizes)


@pytest.mark.parametrize("seed", range(10))
def test_small_ops(isa: str, seed: int) -> None:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    tokens, heads, size = rng.choice([1, 2, 7, 300]), rng.choice([1, 3, 9]), rng.choice([32, 64, 80, 128])
    x = (torch.randn(tokens, heads * size) * rng.choice([1e-3, 1.0, 50.0])).numpy()
    other = torch.randn(tokens, heads * size).numpy()
    weight = torch.randn(rng.choice([size, heads * size])).numpy()
    half = rng.choice([size // 2, size // 4])
    angles = torch.randn(500, half)
    table = RopeTable(angles.cos().numpy(), angles.sin().numpy(), interleaved=rng.random() < 0.5)
    inputs = one_sequence(tokens, rng.randrange(200))

    def check(op: Callable[..., Any], *arrays: Floats) -> None:
        """The same op of the oracle's kernels and of native ones."""
        kernels = CpuKernels(isa, rng.randint(1, 3), int8=False)
        y = run_ops(kernels, lambda *values: op(kernels, *values), *arrays, inputs=inputs)
        expected = run_ops(ORACLE, lambda *values: op(ORACLE, *values), *arrays, inputs=inputs)
        torch.testing.assert_close(torch.from_numpy(y), torch.from_numpy(expected))

    check(lambda k, x, i: k.rms_norm(x, k.vector(weight, norm=True), 1e-5), x)
    check(lambda k, x, i: k.rope(x, k.rope_table(table), size, i), x)
    check(lambda k, x, y, i: k.add(x, y), x, other)
    check(lambda k, x, i: k.gather_output_rows(x, i), x)


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.5 * (1 + np.tanh(x / 2))


def activated(gate: Floats, up: Floats, activation: Activation) -> NDArray[np.float64]:
    g, u = gate.astype(np.float64), up.astype(np.float64)
    if activation is Activation.CLAMPED_SWIGLU:
        g = np.minimum(g, 7)
        return g * sigmoid(1.702 * g) * (np.clip(u, -7, 7) + 1)
    if activation is Activation.GELU:
        tanh: NDArray[np.float64] = np.tanh(np.sqrt(2 / np.pi) * (g + 0.044715 * g**3))
        return 0.5 * g * (1 + tanh) * u
    if activation is Activation.GELU_ERF:
        tails: NDArray[np.float64] = np.vectorize(math.erfc)(-g / math.sqrt(2))
        return g * 0.5 * tails * u
    if activation is Activation.SILU:
        return g * sigmoid(g) * u
    squares: NDArray[np.float64] = np.maximum(g, 0) ** 2
    return squares * u


EXTREMES = [-1e30, -200.0, -88.0, -7.0, -1e-30, -0.0, 0.0, 1e-30, 7.0, 88.0, 200.0]


@pytest.mark.parametrize("activation", Activation)
def test_activations(isa: str, activation: Activation) -> None:
    """Within some units in the last place of a float32, over widths that are no whole vectors."""
    rng = np.random.default_rng([*activation.encode()])
    for tokens, width in ((1, 1), (2, 100), (7, 33), (300, 48)):
        gate = rng.standard_normal((tokens, width)).astype(np.float32) * 10.0 ** rng.integers(-2, 2, (tokens, 1))
        gate, up = gate.astype(np.float32), rng.standard_normal((tokens, width)).astype(np.float32) * 5
        gate.flat[: len(EXTREMES)] = EXTREMES[: gate.size]
        kernels = CpuKernels(isa, 2, int8=False)
        y = run_ops(kernels, lambda gate, up, inputs, k=kernels: k.gated(gate, up, activation), gate, up)
        # Of an argument of exp that is large and rounded, the error is as many times larger.
        np.testing.assert_allclose(y, activated(gate, up, activation), rtol=1e-5, atol=1e-7)
        assert np.isfinite(y).all()
        if activation is not Activation.CLAMPED_SWIGLU:
            kernels = CpuKernels(isa, 2, int8=False)
            y = run_ops(kernels, lambda gate, inputs, k=kernels: k.activate(gate, activation), gate)
            np.testing.assert_allclose(y, activated(gate, np.ones_like(up), activation), rtol=1e-5, atol=1e-7)


def test_an_activation_of_gate_and_up_takes_both(isa: str) -> None:
    with pytest.raises(ValueError, match="takes a gate"):
        CpuKernels(isa, 2, int8=False).activate(Value(BatchDim.TOKENS, 64), Activation.CLAMPED_SWIGLU)


def test_scale_and_soft_cap(isa: str) -> None:
    rng = np.random.default_rng(1)
    for shape in ((1, 1), (5, 33), (300, 48)):
        x = (rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 3, shape)).astype(np.float32)
        x.flat[: len(EXTREMES)] = EXTREMES[: x.size]
        kernels = CpuKernels(isa, 2, int8=False)
        y = run_ops(kernels, lambda x, inputs, k=kernels: k.scale(x, 0.1), x)
        assert np.array_equal(y, x * np.float32(0.1))
        kernels = CpuKernels(isa, 2, int8=False)
        y = run_ops(kernels, lambda x, inputs, k=kernels: k.soft_cap(x, 30.0), x)
        np.testing.assert_allclose(y, 30 * np.tanh(x.astype(np.float64) / 30), rtol=5e-7)


def test_shapes_without_elements(isa: str, threads: int) -> None:
    kernels = CpuKernels(isa, threads, int8=True)
    no_rows, no_columns = (
        kernels.matrix(StoredMatrix.of_blocks("Q8_0", np.empty(shape, np.uint8))) for shape in ((0, 68), (5, 0))
    )
    x = np.ones((3, 64), np.float32)
    assert run_ops(kernels, lambda x, inputs: kernels.linear(x, no_rows), x).shape == (3, 0)
    kernels = CpuKernels(isa, threads, int8=True)
    y = run_ops(kernels, lambda x, inputs: kernels.linear(x, no_columns), np.ones((3, 0), np.float32))
    assert np.array_equal(y, np.zeros((3, 5)))


def test_a_sequence_behind_its_last_block_is_refused(isa: str, threads: int) -> None:
    kernels, x = CpuKernels(isa, threads, int8=False), np.ones((3, 64), np.float32)
    inputs = one_sequence(3)
    assert run_ops(kernels, kernels.gather_output_rows, x, inputs=inputs).shape == (3, 64)
    kernels = CpuKernels(isa, threads, int8=False)
    with pytest.raises(ValueError, match="behind its last block"):
        run_ops(kernels, kernels.gather_output_rows, x, inputs=replace(inputs, tables=inputs.tables[:, :, :2].copy()))


def test_another_kernels_layout_is_refused(isa: str) -> None:
    stored = StoredMatrix.of_blocks("F32", np.zeros((1, 256), np.uint8))
    with pytest.raises(TypeError, match="layout"):
        CpuKernels(isa, 1, int8=False).linear(Value(BatchDim.TOKENS, 64), ORACLE.matrix(stored))
