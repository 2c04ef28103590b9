"""Joins cards by NCCL, or RCCL on ROCm, through torch.distributed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import Store

from rowspan.plan.shard import Plan

PEER_TIMEOUT = timedelta(seconds=120)
"""The longest time that a rank waits for its peers within a step. The engine notices a dead rank at once and kills the
others; this only bounds the wait if the engine itself is gone.
"""
WARM_UP = (1, 8 << 20)
"""Lengths of the first all-reduces. Long messages may take other ways between cards, which NCCL opens when it needs
them.
"""


class Nccl:
    """Joins all cards of a plan. Groups and links that carry tensors are made from it.

    NCCL allocates memory, some 100 MB, when cards first communicate, and again for each pair that sends and receives.
    This must have happened before the KV cache is sized: groups and links make each of their calls once when they are
    made. Ranks make them in the order of the stages, so that none waits in a circle. They wait for each call to end:
    one that hangs must not hold up another transport, whose fault it would seem.
    """

    def __init__(self, plan: Plan, rank: int, store: Store, torch_dtype: str) -> None:
        """Join the cards. Args: store: where all cards meet; torch_dtype: the hidden states' type."""
        cards = [shard.rank for shard in plan.shards if shard.device.kind == "cuda"]
        device = plan.shards[rank].device
        self.device = torch.device(device.kind, device.index)
        self.dtype: torch.dtype = getattr(torch, torch_dtype)
        self.card = cards.index(rank)  # NCCL counts cards, not ranks of the plan
        torch.cuda.set_device(self.device)  # otherwise NCCL opens the first card, too
        dist.init_process_group(
            backend="nccl",
            store=store,
            rank=self.card,
            world_size=len(cards),
            timeout=PEER_TIMEOUT,
        )
        # Every rank must take part in making every group.
        self.stages = [
            [cards.index(shard.rank) for shard in plan.stage(stage) if shard.device.kind == "cuda"]
            for stage in range(plan.n_stages)
        ]
        self.groups = [dist.new_group(members) if len(members) > 1 else None for members in self.stages]

    def zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=self.dtype, device=self.device)

    def close(self) -> None:
        dist.destroy_process_group()


class NcclGroup:
    """A `rowspan.comm.base.TPGroup` over NCCL."""

    def __init__(self, nccl: Nccl, stage: int, tp_rank: int) -> None:
        self._group = nccl.groups[stage]
        self._members = nccl.stages[stage]
        self.tp_size = len(self._members)
        self.is_leader = tp_rank == 0
        for size in WARM_UP:
            self.all_reduce(nccl.zeros(size), contributes=True)
        if stage == len(nccl.stages) - 1:  # only the stage with the head gathers
            self.gather_columns(nccl.zeros(1, 1), [1] * self.tp_size)
        torch.cuda.synchronize(nccl.device)

    def all_reduce(self, x: Tensor, contributes: bool) -> Tensor:
        if not contributes:
            x.zero_()
        # NCCL rounds to x's own type after every addition, which is harmless with two ranks: there is only one
        # addition.
        total = x.float() if self.tp_size > 2 else x
        dist.all_reduce(total, group=self._group)
        return total.to(x.dtype)

    def gather_columns(self, x: Tensor, widths: Sequence[int]) -> Tensor | None:
        if not self.is_leader:
            dist.send(x.contiguous(), self._members[0])
            return None
        parts = [x]
        for peer, width in zip(self._members[1:], widths[1:], strict=True):
            part = x.new_empty(x.shape[0], width)
            dist.recv(part, peer)
            parts.append(part)
        return torch.cat(parts, dim=1)


class NcclLink:
    """A `rowspan.comm.base.StageLink` over NCCL: the leaders of two stages communicate, and the later one broadcasts to
    its group.
    """

    def __init__(self, nccl: Nccl, earlier: int, *, is_leader: bool) -> None:
        """Join two stages. Args: earlier: number of the stage that sends."""
        self._nccl = nccl
        self._sender, self._receiver = nccl.stages[earlier][0], nccl.stages[earlier + 1][0]
        self._group = nccl.groups[earlier + 1]
        self._is_leader = is_leader
        if nccl.card in nccl.stages[earlier]:
            self.send(nccl.zeros(1))
        else:
            self.receive((1,))
        torch.cuda.synchronize(nccl.device)

    def send(self, x: Tensor) -> None:
        if self._is_leader:
            dist.send(x.to(self._nccl.dtype).contiguous(), self._receiver)

    def receive(self, shape: tuple[int, ...]) -> Tensor:
        x = torch.empty(shape, dtype=self._nccl.dtype, device=self._nccl.device)
        if self._is_leader:
            dist.recv(x, self._sender)
        if self._group is not None:
            dist.broadcast(x, self._receiver, group=self._group)
        return x
