"""What the libraries of a card's maker are told through the environment of a rank's process."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

KFD = "dev/kfd"  # there is a driver for AMD's compute cards
RCCL_HEADERS = ("opt/rocm/include/rccl/rccl.h", "usr/include/rccl/rccl.h")
BAD_RCCL = (2, 27, 7)  # its first all-reduce never returns, or faults, on some pairs of Radeon cards


def rank_environment(environment: Mapping[str, str], root: Path = Path("/")) -> dict[str, str]:
    """The environment of a process that computes on cards. What the user has set stays as it is.

    Args:
        environment: this process's.
        root: of the file system.
    """
    return {**(_amd(root) if (root / KFD).exists() else {}), **environment}


def _amd(root: Path) -> dict[str, str]:
    # With its usual four queues an idle RDNA3 card that a process merely holds stays at full clocks: some 100 W.
    wanted = {"GPU_MAX_HW_QUEUES": "1"}
    if rccl_version(root) == BAD_RCCL:
        wanted["NCCL_PROTO"] = "Simple"
    return wanted


def rccl_version(root: Path) -> tuple[int, ...] | None:
    """Of the system's RCCL (torch may bring another); None: there is none, or it does not say."""
    for header in RCCL_HEADERS:
        try:
            text = (root / header).read_text()
        except OSError:
            continue
        numbers = [re.search(rf"#define NCCL_{part}\s+(\d+)", text) for part in ("MAJOR", "MINOR", "PATCH")]
        if all(numbers):
            return tuple(int(number[1]) for number in numbers if number)
    return None
