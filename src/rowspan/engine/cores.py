"""Assigns this host's cores to its ranks."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from rowspan.config import EngineConfig
from rowspan.plan.shard import Plan

SYSTEM = Path("/sys/devices/system")
PLACES = ("physical_package_id", "core_id")  # files of a core's `topology`


def share_cores(plan: Plan, config: EngineConfig, host: int = 0) -> list[tuple[tuple[int, ...], int]]:
    """Cores and number of threads for each of the plan's ranks on this host.

    The CPU devices named in the configuration get disjoint, equal sets of the cores that this process may use, whether
    the plan uses all devices or not: `none` on the first of two runs on half of the cores, as one of two cards would be
    half of the rig. With fewer cores than CPU devices, or one such device only, the system places the threads.
    """
    allowed = in_order(os.sched_getaffinity(0))
    cpus = [device for device in config.devices if device.kind == "cpu" and device.host == host]
    each = len(allowed) // max(1, len(cpus))
    threads = max(1, (config.threads or len(allowed)) // max(1, len(cpus)))
    shares: list[tuple[tuple[int, ...], int]] = []
    for shard in plan.shards:
        if shard.device not in cpus:
            shares.append(((), 1))
        elif len(cpus) == 1 or not each:
            shares.append(((), threads))
        else:
            place = cpus.index(shard.device)
            shares.append((tuple(allowed[place * each : (place + 1) * each]), threads))
    return shares


def in_order(cores: Iterable[int], system: Path = SYSTEM) -> list[int]:
    """Sort cores so that those sharing memory or a physical core are neighbours: sets of neighbours are then whole NUMA
    nodes if possible, and no two ranks get threads of one core. Sorts by number if the system does not say.

    Args:
        system: folder of the system's devices.
    """

    def place(core: int) -> tuple[int, ...]:
        cpu = system / "cpu" / f"cpu{core}"
        nodes = sorted(int(node.name.removeprefix("node")) for node in cpu.glob("node[0-9]*"))
        return nodes[0] if nodes else 0, *(_number(cpu / "topology" / name) for name in PLACES), core

    return sorted(cores, key=place)


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0
