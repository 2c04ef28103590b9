"""What cards say to each other through NCCL, beside a stand-in: ranks are threads, and tensors the processor's."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from kit.bare_plan import plan_of
from torch import Tensor

from rowspan.comm import nccl
from rowspan.comm.base import Comm
from rowspan.comm.connect import Computes, connect
from rowspan.comm.meeting import Meeting
from rowspan.comm.nccl import NcclGroup, NcclLink
from rowspan.plan.routes import Route, Routes, Transport

SECONDS = 20.0  # in which all ranks of a call come to it, if they ever do


class FakeNccl:
    """torch.distributed, for threads. Stricter than NCCL: every call waits for all who take part in it."""

    def __init__(self) -> None:
        self.made: set[tuple[int, ...]] = set()  # communicators: of groups, and of pairs that send and receive
        self.calls: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._meetings: dict[object, tuple[threading.Barrier, dict[int, Tensor]]] = {}
        self._me = threading.local()

    def set_device(self, device: object) -> None:
        self._me.has_device = True

    def init_process_group(self, *, rank: int, **more: object) -> None:
        assert self._me.has_device, "NCCL would open the first card"
        self._me.rank, self._me.met = rank, Counter()

    def new_group(self, members: Sequence[int]) -> tuple[int, ...]:
        return tuple(members)

    def all_reduce(self, x: Tensor, group: tuple[int, ...]) -> None:
        x.copy_(torch.stack(list(self._meet("all_reduce", group, x).values())).sum(0))

    def broadcast(self, x: Tensor, sender: int, group: tuple[int, ...]) -> None:
        x.copy_(self._meet("broadcast", group, x)[sender])

    def send(self, x: Tensor, receiver: int) -> None:
        self._meet("send", (self._me.rank, receiver), x)

    def recv(self, x: Tensor, sender: int) -> None:
        sent = self._meet("recv", (sender, self._me.rank), x)[sender]
        assert sent.dtype == x.dtype
        x.copy_(sent)

    def destroy_process_group(self) -> None:
        pass

    def _meet(self, call: str, members: tuple[int, ...], x: Tensor) -> dict[int, Tensor]:
        """What each of them brings."""
        self._me.met[members] += 1
        with self._lock:
            self.made.add(members)
            self.calls[call] += 1
            new = threading.Barrier(len(members), timeout=SECONDS), dict[int, Tensor]()
            barrier, brought = self._meetings.setdefault((members, self._me.met[members]), new)
            brought[self._me.rank] = x.clone()
        barrier.wait()
        return brought


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeNccl:
    fake = FakeNccl()
    cuda = SimpleNamespace(set_device=fake.set_device, synchronize=lambda device: None)
    of_torch = {name: getattr(torch, name) for name in ("zeros", "empty", "cat", "bfloat16")}
    monkeypatch.setattr(nccl, "torch", SimpleNamespace(cuda=cuda, device=lambda *at: torch.device("cpu"), **of_torch))
    monkeypatch.setattr(nccl, "dist", fake)
    monkeypatch.setattr(nccl, "WARM_UP", (1, 100))
    return fake


@pytest.mark.parametrize(
    ("ranks_per_stage", "pairs"),
    [
        ((2,), {(1, 0)}),
        ((4,), {(1, 0), (2, 0), (3, 0)}),
        ((1, 1, 1), {(0, 1), (1, 2)}),
        ((2, 3), {(0, 2), (3, 2), (4, 2)}),
        ((3, 1, 2), {(0, 3), (3, 4), (5, 4)}),
    ],
)
def test_whoever_will_talk_has_talked_when_all_are_connected(
    ranks_per_stage: tuple[int, ...], pairs: set[tuple[int, int]], fake: FakeNccl, tmp_path: Path
) -> None:
    """The memory that NCCL takes for it is then gone before a cache is sized."""
    plan = plan_of(*ranks_per_stage, kind="cuda")
    n_ranks, n_stages = len(plan.shards), plan.n_stages
    route = Route(Transport.NCCL, "")
    routes = Routes(tuple(route if rows > 1 else None for rows in ranks_per_stage), (route,) * (n_stages - 1))
    computes = Computes(None, "", "bfloat16")

    known: list[set[Any]] = []
    connected = threading.Barrier(n_ranks, lambda: known.extend((set(fake.made), set(fake.calls))), SECONDS)

    def take_part(rank: int) -> Tensor | None:
        comm: Comm[Tensor]
        comm = connect(plan, rank, routes, Meeting(None, 0, (), tmp_path / "store"), None, computes)
        connected.wait()
        x = torch.ones(2, 1, dtype=torch.bfloat16)
        if comm.before is not None:
            assert isinstance(comm.before, NcclLink)
            x = comm.before.receive((2, 1))
        if isinstance(comm.group, NcclGroup):
            x = comm.group.all_reduce(x, contributes=True)
        if comm.after is not None:
            comm.after.send(x)
            return None
        return comm.group.gather_columns(x, [1] * comm.group.tp_size)

    with ThreadPoolExecutor(n_ranks) as threads:
        results = list(threads.map(take_part, range(n_ranks)))
    groups = {tuple(members) for members in _members(ranks_per_stage) if len(members) > 1}
    assert known == [groups | pairs, set(fake.calls)]
    assert fake.made == groups | pairs
    rows = ranks_per_stage[-1]
    joined = torch.full((2, rows), math.prod(ranks_per_stage), dtype=torch.bfloat16)
    for rank, result in enumerate(results):
        if rank == n_ranks - rows:
            assert result is not None
            assert torch.equal(result, joined)
        else:
            assert result is None


def _members(ranks_per_stage: tuple[int, ...]) -> list[range]:
    ends = [sum(ranks_per_stage[: stage + 1]) for stage in range(len(ranks_per_stage))]
    return [range(end - rows, end) for end, rows in zip(ends, ranks_per_stage, strict=True)]
