"""Measures a machine's ceilings, and how close a result comes to them. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rowspan.bench.grid import Workload
from rowspan.bench.job import Job
from rowspan.bench.model_demand import Demand
from rowspan.kernels.isa import native_module
from rowspan.plan.device import Device
from rowspan.rig.probe.cpu import probe_memory

READ_BYTES = 1 << 30  # far more than any cache
RUNS = 10
READ, COMPUTE = "read", "compute"
USUAL_BATCH = 512  # tokens per batch, for engines that do not tell theirs


@dataclass(frozen=True)
class Ceilings:
    """The highest rates that a device reaches.

    of: the device and how it was used: "2 threads", "cuda:0 (NVIDIA H200)".
    read_bytes_per_second: rate of reading memory; for a card, of what a copy reads and writes.
    flops: operations per second, two for a multiply-add. On a processor operands are in registers, and the key is the
        number format with the instruction set ("f32 avx2", "int8 avx512", "bf16 amx"); on a card the key is "bf16
        product", measured by torch with large matrices.
    """

    of: str
    read_bytes_per_second: float
    flops: Mapping[str, float]

    def best_flops(self, isa: str | None = None) -> float:
        """The highest rate of operations; if an instruction set is given, the highest of that set."""
        return max(rate for unit, rate in self.flops.items() if isa is None or unit.endswith(f" {isa}"))

    def flops_of(self, number: str, isa: str) -> float:
        """The rate for a number format in an instruction set's kernels, which take what the set lacks from AVX-512."""
        return self.flops.get(f"{number} {isa}") or self.flops.get(f"{number} avx512") or self.best_flops()

    @property
    def best_unit(self) -> str:
        """The key of `flops` with the highest rate."""
        return max(self.flops, key=lambda unit: self.flops[unit])


def measure(threads: int, read_bytes: int = READ_BYTES) -> Ceilings | None:
    """Measure the processor's ceilings, which takes seconds. None without native kernels.

    Args:
        read_bytes: size of the memory to read; less is used if less is free.
    """
    module = native_module()
    if module is None:
        return None
    read_bytes = min(read_bytes, probe_memory().free // 4)
    return Ceilings(
        f"{threads} threads", module.read_bandwidth(threads, read_bytes, RUNS), module.operation_rates(threads, RUNS)
    )


@dataclass(frozen=True)
class Roofs:
    """The ceilings of one machine: those of its processor by number of threads, those of its cards by device."""

    threads: Mapping[int, Ceilings] = field(default_factory=dict)
    cards: Mapping[Device, Ceilings] = field(default_factory=dict)

    def of(self, job: Job) -> Ceilings | None:
        """The ceilings of all devices that a job computes on, together; None if they are unknown, or if the job
        computes on a processor beside cards, which do different parts of the work.
        """
        if not job.on_cards:
            return self.threads.get(job.fields["n_threads"])
        cards = [self.cards[device] for device in job.devices if device in self.cards]
        return _together(cards) if len(cards) == len(job.devices) else None


def _together(parts: Sequence[Ceilings]) -> Ceilings:
    flops = {unit: sum(part.flops[unit] for part in parts) for unit in parts[0].flops}
    return Ceilings(", ".join(part.of for part in parts), sum(part.read_bytes_per_second for part in parts), flops)


def ceiling_fields(ceilings: Ceilings | None, job: Job, workload: Workload, rate: float) -> dict[str, Any]:
    """Fields of a row: both ceilings, the least that is read and computed per second, and the share of the ceiling that
    bounds such work: reading for generation, computing for prompts. A workload that mixes both gets no share.

    Args:
        rate: tokens per second, over all sequences.
    """
    demand = job.demand
    if ceilings is None or demand is None or (workload.n_prompt and workload.n_gen):
        return {}
    least = _generation(demand, workload) if workload.n_gen else _prompt(demand, workload, job.fields["n_ubatch"])
    bytes_read, operations = (amount * rate / workload.n_tokens for amount in least)
    is_reading = bool(workload.n_gen)
    share = bytes_read / ceilings.read_bytes_per_second if is_reading else operations / ceilings.best_flops()
    return {
        "read_ceiling": ceilings.read_bytes_per_second,
        "operations_ceiling": ceilings.best_flops(),
        "operations_unit": ceilings.best_unit,
        "bytes_per_second": bytes_read,
        "operations_per_second": operations,
        "ceiling": READ if is_reading else COMPUTE,
        "ceiling_share": share,
    }


def _generation(demand: Demand, workload: Workload) -> tuple[float, float]:
    """Bytes and operations of a whole generation workload: each step gives every sequence one token."""
    context = workload.n_depth + workload.n_gen / 2
    operations = demand.token_operations(context) * workload.n_tokens
    return workload.n_gen * demand.step_bytes(context, workload.n_concurrent), operations


def _prompt(demand: Demand, workload: Workload, n_ubatch: int | None) -> tuple[float, float]:
    """Bytes and operations of a whole prompt workload: each batch reads the weights and the KV cache before it once."""
    batches = math.ceil(workload.n_prompt * workload.n_concurrent / (n_ubatch or USUAL_BATCH))
    operations = demand.prompt_operations(workload.n_prompt, workload.n_depth) * workload.n_concurrent
    return batches * demand.step_bytes(workload.n_depth + workload.n_prompt / 2), operations
