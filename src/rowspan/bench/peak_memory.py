"""The most memory that worker processes have had."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import psutil


def peak_child_memory() -> int:
    """Sum of the most resident bytes that each living child process has had."""
    total = 0
    for child in psutil.Process().children():
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{child.pid}/status").read_text()
            peak = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
            total += int(peak[1]) * 1024 if peak else 0
    return total
