"""Predicts a CPU worker's resident memory, to be compared with what it really has. Native kernels only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rowspan.checkpoint.checkpoint import TensorInfo
from rowspan.checkpoint.tensor_names import Role, TensorKey
from rowspan.model.rope_table import table_bytes
from rowspan.plan.fit import ShardBytes, activation_bytes
from rowspan.plan.shard import Plan, Shard
from rowspan.quant.large_pages import begun_bytes
from rowspan.quant.scheme import stored_bytes

# Measured bytes: of a worker without weights and cache, with its interpreter, numpy and the native module; and of a
# vocabulary's entry, or of a merge, as Python holds it.
PROCESS_BYTES = 29 << 20
STRING_BYTES = 170


@dataclass(frozen=True)
class WorkerMemory:
    """The most resident bytes of one rank, or summed over several.

    loaded: once the weights are loaded.
    full: once the KV cache is full, all buffers have been used and every row of the embedding was looked up.
    """

    loaded: int
    full: int

    def __add__(self, other: WorkerMemory) -> WorkerMemory:
        return WorkerMemory(self.loaded + other.loaded, self.full + other.full)


def worker_memory(
    plan: Plan,
    shard: Shard,
    tensors: Mapping[TensorKey, TensorInfo],
    size: ShardBytes,
    *,
    cache_bytes: int,
    strings: int,
    step_tokens: int,
    outputs: int,
    context: int,
) -> WorkerMemory:
    """Predict one rank's memory.

    Args:
        cache_bytes: size of the rank's part of the KV cache.
        strings: number of the vocabulary's entries and merges.
        step_tokens: number of tokens in one step.
        outputs: how many of these get logits.
        context: tokens that one request may have.
    """
    held = PROCESS_BYTES + strings * STRING_BYTES + size.weights + begun_bytes(size.weights)
    held += context * table_bytes(plan.spec)
    # While a matrix is packed, its pages of the file are resident, too; the last one is the head, or else a layer's.
    head = TensorKey(Role.EMBEDDING if plan.spec.tied_embeddings else Role.HEAD)
    packing = _file_bytes(plan, shard, tensors, head) if plan.is_last(shard) else 0
    if not packing:
        last = [key for key in tensors if key.layer == shard.layers.stop - 1]
        packing = max((_file_bytes(plan, shard, tensors, key) for key in last), default=0)
    embedding = _file_bytes(plan, shard, tensors, TensorKey(Role.EMBEDDING)) if shard.stage == 0 else 0
    used = activation_bytes(plan, shard, step_tokens, outputs, gate_is_written=False)
    full = held + cache_bytes + used + embedding
    return WorkerMemory(held + packing, max(held + packing, full))


def _file_bytes(plan: Plan, shard: Shard, tensors: Mapping[TensorKey, TensorInfo], key: TensorKey) -> int:
    """Bytes of a rank's part of a matrix in the file."""
    info = tensors.get(key)
    cut = plan.cut(key, shard) if info is not None else None
    if info is None or cut is None:
        return 0
    experts = 1 if cut.experts is None else len(cut.experts)
    return stored_bytes(info.scheme, experts * len(cut.rows) * (len(cut.columns) if len(info.shape) > 1 else 1))
