"""Plans without a model, by how many rows their stages have."""

from __future__ import annotations

from rowspan.comm.probing.plan import bare_plan
from rowspan.plan.device import Device
from rowspan.plan.split import Plan


def plan_of(*rows_per_stage: int, kind: str = "cpu", first: int = 0) -> Plan:
    """Each row on a device of its own. Args: first: index of the first device."""
    devices = (Device(kind, index) for index in range(first, first + sum(rows_per_stage)))
    return bare_plan([[next(devices) for _ in range(n_rows)] for n_rows in rows_per_stage])
