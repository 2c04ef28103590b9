"""Ranks as threads of this process, joined by each transport, against NumPy's sums and joins."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import combinations
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from kit.dense_spec import dense_spec

from rowspan.comm.base import Comm
from rowspan.comm.connect import Computes, connect
from rowspan.comm.meeting import HostStore, Meeting
from rowspan.comm.peer_lost import PeerLostError
from rowspan.comm.shared import SharedLayout, SharedMemory
from rowspan.comm.tensors import comm_of_tensors
from rowspan.kernels.isa import native_module
from rowspan.plan.device import Device
from rowspan.plan.routes import Route, Routes, Transport
from rowspan.plan.shard import Plan, Shard, Span
from rowspan.plan.split_mode import SplitMode

T = TypeVar("T")
LOOPBACK = "127.0.0.1"
MOST_ROWS = 9000  # a message of more than 64 Ki floats, from which on ranks share the adding
BOTH = [
    Transport.SOCKETS,
    pytest.param(
        Transport.SHARED, marks=pytest.mark.skipif(native_module() is None, reason="native kernels: none here")
    ),
]
SPEC = dense_spec(n_layers=2, hidden_size=8, n_heads=1, n_kv_heads=1, head_dim=8, ffn_size=8, vocab_size=8)


def plan_of(*ranks_per_stage: int) -> Plan:
    """Stages of rows; what the ranks hold of the model does not matter here."""
    places = [(stage, tp_rank) for stage, n_ranks in enumerate(ranks_per_stage) for tp_rank in range(n_ranks)]
    none = Span(0, 0)
    shards = [
        Shard(rank, Device("cpu", rank), stage, tp_rank, none, none, ()) for rank, (stage, tp_rank) in enumerate(places)
    ]
    return Plan(SplitMode.ROW, SPEC, tuple(shards))


def on_all_ranks(
    transport: Transport, plan: Plan, work: Callable[[int, Comm[Any]], T], links: Transport | None = None
) -> list[T]:
    """Ranks are threads of this process; arrays are NumPy's. links: the transport between stages, where it is another
    one."""
    n_ranks, native = len(plan.shards), native_module()
    peers = [[-1] * n_ranks for _ in range(n_ranks)]
    for a, b in combinations(range(n_ranks), 2):
        peers[a][b], peers[b][a] = (end.detach() for end in socket.socketpair())
    layout = SharedLayout.of(native, plan, MOST_ROWS)
    memory = SharedMemory.create(layout.nbytes)
    routes = Routes(
        tuple(Route(transport, "") if len(plan.stage(stage)) > 1 else None for stage in range(plan.n_stages)),
        (Route(links or transport, ""),) * (plan.n_stages - 1),
    )
    computes = Computes(native, native.isas()[0], None)
    with ThreadPoolExecutor(n_ranks) as threads, ExitStack() as connected:
        connected.callback(os.close, memory)
        listener = connected.enter_context(socket.create_server((LOOPBACK, 0)))

        def join(rank: int) -> Comm[Any]:
            listens = os.dup(listener.fileno()) if rank == 0 else -1
            between = HostStore(LOOPBACK, listener.getsockname()[1], listens, LOOPBACK)
            meeting = Meeting(layout, 0, peers[rank], Path("unused"), between)
            return connect(plan, rank, routes, meeting, SharedMemory(memory, layout.nbytes), computes)

        comms = list(threads.map(join, range(n_ranks)))
        for comm in comms:
            connected.callback(comm.close)
        return list(threads.map(work, range(n_ranks), comms))


@pytest.mark.parametrize("transport", BOTH)
@pytest.mark.parametrize("n_ranks", [2, 3, 5])
@pytest.mark.parametrize("rows", [0, 1, 7, 40, MOST_ROWS])
def test_a_sum_is_in_place_in_the_order_of_ranks(transport: Transport, n_ranks: int, rows: int) -> None:
    """Ten sums in a row, some of them of large messages, whose ranks share the adding: more than there are slots."""
    rng = np.random.default_rng([n_ranks, rows])
    rounds = [rng.standard_normal((n_ranks, rows, SPEC.hidden_size), dtype=np.float32) for _ in range(10)]
    contributes = rng.random((10, n_ranks)) < 0.7
    contributes[:, 1] = True
    buffers = [parts.copy() for parts in rounds]

    def work(rank: int, comm: Comm[Any]) -> None:
        for buffer, who in zip(buffers, contributes, strict=True):
            total = comm.group.all_reduce(buffer[rank], bool(who[rank]))
            assert total is buffer[rank] or np.shares_memory(total, buffer[rank]) or not total.size

    on_all_ranks(transport, plan_of(n_ranks), work)
    for parts, buffer, who in zip(rounds, buffers, contributes, strict=True):
        wanted = np.zeros_like(parts[0])
        for part, counts in zip(parts, who, strict=True):
            wanted += part * counts
        for got in buffer:
            assert np.array_equal(got, wanted)


@pytest.mark.parametrize("transport", BOTH)
def test_columns_are_joined_on_the_first_row(transport: Transport) -> None:
    widths = [3, 0, 2]
    whole = np.arange(20, dtype=np.float32).reshape(4, 5)
    parts = [np.ascontiguousarray(part) for part in np.split(whole, [3, 3], axis=1)]

    def work(rank: int, comm: Comm[Any]) -> list[Any]:
        return [comm.group.gather_columns(parts[rank] + turn, widths) for turn in range(4)]

    joined = on_all_ranks(transport, plan_of(3), work)
    for turn in range(4):
        assert np.array_equal(joined[0][turn], whole + turn)
    assert joined[1:] == [[None] * 4] * 2


@pytest.mark.parametrize("links", [None, Transport.GLOO])
@pytest.mark.parametrize("transport", BOTH)
def test_hidden_states_reach_every_row_of_the_next_stage_in_order(
    transport: Transport, links: Transport | None
) -> None:
    """Five messages, of different lengths and one of none: more than a link holds at once."""
    plan = plan_of(2, 3)
    sent = [np.random.default_rng(i).standard_normal((60 * i, SPEC.hidden_size), dtype=np.float32) for i in range(5)]

    def work(rank: int, comm: Comm[Any]) -> list[bytes]:
        if comm.after is not None:
            for x in sent:
                comm.after.send(x)
            return [x.tobytes() for x in sent]
        assert comm.before is not None
        return [comm.before.receive(x.shape).tobytes() for x in sent]

    assert on_all_ranks(transport, plan, work, links) == [[x.tobytes() for x in sent]] * 5


@pytest.mark.parametrize("transport", BOTH)
def test_tensors_of_half_precision_are_summed_in_float32(transport: Transport) -> None:
    parts = torch.randn(3, 4, 8).to(torch.bfloat16)
    wanted = (parts[0].float() + parts[1].float() + parts[2].float()).to(torch.bfloat16)

    def work(rank: int, comm: Comm[Any]) -> tuple[torch.Tensor, torch.Tensor | None]:
        group = comm_of_tensors(comm, torch.device("cpu"), torch.bfloat16).group
        strided = parts[rank].t().contiguous().t()
        return group.all_reduce(strided, contributes=True), group.gather_columns(strided, [8] * 3)

    results = on_all_ranks(transport, plan_of(3), work)
    assert all(torch.equal(total, wanted) for total, _ in results)
    assert results[0][1] is not None
    assert torch.equal(results[0][1], torch.cat(tuple(parts), dim=1))


@pytest.mark.parametrize("links", [None, Transport.GLOO])
def test_tensors_between_stages_keep_their_dtype(links: Transport | None) -> None:
    x = torch.randn(5, 8).to(torch.float16)

    def work(rank: int, comm: Comm[Any]) -> torch.Tensor:
        tensors = comm_of_tensors(comm, torch.device("cpu"), torch.float16)
        if tensors.after is not None:
            tensors.after.send(x)
            return x
        assert tensors.before is not None
        return tensors.before.receive((5, 8))

    for received in on_all_ranks(Transport.SOCKETS, plan_of(1, 3), work, links)[1:]:
        assert torch.equal(received, x)


class _Doubles:
    """A group of two ranks that say the same; sums are in place, as those of shared memory are."""

    tp_size, is_leader = 2, True

    def all_reduce(self, x: Any, contributes: bool) -> Any:
        x *= 2
        return x

    def gather_columns(self, x: Any, widths: Sequence[int]) -> Any:
        return np.concatenate((x, x), axis=1)


class _Keeps:
    """A link to oneself."""

    def send(self, x: Any) -> None:
        self._sent = x.copy()

    def receive(self, shape: tuple[int, ...]) -> Any:
        return self._sent.reshape(shape)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_card_copies_from_and_to_pinned_memory_alone(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a stand-in for one: whatever goes to it is copied."""
    card = torch.device("cuda")
    pinned: dict[int, torch.Tensor] = {}
    empty, to = torch.empty, torch.Tensor.to

    def pin(*shape: Any, pin_memory: bool = False, **more: Any) -> torch.Tensor:
        made = empty(*shape, **more)
        if pin_memory:
            pinned[made.data_ptr()] = made
        return made

    def to_card(x: torch.Tensor, where: Any) -> torch.Tensor:
        if where != card:
            return to(x, where)
        assert x.dtype == torch.float32, "its type would change on the processor"
        assert x.is_pinned() or not x.numel()
        return x.clone()

    monkeypatch.setattr(torch, "empty", pin)
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda x: x.data_ptr() in pinned)
    monkeypatch.setattr(torch.Tensor, "to", to_card)
    comm = comm_of_tensors(Comm(_Doubles(), _Keeps()), card, dtype)
    assert comm.before is not None
    messages = [torch.randn(rows, 8).bfloat16().type(dtype) for rows in (5, 3, 9, 0)]
    sums = [comm.group.all_reduce(x, contributes=True) for x in messages]
    joined = [comm.group.gather_columns(x.t().contiguous().t(), [8, 8]) for x in messages]
    received = []
    for x in messages:
        comm.before.send(x)
        received.append(comm.before.receive(tuple(x.shape)))
    for x, total, both, same in zip(messages, sums, joined, received, strict=True):  # and none lies where others went
        assert both is not None
        assert all(result.dtype == dtype for result in (total, both, same))
        assert torch.equal(total, x + x)
        assert torch.equal(both, torch.cat((x, x), dim=1))
        assert torch.equal(same, x)


def test_a_peer_that_hangs_up_is_noticed() -> None:
    def work(rank: int, comm: Comm[Any]) -> None:
        if rank == 1:
            comm.close()
            return
        with pytest.raises(PeerLostError):
            comm.group.all_reduce(np.zeros((1, 8), dtype=np.float32), contributes=True)

    on_all_ranks(Transport.SOCKETS, plan_of(2), work)


def test_memory_that_ranks_share_leaves_nothing_behind() -> None:
    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count("memfd:rowspan")

    before = mapped()
    on_all_ranks(Transport.SHARED, plan_of(2), lambda rank, comm: comm.group.all_reduce(np.ones((1, 8), "f4"), True))
    assert mapped() == before


@pytest.mark.parametrize("module", ["rowspan.comm.connect", "rowspan.model.rope_table", "rowspan.worker.sampler"])
def test_what_every_cpu_rank_needs_imports_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)
