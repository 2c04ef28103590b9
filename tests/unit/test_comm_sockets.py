"""Ranks as threads of this process, joined by sockets, against NumPy's sums and joins."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import combinations
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch

from rowspan.comm.peer_lost import PeerLostError
from rowspan.comm.sockets import EAGER_BYTES, SocketComm
from rowspan.comm.tensors import TensorSockets
from rowspan.model.spec import ModelSpec, RopeSpec
from rowspan.plan.device import Device
from rowspan.plan.split import Plan, Shard, Span, SplitMode

T = TypeVar("T")
SPEC = ModelSpec(
    architecture="llama",
    name="Talk",
    n_layers=2,
    hidden_size=8,
    n_heads=1,
    n_kv_heads=1,
    head_dim=8,
    ffn_size=8,
    vocab_size=8,
    context_length=8,
    norm_eps=1e-5,
    rope=RopeSpec(dim=8, base=1e4, interleaved=True),
    sliding_window=None,
    tied_embeddings=True,
)


def plan_of(*rows_per_stage: int) -> Plan:
    """Stages of rows; what the ranks hold of the model does not matter here."""
    places = [(stage, row) for stage, n_rows in enumerate(rows_per_stage) for row in range(n_rows)]
    none = Span(0, 0)
    shards = [
        Shard(rank, Device("cpu", rank), stage, row, none, none, none, none) for rank, (stage, row) in enumerate(places)
    ]
    return Plan(SplitMode.ROW, SPEC, tuple(shards))


def on_all_ranks(plan: Plan, work: Callable[[int, SocketComm], T]) -> list[T]:
    n_ranks = len(plan.shards)
    peers = [[-1] * n_ranks for _ in range(n_ranks)]
    for a, b in combinations(range(n_ranks), 2):
        peers[a][b], peers[b][a] = (end.detach() for end in socket.socketpair())

    comms = [SocketComm(plan, rank, peers[rank]) for rank in range(n_ranks)]
    with ThreadPoolExecutor(n_ranks) as threads, ExitStack() as connected:
        for comm in comms:
            connected.callback(comm.close)
        return list(threads.map(work, range(n_ranks), comms))


@pytest.mark.parametrize("n_ranks", [2, 3, 5])
@pytest.mark.parametrize("shape", [(0, 8), (1, 576), (40, 1000)])
def test_a_sum_is_in_place_in_the_order_of_ranks(n_ranks: int, shape: tuple[int, int]) -> None:
    parts = np.random.default_rng(1).standard_normal((n_ranks, *shape), dtype=np.float32)
    wanted = parts[0].copy()
    for part in parts[1:]:
        wanted = wanted + part
    buffers = parts.copy()
    sums = on_all_ranks(plan_of(n_ranks), lambda rank, comm: comm.all_reduce(buffers[rank]))
    for total, buffer in zip(sums, buffers, strict=True):
        assert total.tobytes() == wanted.tobytes()
        assert np.shares_memory(total, buffer) or not total.size
    assert parts[0, :1].nbytes < EAGER_BYTES < 40 * 1000 * 4  # both ways of exchanging were taken


def test_columns_are_joined_on_the_first_row() -> None:
    widths = [3, 0, 2]
    whole = np.arange(20, dtype=np.float32).reshape(4, 5)
    parts = [np.ascontiguousarray(part) for part in np.split(whole, [3, 3], axis=1)]
    joined = on_all_ranks(plan_of(3), lambda rank, comm: comm.gather_columns(parts[rank], widths))
    assert joined[0] is not None
    assert np.array_equal(joined[0], whole)
    assert joined[1:] == [None, None]


def test_hidden_states_reach_every_row_of_the_next_stage() -> None:
    plan = plan_of(2, 3)
    x = np.random.default_rng(2).standard_normal((300, 100), dtype=np.float32)

    def work(rank: int, comm: SocketComm) -> bytes:
        if plan.shards[rank].stage == 0:
            comm.send_stage(x)
            return x.tobytes()
        return comm.receive_stage(x.shape).tobytes()

    assert on_all_ranks(plan, work) == [x.tobytes()] * 5


def test_tensors_of_half_precision_are_summed_in_float32() -> None:
    parts = torch.randn(3, 4, 64).to(torch.bfloat16)
    wanted = (parts[0].float() + parts[1].float() + parts[2].float()).to(torch.bfloat16)

    def work(rank: int, comm: SocketComm) -> tuple[torch.Tensor, torch.Tensor | None]:
        tensors = TensorSockets(comm, torch.bfloat16)
        strided = parts[rank].t().contiguous().t()
        return tensors.all_reduce(strided), tensors.gather_columns(strided, [64] * 3)

    results = on_all_ranks(plan_of(3), work)
    assert all(torch.equal(total, wanted) for total, _ in results)
    assert results[0][1] is not None
    assert torch.equal(results[0][1], torch.cat(tuple(parts), dim=1))


def test_tensors_between_stages_keep_their_dtype() -> None:
    x = torch.randn(5, 8).to(torch.float16)

    def work(rank: int, comm: SocketComm) -> torch.Tensor:
        tensors = TensorSockets(comm, torch.float16)
        if rank == 0:
            tensors.send_stage(x)
            return x
        return tensors.receive_stage((5, 8))

    assert torch.equal(on_all_ranks(plan_of(1, 1), work)[1], x)


def test_a_peer_that_hangs_up_is_noticed() -> None:
    def work(rank: int, comm: SocketComm) -> None:
        if rank == 1:
            comm.close()
            return
        with pytest.raises(PeerLostError):
            comm.all_reduce(np.zeros((1, 8), dtype=np.float32))

    on_all_ranks(plan_of(2), work)


@pytest.mark.parametrize("module", ["rowspan.comm.connect", "rowspan.model.rope", "rowspan.worker.sampler"])
def test_what_every_cpu_rank_needs_imports_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)
