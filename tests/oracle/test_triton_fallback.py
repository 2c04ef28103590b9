"""Cards that some, or all, of Triton's kernels cannot run on: torch does their work, and says so once."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from kit import triton_device  # before any kernel
from kit.fake_card import CPU, FakeRecorder
from kit.gguf_builder import TinyModel
from kit.run_ops import run_ops
from kit.single_rank import SingleRank
from torch import Tensor
from triton.compiler.errors import CompilationError
from triton.runtime.errors import InterpreterError, OutOfResources

from rowspan.comm.base import Comm
from rowspan.kernels.ops import AttentionOptions
from rowspan.kernels.torch.card_memory import CardMemory
from rowspan.kernels.torch.kernels import TorchKernels
from rowspan.kernels.triton import kernels as of_triton
from rowspan.kernels.triton import torch_path
from rowspan.kernels.triton.kernels import TritonKernels
from rowspan.kernels.triton.linear import unpacked as linear_unpacked
from rowspan.kernels.triton.linear.dispatch import linear
from rowspan.kernels.triton.linear.layout import PlanarWeight
from rowspan.kernels.triton.linear.tuned import bucket
from rowspan.kernels.triton.sampling.choose_tokens import rank_keys, torch_rank_keys
from rowspan.kernels.triton.usable import UsableKernels
from rowspan.model.spec import Activation
from rowspan.scheduler.batch import Chunk, StepPlan
from rowspan.worker.cache_size import all_widths
from rowspan.worker.step_inputs import step_inputs

DTYPE = torch.float16
STEPS = [
    [Chunk(0, tuple(range(1, 30)), 0, (5, 1), True), Chunk(1, (7,), 0, (2,), True)],
    [Chunk(0, (9,), 29, (5, 1), True), Chunk(1, (4,), 1, (2,), True)],
    [Chunk(0, (3,), 30, (5, 1), True), Chunk(1, (5, 6, 7), 2, (2,), True), Chunk(2, (8,), 0, (7,), True)],
]


def refuse(*args: Any) -> NoReturn:
    raise OutOfResources(262144, 101376, "shared memory")


def refuse_quantized(x: Tensor, weight: Any, *rest: Any, **more: Any) -> Tensor:
    return refuse() if isinstance(weight, PlanarWeight) else linear(x, weight, *rest, **more)


@pytest.fixture
def none_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "rms_norm",
        "add_rms_norm",
        "rope_and_cache",
        "attention",
        "gated",
        "activate",
        "rank_keys",
        "draw_beyond",
    ):
        monkeypatch.setattr(of_triton, name, refuse)
    monkeypatch.setattr(of_triton, "linear", refuse_quantized)
    monkeypatch.setattr(linear_unpacked, "linear", refuse)


def new_kernels(recorder: FakeRecorder | None = None) -> TritonKernels:
    return TritonKernels(DTYPE, CPU, CardMemory(CPU, DTYPE), None if recorder is None else lambda: recorder)


def rank(path: Path, kernels: Any, cache: str = "float16") -> SingleRank:
    return SingleRank(path, n_blocks=8, block_size=16, cache=cache, kernels=kernels, outputs=4)


def ops_warned_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    lines = [record.getMessage() for record in caplog.records]
    return [line.split(" kernel for ")[1].split(":")[0] for line in lines if " kernel for " in line]


@pytest.mark.parametrize(
    ("model", "cache"),
    [
        (TinyModel("llama", scheme="Q4_0", sliding_window=9), "float16"),
        (TinyModel("qwen3", scheme="Q8_0", n_kv_heads=1), "int8"),
        (TinyModel("qwen2", scheme="Q5_0", schemes={"attn_v": "F16"}), "bfloat16"),
    ],
)
@pytest.mark.usefixtures("none_can_be_had")
def test_a_model_of_which_no_kernel_can_be_had(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, model: TinyModel, cache: str
) -> None:
    path = model.write(tmp_path / "tiny.gguf")
    on_torch, fallen_back = (rank(path, kernels, cache) for kernels in (TorchKernels(DTYPE), new_kernels()))
    with caplog.at_level(logging.WARNING):
        for step in STEPS:
            torch.testing.assert_close(fallen_back.step(step), on_torch.step(step), rtol=2e-2, atol=3e-2)
    ops = ops_warned_of(caplog)
    assert len(ops) == len(set(ops)), "each once"
    assert {"attention of prompts", "attention of single tokens", "rope and cache writes", "activations"} <= set(ops)
    assert f"unpacking {model.scheme}" in ops
    for record in caplog.records:
        assert record.getMessage().startswith("interpreter cannot run Triton's kernel for ")
        assert "(OutOfResources: out of resource: shared memory, Required: 262144" in record.getMessage()


@pytest.mark.parametrize("refused", [False, True])
def test_a_layer_with_all_options(refused: bool, request: pytest.FixtureRequest) -> None:
    """Without rope, with values of another size: through Triton's kernels, and torch's in their place."""
    if refused:
        request.getfixturevalue("none_can_be_had")
    torch.manual_seed(0)
    heads, key_size, value_size = 4, 48, 32
    rows = [torch.randn(7, width).numpy() for width in (heads * key_size, 2 * key_size, 2 * value_size)]
    rows.append(torch.randn(7, heads * value_size).numpy())
    sinks = torch.randn(heads).numpy()
    inputs = step_inputs(StepPlan(0, (Chunk(0, (1,) * 6, 0, (1,), True), Chunk(1, (1,), 0, (0,), True))), 16)
    options = AttentionOptions(scale=0.2, window=4, soft_cap=3.0)

    def run(kernels: Any) -> Any:
        cache = kernels.cache(32, 2, key_size, value_size, ("float32", "float32"))
        held = kernels.vector(sinks, norm=False)

        def model(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, inputs: Any) -> Tensor:
            q = kernels.rope_and_cache(q, k, v, None, cache, inputs)
            mixed = kernels.attention(q, cache, inputs, options, held, gate)
            mixed = kernels.gated(kernels.activate(mixed, Activation.RELU2), gate, Activation.CLAMPED_SWIGLU)
            capped: Tensor = kernels.soft_cap(kernels.scale(mixed, 3.0), 5.0)
            return capped

        return torch.from_numpy(run_ops(kernels, model, *rows, inputs=inputs))

    exact = torch.float32
    result = run(TritonKernels(exact, CPU, CardMemory(CPU, exact), None))
    torch.testing.assert_close(result, run(TorchKernels(exact)), rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("none_can_be_had")
def test_torchs_attention_is_not_captured(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = TinyModel(n_layers=1).write(tmp_path / "tiny.gguf")
    recorder = FakeRecorder()
    kernels = new_kernels(recorder)
    rank(path, kernels)  # only now it is known: as profiling would have found out
    assert recorder.rows == [4, 2, 1]
    rank(path, kernels).step(STEPS[1])
    assert recorder.rows == [4, 2, 1]
    assert "torch's attention cannot be captured" in caplog.text


@pytest.mark.usefixtures("none_can_be_had")
def test_a_rank_that_captures_nothing_keeps_up_with_those_that_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = TinyModel(n_layers=1).write(tmp_path / "tiny.gguf")
    kernels = new_kernels(FakeRecorder())
    rank(path, kernels)
    widths: list[int] = []

    def attention(q: Tensor, *rest: Any) -> Tensor:
        widths.append(len(q))
        return q

    def connect(self: TritonKernels, comm: Comm[Any]) -> Comm[Any]:
        self._has_peers = True
        return comm

    monkeypatch.setattr(torch_path, "attention", attention)
    monkeypatch.setattr(TritonKernels, "connect", connect)
    rank(path, kernels)
    assert widths == [4, 2, 1]


def test_equal_tokens_are_ranked_alike() -> None:
    logits = torch.randn(3, 2000).round(decimals=1)
    logits[0, :6] = torch.tensor([0.0, -0.0, float("inf"), float("-inf"), float("nan"), 1e-45])
    assert torch.equal(rank_keys(logits), torch_rank_keys(logits))


@pytest.mark.parametrize("most", [1, 2, 17, 33, 512, 770, 4095])
def test_every_width_is_profiled(most: int) -> None:
    """What `linear` chooses a kernel by, and what Triton compiles one anew for."""

    def kinds(widths: Iterable[int]) -> set[tuple[int, bool, bool]]:
        return {(bucket(width), width == 1, width % 16 == 0) for width in widths}

    profiled = all_widths(most)
    assert kinds(profiled) == kinds(range(1, most + 1))
    assert all(1 <= width <= most for width in profiled)
    assert len(profiled) <= 2 * most.bit_length() + 2


def from_triton(error: Exception) -> Callable[[], NoReturn]:
    """Raises it where Triton's own code does."""
    names: dict[str, Any] = {"__name__": "triton.backends.nvidia.compiler", "error": error}
    exec("def compile():\n    raise error", names)
    compiled: Callable[[], NoReturn] = names["compile"]
    return compiled


CANNOT_BE_HAD = [
    from_triton(RuntimeError("PassManager::run failed")),
    from_triton(RuntimeError("Triton Error [CUDA]: no kernel image is available for execution on the device")),
    from_triton(FileNotFoundError("ptxas")),
    from_triton(CompilationError("x = 1", None, "tl.dot of this type is not supported")),
    refuse,
]
ANOTHER_MATTER = [
    from_triton(RuntimeError("Triton Error [CUDA]: out of memory")),  # the step runs out of memory
    from_triton(RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered")),  # the card is lost
    from_triton(TypeError("dynamic_func() missing 1 required positional argument: 'rows'")),  # a bug
    from_triton(InterpreterError("IndexError")),  # a bug that a test has found
]


@pytest.mark.parametrize("kernel", CANNOT_BE_HAD)
def test_only_the_variant_that_fails_is_replaced(
    kernel: Callable[[], NoReturn], caplog: pytest.LogCaptureFixture
) -> None:
    usable = UsableKernels("H200")
    for _ in range(2):
        assert usable.run("linear", kernel, lambda: "torch", variant=4) == "torch"
        assert usable.run("linear", lambda: "triton", lambda: "torch", variant=1) == "triton"
    assert usable.run("linear", lambda: "triton", lambda: "torch", variant=4) == "torch", "never tried again"
    assert usable.lacks("linear")
    assert not usable.lacks("norm")
    (record,) = caplog.records
    assert record.getMessage().startswith("H200 cannot run Triton's kernel for linear: ")


@pytest.mark.parametrize("kernel", ANOTHER_MATTER)
def test_what_is_no_fault_of_the_kernel_is_raised(kernel: Callable[[], NoReturn]) -> None:
    usable = UsableKernels("H200")
    with pytest.raises((RuntimeError, TypeError, InterpreterError)):
        usable.run("linear", kernel, lambda: "torch")
    assert not usable.lacks("linear")


def test_errors_of_our_own_are_raised() -> None:
    usable = UsableKernels("H200")
    with pytest.raises(RuntimeError, match="shapes"):
        usable.run("linear", lambda: torch.ones(2, 3) @ torch.ones(2, 3), lambda: torch.ones(1))


WITHOUT_A_DRIVER = """
import sys, torch
from pathlib import Path
from kit.single_rank import SingleRank
from rowspan.kernels.torch.card_memory import CardMemory
from rowspan.kernels.torch.kernels import TorchKernels
from rowspan.kernels.triton.kernels import TritonKernels

cpu, dtype = torch.device("cpu"), torch.float16
kernels = TritonKernels(dtype, cpu, CardMemory(cpu, dtype), None), TorchKernels(dtype)
ours, torchs = (SingleRank(Path(sys.argv[1]), kernels=each, cache="float16").logits([1, 2, 3, 4]) for each in kernels)
torch.testing.assert_close(ours, torchs, rtol=1e-2, atol=1e-2)
"""


@pytest.mark.skipif(triton_device.HAS_CARD, reason="host without a card: this one has one")
def test_tritons_own_errors_are_understood(tmp_path: Path) -> None:
    """Not interpreted, and with no card, each kernel is refused by Triton itself."""
    path = TinyModel("llama", scheme="Q8_0").write(tmp_path / "tiny.gguf")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_A_DRIVER, str(path)],
        env=environment | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("cannot run Triton's kernel for ") == 8
    assert "active drivers" in done.stderr
