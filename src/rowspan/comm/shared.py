"""Joins ranks of one host by memory that all of them map. A decoding step's message takes microseconds.

The memory has no name in the file system: it goes away with the last process that maps it, however that ends. It also
holds a progress counter per rank, by which the engine notices that a rank hangs.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowspan.plan.shard import Plan, Shard

LINE = 64  # bytes of a cache line: what one rank writes and others watch has one of its own
PAGE = 4096
SLOT = 1 << 16  # floats of a sum that are exchanged at once: half of a core's second-level cache takes both slots
SPINS = 6000
"""How often a rank polls for another's part, some 40 ns apart, before it sleeps. Within a step ranks are less far apart
than that, and waking takes 50 µs. If there are more threads than cores, spinning only keeps the others from working.
"""


def spins_before_sleep(threads: int) -> int:
    """The number of spins for a rank of this host, on whose cores `threads` threads compute."""
    return SPINS if threads <= len(os.sched_getaffinity(0)) else 0


@dataclass(frozen=True)
class Area:
    """A part of the memory: its offset in bytes, and the size of a slot in floats."""

    offset: int
    slot: int


@dataclass(frozen=True)
class SharedLayout:
    """Where each group's and each link's memory is. Pages that no message ever reaches are never allocated by the
    system.
    """

    groups: tuple[Area, ...]  # by stage
    links: tuple[Area, ...]  # from stage i to i + 1
    nbytes: int

    @classmethod
    def of(cls, native: Any, plan: Plan, max_tokens: int) -> SharedLayout:
        """Lay the memory out. Args: native: the compiled module; max_tokens: most tokens in one step."""
        offset = _up(LINE * len(plan.shards), PAGE)
        hidden = _up(max_tokens * plan.spec.hidden_size, LINE)
        groups, links = [], []
        for stage in range(plan.n_stages):
            members = plan.stage(stage)
            slot = _up(max(SLOT, plan.spec.hidden_size, *(len(shard.vocab) for shard in members)), LINE)
            groups.append(Area(offset, slot))
            offset += _up(native.TPGroup.nbytes(len(members), slot), PAGE)
            if stage + 1 < plan.n_stages:
                links.append(Area(offset, hidden))
                offset += _up(native.StageLink.nbytes(len(plan.stage(stage + 1)), hidden), PAGE)
        return cls(tuple(groups), tuple(links), offset)

    def written_by(self, native: Any, plan: Plan, shard: Shard) -> int:
        """Bytes that one rank writes with messages of the largest size: to its stage and, as leader, to the next
        stage.
        """
        tp_size, is_leader = len(plan.stage(shard.stage)), not shard.tp_rank
        nbytes: int = native.TPGroup.nbytes(1, self.groups[shard.stage].slot) if tp_size > 1 else 0
        if is_leader and shard.stage + 1 < plan.n_stages:
            receivers = len(plan.stage(shard.stage + 1))
            nbytes += native.StageLink.nbytes(receivers, self.links[shard.stage].slot)
        return nbytes


class SharedMemory:
    """The memory, mapped into this process."""

    def __init__(self, fd: int, nbytes: int) -> None:
        """Map the memory. Args: fd: from `create`, perhaps in another process; the caller keeps owning it."""
        self._map = mmap.mmap(fd, nbytes)
        self._bytes = np.frombuffer(self._map, np.uint8)

    @staticmethod
    def create(nbytes: int) -> int:
        """Allocate `nbytes` zeros, and return a file descriptor."""
        fd = os.memfd_create("rowspan")
        os.ftruncate(fd, nbytes)
        return fd

    def address(self, offset: int) -> int:
        return int(self._bytes.ctypes.data) + offset

    def progress_address(self, rank: int) -> int:
        """Address of a rank's progress counter, 64 bits."""
        return self.address(LINE * rank)

    def progress(self, n_ranks: int) -> tuple[int, ...]:
        """The progress counters of all ranks. Each grows with every task done, and more so with every call."""
        return tuple(int(count) for count in self._bytes[: LINE * n_ranks].view(np.uint64)[:: LINE // 8])


class SharedGroup:
    """A `rowspan.comm.base.TPGroup` for contiguous float32 arrays. `native` is for recorded programs, which count their
    exchanges themselves: use one or the other.
    """

    def __init__(
        self, native: Any, isa: str, memory: SharedMemory, area: Area, tp_size: int, tp_rank: int, spins: int
    ) -> None:
        self.native = native.TPGroup(isa, memory.address(area.offset), tp_size, tp_rank, area.slot, spins)
        self.tp_size = tp_size
        self.is_leader = tp_rank == 0
        self._memory = memory  # keep the memory mapped as long as this object
        self._sequence = 0

    def all_reduce(self, x: NDArray[np.float32], contributes: bool) -> NDArray[np.float32]:
        first = self._count(self.native.sum_sequences(x.size))
        self.native.all_reduce(first, x.ctypes.data, x.size, contributes, x.ctypes.data)
        return x

    def gather_columns(self, x: NDArray[np.float32], widths: Sequence[int]) -> NDArray[np.float32] | None:
        whole = np.empty((len(x), sum(widths)), np.float32) if self.is_leader else None
        first = self._count(self.native.gather_sequences(len(x), list(widths)))
        self.native.gather(first, x.ctypes.data, len(x), list(widths), 0 if whole is None else whole.ctypes.data)
        return whole

    def _count(self, sequences: int) -> int:
        """Reserve `sequences` sequence numbers and return the first. They are counted in 32 bits, and wrap around."""
        first, self._sequence = self._sequence, (self._sequence + sequences) % (1 << 32)
        return first


class SharedLink:
    """A `rowspan.comm.base.StageLink` for contiguous float32 arrays. `native` is used as in `SharedGroup`."""

    def __init__(
        self,
        native: Any,
        memory: SharedMemory,
        area: Area,
        receivers: int,
        place: int | None,
        spins: int,
        *,
        sends: bool,
    ) -> None:
        """Join two stages. Args: receivers: number of ranks in the later stage; place: this rank's index among them;
        sends: this rank leads the earlier stage.
        """
        self.native = native.StageLink(memory.address(area.offset), receivers, area.slot, spins)
        self.place = place
        self.sends = sends
        self._memory = memory  # keep the memory mapped as long as this object
        self._messages = 0

    def send(self, x: NDArray[np.float32]) -> None:
        if self.sends:
            self.native.send(self._message(), x.ctypes.data, x.size)

    def receive(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        x = np.empty(shape, np.float32)
        self.native.receive(self._message(), self.place, x.ctypes.data, x.size)
        return x

    def _message(self) -> int:
        self._messages += 1
        return self._messages - 1


def _up(n: int, unit: int) -> int:
    return -(-n // unit) * unit
