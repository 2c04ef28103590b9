"""Captures decoding as graphs, one for each number of sequences: a step is then one launch, instead of hundreds whose 3
to 5 µs on the processor's side are longer than most kernels run.
"""

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
        """Do the work once and capture it. Returns a function that repeats it on the same memory, and its result, whose
        memory is the same every time.
        """
        ...


def graph_sizes(most: int) -> list[int]:
    """Numbers of sequences that get a graph of their own, up to `most`: close together where small, since rounding up
    costs more there.
    """
    sizes = [1, 2, 4, *range(8, 64, 8), *range(64, 256, 16), *range(256, most, 64)]
    return [size for size in sizes if size < most] + [most]


@dataclass(frozen=True)
class _Graph:
    replay: Callable[[], None]
    result: Result


class DecodeGraphs:
    """Graphs of all sizes. The largest is captured first: the others then fit into the memory that it took."""

    def __init__(self, recorder: Recorder, sizes: list[int], work: Callable[[int], Result]) -> None:
        """Capture all graphs. Args: work: computes a step of so many sequences, from inputs that are always at the same
        place.
        """
        self._graphs: dict[int, _Graph] = {}
        for size in sorted(sizes, reverse=True):
            self._graphs[size] = _Graph(*recorder.record(lambda size=size: work(size)))  # type: ignore[misc]
        self._sizes = sorted(sizes)

    def size_for(self, sequences: int) -> int | None:
        """The size of the smallest graph that takes so many sequences; None if there is none."""
        return next((size for size in self._sizes if size >= sequences), None)

    def replay(self, size: int, sequences: int) -> Result:
        """Replay a graph and return the first rows of its result, in memory that the next replay of any size may
        overwrite.
        """
        graph = self._graphs[size]
        graph.replay()
        return None if graph.result is None else graph.result[:sequences]


class CudaRecorder:
    """Records graphs of CUDA or HIP, which share one pool of memory."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._pool: Any = None

    def record(self, work: Callable[[], Result]) -> tuple[Callable[[], None], Result]:
        # Run once before, outside of any graph: this compiles kernels, and lets libraries make their handles, NCCL its
        # channels.
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
