"""Native CPU kernels against torch, for every instruction set this machine has, on random shapes."""

from __future__ import annotations

import random
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from rowspan.kernels.isa import TORCH, available_isas
from rowspan.kernels.ops import Kernels, RopeTable
from rowspan.kernels.registry import kernels_for
from rowspan.kernels.torch.kernels import TorchKernels
from rowspan.quant.dequantize import dequantize

CPU = torch.device("cpu")
NATIVE = [isa for isa in available_isas() if isa != TORCH]
ORACLE = TorchKernels(torch.float32)


@pytest.fixture(params=NATIVE)
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Kernels:
    """Kernels whose outputs are full of NaN before they are written: what is left out shows."""
    empty, empty_like = torch.empty, torch.empty_like
    monkeypatch.setattr(torch, "empty", lambda *args, **options: _poisoned(empty(*args, **options)))
    monkeypatch.setattr(torch, "empty_like", lambda *args, **options: _poisoned(empty_like(*args, **options)))
    return kernels_for(CPU, torch.float32, request.param, threads=random.choice([1, 2, 3]))


def _poisoned(x: Any) -> Any:
    return x.fill_(float("nan")) if x.is_floating_point() else x


@pytest.mark.parametrize("scheme", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "F32", "F16", "BF16"])
@pytest.mark.parametrize("seed", range(4))
def test_linear(kernels: Kernels, scheme: str, seed: int) -> None:
    rng = np.random.default_rng([seed, *scheme.encode()])
    rows, columns = int(rng.choice([1, 15, 16, 17, 48, 100, 333])), 32 * int(rng.integers(1, 20))
    weight = rng.standard_normal((rows, columns)).astype(np.float32)
    raw = torch.from_numpy(gguf.quants.quantize(weight, gguf.GGMLQuantizationType[scheme]).view(np.uint8).copy())
    packed = kernels.pack(scheme, raw, (rows, columns))
    assert (packed.rows, packed.columns) == (rows, columns)
    exact = dequantize(scheme, raw).double()
    for tokens in (1, 2, 3, 4, 5, 12, 13, 64, 101):
        x = torch.from_numpy(rng.standard_normal((tokens, columns)).astype(np.float32))
        bias = torch.from_numpy(rng.standard_normal(rows).astype(np.float32)) if tokens % 2 else None
        y = kernels.linear(x, packed, bias)
        expected = x.double() @ exact.T + (0 if bias is None else bias.double())
        # Float32 sums of n terms err by about n · 2⁻²⁴ of the sum of their magnitudes; much less in practice.
        allowed = 2.0**-24 * columns * (x.double().abs() @ exact.abs().T + 1)
        assert ((y.double() - expected).abs() <= allowed).all()


@pytest.mark.parametrize("seed", range(10))
def test_small_ops(kernels: Kernels, seed: int) -> None:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    tokens, heads, size = rng.choice([1, 2, 7, 300]), rng.choice([1, 3, 9]), rng.choice([32, 64, 80, 128])
    x = torch.randn(tokens, heads, size) * rng.choice([1e-3, 1.0, 50.0])
    weight = torch.randn(size)
    torch.testing.assert_close(kernels.rms_norm(x, weight, 1e-5), ORACLE.rms_norm(x, weight, 1e-5))

    half = rng.choice([size // 2, size // 4])
    angles = torch.randn(tokens, half)
    table = RopeTable(angles.cos(), angles.sin(), interleaved=rng.random() < 0.5)
    torch.testing.assert_close(kernels.rope(x, table), ORACLE.rope(x, table))

    gate, up = x.flatten(1), torch.randn(tokens, heads * size)
    torch.testing.assert_close(kernels.gated_silu(gate, up), ORACLE.gated_silu(gate, up))


def test_extremes_of_silu(kernels: Kernels) -> None:
    gate = torch.tensor([[-1e30, -200.0, -88.0, -0.0, 0.0, 88.0, 200.0, 1e30]])
    torch.testing.assert_close(
        kernels.gated_silu(gate, torch.ones_like(gate)), ORACLE.gated_silu(gate, torch.ones_like(gate))
    )


def test_shapes_without_elements(kernels: Kernels) -> None:
    empty = torch.empty(0, dtype=torch.uint8)
    assert kernels.linear(torch.ones(3, 64), kernels.pack("Q8_0", empty, (0, 64))).shape == (3, 0)
    assert torch.equal(kernels.linear(torch.ones(3, 0), kernels.pack("Q8_0", empty, (5, 0))), torch.zeros(3, 5))


def test_what_native_kernels_would_misread_is_refused(kernels: Kernels) -> None:
    with pytest.raises(TypeError, match="float32"):
        kernels.rms_norm(torch.ones(2, 64, dtype=torch.bfloat16), torch.ones(64), 1e-5)
