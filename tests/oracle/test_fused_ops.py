"""Which ops become one in which family of models, so that none loses it unnoticed; and results keep their bits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from kit.native_isas import NATIVE
from kit.quantized import quantized
from kit.run_ops import run_ops

from rowspan._native import BatchDim
from rowspan.kernels.cpu.fuse import fuse
from rowspan.kernels.cpu.kernels import CpuKernels
from rowspan.kernels.cpu.trace import Op, Value
from rowspan.kernels.ops import AttentionOptions, StepInputs
from rowspan.model.spec import Activation
from rowspan.quant.panels import PackedMatrix
from rowspan.quant.stored import StoredMatrix

pytestmark = [
    pytest.mark.usefixtures("poisoned_buffers"),
    pytest.mark.skipif(not NATIVE, reason="no native kernels here"),
]

WIDTH, LAYERS, EPS = 64, 3, 1e-5
Layer = Callable[["Model", Value, Any], Value]


class Model:
    """Layers of one head, whose weights are all of one shape."""

    def __init__(self, layer: Layer, *, fused: bool = True) -> None:
        """fused: False: what is read once more after its time cannot be left out."""
        self.kernels = CpuKernels(NATIVE[0], 2, int8=True)
        self.norm = np.ones(WIDTH, np.float32)
        self._rng = np.random.default_rng(0)
        self._layer, self._fused = layer, fused
        self._seen: list[Value] = []

    def linear(self, x: Value) -> Value:
        raw = quantized("Q8_0", WIDTH, WIDTH, self._rng)
        out = self.kernels.linear(x, self.kernels.matrix(StoredMatrix.of_blocks("Q8_0", raw)))
        self._seen.append(out)
        return out

    def normed(self, x: Value) -> Value:
        return self.kernels.rms_norm(x, self.norm, EPS)

    def attend(self, h: Value, inputs: Any, gate: Value | None = None) -> Value:
        cache = self.kernels.cache(32, 1, WIDTH, WIDTH, ("float32", "float32"))
        q, k, v = self.linear(h), self.linear(h), self.linear(h)
        q = self.kernels.rope_and_cache(q, k, v, None, cache, inputs)
        return self.linear(self.kernels.attention(q, cache, inputs, AttentionOptions(), gate=gate))

    def mlp(self, h: Value) -> Value:
        return self.linear(self.kernels.gated(self.linear(h), self.linear(h), Activation.SILU))

    def __call__(self, x: Value, inputs: Any) -> Value:
        for _ in range(LAYERS):
            x = self._layer(self, x, inputs)
        if not self._fused:
            nothing = self.kernels.scale(x, 0.0)
            for product in self._seen:
                x = self.kernels.add(x, self.kernels.scale(product, 0.0))
            x = self.kernels.add(x, nothing)
        return x


def pre_norm(model: Model, x: Value, inputs: Any) -> Value:
    """Llama, Qwen, SmolLM."""
    h, x = model.kernels.add_rms_norm(x, model.attend(model.normed(x), inputs), model.norm, EPS)
    return model.kernels.add(x, model.mlp(h))


def post_norm(model: Model, x: Value, inputs: Any) -> Value:
    """Gemma 2 and 3: what is added is normed first."""
    x = model.kernels.add(x, model.normed(model.attend(model.normed(x), inputs)))
    return model.kernels.add(x, model.normed(model.mlp(model.normed(x))))


def parallel(model: Model, x: Value, inputs: Any) -> Value:
    """Command R: attention and MLP of one input."""
    h = model.normed(x)
    return model.kernels.add(model.kernels.add(x, model.attend(h, inputs)), model.mlp(h))


def scaled(model: Model, x: Value, inputs: Any) -> Value:
    """Granite: what is added is scaled first."""
    x = model.kernels.add(x, model.kernels.scale(model.attend(model.normed(x), inputs), 0.5))
    return model.kernels.add(x, model.kernels.scale(model.mlp(model.normed(x)), 0.5))


def gated_attention(model: Model, x: Value, inputs: Any) -> Value:
    h = model.normed(x)
    x = model.kernels.add(x, model.attend(h, inputs, gate=model.linear(h)))
    return model.kernels.add(x, model.mlp(model.normed(x)))


def without_gate(model: Model, x: Value, inputs: Any) -> Value:
    x = model.kernels.add(x, model.attend(model.normed(x), inputs))
    up = model.kernels.activate(model.linear(model.normed(x)), Activation.RELU2)
    return model.kernels.add(x, model.linear(up))


# Per layer: sums on their own, sums in products, pairs of products, products alone, packings.
FAMILIES: dict[Layer, tuple[int, ...]] = {
    pre_norm: (0, 2, 1, 5, 4),
    post_norm: (2, 0, 1, 5, 4),
    parallel: (0, 2, 1, 5, 3),
    scaled: (2, 0, 1, 5, 4),
    gated_attention: (0, 2, 1, 6, 4),
    without_gate: (0, 2, 0, 6, 4),
}


@pytest.mark.parametrize("layer", FAMILIES, ids=lambda layer: layer.__name__)
def test_what_is_fused(layer: Layer) -> None:
    ops: list[Any] = []
    model = Model(layer)
    x = np.random.default_rng(1).standard_normal((5, WIDTH)).astype(np.float32)
    at, tables = np.arange(len(x)), np.zeros((1, 1, 1), np.int32)
    inputs = StepInputs(at, np.array([0, len(x)]), np.array([0]), tables, 16, at)
    y = run_ops(model.kernels, model, x, inputs=inputs, ops=ops)

    kinds = Counter(op.kind for op in ops if isinstance(op, Op))
    with_residual = sum(isinstance(op, Op) and "residual" in op.inputs for op in ops)
    counts = (kinds["add"], with_residual, kinds["gated_linear"], kinds["linear"], kinds["pack"])
    assert counts == tuple(LAYERS * count for count in FAMILIES[layer])
    assert kinds["gated"] == 0

    apart = Model(layer, fused=False)
    assert np.array_equal(run_ops(apart.kernels, apart, x, inputs=inputs), y)
    assert y.any()


def matrix() -> PackedMatrix:
    rng = np.random.default_rng(2)
    return CpuKernels(NATIVE[0], 1, int8=True).matrix(
        StoredMatrix.of_blocks("Q8_0", quantized("Q8_0", WIDTH, WIDTH, rng))
    )


def kinds_of(kernels: CpuKernels, result: Value | None) -> list[str | None]:
    return [
        op.kind if isinstance(op, Op) else "callout"
        for op in fuse(kernels._trace.ops, [] if result is None else [result])
    ]


def value(kernels: CpuKernels) -> Value:
    return kernels._trace.op(None, {}, Value(BatchDim.TOKENS, WIDTH))


def test_a_sum_that_is_read_elsewhere_too_stays_apart() -> None:
    kernels = CpuKernels(NATIVE[0], 1, int8=True)
    x = value(kernels)
    product = kernels.linear(x, matrix())
    kernels.add(x, product)
    assert kinds_of(kernels, product) == [None, "pack", "linear", "add"]


def test_twice_the_same_product_is_not_its_own_residual() -> None:
    kernels = CpuKernels(NATIVE[0], 1, int8=True)
    product = kernels.linear(value(kernels), matrix())
    assert kinds_of(kernels, kernels.add(product, product)) == [None, "pack", "linear", "add"]


def test_only_what_is_there_when_a_product_is_worked_out_is_added_to_it() -> None:
    kernels = CpuKernels(NATIVE[0], 1, int8=True)
    product = kernels.linear(value(kernels), matrix())
    later = kernels.scale(value(kernels), 2.0)
    assert kinds_of(kernels, kernels.add(later, product)) == [None, "pack", "linear", None, "scale", "add"]


def test_what_other_ranks_change_is_packed_again_and_added_apart() -> None:
    kernels = CpuKernels(NATIVE[0], 1, int8=True)
    x = value(kernels)
    first = kernels.linear(x, matrix())
    kernels._trace.call(lambda rows: None, [x], [x])
    second = kernels.linear(x, matrix())
    kernels._trace.call(lambda rows: None, [second], [second])
    assert kinds_of(kernels, kernels.add(kernels.gated(first, second, Activation.SILU), second)) == [
        *(None, "pack", "linear", "callout", "pack", "linear", "callout", "gated", "add")
    ]


def test_gate_and_up_of_an_input_that_other_ranks_changed_between_stay_apart() -> None:
    kernels = CpuKernels(NATIVE[0], 1, int8=True)
    x = value(kernels)
    first = kernels.linear(x, matrix())
    kernels._trace.call(lambda rows: None, [x], [x])
    kinds = kinds_of(kernels, kernels.gated(first, kernels.linear(x, matrix()), Activation.SILU))
    assert kinds == [None, "pack", "linear", "callout", "pack", "linear", "gated"]


def test_the_sum_of_several_ranks_takes_the_residual() -> None:
    kernels = CpuKernels(NATIVE[0], 1, int8=True)
    x = value(kernels)
    total = kernels._trace.op("all_reduce", {"x": kernels.linear(x, matrix())}, Value(BatchDim.TOKENS, WIDTH))
    result = kernels.add(x, total)
    *_, last = fuse(kernels._trace.ops, [result])
    assert isinstance(last, Op)
    assert (last.kind, last.inputs["residual"], last.out) == ("all_reduce", x, result)
