"""Loads one rank's shard: reads only its own slices of the file, and packs them for its kernels."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowspan.checkpoint.checkpoint import Checkpoint
from rowspan.checkpoint.tensor_names import Role, TensorKey
from rowspan.errors import UnsupportedModelError
from rowspan.kernels.ops import Kernels, RawRows, Weight
from rowspan.plan.split import Cut, Plan, Shard, Span

NORMS = frozenset({Role.FINAL_NORM, Role.ATTN_NORM, Role.Q_NORM, Role.K_NORM, Role.FFN_NORM})


@dataclass(frozen=True)
class Projection:
    """A matrix in the kernels' runtime layout, and its bias if it has one."""

    weight: Weight
    bias: Any


@dataclass(frozen=True)
class Projections:
    """Several of one input. joined: all of them in one matrix, where the kernels like that better; then there are no
    parts. widths: rows of each."""

    parts: tuple[Projection, ...]
    joined: Projection | None
    widths: tuple[int, ...]


@dataclass(frozen=True)
class LayerWeights:
    """One layer's tensors, by role; vectors in the kernels' form, None where the model has none."""

    attn_norm: Any
    qkv: Projections
    q_norm: Any
    k_norm: Any
    o: Projection
    ffn_norm: Any
    gate_up: Projections
    down: Projection


@dataclass(frozen=True)
class ModelWeights:
    """A shard. `layers` are those of the rank's stage, in order."""

    layers: tuple[LayerWeights, ...]
    embedding: Any  # in the kernels' form; None where it is another rank's
    final_norm: Any
    head: Any
    rope_freqs: NDArray[np.float32] | None
    nbytes: int  # of what was packed; an embedding that stays in the mapped file is not counted


def load_weights(
    checkpoint: Checkpoint,
    plan: Plan,
    shard: Shard,
    kernels: Kernels[Any],
    on_tensor: Callable[[int], None] = lambda nbytes: None,
) -> ModelWeights:
    """Read and pack what `shard` holds. `on_tensor` is told the file bytes of each tensor read."""
    ahead = ThreadPoolExecutor(1, thread_name_prefix="rowspan-read-ahead")
    try:
        return _Loader(checkpoint, plan, shard, kernels, on_tensor, ahead).load()
    finally:
        ahead.shutdown(wait=False, cancel_futures=True)


@dataclass
class _Loader:
    checkpoint: Checkpoint
    plan: Plan
    shard: Shard
    kernels: Kernels[Any]
    on_tensor: Callable[[int], None]
    ahead: ThreadPoolExecutor
    nbytes: int = 0

    def load(self) -> ModelWeights:
        self._read_ahead(self.shard.layers.start)
        layers = tuple(self._layer(index) for index in range(self.shard.layers.start, self.shard.layers.stop))
        is_first, is_last = self.shard.stage == 0, self.shard.stage == self.plan.n_stages - 1
        head_role = Role.EMBEDDING if self.plan.spec.tied_embeddings else Role.HEAD
        return ModelWeights(
            layers=layers,
            embedding=self._embedding(also_head=is_last and self.plan.spec.tied_embeddings) if is_first else None,
            final_norm=self._vector(TensorKey(Role.FINAL_NORM)),
            head=self._matrix(TensorKey(head_role)) if is_last else None,
            rope_freqs=self._values(TensorKey(Role.ROPE_FREQS)),
            nbytes=self.nbytes,
        )

    def _layer(self, index: int) -> LayerWeights:
        self._read_ahead(index + 1)

        def project(role: Role) -> Projection:
            return Projection(self._matrix(TensorKey(role, index)), self._vector(TensorKey(role, index, "bias")))

        def norm(role: Role) -> Any:
            return self._vector(TensorKey(role, index))

        return LayerWeights(
            attn_norm=norm(Role.ATTN_NORM),
            qkv=self._join(project(Role.Q), project(Role.K), project(Role.V)),
            q_norm=norm(Role.Q_NORM),
            k_norm=norm(Role.K_NORM),
            o=project(Role.O),
            ffn_norm=norm(Role.FFN_NORM),
            gate_up=self._join(project(Role.GATE), project(Role.UP)),
            down=project(Role.DOWN),
        )

    def _join(self, *parts: Projection) -> Projections:
        widths = tuple(part.weight.rows for part in parts)
        joined = self.kernels.join([part.weight for part in parts], [part.bias for part in parts])
        return Projections(parts, None, widths) if joined is None else Projections((), Projection(*joined), widths)

    def _read_ahead(self, layer: int) -> None:
        """Have a layer read from the disk while the one before is packed, and after the last one what is packed then.
        An embedding that stays in the file is left there."""
        part = layer if layer < self.shard.layers.stop else None
        for key in self.checkpoint.tensors:
            stays = key.role is Role.EMBEDDING and self.kernels.memory is None and not self.plan.spec.tied_embeddings
            if key.layer == part and not stays and self.plan.cut(key, self.shard) is not None:
                self.ahead.submit(self.checkpoint.prefetch, key)

    def _embedding(self, also_head: bool) -> Any:
        key = TensorKey(Role.EMBEDDING)
        info, cut = self.checkpoint.tensors[key], self._cut(key)
        blocks = self._map(key, cut)
        if not also_head:  # else it is told when the head is packed
            self.on_tensor(blocks.nbytes)
        return self.kernels.lookup(RawRows(info.scheme, blocks, info.shape[1], self.shard.vocab.start))

    def _matrix(self, key: TensorKey) -> Weight:
        cut = self._cut(key)
        shape = (len(cut.rows), len(cut.columns))
        raw = self._read(key, cut) if all(shape) else np.empty((0, 0), np.uint8)
        weight = self.kernels.matrix(self.checkpoint.tensors[key].scheme, raw, shape)
        self.checkpoint.release(key)  # else the file's pages would count beside the packed ones: twice the memory
        self.nbytes += weight.nbytes
        return weight

    def _vector(self, key: TensorKey) -> Any:
        values = self._values(key)
        return None if values is None else self.kernels.vector(values, norm=key.role in NORMS)

    def _values(self, key: TensorKey) -> NDArray[np.float32] | None:
        cut = self.plan.cut(key, self.shard) if key in self.checkpoint.tensors else None
        if cut is None:
            return None
        if not len(cut.rows):
            return np.zeros(0, np.float32)
        raw = self._read(key, Cut(Span(0, 1), cut.rows))
        values = _floats(key, self.checkpoint.tensors[key].scheme, raw)
        self.nbytes += values.nbytes
        return values

    def _cut(self, key: TensorKey) -> Cut:
        cut = self.plan.cut(key, self.shard)
        assert cut is not None, f"{key} belongs to another rank"
        return cut

    def _read(self, key: TensorKey, cut: Cut) -> NDArray[np.uint8]:
        raw = self._map(key, cut)
        self.on_tensor(raw.nbytes)
        return raw

    def _map(self, key: TensorKey, cut: Cut) -> NDArray[np.uint8]:
        return self.checkpoint.read(key, cut.rows.as_slice(), cut.columns.as_slice())


def _floats(key: TensorKey, scheme: str, raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A vector's elements, in memory of their own."""
    flat = np.ascontiguousarray(raw).reshape(-1)
    if scheme == "F32":
        return flat.view(np.float32).copy()
    if scheme == "F16":
        return flat.view(np.float16).astype(np.float32)
    if scheme == "BF16":
        return (flat.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    raise UnsupportedModelError(
        f"{key} is a quantized vector ({scheme}).",
        why="Norms and biases are expected in F32, F16 or BF16.",
        fix="Convert the model again with a current converter.",
    )
