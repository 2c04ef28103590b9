"""Chooses how a rank talks to the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from rowspan.comm.base import Comm, SoloComm
from rowspan.comm.distributed import DistributedComm
from rowspan.comm.sockets import SocketComm
from rowspan.plan.split import Plan


def connect(plan: Plan, rank: int, peers: Sequence[int], meeting_file: Path, device: torch.device) -> Comm:
    """Join the other ranks of a plan, all on this host and of one kind of device.

    Args:
        peers: for each rank the file descriptor of a socket to it.
        meeting_file: where cards meet to set up NCCL: the same, not yet existing, file for all ranks.
    """
    if len(plan.shards) == 1:
        return SoloComm()
    if device.type == "cpu":
        return SocketComm(plan, rank, peers)
    return DistributedComm(plan, rank, meeting_file, device)
