"""The most memory that processes have used so far."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from pathlib import Path

import psutil


def peak_memory(processes: Iterable[psutil.Process]) -> int:
    """Sum over the living processes of the most resident bytes that each has had."""
    total = 0
    for process in processes:
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
            total += int(peak[1]) * 1024 if peak else 0
    return total


def peak_child_memory() -> int:
    """The most resident bytes of this process's children, summed."""
    return peak_memory(psutil.Process().children())
