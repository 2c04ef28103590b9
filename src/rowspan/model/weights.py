"""Loads one rank's shard: reads only its own slices of the file, and packs them for its kernels."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rowspan.checkpoint.checkpoint import Checkpoint
from rowspan.checkpoint.names import Role, TensorKey
from rowspan.kernels.ops import Kernels, RawRows
from rowspan.plan.split import Cut, Plan, Shard, Span
from rowspan.quant.dequantize import dequantize

NORMS = frozenset({Role.FINAL_NORM, Role.ROPE_FREQS, Role.ATTN_NORM, Role.Q_NORM, Role.K_NORM, Role.FFN_NORM})
"""Vectors that stay float32: they are small, and norms are taken in float32."""


@dataclass(frozen=True)
class Projection:
    """A matrix in the kernels' runtime layout, and its bias if it has one."""

    weight: Any
    bias: Tensor | None


@dataclass(frozen=True)
class LayerWeights:
    """One layer's tensors, by role."""

    attn_norm: Tensor
    q: Projection
    k: Projection
    v: Projection
    q_norm: Tensor | None
    k_norm: Tensor | None
    o: Projection
    ffn_norm: Tensor
    gate: Projection
    up: Projection
    down: Projection


@dataclass(frozen=True)
class ModelWeights:
    """A shard. `layers` are those of the rank's stage, in order."""

    layers: tuple[LayerWeights, ...]
    embedding: RawRows | None
    final_norm: Tensor | None
    head: Any
    rope_freqs: Tensor | None
    nbytes: int  # of what was packed; an embedding that stays in the mapped file is not counted


def load_weights(
    checkpoint: Checkpoint,
    plan: Plan,
    shard: Shard,
    kernels: Kernels,
    device: torch.device,
    dtype: torch.dtype,
    on_tensor: Callable[[int], None] = lambda nbytes: None,
) -> ModelWeights:
    """Read and pack what `shard` holds. `on_tensor` is told the file bytes of each tensor read."""
    return _Loader(checkpoint, plan, shard, kernels, device, dtype, on_tensor).load()


@dataclass
class _Loader:
    checkpoint: Checkpoint
    plan: Plan
    shard: Shard
    kernels: Kernels
    device: torch.device
    dtype: torch.dtype
    on_tensor: Callable[[int], None]
    nbytes: int = 0

    def load(self) -> ModelWeights:
        layers = tuple(self._layer(index) for index in range(self.shard.layers.start, self.shard.layers.stop))
        is_first, is_last = self.shard.stage == 0, self.shard.stage == self.plan.n_stages - 1
        head_role = Role.EMBEDDING if self.plan.spec.tied_embeddings else Role.HEAD
        return ModelWeights(
            layers=layers,
            embedding=self._embedding(also_head=is_last and self.plan.spec.tied_embeddings) if is_first else None,
            final_norm=self._vector(TensorKey(Role.FINAL_NORM)),
            head=self._matrix(TensorKey(head_role)) if is_last else None,
            rope_freqs=self._vector(TensorKey(Role.ROPE_FREQS)),
            nbytes=self.nbytes,
        )

    def _layer(self, index: int) -> LayerWeights:
        def project(role: Role) -> Projection:
            return Projection(self._matrix(TensorKey(role, index)), self._vector(TensorKey(role, index, "bias")))

        def norm(role: Role) -> Any:
            return self._vector(TensorKey(role, index))

        return LayerWeights(
            attn_norm=norm(Role.ATTN_NORM),
            q=project(Role.Q),
            k=project(Role.K),
            v=project(Role.V),
            q_norm=norm(Role.Q_NORM),
            k_norm=norm(Role.K_NORM),
            o=project(Role.O),
            ffn_norm=norm(Role.FFN_NORM),
            gate=project(Role.GATE),
            up=project(Role.UP),
            down=project(Role.DOWN),
        )

    def _embedding(self, also_head: bool) -> RawRows:
        key = TensorKey(Role.EMBEDDING)
        info, cut = self.checkpoint.tensors[key], self._cut(key)
        blocks = self._map(key, cut)
        if not also_head:  # else it is told when the head is packed
            self.on_tensor(blocks.nbytes)
        return RawRows(info.scheme, blocks, info.shape[1])

    def _matrix(self, key: TensorKey) -> Any:
        cut = self._cut(key)
        shape = (len(cut.rows), len(cut.columns))
        raw = self._read(key, cut) if all(shape) else torch.empty(0, dtype=torch.uint8)
        weight = self.kernels.pack(self.checkpoint.tensors[key].scheme, raw, shape)
        self.nbytes += weight.nbytes
        return weight

    def _vector(self, key: TensorKey) -> Tensor | None:
        cut = self.plan.cut(key, self.shard) if key in self.checkpoint.tensors else None
        if cut is None:
            return None
        dtype = torch.float32 if key.role in NORMS else self.dtype
        if not len(cut.rows):
            return torch.zeros(0, dtype=dtype, device=self.device)
        raw = self._read(key, Cut(Span(0, 1), cut.rows))
        vector = dequantize(self.checkpoint.tensors[key].scheme, raw).flatten().to(self.device, dtype)
        self.nbytes += vector.nbytes
        return vector

    def _cut(self, key: TensorKey) -> Cut:
        cut = self.plan.cut(key, self.shard)
        assert cut is not None, f"{key} belongs to another rank"
        return cut

    def _read(self, key: TensorKey, cut: Cut) -> Tensor:
        raw = self._map(key, cut)
        self.on_tensor(raw.nbytes)
        return raw

    def _map(self, key: TensorKey, cut: Cut) -> Tensor:
        raw = self.checkpoint.read(key, cut.rows.as_slice(), cut.columns.as_slice())
        with warnings.catch_warnings():
            # The file is mapped read-only, which torch cannot express and warns of; nothing here writes to it.
            warnings.simplefilter("ignore", UserWarning)
            return torch.from_numpy(raw)
