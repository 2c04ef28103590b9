"""What a CPU worker's process will have resident: to be compared with what it has. Native kernels only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rowspan.checkpoint.checkpoint import TensorInfo
from rowspan.checkpoint.tensor_names import Role, TensorKey
from rowspan.plan.fit import ShardBytes, activation_bytes
from rowspan.plan.split import Plan, Shard
from rowspan.quant.large_pages import begun_bytes
from rowspan.quant.scheme import stored_bytes

# Measured (docs/performance.md): a worker that holds nothing, with its interpreter, numpy and the native module; and a
# vocabulary's entry, or a merge of two, as Python holds it.
PROCESS_BYTES = 29 << 20
STRING_BYTES = 170


@dataclass(frozen=True)
class WorkerMemory:
    """Most resident bytes of one rank, or of several. loaded: once it has loaded. full: once its cache is full, its
    buffers have been used and its embedding looked up all over."""

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
    cache_tokens: int,
    strings: int,
    step_tokens: int,
    outputs: int,
) -> WorkerMemory:
    """Of one rank.

    Args:
        cache_tokens: positions in the whole cache.
        strings: entries of the vocabulary, and merges.
        step_tokens, outputs: computed in one step, and of these with logits.
    """
    held = PROCESS_BYTES + strings * STRING_BYTES + size.weights + begun_bytes(size.weights)
    # While a matrix is packed, its pages of the file are there as well; the head comes last, or else a layer's matrix.
    head = TensorKey(Role.EMBEDDING if plan.spec.tied_embeddings else Role.HEAD)
    packing = _file_bytes(plan, shard, tensors, head) if shard.stage == plan.n_stages - 1 else 0
    if not packing:
        layer = shard.layers.stop - 1
        roles = (Role.Q, Role.O, Role.GATE, Role.DOWN)
        packing = max(_file_bytes(plan, shard, tensors, TensorKey(role, layer)) for role in roles)
    embedding = _file_bytes(plan, shard, tensors, TensorKey(Role.EMBEDDING)) if shard.stage == 0 else 0
    used = activation_bytes(plan, shard, step_tokens, outputs, plan.spec.ffn_size, gate_is_written=False)
    full = held + cache_tokens * size.cache_per_token + used + embedding
    return WorkerMemory(held + packing, max(held + packing, full))


def _file_bytes(plan: Plan, shard: Shard, tensors: Mapping[TensorKey, TensorInfo], key: TensorKey) -> int:
    """Of a rank's part of a matrix."""
    info = tensors.get(key)
    cut = plan.cut(key, shard) if info is not None else None
    if info is None or cut is None:
        return 0
    return stored_bytes(info.scheme, len(cut.rows) * len(cut.columns))
