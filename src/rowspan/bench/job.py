"""What a benchmark measures with: a job is one engine with one set of options, a runner that job, loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rowspan.bench.grid import Workload
from rowspan.bench.model_demand import Demand
from rowspan.plan.device import Device


@dataclass(frozen=True)
class Sample:
    """One repetition. ns: nanoseconds, by the clock nearest to the work. client_ns: of the same, as a client of the
    engine's API waited for it, untimed parts included; accounted_ns: what the engine says that it took for all that.
    Both are None where there is no API in between."""

    ns: int
    client_ns: int | None = None
    accounted_ns: int | None = None


@dataclass(frozen=True)
class LoadFacts:
    """What starting showed; bytes over all processes. None: the engine does not tell."""

    load_seconds: float
    weight_bytes: int | None
    cache_bytes: int | None


class Runner(Protocol):
    """A job that is loaded. Every error is a RowspanError."""

    facts: LoadFacts

    def prepare(self, workload: Workload, *, warm_up: bool) -> None:
        """Get ready to measure it: run it once untimed if asked to, and fill the cache up to its depth."""
        ...

    def measure(self, workload: Workload) -> Sample:
        """One repetition of what was prepared."""
        ...

    def processes(self) -> Sequence[int]:
        """Ids of those that run now: they may be paused while it is not measured, with all that descends from them."""
        ...

    def rouse(self) -> None:
        """Its processes were paused, and run again: have them do a little, untimed."""
        ...

    def peak_memory(self) -> int | None:
        """Most resident bytes so far, over all processes; pages they share count for each. None: not known."""
        ...

    def wake_seconds(self) -> float | None:
        """Put it to sleep, and tell how long it takes to be ready again; None: it does not sleep."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Job:
    """label: for people. fields: of its rows, those of engine, options and model. start: loads it; takes seconds.
    memory_bytes: what it will take of RAM, about. devices: those that it computes on. demand: the least work of its
    tokens; None where that is not known. most_concurrent: how many sequences it can measure at once; None: any
    number."""

    label: str
    fields: Mapping[str, Any]
    start: Callable[[], Runner]
    memory_bytes: int
    devices: tuple[Device, ...]
    demand: Demand | None
    most_concurrent: int | None = None

    @property
    def on_cards(self) -> bool:
        """It fills a card's memory, so that nothing fits beside it."""
        return any(device.kind != "cpu" for device in self.devices)

    def can(self, workload: Workload) -> bool:
        """Whether it measures such work."""
        return self.most_concurrent is None or workload.n_concurrent <= self.most_concurrent
