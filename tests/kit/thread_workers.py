"""A whole plan's workers as threads of this process, joined by sockets: what a test changes here, they all see."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import TypeVar

from rowspan.comm.meeting import Meeting
from rowspan.engine.blueprint import Blueprint
from rowspan.plan.routes import Route, Routes, Transport
from rowspan.scheduler.batch import StepPlan, StepResult
from rowspan.worker.worker import Worker

T = TypeVar("T")


def over_sockets(blueprint: Blueprint) -> Blueprint:
    """The same, whose ranks talk over sockets."""
    route = Route(Transport.SOCKETS, "")
    groups = tuple(None if group is None else route for group in blueprint.routes.groups)
    return replace(blueprint, routes=Routes(groups, (route,) * (blueprint.plan.n_stages - 1)))


def on_all_workers(blueprint: Blueprint, work: Callable[[Worker, int], T]) -> list[T]:
    """work(worker, rank) on every rank, each with its cache made. blueprint: see `over_sockets`."""
    n_ranks = len(blueprint.plan.shards)
    peers = [[-1] * n_ranks for _ in range(n_ranks)]
    for a, b in combinations(range(n_ranks), 2):
        peers[a][b], peers[b][a] = (end.detach() for end in socket.socketpair())

    def run(rank: int) -> T:
        meeting = Meeting(None, 0, peers[rank], Path("unused"))
        worker = Worker(replace(blueprint.setups()[rank], meeting=meeting, cores=(), threads=1))
        with closing(worker):  # also of one that fails, or the others would wait for it
            worker.create_cache(worker.profile_memory().n_blocks)
            return work(worker, rank)

    with ThreadPoolExecutor(n_ranks) as ranks:
        return list(ranks.map(run, range(n_ranks)))


def results(blueprint: Blueprint, plans: Sequence[StepPlan]) -> list[StepResult]:
    """What the output rank makes of these steps."""

    def work(worker: Worker, rank: int) -> list[StepResult]:
        found = [worker.step(plan) for plan in plans]
        return [result for result in found if isinstance(result, StepResult)]

    return on_all_workers(over_sockets(blueprint), work)[blueprint.plan.output_rank]
