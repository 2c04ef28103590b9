"""Describes a device, and measures the most that torch gets out of it: bytes moved by a copy, operations of a bfloat16
product.

This is a program of its own (`python -m rowspan.kernels.torch.ceilings cuda:0`, started by
`bench.machine.card_ceilings`), whose hold on a card ends with it; it prints one JSON object.
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

RUNS = 10
BEGINNING = 3  # number of runs to warm up
CARD_SIDE, CARD_BYTES = 8192, 4 << 30  # of the product's matrices; of the copy, less where less is free
CPU_SIDE, CPU_BYTES = 1024, 256 << 20


def main() -> None:
    device = torch.device(sys.argv[1])
    side, copied = CPU_SIDE, CPU_BYTES
    if device.type == "cuda":
        if (device.index or 0) >= torch.cuda.device_count():
            sys.exit(f"torch {torch.__version__} sees {torch.cuda.device_count()} cards, and no {device}")
        torch.cuda.set_device(device)
        side, copied = CARD_SIDE, min(CARD_BYTES, torch.cuda.mem_get_info()[0] // 4)
    print(json.dumps({**facts(device), **copying(device, copied), **product(device, side)}))


def facts(device: torch.device) -> dict[str, Any]:
    """The device's name and memory, and the versions of the software that drives it."""
    try:
        import triton

        triton_version = triton.__version__
    except ImportError:
        triton_version = None
    versions = {"python": platform.python_version(), "torch": torch.__version__, "triton": triton_version}
    if device.type != "cuda":
        return {**versions, "device": platform.processor() or platform.machine(), "hip": None, "memory_bytes": None}
    properties: Any = torch.cuda.get_device_properties(device)
    return {
        **versions,
        "device": properties.name,
        "multiprocessors": properties.multi_processor_count,
        "architecture": getattr(properties, "gcnArchName", f"sm_{properties.major}{properties.minor}"),
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "memory_bytes": properties.total_memory,
    }


def copying(device: torch.device, n_bytes: int) -> dict[str, float]:
    """Bytes per second of a copy; bytes read and bytes written both count."""
    source = torch.empty(n_bytes, dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(source)
    return {"copy_bytes_per_second": 2 * n_bytes / seconds(device, lambda: target.copy_(source))}


def product(device: torch.device, side: int) -> dict[str, float]:
    """Operations per second of a bfloat16 product of square matrices. Their numbers are random: zeros take less power,
    and run at higher clocks.
    """
    one, other = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
    return {"product_flops": 2 * side**3 / seconds(device, lambda: one @ other)}


def seconds(device: torch.device, work: Callable[[], Any]) -> float:
    """The median time of some runs."""
    taken = []
    for _ in range(BEGINNING + RUNS):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[BEGINNING:])


if __name__ == "__main__":
    main()
