"""Tries a plan's transports: starts ranks without a model, each in a process that can be killed. They join as the
engine's do and compare what arrives with what was sent. No torch in this process.
"""

from __future__ import annotations

import math
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from rowspan.comm.meeting import Meeting
from rowspan.comm.mesh import socket_mesh
from rowspan.comm.probing.exercises import (
    Act,
    Begins,
    Ended,
    Exercise,
    NoDevice,
    ProbeSetup,
    Wrong,
    exercises,
    largest_rows,
)
from rowspan.comm.shared import spins_before_sleep
from rowspan.comm.spawn import share_memory, spawn_rank
from rowspan.plan.routes import Routes, Transport
from rowspan.plan.shard import Plan

COMMAND: tuple[str, ...] = (sys.executable, "-P", "-m", "rowspan.comm.probing.probe")
SECONDS, SECONDS_WITH_TORCH = 20.0, 120.0
"""A probe counts as hung after so many seconds without a report. A message takes milliseconds; importing torch and
joining NCCL take seconds.
"""
LOOK_SECONDS = 0.5
EXIT_SECONDS = 5.0  # time for a dead rank to leave its exit status, and for a killed one to end


@dataclass(frozen=True)
class Fault:
    """A transport that failed, and in words how it failed."""

    transport: Transport
    what: str


class NotProbed(Exception):
    """A device of the plan does not exist; the message says which. Nothing is known about the transports."""


def probe_routes(plan: Plan, routes: Routes, native: Any, *, tensors: bool = False) -> Fault | None:
    """Have every transport of these routes carry random data, in several sizes of each kind of message.

    Args:
        native: the compiled module; None if there is none.
        tensors: CPU ranks send torch's tensors, too, as cards do.

    Returns:
        The first fault; None if everything arrived as sent.

    Raises:
        NotProbed: a device of the plan does not exist.
    """
    todo = exercises(plan, routes)
    if not todo:
        return None
    cards = any(shard.device.kind == "cuda" for shard in plan.shards)
    with _running(plan, routes, native, todo, tensors=tensors or cards) as ranks:
        return _Probe(todo, routes, ranks, SECONDS_WITH_TORCH if tensors or cards else SECONDS).watch()


@dataclass
class _Rank:
    """A rank's process. begun: number of the exercise that it is at, -1 while it joins the others."""

    process: subprocess.Popen[bytes]
    link: Connection
    log: Path
    begun: int = -1


class _Probe:
    def __init__(self, todo: Sequence[Exercise], routes: Routes, ranks: Sequence[_Rank], patience: float) -> None:
        self._todo = todo
        self._ranks = ranks
        self._patience = patience
        # If ranks cannot even join, blame NCCL: only it needs setting up; sockets and shared memory exist from the
        # start.
        self._joins = Transport.NCCL if routes.uses(Transport.NCCL) else todo[0].transport

    def watch(self) -> Fault | None:
        under_way = {rank.link: number for number, rank in enumerate(self._ranks)}
        left: list[int] = []  # ranks that left because another had hung up
        while under_way:
            ready = self._wait(list(under_way))
            if not ready:
                slowest = min(under_way.values(), key=lambda number: self._ranks[number].begun)
                return self._fault(slowest, f"no end in {self._patience:g} s")
            for link in ready:
                assert isinstance(link, Connection)
                number = under_way[link]
                try:
                    report = link.recv()
                except (EOFError, OSError):
                    del under_way[link]
                    if how := self._death(number):
                        return self._fault(number, f"rank {number} {how}")
                    left.append(number)
                    continue
                match report:
                    case Begins(exercise):
                        self._ranks[number].begun = exercise
                    case Wrong(how):
                        return self._fault(number, f"rank {number} returned wrong data on it: {how}")
                    case NoDevice(why):
                        raise NotProbed(why)
                    case Ended():
                        del under_way[link]
        return self._fault(left[0], f"rank {left[0]} lost another rank") if left else None

    def _wait(self, links: Sequence[Connection]) -> list[Any]:
        """Wait for reports and return the links that have one; none if none comes. The waiting time is counted in
        polls, because this process may itself be stopped meanwhile.
        """
        for _ in range(math.ceil(self._patience / LOOK_SECONDS)):
            if ready := wait(links, LOOK_SECONDS):
                return ready
        return []

    def _fault(self, number: int, how: str) -> Fault:
        begun = self._ranks[number].begun
        exercise = self._todo[begun] if begun >= 0 else None
        return Fault(exercise.transport if exercise else self._joins, f"{exercise or 'joining'}: {how}")

    def _death(self, number: int) -> str:
        """How a rank failed; empty if it left because another rank had failed."""
        rank = self._ranks[number]
        try:
            code = rank.process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            return "hung up"
        if code < 0:
            return f"was killed by signal {-code}"
        last = (rank.log.read_text(errors="replace").strip().splitlines() or [""])[-1]
        return f"ended with status {code} {last}".strip() if code else ""


@contextmanager
def _running(
    plan: Plan, routes: Routes, native: Any, todo: Sequence[Exercise], *, tensors: bool
) -> Iterator[list[_Rank]]:
    """Run all ranks for the length of the block."""
    folder = Path(tempfile.mkdtemp(prefix="rowspan-probe-"))
    ranks: list[_Rank] = []
    try:
        with ExitStack() as spawning:
            rows = max(largest_rows(todo, Act.SUM), largest_rows(todo, Act.HAND_OVER))
            layout, memory = share_memory(native, plan, rows, spawning)
            meetings = [
                Meeting(layout, spins_before_sleep(len(plan.shards)), peers, folder / "store")
                for peers in socket_mesh(range(len(plan.shards)), len(plan.shards), spawning)
            ]
            name = native.__name__ if native is not None else None
            setup = ProbeSetup(0, plan, routes, meetings[0], memory, name, tensors, secrets.randbits(64))
            for number, meeting in enumerate(meetings):
                ranks.append(_spawn(replace(setup, rank=number, meeting=meeting), folder / f"rank-{number}"))
        yield ranks
    finally:
        for rank in ranks:
            rank.link.close()
            rank.process.kill()
        for rank in ranks:
            with suppress(subprocess.TimeoutExpired):  # one in the driver ends when that lets it
                rank.process.wait(EXIT_SECONDS)
        shutil.rmtree(folder, ignore_errors=True)


def _spawn(setup: ProbeSetup, log: Path) -> _Rank:
    device = setup.plan.shards[setup.rank].device
    inherited = (setup.memory, *setup.meeting.peers)
    with log.open("wb") as errors:
        rank = spawn_rank(COMMAND, setup, device, inherited, threads=1, output=subprocess.DEVNULL, errors=errors)
    return _Rank(rank.process, rank.link, log)
