"""Tensor names of the file formats, and the one vocabulary the rest of Rowspan uses instead.

Everything outside this room speaks of a tensor by its `TensorKey`: the role it plays, the layer it plays it in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple


class Role(StrEnum):
    """What a tensor does in a decoder-only transformer."""

    EMBEDDING = "embedding"
    FINAL_NORM = "final_norm"
    HEAD = "head"
    ROPE_FREQS = "rope_freqs"
    ATTN_NORM = "attn_norm"
    Q = "q"
    K = "k"
    V = "v"
    Q_NORM = "q_norm"
    K_NORM = "k_norm"
    O = "o"  # noqa: E741 - the field's name for the attention output projection
    FFN_NORM = "ffn_norm"
    GATE = "gate"
    UP = "up"
    DOWN = "down"


class TensorKey(NamedTuple):
    """Names one tensor: its role, its layer (None outside the layers), and whether it is the weight or the bias."""

    role: Role
    layer: int | None = None
    part: str = "weight"


# GGUF's names, without ".weight" or ".bias" (and without "blk.N." for those of the layers).
# https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#standardized-tensor-names
GGUF_MODEL_NAMES: Mapping[str, Role] = {
    "token_embd": Role.EMBEDDING,
    "output_norm": Role.FINAL_NORM,
    "output": Role.HEAD,
    "rope_freqs": Role.ROPE_FREQS,
}
GGUF_LAYER_NAMES: Mapping[str, Role] = {
    "attn_norm": Role.ATTN_NORM,
    "attn_q": Role.Q,
    "attn_k": Role.K,
    "attn_v": Role.V,
    "attn_q_norm": Role.Q_NORM,
    "attn_k_norm": Role.K_NORM,
    "attn_output": Role.O,
    "ffn_norm": Role.FFN_NORM,
    "ffn_gate": Role.GATE,
    "ffn_up": Role.UP,
    "ffn_down": Role.DOWN,
}
GGUF_NAME = re.compile(r"(?:blk\.(0|[1-9][0-9]{0,5})\.)?([a-z_]+)\.(weight|bias)")


def key_from_gguf(name: str) -> TensorKey | None:
    """The key of a tensor by its GGUF name; None when the name means nothing to Rowspan."""
    match = GGUF_NAME.fullmatch(name)
    if match is None:
        return None
    layer, stem, part = match.groups()
    role = (GGUF_MODEL_NAMES if layer is None else GGUF_LAYER_NAMES).get(stem)
    return None if role is None else TensorKey(role, None if layer is None else int(layer), part)
