"""Loads one rank's shard: reads only its own slices of the file, and packs them for its kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowspan.checkpoint.checkpoint import Checkpoint
from rowspan.checkpoint.tensor_names import Role, TensorKey
from rowspan.errors import UnsupportedModelError
from rowspan.kernels.ops import Experts, Kernels, RawRows, Weight
from rowspan.model.encoder import EncoderWeights
from rowspan.model.latent_attention import LatentWeights
from rowspan.model.mlp import MlpWeights, MoeWeights, OwnNorms
from rowspan.model.norm import Norm
from rowspan.model.projection import Projection, Projections
from rowspan.model.roles import ROLES, axes_of, shape_of
from rowspan.model.spec import AttentionSpec, MlpSpec, MoeSpec, RopeSpec
from rowspan.plan.shard import Cut, Plan, Shard, Span
from rowspan.quant.stored import StoredMatrix

NUMPY_TYPES: Mapping[str, type[np.number[Any]]] = {
    "F32": np.float32,
    "F16": np.float16,
    "F64": np.float64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
}


@dataclass(frozen=True)
class LayerWeights:
    """One layer's tensors, by role; vectors are in the kernels' form, None if the model has none. qkv: without v where
    values are keys; None in latent attention.
    """

    attn_norm: Norm | None
    qkv: Projections | None
    latent: LatentWeights | None
    q_norm: Any
    k_norm: Any
    sinks: Any
    o: Projection
    post_attn_norm: Norm | None
    ffn_norm: Norm | None
    mlp: MlpWeights | MoeWeights
    post_ffn_norm: Norm | None
    v_norm: Any  # of ones, if values are normed
    output_scale: float


@dataclass(frozen=True)
class RopeFactors:
    """Divisors of rotary embeddings' frequencies, one per pair, or None: for any context, or for contexts within and
    beyond the original one.
    """

    always: NDArray[np.float32] | None = None
    short: NDArray[np.float32] | None = None
    long: NDArray[np.float32] | None = None

    def of(self, rope: RopeSpec, context: int) -> NDArray[np.float32] | None:
        """Those for a context of so many tokens, which all prompts share, however short."""
        if self.always is not None:
            return self.always
        return self.long if rope.original_context and context > rope.original_context else self.short


@dataclass(frozen=True)
class ModelWeights:
    """The weights of one rank's shard. `layers` are those of its stage, in order."""

    layers: tuple[LayerWeights, ...]
    embedding: Any  # in the kernels' form; None if another rank holds it
    final_norm: Norm | None
    head: Any  # None also of encoders, which have none
    rope_factors: RopeFactors
    nbytes: int  # bytes of packed weights; an embedding that stays in the mapped file does not count
    encoder: EncoderWeights | None = None


def load_weights(
    checkpoint: Checkpoint,
    plan: Plan,
    shard: Shard,
    kernels: Kernels[Any],
    on_tensor: Callable[[int], None] = lambda nbytes: None,
) -> ModelWeights:
    """Read and pack the tensors of `shard`. `on_tensor` is called with the file bytes of each tensor that was read."""
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
        is_first, is_last = self.shard.stage == 0, self.plan.is_last(self.shard)
        head_role = Role.EMBEDDING if self.plan.spec.tied_embeddings else Role.HEAD
        return ModelWeights(
            layers=layers,
            embedding=self._embedding(also_head=is_last and self.plan.spec.tied_embeddings) if is_first else None,
            final_norm=self._norm(TensorKey(Role.FINAL_NORM)),
            head=self._matrix(TensorKey(head_role)) if is_last and self.plan.spec.encoder is None else None,
            encoder=self._encoder() if self.plan.spec.encoder is not None else None,
            rope_factors=RopeFactors(
                self._values(TensorKey(Role.ROPE_FREQS)),
                self._values(TensorKey(Role.ROPE_FACTORS_SHORT)),
                self._values(TensorKey(Role.ROPE_FACTORS_LONG)),
            ),
            nbytes=self.nbytes,
        )

    def _layer(self, index: int) -> LayerWeights:
        self._read_ahead(index + 1)

        is_latent = self.plan.spec.layers[index].mixer.latent is not None

        def vector(role: Role) -> Any:
            return self._vector(TensorKey(role, index))

        def norm(role: Role) -> Norm | None:
            return self._norm(TensorKey(role, index))

        return LayerWeights(
            attn_norm=norm(Role.ATTN_NORM),
            qkv=None if is_latent else self._join(*(self._project(role, index) for role in self._inputs(index))),
            latent=self._latent(index) if is_latent else None,
            q_norm=vector(Role.Q_NORM),
            k_norm=vector(Role.K_NORM),
            sinks=vector(Role.SINKS),
            o=self._project(Role.O, index),
            post_attn_norm=norm(Role.POST_ATTN_NORM),
            ffn_norm=norm(Role.FFN_NORM),
            mlp=self._mlp(index),
            post_ffn_norm=norm(Role.POST_FFN_NORM),
            v_norm=self._ones(self.plan.spec.layers[index].mixer),
            output_scale=self._number(TensorKey(Role.OUTPUT_SCALE, index)),
        )

    def _encoder(self) -> EncoderWeights:
        """This rank's part of an encoder outside the layers. Of kinds of texts there is one here: its embedding is
        added to those of positions.
        """
        positions, types = self._rows(Role.POSITIONS), self._rows(Role.TOKEN_TYPES)
        added = positions if types is None else types[:1] if positions is None else positions + types[:1]

        def projections(*roles: Role) -> tuple[Projection, ...]:
            held = roles if self.plan.is_last(self.shard) else ()
            return tuple(self._project(role, None) for role in held if TensorKey(role) in self.checkpoint.tensors)

        return EncoderWeights(
            added=None if added is None else self.kernels.vector(added, norm=True),
            embedding_norm=self._norm(TensorKey(Role.EMBEDDING_NORM)),
            dense=projections(Role.DENSE_1, Role.DENSE_2),
            classifier=projections(Role.CLASSIFIER, Role.CLASSIFIER_OUT),
        )

    def _rows(self, role: Role) -> NDArray[np.float32] | None:
        """A table of embeddings; None if there is none here."""
        values = self._values(TensorKey(role))
        return None if values is None else values.reshape(-1, self.plan.spec.hidden_size)

    def _latent(self, index: int) -> LatentWeights:
        spec = self.plan.spec.layers[index].mixer
        assert spec.latent is not None, "asked for where there is one"
        has_q_latent = spec.latent.q_rank > 0

        def heads(role: Role) -> Weight:
            key = TensorKey(role, index)
            cut, rows = self._cut(key), shape_of(self.plan.spec, key)[-2]
            held = Span(0, 0) if cut.experts is None else cut.experts
            stored = self._read(key, Cut(held.scaled(rows), cut.columns))
            return self._counted(key, self.kernels.experts(stored, len(held)))

        return LatentWeights(
            q_a=self._project(Role.Q_A, index) if has_q_latent else None,
            q_a_norm=self._vector(TensorKey(Role.Q_A_NORM, index)),
            q=self._project(Role.Q_B if has_q_latent else Role.Q, index),
            kv_a=self._project(Role.KV_A, index),
            kv_a_norm=self._vector(TensorKey(Role.KV_A_NORM, index)),
            k_b=heads(Role.K_B),
            v_b=heads(Role.V_B),
        )

    def _inputs(self, index: int) -> tuple[Role, ...]:
        """The projections of an attention's input."""
        shares = self.plan.spec.layers[index].mixer.values_are_keys
        return (Role.Q, Role.K) if shares else (Role.Q, Role.K, Role.V)

    def _mlp(self, index: int) -> MlpWeights | MoeWeights:
        spec = self.plan.spec.layers[index].mlp
        if isinstance(spec, MlpSpec):
            return self._dense(index, spec, Role.GATE, Role.UP, Role.DOWN)
        shared_roles = (Role.SHARED_GATE, Role.SHARED_UP, Role.SHARED_DOWN)
        return MoeWeights(
            self._project(Role.ROUTER, index),
            self._experts(index, spec),
            self._dense(index, spec.shared, *shared_roles) if spec.shared else None,
            self._row(TensorKey(Role.SHARED_SCALE, index)) if spec.has_shared_gate else None,
            self._own_norms(index) if spec.is_beside else None,
        )

    def _own_norms(self, index: int) -> OwnNorms:
        roles = (Role.PRE_EXPERTS_NORM, Role.POST_EXPERTS_NORM, Role.POST_SHARED_NORM)
        router = self._values(TensorKey(Role.ROUTER_NORM, index))
        assert router is not None, "the router's norm is in the file"
        scaled = self.kernels.vector(router * self.plan.spec.hidden_size**-0.5, norm=True)
        return OwnNorms(Norm(scaled), *(Norm(self._vector(TensorKey(role, index))) for role in roles))

    def _dense(self, index: int, spec: MlpSpec, gate: Role, up: Role, down: Role) -> MlpWeights:
        gate_up = (gate, up) if spec.has_gate else (up,)
        return MlpWeights(self._join(*(self._project(role, index) for role in gate_up)), self._project(down, index))

    def _experts(self, index: int, spec: MoeSpec) -> Experts:
        def stacked(role: Role) -> Weight:
            if spec.has_joined_gate_up and role is not Role.EXPERT_DOWN:
                above = spec.expert.width if role is Role.EXPERT_UP else 0
                return self._expert_matrices(TensorKey(role, index), TensorKey(Role.EXPERT_GATE_UP, index), spec, above)
            return self._expert_matrices(TensorKey(role, index), TensorKey(role, index), spec)

        def bias(role: Role) -> Any:
            return self._vector(TensorKey(role, index, "bias"))

        return Experts(
            gate=stacked(Role.EXPERT_GATE) if spec.expert.has_gate else None,
            up=stacked(Role.EXPERT_UP),
            down=stacked(Role.EXPERT_DOWN),
            gate_bias=bias(Role.EXPERT_GATE) if spec.expert.has_gate else None,
            up_bias=bias(Role.EXPERT_UP),
            down_bias=bias(Role.EXPERT_DOWN),
            selection_bias=self._vector(TensorKey(Role.ROUTER_SELECTION, index)),
            scales=self._vector(TensorKey(Role.EXPERT_SCALES, index)),
        )

    def _project(self, role: Role, index: int | None) -> Projection:
        return Projection(self._matrix(TensorKey(role, index)), self._vector(TensorKey(role, index, "bias")))

    def _join(self, *parts: Projection) -> Projections:
        widths = tuple(part.weight.rows for part in parts)
        if len(parts) == 1:
            return Projections(parts, None, widths)
        joined = self.kernels.join([part.weight for part in parts], [part.bias for part in parts])
        return Projections(parts, None, widths) if joined is None else Projections((), Projection(*joined), widths)

    def _read_ahead(self, layer: int) -> None:
        """Start reading a layer from the disk while the one before it is packed; after the last layer, the tensors that
        are packed then. An embedding that stays in the file is not read ahead.
        """
        part = layer if layer < self.shard.layers.stop else None
        for key in self.checkpoint.tensors:
            stays = key.role is Role.EMBEDDING and self.kernels.memory is None and not self.plan.spec.tied_embeddings
            if key.layer == part and not stays and self.plan.cut(key, self.shard) is not None:
                self.ahead.submit(self.checkpoint.prefetch, key)

    def _embedding(self, also_head: bool) -> Any:
        key = TensorKey(Role.EMBEDDING)
        stored = self._map(key, self._cut(key))
        if not also_head:  # else it is told when the head is packed
            self.on_tensor(stored.nbytes)
        return self.kernels.lookup(RawRows(stored, self.shard.vocab.start))

    def _matrix(self, key: TensorKey) -> Weight:
        return self._counted(key, self.kernels.matrix(self._scaled(key, self._read(key, self._cut(key)))))

    def _scaled(self, key: TensorKey, stored: StoredMatrix) -> StoredMatrix:
        """A matrix, or one for each expert, with the factors that the file has beside it."""
        scales = self._values(key._replace(part="scale"))
        return stored if scales is None else stored.scaled(scales.repeat(stored.rows // len(scales)))

    def _counted(self, key: TensorKey, weight: Weight) -> Weight:
        """A weight that has just been packed."""
        self.checkpoint.release(key)  # otherwise the file's pages would be resident beside the packed ones
        self.nbytes += weight.nbytes
        return weight

    def _expert_matrices(self, key: TensorKey, file_key: TensorKey, spec: MoeSpec, above: int = 0) -> Weight:
        """Of the matrices of all experts this rank's part of each. file_key: the tensor that holds them, of each expert
        below `above` rows.
        """
        cut, rows = self._cut(key), shape_of(self.plan.spec, file_key)[-2]
        whole = self._map(file_key, Cut(Span(0, spec.experts * rows), cut.columns))
        stored = whole.rows_of_each(spec.experts, above + cut.rows.start, len(cut.rows))
        stored = self._scaled(file_key, stored)
        self.on_tensor(stored.nbytes)
        return self._counted(file_key, self.kernels.experts(stored, spec.experts))

    def _ones(self, mixer: AttentionSpec) -> Any:
        ones = np.ones(mixer.value_size, np.float32)
        return self.kernels.vector(ones, norm=True) if mixer.norms_values else None

    def _number(self, key: TensorKey) -> float:
        """A tensor of one element; 1 if there is none."""
        values = self._values(key)
        return 1.0 if values is None else float(values[0])

    def _row(self, key: TensorKey) -> Weight:
        """A vector as a matrix of one row."""
        return self._counted(key, self.kernels.matrix(self._read(key, Cut(Span(0, 1), self._cut(key).rows))))

    def _norm(self, key: TensorKey) -> Norm | None:
        weight = self._vector(key)
        return None if weight is None else Norm(weight, self._vector(key._replace(part="bias")))

    def _vector(self, key: TensorKey) -> Any:
        values = self._values(key)
        return None if values is None else self.kernels.vector(values, norm=ROLES[key.role].is_norm)

    def _values(self, key: TensorKey) -> NDArray[np.float32] | None:
        cut = self.plan.cut(key, self.shard) if key in self.checkpoint.tensors else None
        if cut is None:
            return None
        is_flat = len(axes_of(key)) == 1
        if not len(cut.rows) or not (is_flat or len(cut.columns)):
            return np.zeros(0, np.float32)
        values = _floats(key, self._read(key, Cut(Span(0, 1), cut.rows) if is_flat else cut))
        self.nbytes += values.nbytes
        return values

    def _cut(self, key: TensorKey) -> Cut:
        cut = self.plan.cut(key, self.shard)
        assert cut is not None, f"{key} belongs to another rank"
        return cut

    def _read(self, key: TensorKey, cut: Cut) -> StoredMatrix:
        stored = self._map(key, cut)
        self.on_tensor(stored.nbytes)
        return stored

    def _map(self, key: TensorKey, cut: Cut) -> StoredMatrix:
        return self.checkpoint.read(key, cut.rows.as_slice(), cut.columns.as_slice())


def _floats(key: TensorKey, stored: StoredMatrix) -> NDArray[np.float32]:
    """A vector's elements, in memory of their own."""
    scheme, flat = stored.scheme, np.ascontiguousarray(stored.blocks).reshape(-1)
    if scheme in NUMPY_TYPES:
        values: NDArray[np.float32] = flat.view(NUMPY_TYPES[scheme]).astype(np.float32)
        return values
    if scheme == "BF16":
        return (flat.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    raise UnsupportedModelError(
        f"{key} is a quantized vector ({scheme}).",
        why=f"Norms and biases are expected in BF16, {', '.join(NUMPY_TYPES)}.",
        fix="Convert the model again with a current converter.",
    )
