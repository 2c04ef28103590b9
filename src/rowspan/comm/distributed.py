"""Cards joined by torch.distributed: NCCL, or RCCL on ROCm."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import FileStore

from rowspan.comm.base import Neighbours
from rowspan.plan.split import Plan

PEER_TIMEOUT = timedelta(seconds=120)
"""How long a rank waits for its peers within a step. The engine notices a dead rank at once and kills the others; this
only bounds what happens when the engine itself is gone."""


class DistributedComm:
    """See `rowspan.comm.base.Comm`; of tensors on cards."""

    def __init__(self, plan: Plan, rank: int, meeting_file: Path, device: torch.device, dtype: torch.dtype) -> None:
        """Args: meeting_file: the same, not yet existing, file for all ranks; dtype: of the hidden states."""
        dist.init_process_group(
            backend="nccl",
            store=FileStore(str(meeting_file), len(plan.shards)),
            rank=rank,
            world_size=len(plan.shards),
            timeout=PEER_TIMEOUT,
        )
        members = {stage: [shard.rank for shard in plan.stage(stage)] for stage in range(plan.n_stages)}
        groups = {stage: dist.new_group(ranks) for stage, ranks in members.items() if len(ranks) > 1}
        self._near = Neighbours.of(plan, rank)
        self._group = groups.get(plan.shards[rank].stage)
        self._device = device
        self._dtype = dtype

    @property
    def rows(self) -> int:
        return len(self._near.members)

    @property
    def leads(self) -> bool:
        return self._near.leads

    def all_reduce(self, x: Tensor) -> Tensor:
        if self._group is not None:
            dist.all_reduce(x, group=self._group)
        return x

    def gather_columns(self, x: Tensor, widths: Sequence[int]) -> Tensor | None:
        if self._group is None:
            return x
        if not self._near.leads:
            dist.send(x.contiguous(), self._near.members[0])
            return None
        parts = [x]
        for peer, width in zip(self._near.members[1:], widths[1:], strict=True):
            part = x.new_empty(x.shape[0], width)
            dist.recv(part, peer)
            parts.append(part)
        return torch.cat(parts, dim=1)

    def send_stage(self, x: Tensor) -> None:
        if self._near.leads:
            assert self._near.next is not None, "the last stage has none after it"
            dist.send(x.contiguous(), self._near.next)

    def receive_stage(self, shape: tuple[int, ...]) -> Tensor:
        x = torch.empty(shape, dtype=self._dtype, device=self._device)
        if self._near.leads:
            assert self._near.previous is not None, "the first stage has none before it"
            dist.recv(x, self._near.previous)
        if self._group is not None:
            dist.broadcast(x, self._near.members[0], group=self._group)
        return x

    def close(self) -> None:
        dist.destroy_process_group()
