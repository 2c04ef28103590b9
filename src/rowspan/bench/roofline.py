"""The ceilings of a machine, and how near to them a result comes. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rowspan.bench.grid import Workload
from rowspan.bench.job import Job
from rowspan.kernels.isa import native_module
from rowspan.rig.probe.cpu import probe_memory

READ_BYTES = 1 << 30  # far more than any cache
RUNS = 10
READ = "read"  # the name of the ceiling of generation


@dataclass(frozen=True)
class Ceilings:
    """The most that `threads` threads reach together.

    read_bytes_per_second: from memory.
    flops: operations per second out of registers, two to a multiply-add, by number format and instruction set:
        "f32 avx2", "int8 avx512", "bf16 amx".
    """

    threads: int
    read_bytes_per_second: float
    flops: Mapping[str, float]

    def best_flops(self, isa: str | None = None) -> float:
        """The highest rate; of one instruction set only, where one is named."""
        return max(rate for unit, rate in self.flops.items() if isa is None or unit.endswith(f" {isa}"))

    @property
    def best_unit(self) -> str:
        """The name of the fastest."""
        return max(self.flops, key=lambda unit: self.flops[unit])


def measure(threads: int, read_bytes: int = READ_BYTES) -> Ceilings | None:
    """Measure them; takes seconds. None without native kernels.

    Args:
        read_bytes: size of the memory to read; less is taken where less is free.
    """
    module = native_module()
    if module is None:
        return None
    read_bytes = min(read_bytes, probe_memory().free // 4)
    return Ceilings(threads, module.read_bandwidth(threads, read_bytes, RUNS), module.operation_rates(threads, RUNS))


def ceiling_fields(ceilings: Ceilings | None, job: Job, workload: Workload, rate: float) -> dict[str, Any]:
    """A row's fields: the ceiling that bounds it, in bytes or operations per second, what is reached of it at least,
    and the share. Generation reads, prompts compute; both mixed are set against neither, nor is work on cards, whose
    ceilings are not measured.

    Args:
        rate: tokens per second, over all sequences.
    """
    demand = job.demand
    if ceilings is None or demand is None or job.on_cards or (workload.n_prompt and workload.n_gen):
        return {}
    per_sequence = rate / workload.n_concurrent
    if workload.n_gen:
        name, ceiling = READ, ceilings.read_bytes_per_second
        reached = per_sequence * demand.step_bytes(workload.n_depth + workload.n_gen / 2, workload.n_concurrent)
    else:
        name, ceiling = ceilings.best_unit, ceilings.best_flops()
        reached = rate / workload.n_prompt * demand.prompt_operations(workload.n_prompt, workload.n_depth)
    return {
        "ceiling": name,
        "ceiling_rate": ceiling,
        "work_per_second": reached,
        "ceiling_share": reached / ceiling,
    }
