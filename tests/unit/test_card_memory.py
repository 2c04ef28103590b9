"""The way of weights to a card and back, as far as it can be gone without one."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from kit.fake_card import CPU, FakeCard, FakeMemory
from torch import Tensor

from rowspan.kernels.ops import DeviceMemoryError
from rowspan.kernels.torch import upload
from rowspan.kernels.torch.card_memory import full_memory_told
from rowspan.kernels.torch.upload import Uploader


@pytest.mark.parametrize("shape", [(1, 1), (7, 34), (100, 64), (3, 5000), (0, 16)])
def test_bytes_arrive_whatever_the_buffers(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    uploader = Uploader(CPU, buffer_bytes=1000)
    for cut in (slice(None), slice(0, 1), slice(shape[1] // 2, None)):
        raw = rng.integers(0, 256, shape, np.uint8)[:, cut]
        assert np.array_equal(uploader.upload(raw).numpy(), raw)
    uploader.finish()
    assert np.array_equal(uploader.upload(raw).numpy(), raw), "there is a next time"


def test_no_more_than_two_buffers_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def allocate(self: Uploader, nbytes: int) -> Tensor:
        made.append(nbytes)
        return torch.empty(nbytes, dtype=torch.uint8)

    monkeypatch.setattr(Uploader, "_allocate", allocate)
    uploader = Uploader(CPU, buffer_bytes=1000)
    for _ in range(5):
        uploader.upload(np.ones((50, 100), np.uint8))
    assert made == [1000, 1000]


def test_memory_that_cannot_be_pinned_is_said_with_the_cure(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*shape: int, pin_memory: bool = False, **options: object) -> Tensor:
        if pin_memory:
            raise RuntimeError("CUDA error: invalid argument\nand more")
        return torch.zeros(*shape, dtype=torch.uint8)

    monkeypatch.setattr(torch, "empty", refuse)
    with caplog.at_level(logging.WARNING):
        assert upload.pinned(100).numel() == 100
    assert "ulimit -l unlimited" in caplog.text
    assert "and more" not in caplog.text


@dataclass(frozen=True)
class Pair:
    a: Tensor
    b: Tensor | None
    name: str = ""


def test_parked_weights_take_nothing_and_come_back() -> None:
    memory = FakeMemory(FakeCard(10**6))
    whole = torch.arange(1000, dtype=torch.float32)
    weights = [whole[:500], whole[500:].view(20, 25)]  # of one memory
    pair = memory.hold(Pair(torch.randn(3, 4).bfloat16(), None))
    for weight in weights:
        memory.hold(weight)
    before = [weight.clone() for weight in (*weights, pair.a)]
    free, _ = memory.free_and_total()
    memory.offload()
    assert memory.free_and_total()[0] == free + 4000 + 24
    memory.restore()
    assert memory.free_and_total()[0] == free
    assert all(torch.equal(weight, old) for weight, old in zip((*weights, pair.a), before, strict=True))


def test_what_each_profiled_step_takes_is_kept_free() -> None:
    card = FakeCard(1000)
    memory = FakeMemory(card)

    def take(nbytes: int) -> None:
        card.steps = nbytes

    assert memory.profile([lambda: take(200), lambda: take(50)], share=0.9) == 1000 - 250 - 100
    assert card.steps == 0, "nothing is held"
    assert memory.profile([lambda: take(990)], share=0.9) == 0
    assert memory.profile([lambda: take(200)], share=0.9, sharers=2) == (1000 - 2 * 200 - 100) // 2


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nGPU 0 has"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("HIP out of memory"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
    ],
)
def test_a_full_memory_is_told_from_other_errors(error: RuntimeError, full: bool) -> None:
    with pytest.raises(DeviceMemoryError if full else RuntimeError) as raised, full_memory_told():
        raise error
    assert isinstance(raised.value, DeviceMemoryError) == full
    assert "\n" not in str(raised.value)
