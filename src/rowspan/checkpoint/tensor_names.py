"""The names of tensors throughout Rowspan: a `TensorKey` is a tensor's role and the layer in which it has this role.

A model's family knows how files spell them (`rowspan.model.families`); this file only knows the form of GGUF's names.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NamedTuple


class Role(StrEnum):
    """The role of a tensor in a transformer. `rowspan.model.roles` declares its shape and its cut."""

    EMBEDDING = "embedding"
    FINAL_NORM = "final_norm"
    HEAD = "head"
    ROPE_FREQS = "rope_freqs"
    ROPE_FACTORS_LONG = "rope_factors_long"  # in place of ROPE_FREQS, for contexts beyond the original one
    ROPE_FACTORS_SHORT = "rope_factors_short"

    POSITIONS = "positions"  # embeddings of positions, and of kinds of texts
    TOKEN_TYPES = "token_types"
    EMBEDDING_NORM = "embedding_norm"
    DENSE_1 = "dense_1"  # matrices behind the last layer
    DENSE_2 = "dense_2"
    CLASSIFIER = "classifier"
    CLASSIFIER_OUT = "classifier_out"

    ATTN_NORM = "attn_norm"
    Q = "q"
    K = "k"
    V = "v"
    Q_NORM = "q_norm"
    K_NORM = "k_norm"
    SINKS = "sinks"
    O = "o"  # noqa: E741 - the field's name for the attention output projection
    POST_ATTN_NORM = "post_attn_norm"

    # Latent attention: down to a latent (a), and up from it (b).
    Q_A = "q_a"
    Q_A_NORM = "q_a_norm"
    Q_B = "q_b"
    KV_A = "kv_a"
    KV_A_NORM = "kv_a_norm"
    KV_B = "kv_b"
    K_B = "k_b"
    V_B = "v_b"

    FFN_NORM = "ffn_norm"
    GATE = "gate"
    UP = "up"
    DOWN = "down"
    POST_FFN_NORM = "post_ffn_norm"

    ROUTER = "router"
    ROUTER_SELECTION = "router_selection"  # added to what experts are chosen by
    EXPERT_GATE = "expert_gate"
    EXPERT_UP = "expert_up"
    EXPERT_DOWN = "expert_down"
    SHARED_GATE = "shared_gate"
    SHARED_UP = "shared_up"
    SHARED_DOWN = "shared_down"
    EXPERT_GATE_UP = "expert_gate_up"  # both in one
    EXPERT_SCALES = "expert_scales"
    PRE_EXPERTS_NORM = "pre_experts_norm"
    POST_EXPERTS_NORM = "post_experts_norm"
    POST_SHARED_NORM = "post_shared_norm"
    ROUTER_NORM = "router_norm"
    OUTPUT_SCALE = "output_scale"  # of the layer
    SHARED_SCALE = "shared_scale"  # a row: how much of the shared expert's answer a token takes


class TensorKey(NamedTuple):
    """Names one tensor: its role, its layer (None outside the layers), and whether it is the weight or the bias; or, of
    a weight that is a matrix, its "scale", a factor of the whole product (of each expert's), or its "input_scale",
    which is meant for inputs that are rounded to 4 bits.
    """

    role: Role
    layer: int | None = None
    part: str = "weight"


Names = dict[str, Role]
"""GGUF's names of a family's tensors, without ".weight", and those of the layers without "blk.N."; a name that ends in
".bias" or ".scale" belongs to a role whose tensors are vectors of that name.
"""

# https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#standardized-tensor-names
GGUF_NAME = re.compile(r"(?:blk\.(0|[1-9][0-9]{0,5})\.)?((?:cls\.)?[a-z0-9_]+)\.(weight|bias|scale|input_scale)")


def tensor_key(name: str, model_names: Names, layer_names: Names) -> TensorKey | None:
    """The key of a tensor by its GGUF name; None if the family has no such tensor."""
    match = GGUF_NAME.fullmatch(name)
    if match is None:
        return None
    layer, stem, part = match.groups()
    names = model_names if layer is None else layer_names
    index = None if layer is None else int(layer)
    if f"{stem}.{part}" in names:
        return TensorKey(names[f"{stem}.{part}"], index)
    return TensorKey(names[stem], index, part) if stem in names else None
