"""What the libraries of a card's maker are told through the environment of a rank's process: the one place for it."""

from __future__ import annotations

from collections.abc import Mapping

from rowspan.rig.rccl import BAD, rccl_release
from rowspan.rig.root import Root, Unreadable

AMD_DRIVER = "/dev/kfd"  # of cards that compute


def rank_environment(environment: Mapping[str, str], root: Root) -> dict[str, str]:
    """The environment of a process that computes on cards. What the user has set stays as it is.

    Args:
        environment: this process's.
        root: the machine.
    """
    return {**(_amd(root) if root.has(AMD_DRIVER) else {}), **environment}


def _amd(root: Root) -> dict[str, str]:
    # With its usual four queues an idle RDNA3 card that a process merely holds stays at full clocks: some 100 W.
    wanted = {"GPU_MAX_HW_QUEUES": "1"}
    try:
        _, release = rccl_release(root)
    except Unreadable:
        return wanted
    if release == BAD:  # its first sum never returns, or faults, on some pairs of Radeon cards
        wanted["NCCL_PROTO"] = "Simple"
    return wanted
