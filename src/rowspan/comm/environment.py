"""Environment variables for the libraries of a card's maker. Only this file sets them for a rank's process."""

from __future__ import annotations

from collections.abc import Mapping

from rowspan.rig.rccl import BAD, rccl_release
from rowspan.rig.root import Root, Unreadable

AMD_DRIVER = "/dev/kfd"  # device file of AMD's compute driver


def rank_environment(environment: Mapping[str, str], root: Root) -> dict[str, str]:
    """The environment for a process that computes on cards. Variables that the user has set are kept.

    Args:
        environment: the environment of this process.
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
    if release == BAD:  # its first all-reduce hangs or faults on some pairs of Radeon cards
        wanted["NCCL_PROTO"] = "Simple"
    return wanted
