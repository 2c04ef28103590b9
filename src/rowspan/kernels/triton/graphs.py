"""Decoding as captured graphs, one for each number of sequences: a step is then one launch, instead of hundreds whose
3 to 5 µs on the processor's side are longer than most kernels run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

Result = Tensor | None


class Recorder(Protocol):
    """Captures work on a card."""

    def record(self, work: Callable[[], Result]) -> tuple[Callable[[], None], Result]:
        """What does the work again, on the same memory, and its result, which every time is in the same place."""
        ...


def graph_sizes(most: int) -> list[int]:
    """Numbers of sequences that get a graph of their own: small ones closely, since each more costs there. Ends with
    `most`."""
    sizes = [1, 2, 4, *range(8, 64, 8), *range(64, 256, 16), *range(256, most, 64)]
    return [size for size in sizes if size < most] + [most]


@dataclass(frozen=True)
class _Graph:
    replay: Callable[[], None]
    result: Result


class DecodeGraphs:
    """Graphs of all sizes. The largest comes first: the others then fit into the memory that it took."""

    def __init__(self, recorder: Recorder, sizes: list[int], work: Callable[[int], Result]) -> None:
        """Args: work: computes a step of so many sequences, from inputs that are always at the same place."""
        self._graphs: dict[int, _Graph] = {}
        for size in sorted(sizes, reverse=True):
            self._graphs[size] = _Graph(*recorder.record(lambda size=size: work(size)))  # type: ignore[misc]
        self._sizes = sorted(sizes)

    def size_for(self, sequences: int) -> int | None:
        """The smallest graph that takes so many; None: there is none."""
        return next((size for size in self._sizes if size >= sequences), None)

    def replay(self, size: int, sequences: int) -> Result:
        """The result's first rows, in memory that the next replay of any size may overwrite."""
        graph = self._graphs[size]
        graph.replay()
        return None if graph.result is None else graph.result[:sequences]


class CudaRecorder:
    """CUDA's and HIP's graphs, which share one pool of memory."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._pool: Any = None

    def record(self, work: Callable[[], Result]) -> tuple[Callable[[], None], Result]:
        # Once before, outside of any graph: kernels are compiled, libraries make their handles, NCCL its channels.
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            work()
        torch.cuda.current_stream().wait_stream(self._stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        # thread_local: NCCL's watchdog thread asks for events meanwhile, which would spoil a "global" capture.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            result = work()
        self._pool = graph.pool()
        return graph.replay, result
