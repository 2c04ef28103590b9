"""Reads the processor and the memory from /proc and /sys."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from rowspan.rig.probe.reader import Reader
from rowspan.rig.root import Root

# Names in /proc/cpuinfo of the instruction sets that matter to matrix products.
ISA_FLAGS = (
    *("avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"),
    *("avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)


@dataclass(frozen=True)
class Cpu:
    """The processors of a machine.

    model: name of the processor.
    cores: logical cores that this process may use.
    flags: those of `ISA_FLAGS` that the processor has.
    numa_nodes: 0 if the kernel does not say.
    """

    model: str
    cores: int
    flags: tuple[str, ...]
    sockets: int
    numa_nodes: int


@dataclass(frozen=True)
class Memory:
    """RAM in bytes."""

    total: int
    free: int  # bytes available without swapping


def probe_cpu(root: Root | None = None) -> Cpu:
    """Read the processor; `model` is the machine's architecture if /proc gives no name."""
    reader = Reader(root or Root())
    text = reader.text("/proc/cpuinfo") or ""
    name = re.search(r"^(?:model name|Hardware)\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    held = set(flags[1].split()) if flags else set()
    sockets = set(re.findall(r"^physical id\s*:\s*(\d+)$", text, re.MULTILINE))
    allowed = re.search(r"^Cpus_allowed_list:\s*(\S+)$", reader.text("/proc/self/status") or "", re.MULTILINE)
    return Cpu(
        model=name[1].strip() if name else os.uname().machine,
        cores=_count(allowed[1]) if allowed else text.count("processor\t:"),
        flags=tuple(flag for flag in ISA_FLAGS if flag in held),
        sockets=max(1, len(sockets)),
        numa_nodes=len(reader.root.glob("/sys/devices/system/node/node[0-9]*")),
    )


def probe_memory(root: Root | None = None) -> Memory:
    """Read how much RAM there is, or what a container's limit leaves of it; zeros if /proc does not say."""
    reader = Reader(root or Root())
    sizes = dict(re.findall(r"^(\w+):\s*(\d+) kB$", reader.text("/proc/meminfo") or "", re.MULTILINE))
    total, free = (int(sizes.get(name, 0)) << 10 for name in ("MemTotal", "MemAvailable"))
    limit = reader.text("/sys/fs/cgroup/memory.max")  # "max" where there is none
    if limit and limit.isdigit() and int(limit) < total:
        used = reader.number("/sys/fs/cgroup/memory.current") or 0
        total, free = int(limit), min(free, max(0, int(limit) - used))
    return Memory(total, free)


def _count(ranges: str) -> int:
    """The number of integers in a list of ranges such as "0-15,32"."""
    total = 0
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        total += int(last or first) - int(first) + 1
    return total
