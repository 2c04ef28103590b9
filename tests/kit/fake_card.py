"""A card that is not there: torch on the processor computes, memory is counted, and tests decide how much there is.
What raises, and what is done about it, is the real code for cards."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rowspan.kernels.ops import Forward, Step, StepInputs, StepLimits, Weight
from rowspan.kernels.torch.card_memory import CardMemory, full_memory_told
from rowspan.kernels.torch.kernels import TorchKernels
from rowspan.kernels.torch.kv_cache import Cache
from rowspan.kernels.torch.linear import DenseWeight
from rowspan.quant.cache_types import cache_bytes
from rowspan.quant.dequantize import dequantize
from rowspan.quant.stored import StoredMatrix

CPU = torch.device("cpu")


@dataclass
class FakeCard:
    """Bytes. token: what a step takes for each of its tokens; others: what other programs have taken."""

    total: int
    token: int = 1000
    others: int = 0
    caches: int = 0
    steps: int = 0  # what the allocator keeps of steps, until it is trimmed
    refused: int = 0  # how often it was full
    full_for: int = 0  # so many steps find it full, whatever there is
    step_seconds: float = 0.0  # what a step takes longer than it does here
    broken: bool = False  # steps fail, which is known when they are fetched
    log: list[str] = field(default_factory=list)

    def take(self, nbytes: int, free: int) -> None:
        if nbytes > free:
            self.refused += 1
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {nbytes} bytes.\nMore of it.")


class FakeMemory(CardMemory):
    def __init__(self, card: FakeCard) -> None:
        super().__init__(CPU, torch.float32)
        self._card = card

    def free_and_total(self) -> tuple[int, int]:
        card = self._card
        weights = sum(storage.nbytes() for storage in self._held.values())
        return card.total - card.others - card.caches - card.steps - weights, card.total

    def empty(self) -> None:
        self._card.steps = 0

    def offload(self) -> None:
        super().offload()
        self._card.log.append("offloaded")

    def restore(self) -> None:
        super().restore()
        self._card.log.append("restored")


class FakeCardKernels(TorchKernels):
    """Torch's kernels on such a card."""

    def __init__(self, card: FakeCard) -> None:
        super().__init__(torch.float32, CPU)
        self.card = card
        self.memory: FakeMemory = FakeMemory(card)

    def matrix(self, stored: StoredMatrix) -> Weight:
        # Not oneDNN's layout, whose memory cannot be told apart.
        return self.memory.hold(DenseWeight(dequantize(stored.scheme, self.memory.uploader.upload(stored.blocks))))

    @full_memory_told()
    def cache(
        self, n_slots: int, kv_heads: int, key_size: int, value_size: int, types: tuple[str, str], group: int = 0
    ) -> Cache:
        own = sum(cache_bytes(size, name) for size, name in zip((key_size, value_size), types, strict=True))
        card, nbytes = self.card, n_slots * kv_heads * own
        card.take(nbytes, self.memory.free_and_total()[0])
        cache = super().cache(n_slots, kv_heads, key_size, value_size, types, group)
        card.caches += nbytes
        weakref.finalize(cache, _give_back, card, nbytes)
        return cache

    def capture(self, forward: Forward, limits: StepLimits, *, profiling: bool = False) -> Step:
        card = self.card
        compute = super().capture(forward, limits)

        @full_memory_told()
        def step(inputs: StepInputs) -> object:
            needed = card.token * len(inputs.tokens)
            if not profiling:
                card.log.append(f"{len(inputs.tokens)} tokens")
            card.take(max(0, needed - card.steps), self.memory.free_and_total()[0])
            card.steps = max(card.steps, needed)
            if profiling:
                return compute(inputs)
            if card.full_for:
                card.full_for -= 1
                card.take(1, 0)
            return self.launch(compute, inputs)

        return step

    def launch(self, compute: Step, inputs: StepInputs) -> object:
        return compute(inputs)


class FakeRecorder:
    """Graphs that do their work anew, into the memory that their results were in when they were recorded."""

    def __init__(self) -> None:
        self.rows: list[int] = []  # of results, in the order of recording

    def record(self, work: Callable[[], Tensor | None]) -> tuple[Callable[[], None], Tensor | None]:
        result = work()
        self.rows.append(0 if result is None else len(result))

        def replay() -> None:
            again = work()
            if result is not None and again is not None:
                result.copy_(again)

        return replay, result


def _give_back(card: FakeCard, nbytes: int) -> None:
    card.caches -= nbytes
