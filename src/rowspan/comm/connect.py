"""Chooses how a rank talks to the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rowspan.comm.base import Comm, SoloComm
from rowspan.comm.sockets import SocketComm
from rowspan.plan.split import Plan


def connect(plan: Plan, rank: int, peers: Sequence[int], meeting_file: Path, torch_dtype: str | None) -> Comm[Any]:
    """Join the other ranks of a plan, all on this host and of one kind of device.

    Args:
        peers: for each rank the file descriptor of a socket to it.
        meeting_file: where cards meet to set up NCCL: the same, not yet existing, file for all ranks.
        torch_dtype: of the hidden states, where ranks compute with torch; None: they do with NumPy, in float32.
    """
    if len(plan.shards) == 1:
        return SoloComm()
    device = plan.shards[rank].device
    if torch_dtype is None:
        assert device.kind == "cpu", "NumPy's arrays are in the CPU's memory"
        return SocketComm(plan, rank, peers)

    import torch  # seconds to import: only for ranks that have done so anyway

    dtype: torch.dtype = getattr(torch, torch_dtype)
    if device.kind == "cpu":
        from rowspan.comm.tensors import TensorSockets

        return TensorSockets(SocketComm(plan, rank, peers), dtype)

    from rowspan.comm.distributed import DistributedComm

    return DistributedComm(plan, rank, meeting_file, torch.device(device.kind, device.index), dtype)
