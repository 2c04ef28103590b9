"""A `FamilyModel` in transformers: an independent implementation with the same weights, in float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import transformers
from kit.family_model import FamilyModel

from rowspan.checkpoint.tensor_names import Role, TensorKey
from rowspan.model.spec import MoeSpec

Array = Any  # NumPy's
OUTSIDE = {Role.EMBEDDING: "model.embed_tokens", Role.FINAL_NORM: "model.norm", Role.HEAD: "lm_head"}
ATTENTION = {
    Role.Q: "self_attn.q_proj",
    Role.K: "self_attn.k_proj",
    Role.V: "self_attn.v_proj",
    Role.O: "self_attn.o_proj",
    Role.Q_NORM: "self_attn.q_norm",
    Role.K_NORM: "self_attn.k_norm",
    Role.ATTN_NORM: "input_layernorm",
    Role.FFN_NORM: "post_attention_layernorm",
}
MLP = {Role.GATE: "mlp.gate_proj", Role.UP: "mlp.up_proj", Role.DOWN: "mlp.down_proj"}
MOE = {
    Role.ROUTER: "mlp.gate",
    Role.SHARED_GATE: "mlp.shared_experts.gate_proj",
    Role.SHARED_UP: "mlp.shared_experts.up_proj",
    Role.SHARED_DOWN: "mlp.shared_experts.down_proj",
    Role.ROUTER_SELECTION: "mlp.gate.e_score_correction_bias",
}
POST_NORMS = {Role.POST_ATTN_NORM: "post_attention_layernorm", Role.POST_FFN_NORM: "post_feedforward_layernorm"}


@dataclass(frozen=True)
class Reference:
    """What transformers calls a family's things.

    kind: prefix of its classes' names. model: the name of the model's class, where it has another prefix.
    options: of its configuration, beside the usual sizes.
    names: of roles, where they are not the usual ones; "" leaves a role to `more`.
    permuted: the file's rows of q and k are interleaved halves, as llama.cpp's converter writes them.
    more: further entries of a layer's state, or changed ones, from a function that gets a role's tensor.
    """

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[Role, str] = field(default_factory=dict)
    permuted: bool = False
    more: Callable[[Callable[..., Array]], dict[str, Array]] = lambda get: {}
    model: str = ""


def log_probabilities(model: FamilyModel, reference: Reference, tokens: tuple[int, ...]) -> Array:
    """(tokens, vocabulary)"""
    with torch.inference_mode():
        logits = _load(model, reference)(torch.tensor([list(tokens)])).logits[0]
        return logits.log_softmax(-1).numpy()


def _load(model: FamilyModel, reference: Reference) -> Any:
    spec = model.spec
    mixer = spec.layers[0].mixer
    sizes = {
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.hidden_size,
        "intermediate_size": model.metadata[f"{model.architecture}.feed_forward_length"],
        "num_hidden_layers": spec.n_layers,
        "num_attention_heads": mixer.n_heads,
        "num_key_value_heads": mixer.n_kv_heads,
        "head_dim": mixer.key_size,
        "max_position_embeddings": spec.context_length,
        "rms_norm_eps": spec.norm_eps,
        "tie_word_embeddings": model.tied,
        "attn_implementation": "eager",
        "pad_token_id": 0,
    }
    config = getattr(transformers, f"{reference.kind}Config")(**(sizes | dict(reference.options)))
    theirs = getattr(transformers, reference.model or f"{reference.kind}ForCausalLM")(config).float().eval()
    state = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in _state(model, reference).items()}
    for name, due in theirs.state_dict().items():
        if name in state and state[name].numel() == due.numel() and due.shape[0] == 1:
            state[name] = state[name].reshape(due.shape)  # a row that is a vector here
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert set(missing) <= {"lm_head.weight"}, missing
    theirs.tie_weights()
    return theirs


def _state(model: FamilyModel, reference: Reference) -> dict[str, Array]:
    names = OUTSIDE | ATTENTION | MLP | MOE | dict(reference.names)
    state: dict[str, Array] = {}
    for key, array in model.weights.items():
        name = names.get(key.role, "")
        if not name:
            continue
        mixer = model.spec.layers[key.layer or 0].mixer
        if reference.permuted and key.role in (Role.Q, Role.K):
            array = _unpermuted(array, mixer.n_heads if key.role is Role.Q else mixer.n_kv_heads)
        prefix = "" if key.layer is None else f"model.layers.{key.layer}."
        is_bare = key.role in (Role.ROUTER_SELECTION, Role.SINKS)
        state[f"{prefix}{name}" + ("" if is_bare else f".{key.part}")] = array
    for index, layer in enumerate(model.spec.layers):

        def get(role: Role, part: str = "weight", at: int = index) -> Array:
            return model.weights[TensorKey(role, at, part)]

        more = reference.more(get)
        if isinstance(layer.mlp, MoeSpec) and not any("gate_up_proj" in name for name in more):
            more = more | experts(get, "mlp.experts")
        state |= {f"model.layers.{index}.{name}": array for name, array in more.items()}
    return state


def experts(get: Callable[..., Array], prefix: str) -> dict[str, Array]:
    gate_up = np.concatenate([get(Role.EXPERT_GATE), get(Role.EXPERT_UP)], axis=1)
    return {f"{prefix}.gate_up_proj": gate_up, f"{prefix}.down_proj": get(Role.EXPERT_DOWN)}


def _unpermuted(array: Array, n_heads: int) -> Array:
    rows = array.shape[0] // n_heads
    return array.reshape(n_heads, rows // 2, 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)
