"""One rank of a probe: communicates as the engine's ranks do, and compares what arrives with what was sent.

This is a program of its own (`python -m rowspan.comm.probing.probe FD`, FD being a socket to its starter,
`comm/probing/supervise.py`), since a faulty driver may hang or kill the process that tries.
"""

from __future__ import annotations

import importlib
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowspan.comm.base import Comm
from rowspan.comm.connect import Computes, connect
from rowspan.comm.hangup import end_with
from rowspan.comm.peer_lost import PeerLostError
from rowspan.comm.probing.exercises import Act, Begins, Ended, Exercise, NoDevice, ProbeSetup, Report, Wrong, exercises
from rowspan.comm.shared import SharedMemory
from rowspan.plan.device import Device

Floats = NDArray[np.float32]
EXACT_BITS = 24  # float32 represents integers of so many bits exactly


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started the probe decides when it ends
    starter = Connection(int(sys.argv[1]))
    end_with(starter.fileno())
    setup: ProbeSetup = starter.recv()
    try:
        take_part(setup, starter.send)
    except (PeerLostError, BrokenPipeError, ConnectionResetError):
        return  # the probe asks the peer


def take_part(setup: ProbeSetup, report: Callable[[Report], None]) -> None:
    """Do this rank's exercises, up to the first that fails."""
    device = setup.plan.shards[setup.rank].device
    if device.kind == "cuda" and (missing := _open_card(device)):
        report(NoDevice(missing))
        return
    comm = _join(setup)
    for number, exercise in enumerate(exercises(setup.plan, setup.routes)):
        if setup.rank not in exercise.ranks:
            continue
        report(Begins(number))
        rank = _Rank(setup, exercise, comm, device)
        for turn in range(exercise.rounds):
            wrong = rank.act(np.random.SeedSequence((setup.seed, number, turn)), turn)
            if wrong:
                report(Wrong(wrong))
                return
    report(Ended())


def _join(setup: ProbeSetup) -> Comm[Any]:
    layout = setup.meeting.layout
    memory = SharedMemory(setup.memory, layout.nbytes) if layout is not None else None
    native = importlib.import_module(setup.native) if setup.native is not None else None
    # float32 even if a model's hidden states are narrower: every bit of a word is compared.
    computes = Computes(native, native.isas()[0] if native is not None else "", "float32" if setup.tensors else None)
    comm = connect(setup.plan, setup.rank, setup.routes, setup.meeting, memory, computes)
    if not setup.tensors:
        return comm
    import torch  # seconds

    from rowspan.comm.tensors import comm_of_tensors

    device = setup.plan.shards[setup.rank].device
    return comm_of_tensors(comm, torch.device(device.kind, device.index), torch.float32)


def _open_card(device: Device) -> str:
    """Open the card in this process; returns why that is impossible, or ""."""
    import torch

    if device.index >= torch.cuda.device_count():
        return f"torch {torch.__version__} sees {torch.cuda.device_count()} cards, and no {device}"
    torch.cuda.set_device(device.index)
    return ""


class _Rank:
    """This rank's part of one exercise. Every rank can generate every other rank's data, and so knows what must
    arrive.
    """

    def __init__(self, setup: ProbeSetup, exercise: Exercise, comm: Comm[Any], device: Device) -> None:
        self._setup = setup
        self._exercise = exercise
        self._comm = comm
        self._device = device
        self._tp_rank = setup.plan.shards[setup.rank].tp_rank
        self._stage = setup.plan.shards[setup.rank].stage

    def act(self, seeds: np.random.SeedSequence, turn: int) -> str:
        """Do one round. Returns what is wrong with the data that arrived, or ""."""
        of_ranks = dict(zip(self._exercise.ranks, seeds.spawn(len(self._exercise.ranks)), strict=True))
        match self._exercise.act:
            case Act.SUM:
                return self._sum(list(of_ranks.values()), turn)
            case Act.GATHER:
                return self._gather(list(of_ranks.values()))
            case Act.HAND_OVER:
                return self._hand_over(of_ranks[self._exercise.ranks[0]])

    def _sum(self, seeds: list[np.random.SeedSequence], turn: int) -> str:
        tp_size = len(seeds)
        contribute = [
            not turn % 2 or (turn + tp_rank) % tp_size != 0 for tp_rank in range(tp_size)
        ]  # in every second round one rank does not contribute
        shape = (self._exercise.rows, self._exercise.widths[0])
        wanted = np.zeros(shape, np.float32)
        mine = wanted
        for tp_rank, seed in enumerate(seeds):
            part = _integers(seed, shape, EXACT_BITS - tp_size.bit_length())
            mine = part if tp_rank == self._tp_rank else mine
            if contribute[tp_rank]:
                wanted += part
        got = self._comm.group.all_reduce(self._given(mine), contribute[self._tp_rank])
        return _difference(self._array(got), wanted)

    def _gather(self, seeds: list[np.random.SeedSequence]) -> str:
        widths = self._exercise.widths
        parts = [_bits(seed, (self._exercise.rows, width)) for seed, width in zip(seeds, widths, strict=True)]
        got = self._comm.group.gather_columns(self._given(parts[self._tp_rank].copy()), widths)
        return "" if got is None else _difference(self._array(got), np.concatenate(parts, axis=1))

    def _hand_over(self, seed: np.random.SeedSequence) -> str:
        shape = (self._exercise.rows, self._exercise.widths[0])
        wanted = _bits(seed, shape)
        if self._stage == self._exercise.place:
            assert self._comm.after is not None, "there is a later stage"
            self._comm.after.send(self._given(wanted))
            return ""
        assert self._comm.before is not None, "there is an earlier stage"
        return _difference(self._array(self._comm.before.receive(shape)), wanted)

    def _given(self, x: Floats) -> Any:
        if not self._setup.tensors:
            return x
        import torch

        return torch.from_numpy(x).to(torch.device(self._device.kind, self._device.index))

    def _array(self, x: Any) -> Floats:
        array: Floats = x.cpu().numpy() if self._setup.tensors else x
        return array


def _integers(seed: np.random.SeedSequence, shape: tuple[int, int], bits: int) -> Floats:
    """Random integers of `bits` bits and a sign: sums of a few are exact, in whatever order a transport adds them."""
    words = _words(seed, shape).view(np.int32)
    words >>= 31 - bits
    return words.astype(np.float32)


def _bits(seed: np.random.SeedSequence, shape: tuple[int, int]) -> Floats:
    """Arbitrary floats, infinities and NaNs among them: data that are only carried must arrive bit by bit."""
    return _words(seed, shape).view(np.float32)


def _words(seed: np.random.SeedSequence, shape: tuple[int, int]) -> NDArray[np.uint32]:
    n = shape[0] * shape[1]
    doubled = np.random.Generator(np.random.SFC64(seed)).integers(0, 1 << 64, -(-n // 2), np.uint64)
    return doubled.view(np.uint32)[:n].reshape(shape)


def _difference(got: Floats, wanted: Floats) -> str:
    """The difference in words; empty if there is none."""
    arrived, sent = (np.ascontiguousarray(x).view(np.uint32).reshape(-1) for x in (got, wanted))
    if np.array_equal(arrived, sent):
        return ""
    if arrived.size != sent.size:
        return f"{arrived.size} words arrived in place of {sent.size}"
    places = np.flatnonzero(arrived != sent)
    first = places[0]
    return (
        f"{len(places)} of {sent.size} words are wrong: word {first} is 0x{arrived[first]:08x}, not 0x{sent[first]:08x}"
    )


if __name__ == "__main__":
    main()
