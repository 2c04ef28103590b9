"""Plans without a model, by how many ranks their stages have."""

from __future__ import annotations

from rowspan.comm.probing.plan import bare_plan
from rowspan.plan.device import Device
from rowspan.plan.shard import Plan


def plan_of(*ranks_per_stage: int, kind: str = "cpu", first: int = 0) -> Plan:
    """Each rank on a device of its own. Args: first: index of the first device."""
    devices = (Device(kind, index) for index in range(first, first + sum(ranks_per_stage)))
    return bare_plan([[next(devices) for _ in range(n_ranks)] for n_ranks in ranks_per_stage])
