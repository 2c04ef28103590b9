"""The tensors of a model by name and shape: those of a GGUF file, or those that llama.cpp's converter would write.

https://github.com/ggml-org/llama.cpp/blob/master/gguf-py/gguf/constants.py
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from rowspan.checkpoint.shape import Shape
from rowspan.checkpoint.tensor_names import Role, TensorKey, key_from_gguf

EXPERTS = {"ffn_gate_exps": Role.GATE, "ffn_up_exps": Role.UP, "ffn_down_exps": Role.DOWN}
IN_LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")


@dataclass(frozen=True)
class ListedTensor:
    """A tensor as planning sees it.

    shape: (outputs, inputs) of matrices; a mixture's experts stand side by side, as one wide MLP's.
    key: its role, if it is one that `rowspan.plan.split` cuts.
    """

    name: str
    shape: tuple[int, ...]
    key: TensorKey | None
    layer: int | None
    is_routed: bool = False  # one of many experts': a token meets only some

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def list_tensor(name: str, shape: tuple[int, ...]) -> ListedTensor:
    """Read a tensor's GGUF name. shape: in Rowspan's order, (experts, outputs, inputs) of experts."""
    match = IN_LAYER.fullmatch(name)
    layer = int(match[1]) if match else None
    if match and match[2] in EXPERTS and len(shape) == 3:
        experts, outputs, inputs = shape
        role = EXPERTS[match[2]]
        stacked = (outputs, experts * inputs) if role is Role.DOWN else (experts * outputs, inputs)
        return ListedTensor(name, stacked, TensorKey(role, layer), layer, is_routed=True)
    return ListedTensor(name, shape, key_from_gguf(name), layer)


def tensors_of(shape: Shape) -> list[ListedTensor]:
    """What a file of this shape holds, rope_freqs aside."""
    hidden = shape.hidden
    matrices: list[tuple[str, tuple[int, ...]]] = [("token_embd.weight", (shape.vocab, hidden))]
    for layer in range(shape.layers):
        named = [
            *_attention(shape),
            *_mlp(shape, layer),
            ("attn_norm.weight", (hidden,)),
            ("ffn_norm.weight", (hidden,)),
        ]
        if shape.post_norms:
            named += [("post_attention_norm.weight", (hidden,)), ("post_ffw_norm.weight", (hidden,))]
        matrices += [(f"blk.{layer}.{name}", size) for name, size in named]
    matrices.append(("output_norm.weight", (hidden,)))
    if not shape.tied:
        matrices.append(("output.weight", (shape.vocab, hidden)))
    return [list_tensor(name, size) for name, size in matrices]


def _attention(shape: Shape) -> list[tuple[str, tuple[int, ...]]]:
    hidden, q, kv = shape.hidden, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    if shape.kv_rank:
        return _latent_attention(shape)
    tensors: list[tuple[str, tuple[int, ...]]] = [
        ("attn_q.weight", (q, hidden)),
        ("attn_k.weight", (kv, hidden)),
        ("attn_v.weight", (kv, hidden)),
        ("attn_output.weight", (hidden, q)),
    ]
    if shape.qkv_bias:
        tensors += [("attn_q.bias", (q,)), ("attn_k.bias", (kv,)), ("attn_v.bias", (kv,))]
    if shape.qk_norm:
        tensors += [("attn_q_norm.weight", (shape.head_dim,)), ("attn_k_norm.weight", (shape.head_dim,))]
    return tensors


def _latent_attention(shape: Shape) -> list[tuple[str, tuple[int, ...]]]:
    hidden, q = shape.hidden, shape.heads * shape.head_dim
    plain_head = shape.head_dim - shape.rope_head
    tensors: list[tuple[str, tuple[int, ...]]] = [
        ("attn_kv_a_mqa.weight", (shape.kv_rank + shape.rope_head, hidden)),
        ("attn_kv_a_norm.weight", (shape.kv_rank,)),
        ("attn_kv_b.weight", (shape.heads * (plain_head + shape.value_head), shape.kv_rank)),
        ("attn_output.weight", (hidden, shape.heads * shape.value_head)),
    ]
    if not shape.q_rank:
        return [*tensors, ("attn_q.weight", (q, hidden))]
    return [
        *tensors,
        ("attn_q_a.weight", (shape.q_rank, hidden)),
        ("attn_q_a_norm.weight", (shape.q_rank,)),
        ("attn_q_b.weight", (q, shape.q_rank)),
    ]


def _mlp(shape: Shape, layer: int) -> list[tuple[str, tuple[int, ...]]]:
    hidden, experts, width = shape.hidden, shape.experts, shape.expert_ffn
    if not shape.is_mixture(layer):
        return _gated("", shape.ffn, hidden)
    tensors: list[tuple[str, tuple[int, ...]]] = [
        ("ffn_gate_inp.weight", (experts, hidden)),
        ("ffn_gate_exps.weight", (experts, width, hidden)),
        ("ffn_up_exps.weight", (experts, width, hidden)),
        ("ffn_down_exps.weight", (experts, hidden, width)),
    ]
    return tensors + (_gated("_shexp", shape.shared_ffn, hidden) if shape.shared_ffn else [])


def _gated(suffix: str, width: int, hidden: int) -> list[tuple[str, tuple[int, ...]]]:
    return [
        (f"ffn_gate{suffix}.weight", (width, hidden)),
        (f"ffn_up{suffix}.weight", (width, hidden)),
        (f"ffn_down{suffix}.weight", (hidden, width)),
    ]
