"""Declares for each role of a tensor its shape, how ranks of a stage cut it, and which stage holds it.

Nothing else does: the loader, `split()`, the check of a file's tensors and the planner are derived from this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from rowspan.checkpoint.tensor_names import Role, TensorKey
from rowspan.model.spec import AttentionSpec, EncoderSpec, LayerSpec, MlpSpec, ModelSpec, MoeSpec, QkNorm


class CutBy(StrEnum):
    """The units by which ranks share a dimension: each rank gets whole units. WHOLE: every rank has the whole
    dimension.

    HEADS: a KV head with its query heads (in latent attention, a query head).
    MLP, EXPERTS, SHARED: the width of the dense MLP, of each expert, of the MLP shared by all tokens.
    """

    WHOLE = "whole"
    VOCABULARY = "vocabulary"
    HEADS = "heads"
    MLP = "mlp"
    EXPERTS = "experts"
    SHARED = "shared"


class Place(StrEnum):
    """Which stages hold a tensor. FIRST: the stage that looks tokens up; a tied embedding is also held by the last
    stage.
    """

    FIRST = "first"
    LAST = "last"
    EVERY = "every"
    LAYER = "layer"


@dataclass(frozen=True)
class Axis:
    """A dimension of a tensor: its length, and the units by which ranks share it."""

    length: Callable[[ModelSpec, LayerSpec], int]
    cut: CutBy = CutBy.WHOLE


class RoleInfo(NamedTuple):
    """The declaration of one role.

    axes: the weight's dimensions: (outputs, inputs) for `x @ weight.T`, (experts, outputs, inputs), or (length,). A
        bias has all but the last; that of a norm has them all.
    is_norm: the tensor holds a norm's factors, and stays float32.
    """

    axes: tuple[Axis, ...]
    place: Place = Place.LAYER
    is_norm: bool = False


def _moe(layer: LayerSpec) -> MoeSpec:
    assert isinstance(layer.mlp, MoeSpec), "roles of experts are due in mixtures only"
    return layer.mlp


def _shared(layer: LayerSpec) -> MlpSpec:
    shared = _moe(layer).shared
    assert shared is not None, "roles of a shared MLP are due where there is one"
    return shared


def _latent(layer: LayerSpec) -> tuple[int, int, int]:
    """Sizes of latent attention: elements of the queries' latent, of the latent of keys and values, and of the rotated
    part.
    """
    latent = layer.mixer.latent
    assert latent is not None, "roles of latent attention are due where there is one"
    return latent.q_rank, latent.kv_rank, latent.rope_size


def _encoder(model: ModelSpec) -> EncoderSpec:
    assert model.encoder is not None, "such tensors are due in encoders only"
    return model.encoder


def _dense(index: int) -> tuple[Axis, Axis]:
    """The axes of a matrix behind the last layer: its rows, and those of the one before it."""
    return (
        Axis(lambda model, layer: _encoder(model).dense[index]),
        Axis(lambda model, layer: (model.hidden_size, *_encoder(model).dense)[index]),
    )


def _per_head(elements: Callable[[AttentionSpec], int]) -> Axis:
    """An axis with a number of elements for each query head."""
    return Axis(lambda model, layer: layer.mixer.n_heads * elements(layer.mixer), CutBy.HEADS)


def _per_kv_head(elements: Callable[[AttentionSpec], int]) -> Axis:
    return Axis(lambda model, layer: layer.mixer.n_kv_heads * elements(layer.mixer), CutBy.HEADS)


SCALES = ("scale", "input_scale")  # parts that a matrix may have beside it
ONE = Axis(lambda model, layer: 1)
HIDDEN = Axis(lambda model, layer: model.hidden_size)
VOCABULARY = Axis(lambda model, layer: model.vocab_size, CutBy.VOCABULARY)
POSITIONS = Axis(lambda model, layer: _encoder(model).n_positions)
TOKEN_TYPES = Axis(lambda model, layer: _encoder(model).n_token_types)
LABELS = Axis(lambda model, layer: _encoder(model).n_labels)
ROPE_PAIRS = Axis(lambda model, layer: next((rope.dim // 2 for rope in model.ropes if rope.has_factors), 0))
QUERIES = _per_head(lambda attention: attention.key_size)
QUERIES_AND_GATES = _per_head(lambda attention: attention.key_size * (2 if attention.has_gate else 1))
KEYS = _per_kv_head(lambda attention: attention.key_size)
VALUES = _per_kv_head(lambda attention: attention.value_size)
MIXED = _per_head(lambda attention: attention.value_size)
HEADS = _per_head(lambda attention: 1)
Q_NORMED = Axis(lambda model, layer: _normed(layer.mixer, layer.mixer.n_heads), CutBy.WHOLE)
K_NORMED = Axis(lambda model, layer: _normed(layer.mixer, layer.mixer.n_kv_heads), CutBy.WHOLE)
Q_LATENT = Axis(lambda model, layer: _latent(layer)[0])
KV_LATENT = Axis(lambda model, layer: _latent(layer)[1])
KV_LATENT_AND_ROPE = Axis(lambda model, layer: _latent(layer)[1] + _latent(layer)[2])
UNROTATED = Axis(lambda model, layer: layer.mixer.key_size - _latent(layer)[2])
VALUE = Axis(lambda model, layer: layer.mixer.value_size)
KEYS_AND_VALUES = Axis(
    lambda model, layer: layer.mixer.n_heads * (UNROTATED.length(model, layer) + layer.mixer.value_size), CutBy.HEADS
)
MLP = Axis(lambda model, layer: layer.mlp_width, CutBy.MLP)
EXPERTS = Axis(lambda model, layer: _moe(layer).experts)
EXPERT_WIDTH = Axis(lambda model, layer: _moe(layer).expert.width, CutBy.EXPERTS)
BOTH_EXPERT_WIDTHS = Axis(lambda model, layer: 2 * _moe(layer).expert.width, CutBy.EXPERTS)
ONE = Axis(lambda model, layer: 1)
SHARED_WIDTH = Axis(lambda model, layer: _shared(layer).width, CutBy.SHARED)


def _normed(attention: AttentionSpec, heads: int) -> int:
    return attention.key_size * (heads if attention.qk_norm is QkNorm.ROW else 1)


def _norm(axis: Axis, place: Place = Place.LAYER) -> RoleInfo:
    return RoleInfo((axis,), place, is_norm=True)


ROLES: Mapping[Role, RoleInfo] = {
    Role.EMBEDDING: RoleInfo((VOCABULARY, HIDDEN), Place.FIRST),
    Role.HEAD: RoleInfo((VOCABULARY, HIDDEN), Place.LAST),
    Role.FINAL_NORM: _norm(HIDDEN, Place.LAST),
    Role.POSITIONS: RoleInfo((POSITIONS, HIDDEN), Place.FIRST),
    Role.TOKEN_TYPES: RoleInfo((TOKEN_TYPES, HIDDEN), Place.FIRST),
    Role.EMBEDDING_NORM: _norm(HIDDEN, Place.FIRST),
    Role.DENSE_1: RoleInfo(_dense(0), Place.LAST),
    Role.DENSE_2: RoleInfo(_dense(1), Place.LAST),
    Role.CLASSIFIER: RoleInfo((HIDDEN, HIDDEN), Place.LAST),
    Role.CLASSIFIER_OUT: RoleInfo((LABELS, HIDDEN), Place.LAST),
    Role.ROPE_FREQS: RoleInfo((ROPE_PAIRS,), Place.EVERY),
    Role.ROPE_FACTORS_LONG: RoleInfo((ROPE_PAIRS,), Place.EVERY),
    Role.ROPE_FACTORS_SHORT: RoleInfo((ROPE_PAIRS,), Place.EVERY),
    Role.ATTN_NORM: _norm(HIDDEN),
    Role.Q: RoleInfo((QUERIES_AND_GATES, HIDDEN)),
    Role.K: RoleInfo((KEYS, HIDDEN)),
    Role.V: RoleInfo((VALUES, HIDDEN)),
    Role.Q_NORM: _norm(Q_NORMED),
    Role.K_NORM: _norm(K_NORMED),
    Role.SINKS: RoleInfo((HEADS,)),
    Role.O: RoleInfo((HIDDEN, MIXED)),
    Role.POST_ATTN_NORM: _norm(HIDDEN),
    Role.Q_A: RoleInfo((Q_LATENT, HIDDEN)),
    Role.Q_A_NORM: _norm(Q_LATENT),
    Role.Q_B: RoleInfo((QUERIES, Q_LATENT)),
    Role.KV_A: RoleInfo((KV_LATENT_AND_ROPE, HIDDEN)),
    Role.KV_A_NORM: _norm(KV_LATENT),
    Role.KV_B: RoleInfo((KEYS_AND_VALUES, KV_LATENT)),
    Role.K_B: RoleInfo((HEADS, KV_LATENT, UNROTATED)),
    Role.V_B: RoleInfo((HEADS, VALUE, KV_LATENT)),
    Role.FFN_NORM: _norm(HIDDEN),
    Role.GATE: RoleInfo((MLP, HIDDEN)),
    Role.UP: RoleInfo((MLP, HIDDEN)),
    Role.DOWN: RoleInfo((HIDDEN, MLP)),
    Role.POST_FFN_NORM: _norm(HIDDEN),
    Role.ROUTER: RoleInfo((EXPERTS, HIDDEN)),
    Role.ROUTER_SELECTION: RoleInfo((EXPERTS,)),
    Role.EXPERT_GATE: RoleInfo((EXPERTS, EXPERT_WIDTH, HIDDEN)),
    Role.EXPERT_UP: RoleInfo((EXPERTS, EXPERT_WIDTH, HIDDEN)),
    Role.EXPERT_DOWN: RoleInfo((EXPERTS, HIDDEN, EXPERT_WIDTH)),
    Role.EXPERT_GATE_UP: RoleInfo((EXPERTS, BOTH_EXPERT_WIDTHS, HIDDEN)),
    Role.EXPERT_SCALES: RoleInfo((EXPERTS,)),
    Role.PRE_EXPERTS_NORM: _norm(HIDDEN),
    Role.POST_EXPERTS_NORM: _norm(HIDDEN),
    Role.POST_SHARED_NORM: _norm(HIDDEN),
    Role.ROUTER_NORM: _norm(HIDDEN),
    Role.OUTPUT_SCALE: RoleInfo((ONE,)),
    Role.SHARED_GATE: RoleInfo((SHARED_WIDTH, HIDDEN)),
    Role.SHARED_UP: RoleInfo((SHARED_WIDTH, HIDDEN)),
    Role.SHARED_DOWN: RoleInfo((HIDDEN, SHARED_WIDTH)),
    Role.SHARED_SCALE: RoleInfo((HIDDEN,)),
}


LAYER_NORMS = (Role.ATTN_NORM, Role.POST_ATTN_NORM, Role.FFN_NORM, Role.POST_FFN_NORM)
"""Roles of norms of hidden states."""

OPTIONAL = (Role.ROPE_FREQS, Role.ROPE_FACTORS_LONG, Role.ROPE_FACTORS_SHORT)
"""Roles of tensors that change the answers where they are there."""


def axes_of(key: TensorKey) -> tuple[Axis, ...]:
    axes, is_norm = ROLES[key.role].axes, ROLES[key.role].is_norm
    if key.part in SCALES:
        return axes[:-2] or (ONE,)
    return axes if key.part == "weight" or is_norm else axes[:-1]


def layer_of(spec: ModelSpec, key: TensorKey) -> LayerSpec:
    """The layer that holds a tensor; for tensors outside the layers any layer."""
    return spec.layers[key.layer or 0]


def shape_of(spec: ModelSpec, key: TensorKey) -> tuple[int, ...]:
    """A tensor's shape: see `RoleInfo.axes`."""
    layer = layer_of(spec, key)
    return tuple(axis.length(spec, layer) for axis in axes_of(key))


def n_units(spec: ModelSpec, layer: LayerSpec, cut: CutBy) -> int:
    """Number of units in which ranks may share a dimension; 0 if the layer has none of that kind."""
    match cut:
        case CutBy.WHOLE:
            return 1
        case CutBy.VOCABULARY:
            return spec.vocab_size
        case CutBy.HEADS:
            return layer.mixer.n_units
        case CutBy.MLP:
            return layer.mlp.width if isinstance(layer.mlp, MlpSpec) else 0
        case CutBy.EXPERTS:
            return layer.mlp.expert.width if isinstance(layer.mlp, MoeSpec) else 0
        case CutBy.SHARED:
            return layer.mlp.shared.width if isinstance(layer.mlp, MoeSpec) and layer.mlp.shared else 0


def required_tensors(spec: ModelSpec) -> Iterator[TensorKey]:
    """Every tensor without which the model cannot run. Only those in `OPTIONAL` are not among them."""
    yield TensorKey(Role.EMBEDDING)
    for index, layer in enumerate(spec.layers):
        for role, part in _layer_tensors(layer):
            yield TensorKey(role, index, part)
            if role in LAYER_NORMS and "bias" in _norm_parts(spec.encoder):
                yield TensorKey(role, index, "bias")
    if spec.encoder is not None:
        yield from _encoder_tensors(spec.encoder)
        return
    yield TensorKey(Role.FINAL_NORM)
    if not spec.tied_embeddings:
        yield TensorKey(Role.HEAD)


def _encoder_tensors(encoder: EncoderSpec) -> Iterator[TensorKey]:
    """Those outside the layers."""
    if encoder.n_positions:
        yield TensorKey(Role.POSITIONS)
    if encoder.n_token_types:
        yield TensorKey(Role.TOKEN_TYPES)
    norms = ((Role.EMBEDDING_NORM, encoder.has_embedding_norm), (Role.FINAL_NORM, encoder.has_final_norm))
    for role in (role for role, is_there in norms if is_there):
        yield from (TensorKey(role, None, part) for part in _norm_parts(encoder))
    yield from (TensorKey(role) for role in (Role.DENSE_1, Role.DENSE_2)[: len(encoder.dense)])
    classifier = [Role.CLASSIFIER] * encoder.has_classifier_layer + [Role.CLASSIFIER_OUT]
    if encoder.n_labels:
        yield from (TensorKey(role, None, part) for role in classifier for part in ("weight", "bias"))


def _norm_parts(encoder: EncoderSpec | None) -> tuple[str, ...]:
    return ("weight", "bias") if encoder is not None and encoder.has_norm_bias else ("weight",)


def _layer_tensors(layer: LayerSpec) -> Iterator[tuple[Role, str]]:
    if layer.pre_norm and layer.has_attn_norm:
        yield Role.ATTN_NORM, "weight"
    yield from _attention_tensors(layer.mixer)
    if layer.post_norm or layer.norms_sum:
        yield Role.POST_ATTN_NORM, "weight"
    if layer.pre_norm and not layer.parallel:
        yield Role.FFN_NORM, "weight"
    if isinstance(layer.mlp, MlpSpec):
        yield from _mlp_tensors(layer.mlp, Role.GATE, Role.UP, Role.DOWN)
    else:
        yield from _moe_tensors(layer.mlp)
    if layer.post_norm or layer.norms_sum:
        yield Role.POST_FFN_NORM, "weight"
    if layer.has_output_scale:
        yield Role.OUTPUT_SCALE, "weight"


def _attention_tensors(attention: AttentionSpec) -> Iterator[tuple[Role, str]]:
    latent = attention.latent
    if latent is None:
        projections = [Role.Q, Role.K] if attention.values_are_keys else [Role.Q, Role.K, Role.V]
    else:
        projections = [Role.Q_A, Role.Q_A_NORM, Role.Q_B] if latent.q_rank else [Role.Q]
        projections += [Role.KV_A, Role.KV_A_NORM]
        projections += [Role.KV_B] if latent.has_joined_kv_b else [Role.K_B, Role.V_B]
    if attention.qk_norm is not QkNorm.NONE:
        projections += [Role.Q_NORM, Role.K_NORM]
    if attention.has_sinks:
        projections.append(Role.SINKS)
    yield from ((role, "weight") for role in [*projections, Role.O])
    if attention.has_qkv_bias:
        yield from ((role, "bias") for role in (Role.Q, Role.K, Role.V))
    if attention.has_output_bias:
        yield Role.O, "bias"


def _mlp_tensors(mlp: MlpSpec, gate: Role, up: Role, down: Role) -> Iterator[tuple[Role, str]]:
    roles = (gate, up, down) if mlp.has_gate else (up, down)
    for part in ("weight", "bias") if mlp.has_bias else ("weight",):
        yield from ((role, part) for role in roles)


def _moe_tensors(moe: MoeSpec) -> Iterator[tuple[Role, str]]:
    yield Role.ROUTER, "weight"
    if moe.has_router_bias:
        yield Role.ROUTER, "bias"
    if moe.has_selection_bias:
        yield Role.ROUTER_SELECTION, "weight"
    if moe.has_joined_gate_up:
        yield from ((role, "weight") for role in (Role.EXPERT_GATE_UP, Role.EXPERT_DOWN))
    else:
        yield from _mlp_tensors(moe.expert, Role.EXPERT_GATE, Role.EXPERT_UP, Role.EXPERT_DOWN)
    if moe.has_expert_scales:
        yield Role.EXPERT_SCALES, "weight"
    if moe.is_beside:
        yield Role.ROUTER_NORM, "weight"
        yield from ((role, "weight") for role in (Role.PRE_EXPERTS_NORM, Role.POST_EXPERTS_NORM, Role.POST_SHARED_NORM))
    if moe.shared:
        yield from _mlp_tensors(moe.shared, Role.SHARED_GATE, Role.SHARED_UP, Role.SHARED_DOWN)
    if moe.has_shared_gate:
        yield Role.SHARED_SCALE, "weight"
