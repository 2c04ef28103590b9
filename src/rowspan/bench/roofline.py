"""The ceilings of a machine, against which results are set. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rowspan.kernels.isa import native_module
from rowspan.rig.probe.cpu import probe_memory

READ_BYTES = 1 << 30  # far more than any cache
RUNS = 10


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
