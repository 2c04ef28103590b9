"""Mixtures of experts against plain NumPy, on random shapes, routers and weights; and a token's result does not depend
on the others of its step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from kit.native_isas import EMULATED, NATIVE
from kit.numpy_model import activate, routed
from kit.quantized import quantized
from kit.run_ops import Floats, run_ops

from rowspan.kernels.cpu.kernels import CpuKernels
from rowspan.kernels.ops import Experts, Kernels
from rowspan.kernels.torch.kernels import TorchKernels
from rowspan.model.spec import Activation, Gating, MlpSpec, MoeSpec
from rowspan.quant.stored import StoredMatrix

pytestmark = pytest.mark.usefixtures("poisoned_buffers")

KINDS = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q5_1", "IQ4_NL", "MXFP4")
Rng = np.random.Generator


class Case:
    """A random mixture, some of its experts, and tokens."""

    def __init__(self, rng: Rng, kinds: tuple[str, str, str] | None = None) -> None:
        def pick(*values: Any) -> Any:
            return values[rng.integers(len(values))]

        groups = int(pick(1, 1, 2, 4))
        each = int(rng.integers(2, 7))
        groups_used = int(rng.integers(1, groups + 1))
        has_gate = bool(rng.integers(4))
        unit = max([32, *(gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][0] for kind in kinds or ())])
        self.spec = MoeSpec(
            expert=MlpSpec(
                width=unit * int(rng.integers(1, 5)),
                activation=pick(*Activation) if has_gate else pick(Activation.SILU, Activation.RELU2),
                has_gate=has_gate,
                has_bias=bool(rng.integers(2)),
            ),
            experts=groups * each,
            used=int(rng.integers(1, min(8, groups_used * each) + 1)),
            gating=pick(*Gating),
            normalize=bool(rng.integers(2)),
            scale=pick(1.0, 2.5),
            weighs_input=bool(pick(0, 0, 1)),
            n_groups=groups,
            groups_used=groups_used,
            has_selection_bias=bool(rng.integers(2)),
        )
        self.hidden = unit * int(rng.integers(1, 5))
        self.first = int(rng.integers(0, 2))
        self.held = self.spec.experts - self.first - int(rng.integers(0, 2))
        self.kinds = kinds or (pick(*KINDS), pick(*KINDS), pick(*KINDS))
        width = self.spec.expert.width
        shapes = ((width, self.hidden), (width, self.hidden), (self.hidden, width))
        self.blocks = [
            quantized(kind, self.held * rows, columns, rng)
            for kind, (rows, columns) in zip(self.kinds, shapes, strict=True)
        ]
        # A factor for each expert's matrix, as files of NVFP4 have it.
        self.factors = rng.uniform(0.5, 2, (3, self.held)).astype(np.float32) if "NVFP4" in self.kinds else None
        self.biases = [
            rng.standard_normal((self.held, rows)).astype(np.float32) if self.spec.expert.has_bias else None
            for rows, _ in shapes
        ]
        self.selection_bias = (
            rng.uniform(0, 0.3, self.spec.experts).astype(np.float32) if self.spec.has_selection_bias else None
        )
        self.scales = rng.uniform(0.5, 2, self.spec.experts).astype(np.float32) if rng.integers(2) else None

    def tokens(self, count: int, rng: Rng) -> tuple[Floats, Floats]:
        """Inputs, and the router's logits."""
        x = rng.standard_normal((count, self.hidden)).astype(np.float32)
        return x, (2 * rng.standard_normal((count, self.spec.experts))).astype(np.float32)

    def run(self, kernels: Kernels[Any], x: Floats, logits: Floats) -> Floats:
        def vector(values: Floats | None) -> Any:
            return None if values is None else kernels.vector(values.reshape(-1), norm=False)

        stored = [StoredMatrix.of_blocks(kind, raw) for kind, raw in zip(self.kinds, self.blocks, strict=True)]
        if self.factors is not None:
            each = [factors.repeat(one.rows // self.held) for factors, one in zip(self.factors, stored, strict=True)]
            stored = [one.scaled(factors) for one, factors in zip(stored, each, strict=True)]
        gate, up, down = (kernels.experts(one, self.held) for one in stored)
        has_gate = self.spec.expert.has_gate
        gate_bias, up_bias, down_bias = map(vector, self.biases)
        experts = Experts(
            gate if has_gate else None,
            up,
            down,
            gate_bias if has_gate else None,
            up_bias,
            down_bias,
            vector(self.selection_bias),
            vector(self.scales),
            self.first,
        )
        return run_ops(kernels, lambda x, logits, inputs: kernels.mixture(x, logits, experts, self.spec), x, logits)

    def expected(self, x: Floats, logits: Floats) -> Any:
        matrices = [
            gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[kind]).astype(np.float64)
            for kind, blocks in zip(self.kinds, self.blocks, strict=True)
        ]
        factors = np.ones((3, self.held)) if self.factors is None else self.factors
        gate, up, down = (
            matrix.reshape(self.held, -1, matrix.shape[1]) * of_each[:, None, None]
            for matrix, of_each in zip(matrices, factors, strict=True)
        )
        biases = [np.zeros(len(w[0])) if b is None else b for w, b in zip((gate, up, down), self.biases, strict=True)]
        of = [np.broadcast_to(bias, (self.held, bias.shape[-1])) for bias in biases]
        out = np.zeros((len(x), self.hidden))
        for token, row in enumerate(x.astype(np.float64)):
            for expert, weight in routed(logits[token].astype(np.float64), self.spec, self.selection_bias):
                held = expert - self.first
                if not 0 <= held < self.held:
                    continue
                weight *= 1 if self.scales is None else self.scales[expert]
                h = row * weight if self.spec.weighs_input else row
                hidden = up[held] @ h + of[1][held]
                gates = gate[held] @ h + of[0][held] if self.spec.expert.has_gate else hidden
                factor = hidden if self.spec.expert.has_gate else np.ones_like(hidden)
                result = down[held] @ activate(self.spec.expert.activation, gates, factor) + of[2][held]
                out[token] += result if self.spec.weighs_input else result * weight
        return out


def native(isa: str, threads: int, int8: bool) -> Callable[[], CpuKernels]:
    return lambda: CpuKernels(isa, threads, int8=int8)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("isa", ["torch", *NATIVE])
def test_mixtures_are_numpy_s(isa: str, seed: int) -> None:
    rng = np.random.default_rng([seed, *isa.encode()])
    case = Case(rng)
    x, logits = case.tokens(int(rng.choice([1, 2, 5, 17, 90])), rng)
    new = (lambda: TorchKernels(torch.float32)) if isa == "torch" else native(isa, int(rng.integers(1, 4)), False)
    expected = case.expected(x, logits)
    np.testing.assert_allclose(case.run(new(), x, logits), expected, atol=1e-5 * abs(expected).max(), rtol=1e-4)


@pytest.mark.parametrize("kinds", [("NVFP4", "NVFP4", "IQ2_S"), ("IQ3_XXS", "NVFP4", "TQ1_0")])
@pytest.mark.parametrize("isa", ["torch", *NATIVE])
def test_mixtures_of_packed_scales_are_numpy_s(isa: str, kinds: tuple[str, str, str]) -> None:
    rng = np.random.default_rng([*isa.encode(), *kinds[2].encode()])
    case = Case(rng, kinds)
    x, logits = case.tokens(17, rng)
    new = (lambda: TorchKernels(torch.float32)) if isa == "torch" else native(isa, int(rng.integers(1, 4)), False)
    expected = case.expected(x, logits)
    np.testing.assert_allclose(case.run(new(), x, logits), expected, atol=1e-5 * abs(expected).max(), rtol=1e-4)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1", "MXFP4", "NVFP4", "BF16"])
@pytest.mark.parametrize("isa", NATIVE + EMULATED)
def test_a_token_s_result_does_not_depend_on_the_others(isa: str, kind: str) -> None:
    rng = np.random.default_rng([*isa.encode(), *kind.encode()])
    case = Case(rng, (kind, kind, kind))
    x, logits = case.tokens(70, rng)
    together = case.run(native(isa, 3, True)(), x, logits)
    assert together.any()
    for part in (slice(0, 1), slice(3, 8), slice(20, 70)):
        assert np.array_equal(case.run(native(isa, 2, True)(), x[part], logits[part]), together[part])
    exact = case.run(native(isa, 1, False)(), x, logits)
    assert np.abs(together - exact).max() < 0.05 * np.abs(exact).max()
