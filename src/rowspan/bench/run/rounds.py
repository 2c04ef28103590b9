"""Turns jobs into rows. Repetitions go round: each job's first, then each job's second, and so on, so that whatever
drifts (heat, clocks, a neighbour's load) affects all alike and no job is measured only in the machine's good minutes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from rowspan.bench.grid import Workload
from rowspan.bench.job import Job, Runner, Sample
from rowspan.bench.machine.circumstances import (
    MachineState,
    StolenTime,
    look,
    machine_fields,
    other_load,
    state_fields,
    this_machine,
)
from rowspan.bench.machine.energy import Energy, meters
from rowspan.bench.machine.link_watch import LinkWatch
from rowspan.bench.machine.roofline import Roofs, ceiling_fields
from rowspan.bench.results.fields import complete
from rowspan.bench.results.repetitions import result_fields
from rowspan.bench.run.pool import Others, Pool, fit_together
from rowspan.bench.run.time_left import TimeLeft
from rowspan.errors import RowspanError, UsageError

COOLING_PAUSE = 2.0  # seconds between two looks at the temperature
LONGEST_COOLING = 600.0


@dataclass(frozen=True)
class Procedure:
    """How to measure.

    delay: seconds of rest before every workload.
    cool_below: degrees Celsius below which the hottest sensor of processor and cards must be before a repetition; None:
        do not wait.
    wake: also measure how long each job takes to wake.
    pause_others: pause engines that are loaded while another is measured.
    """

    repetitions: int = 5
    warm_up: bool = True
    delay: float = 0.0
    cool_below: float | None = None
    wake: bool = False
    pause_others: bool = True


@dataclass(frozen=True)
class RoundsProgress:
    """Progress in turns. seconds_left: None as long as it cannot be estimated."""

    text: str
    done: int
    total: int
    seconds_left: float | None


@dataclass
class _Cell:
    """The measurements so far of one job and workload."""

    job: Job
    workload: Workload
    runner: Runner
    started: str  # start time in ISO 8601, UTC
    other_load: float
    before: MachineState
    after: MachineState
    peak_memory: int | None = None
    links: str | None = None
    others: Others = field(default_factory=Others)  # the most engines that were loaded beside it
    samples: list[Sample] = field(default_factory=list)
    stolen: list[float] = field(default_factory=list)
    joules: float | None = None


def turns(
    jobs: Sequence[Job], work: Sequence[Workload], repetitions: int, together: bool
) -> list[tuple[Job, Workload]]:
    """The order in which jobs measure workloads. If not all jobs can be loaded at once, each does all its work every
    time it is loaded.
    """
    if together:
        order = ((job, workload) for workload in work for _ in range(repetitions) for job in jobs)
    else:
        order = ((job, workload) for _ in range(repetitions) for job in jobs for workload in work)
    return [(job, workload) for job, workload in order if job.can(workload)]


def measure_jobs(
    jobs: Sequence[Job],
    work: Sequence[Workload],
    procedure: Procedure,
    on_progress: Callable[[RoundsProgress], None],
    roofs: Roofs | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield rows with all `fields.FIELDS`, each as soon as its last repetition is done. After Ctrl-C the rows that have
    at least one repetition are yielded, and then KeyboardInterrupt goes on. A job that fails is left out from then on,
    and its error is raised at the end.

    Args:
        roofs: the machine's ceilings, if they are known.

    Raises:
        UsageError: it should wait for a temperature that cannot be read.
        RowspanError: a job could not be loaded, or failed.
    """
    with _Bench(jobs, work, procedure, on_progress, roofs or Roofs()) as bench:
        yield from bench.rows()


class _Bench:
    def __init__(
        self,
        jobs: Sequence[Job],
        work: Sequence[Workload],
        procedure: Procedure,
        on_progress: Callable[[RoundsProgress], None],
        roofs: Roofs,
    ) -> None:
        self._procedure, self._on_progress, self._roofs = procedure, on_progress, roofs
        self._root, rig = this_machine()
        self._machine = machine_fields(rig, self._root)
        self._cards = rig.compute_cards
        self._energy = meters(self._root, self._cards)
        if procedure.cool_below is not None and look(self._root).hottest is None:
            raise UsageError(
                "--cool-below cannot be kept.", why="No temperature can be read here.", fix="Use --delay SECONDS."
            )
        self._jobs = jobs
        self._turns = turns(jobs, work, procedure.repetitions, together := fit_together(jobs))
        self._cells: dict[tuple[int, Workload], _Cell] = {}  # cells that have been begun, and have no row yet
        self._left = TimeLeft((id(job), workload) for job, workload in self._turns)
        self._pool = Pool(together, self._tell, pause_others=procedure.pause_others)
        self._prepared: dict[int, Workload] = {}
        self._done = 0
        self._failures: dict[int, RowspanError] = {}
        self._wakes: dict[int, float | None] = {}
        self._idle = _IdleWatts(self._energy)

    def rows(self) -> Iterator[dict[str, Any]]:
        self._idle.measure(self._jobs, self._tell)
        try:
            for job, workload in self._turns:
                if id(job) not in self._failures:
                    yield from self._timed_turn(job, workload)
                self._done += 1
        except KeyboardInterrupt:
            yield from self._unfinished()
            raise
        if self._failures:
            yield from self._unfinished()
            raise next(iter(self._failures.values()))

    def _timed_turn(self, job: Job, workload: Workload) -> Iterator[dict[str, Any]]:
        try:
            cell = self._turn(job, workload)
        except RowspanError as error:
            self._failures[id(job)] = error
            self._tell(f"{job.label}: {error.what} It is left out.")
            self._pool.drop(job)  # otherwise it might be started again during another job's turn
            return
        if len(cell.samples) == self._procedure.repetitions:
            yield self._row(self._cells.pop((id(job), workload)))

    def _unfinished(self) -> Iterator[dict[str, Any]]:
        for cell in self._cells.values():
            if cell.samples:
                yield self._row(cell)

    def _turn(self, job: Job, workload: Workload) -> _Cell:
        if not self._pool.holds(job):
            self._prepared.pop(id(job), None)
        runner = self._pool.runner(job)
        self._tell(f"{job.label}: {workload.name}")
        cell = self._cells.get((id(job), workload)) or self._begin(job, workload, runner)
        cell.runner = runner  # a new runner if the job was loaded again
        cell.others = max(cell.others, self._pool.others)
        if self._procedure.wake and id(job) not in self._wakes:
            self._tell(f"{job.label}: asleep, and waking")
            self._wakes[id(job)] = runner.wake_seconds()
        if self._prepared.get(id(job)) != workload:
            self._prepare(cell)
        self._cool(job)
        started, stolen, start = time.monotonic(), StolenTime(), self._energy.read()
        cell.samples.append(runner.measure(workload))
        self._left.note(id(job), workload, time.monotonic() - started)
        stop, share = self._energy.read(), stolen.share()
        cell.stolen += [] if share is None else [share]
        joules = self._energy.joules(start, stop)
        cell.joules = None if joules is None else (cell.joules or 0.0) + joules
        cell.after, cell.peak_memory = look(self._root), runner.peak_memory()
        return cell

    def _begin(self, job: Job, workload: Workload, runner: Runner) -> _Cell:
        if self._procedure.delay:
            self._tell(f"{job.label}: {workload.name}: resting")
            time.sleep(self._procedure.delay)
        now, state = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), look(self._root)
        cell = _Cell(job, workload, runner, now, other_load(), state, state)
        self._cells[id(job), workload] = cell
        return cell

    def _prepare(self, cell: _Cell) -> None:
        with LinkWatch(self._root) if self._cards else nullcontext() as watch:
            cell.runner.prepare(cell.workload, warm_up=self._procedure.warm_up)
        if watch is not None:
            cell.links = watch.seen
        self._prepared[id(cell.job)] = cell.workload

    def _cool(self, job: Job) -> None:
        wanted, deadline = self._procedure.cool_below, time.monotonic() + LONGEST_COOLING
        while wanted is not None and time.monotonic() < deadline:
            hottest = look(self._root).hottest
            if hottest is None or hottest < wanted:
                return
            self._tell(f"{job.label}: cooling, {hottest:.0f} °C")
            time.sleep(COOLING_PAUSE)

    def _row(self, cell: _Cell) -> dict[str, Any]:
        job, workload = cell.job, cell.workload
        results, facts = result_fields(workload, cell.samples), cell.runner.facts
        tokens = workload.n_tokens * len(cell.samples)
        return complete(
            {
                **self._machine,
                **job.fields,
                **asdict(workload),
                **results,
                **state_fields(cell.before, cell.after),
                **ceiling_fields(self._roofs.of(job), job, workload, results["median_ts"]),
                "test_time": cell.started,
                "load_seconds": round(facts.load_seconds, 3),
                "weight_bytes": facts.weight_bytes,
                "cache_bytes": facts.cache_bytes,
                "peak_memory_bytes": cell.peak_memory,
                "other_load": cell.other_load,
                "stolen_share": sum(cell.stolen) / len(cell.stolen) if cell.stolen else None,
                "card_links_loaded": cell.links,
                "other_engines_paused": cell.others.paused,
                "other_engines_running": cell.others.running,
                "energy_meters": self._energy.names,
                "joules_per_token": None if cell.joules is None else cell.joules / tokens,
                "wake_seconds": self._wakes.get(id(job)),
                "idle_watts_empty": self._idle.empty,
                "idle_watts_loaded": self._idle.loaded.get(id(job)),
            }
        )

    def _tell(self, text: str) -> None:
        self._on_progress(RoundsProgress(text, self._done, len(self._turns), self._left.seconds()))

    def __enter__(self) -> _Bench:
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.close()


class _IdleWatts:
    """The power that the machine draws at rest: with nothing loaded, and with each job alone."""

    def __init__(self, energy: Energy) -> None:
        self._energy = energy
        self.empty: float | None = None
        self.loaded: dict[int, float] = {}

    def measure(self, jobs: Sequence[Job], tell: Callable[[str], None]) -> None:
        """Load every job once and measure its idle power; does nothing without a meter."""
        if self._energy.names is None:
            return
        tell("idle, nothing loaded")
        self.empty = self._energy.watts()
        for job in jobs:
            tell(f"{job.label}: loading, to see what it draws idle")
            runner = job.start()
            try:
                watts = self._energy.watts()
            finally:
                runner.close()
            if watts is not None:
                self.loaded[id(job)] = watts
