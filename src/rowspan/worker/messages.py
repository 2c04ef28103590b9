"""Messages between the engine and a worker process, besides step plans and results: plain data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rowspan.comm.meeting import HostStore, Meeting
from rowspan.kvcache.groups import CacheLayout
from rowspan.plan.routes import Routes
from rowspan.plan.shard import Plan

PEER_LOST = 3  # a worker's exit code: another rank hung up on it


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """The first message to a worker: everything it needs to become a rank of the engine."""

    rank: int
    plan: Plan
    routes: Routes
    model_path: Path
    dtype: str
    cpu_isa: str  # which native kernels a CPU rank uses
    cache_dtypes: tuple[str, str]
    n_blocks: int  # of the cache, at most, as `cache_layout` tells its size: a rank on a card may have room for less
    cache_layout: CacheLayout
    context_size: int
    max_tokens: int  # of one step
    max_logits: int  # tokens of a step whose logits are wanted
    cores: tuple[int, ...]  # cores this rank may use; empty: leave them alone
    threads: int
    memory_share: float = 1.0  # of a card's memory, which everyone who uses it may fill together
    sharers: int = 1  # ranks on this rank's card
    turn: int = 0  # this rank's place among them
    between: HostStore | None = None  # None: all ranks are on one host
    meeting: Meeting | None = None  # the group fills it in, and the next
    memory: int = -1  # file descriptor of the memory all ranks share


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """File bytes read since the last report."""

    nbytes: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """A rank's report that its weights are where it computes."""

    rank: int


@dataclass(frozen=True, slots=True)
class ProfileMemory:
    """An order to a rank, once all have loaded: find out how large a KV cache there is room for now, without the one
    before. Ranks on one card do so in turn, and do nothing when it is another's turn: the memory that one takes
    meanwhile would be missing for the others. tokens: number of tokens in the largest step for the time being; None: as
    large as it may ever be.
    """

    turn: int
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class MemoryProfiled:
    """The answer. n_blocks: number of cache blocks that there is room for, up to the number asked for."""

    rank: int
    n_blocks: int


@dataclass(frozen=True, slots=True)
class CreateCache:
    """An order to a rank, once all have profiled their memory: allocate the KV cache."""

    n_blocks: int


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """A rank's report that it is ready for steps.

    kernels: name of the kernels that compute.
    on_card: weights and KV cache are in a card's memory.
    ahead: it takes a step that continues from tokens that the one before has yet to choose.
    n_blocks: number of blocks in its KV cache.
    """

    rank: int
    kernels: str
    on_card: bool
    ahead: bool
    n_blocks: int
    weight_bytes: int
    cache_bytes: int
    load_seconds: float


@dataclass(frozen=True, slots=True)
class StepOutOfMemory:
    """A rank's report that it could not compute a step because its card's memory was full."""

    rank: int
    number: int


@dataclass(frozen=True, slots=True)
class Offload:
    """An order to a rank: move the weights from the card to the host's memory, and drop the KV cache."""


@dataclass(frozen=True, slots=True)
class Offloaded:
    rank: int


@dataclass(frozen=True, slots=True)
class Restore:
    """An order to a rank that is offloaded: move the weights back. It answers `Loaded`."""


@dataclass(frozen=True, slots=True)
class WorkerFailure:
    """The worker could not load or compute, and ends. `detail` is for the log."""

    rank: int
    what: str
    why: str
    fix: str
    detail: str
