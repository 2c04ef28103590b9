"""Finds the installed release of AMD's collective library (RCCL)."""

from __future__ import annotations

import re

from rowspan.rig.root import Root, Unreadable

HEADERS = ("/opt/rocm/include/rccl/rccl.h", "/usr/include/rccl/rccl.h")
BAD = (2, 27, 7)  # its first all-reduce never returns, or faults, on some pairs of Radeon cards


def rccl_release(root: Root) -> tuple[str, tuple[int, ...]]:
    """The path of the header file that states the release, and the release itself. Raises Unreadable."""
    path = next((path for path in HEADERS if root.has(path)), HEADERS[0])
    text = root.text(path)
    numbers = [re.search(rf"#define NCCL_{part}\s+(\d+)", text) for part in ("MAJOR", "MINOR", "PATCH")]
    if None in numbers:
        raise Unreadable(path, "it names no version")
    return path, tuple(int(number[1]) for number in numbers if number)
