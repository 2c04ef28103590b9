"""The types that a benchmark measures with: a job is one engine with one set of options, a runner is that job,
loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rowspan.bench.grid import Workload
from rowspan.bench.model_demand import Demand
from rowspan.plan.device import Device


@dataclass(frozen=True)
class Sample:
    """The times of one repetition.

    ns: nanoseconds by the clock that is nearest to the work.
    client_ns: nanoseconds that a client of the engine's API waited, untimed parts included.
    accounted_ns: nanoseconds that the engine says it took for all that the client waited for.

    The last two are None for an engine that is measured without an API.
    """

    ns: int
    client_ns: int | None = None
    accounted_ns: int | None = None


@dataclass(frozen=True)
class LoadFacts:
    """Facts shown by starting an engine; bytes over all processes. None: the engine does not tell."""

    load_seconds: float
    weight_bytes: int | None
    cache_bytes: int | None


class Runner(Protocol):
    """A loaded job. Every error that it raises is a RowspanError."""

    facts: LoadFacts

    def prepare(self, workload: Workload, *, warm_up: bool) -> None:
        """Get ready to measure a workload: run it once untimed if asked to, and fill the cache up to its depth."""
        ...

    def measure(self, workload: Workload) -> Sample:
        """Time one repetition of the workload that was prepared."""
        ...

    def processes(self) -> Sequence[int]:
        """Ids of the engine's running processes; while it is not measured, they may be paused, together with their
        descendants.
        """
        ...

    def rouse(self) -> None:
        """Compute a little, untimed, after the processes were paused and resumed."""
        ...

    def peak_memory(self) -> int | None:
        """The most resident bytes so far, over all processes; pages that these share count once for each. None:
        unknown.
        """
        ...

    def wake_seconds(self) -> float | None:
        """Put the engine to sleep and return the seconds until it is ready again; None if it cannot sleep."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Job:
    """One engine with one set of options, not yet loaded.

    label: name shown to people.
    fields: what its rows say of engine, options and model.
    start: loads the job, which takes seconds.
    memory_bytes: approximate RAM that it will take.
    devices: devices that it computes on.
    demand: the least work that its tokens take; None if unknown.
    most_concurrent: number of sequences that it can measure at once; None: any number.
    """

    label: str
    fields: Mapping[str, Any]
    start: Callable[[], Runner]
    memory_bytes: int
    devices: tuple[Device, ...]
    demand: Demand | None
    most_concurrent: int | None = None

    @property
    def on_cards(self) -> bool:
        """Whether the job fills a card's memory, so that nothing else fits beside it."""
        return any(device.kind != "cpu" for device in self.devices)

    def can(self, workload: Workload) -> bool:
        """Whether the job can measure such a workload."""
        return self.most_concurrent is None or workload.n_concurrent <= self.most_concurrent
