"""The most memory that processes have had."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from pathlib import Path

import psutil


def peak_memory(processes: Iterable[psutil.Process]) -> int:
    """Sum of the most resident bytes that each of the living ones has had."""
    total = 0
    for process in processes:
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
            total += int(peak[1]) * 1024 if peak else 0
    return total


def peak_child_memory() -> int:
    """Of every child of this process."""
    return peak_memory(psutil.Process().children())
