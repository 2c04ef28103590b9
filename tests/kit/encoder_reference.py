"""Encoders of `FamilyModel` in transformers: an independent implementation with the same weights, in float32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import transformers
from kit.family_model import FamilyModel

from rowspan.checkpoint.tensor_names import Role, TensorKey
from rowspan.model.roles import ROLES

Array = Any  # NumPy's


@dataclass(frozen=True)
class EncoderReference:
    """What transformers calls an encoder's things.

    kind: prefix of its classes' names. model: the rest of the model's.
    sizes: of its configuration, beside the usual ones.
    names: of roles; in layers behind `layers`. joined: roles whose matrices it has as one, first to last, by its name.
    less_one: norms' weights lack 1.
    """

    kind: str
    layers: str
    names: Mapping[Role, str]
    joined: Mapping[str, tuple[Role, ...]] = field(default_factory=dict)
    sizes: Mapping[str, Any] = field(default_factory=dict)
    model: str = "Model"
    less_one: bool = False


class LoadedReference:
    """An encoder of transformers with a model's weights."""

    def __init__(self, model: FamilyModel, reference: EncoderReference) -> None:
        self._theirs = _load(model, reference)
        self._dense = [
            model.weights[key] for key in map(TensorKey, (Role.DENSE_1, Role.DENSE_2)) if key in model.weights
        ]

    def states(self, tokens: Sequence[int]) -> Array:
        """(tokens, hidden size); or of a classifier (1, labels)."""
        with torch.inference_mode():
            given = torch.tensor([list(tokens)])
            result = self._theirs(given, attention_mask=torch.ones_like(given))
        if hasattr(result, "logits"):
            return result.logits.numpy()
        states = result.last_hidden_state[0].numpy()
        for matrix in self._dense:
            states = states @ matrix.T
        return states


def _load(model: FamilyModel, reference: EncoderReference) -> Any:
    spec = model.spec
    sizes = {
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.hidden_size,
        "intermediate_size": model.metadata[f"{model.architecture}.feed_forward_length"],
        "num_hidden_layers": spec.n_layers,
        "num_attention_heads": spec.layers[0].mixer.n_heads,
        "max_position_embeddings": spec.context_length,
        "type_vocab_size": spec.encoder.n_token_types if spec.encoder else 0,
        "layer_norm_eps": spec.norm_eps,
        "attn_implementation": "eager",
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 0),
    }
    config = getattr(transformers, f"{reference.kind}Config")(**(sizes | dict(reference.sizes)))
    theirs = getattr(transformers, reference.kind + reference.model)(config).float().eval()
    state = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in _state(model, reference).items()}
    for name, array in state.items():
        due = theirs.state_dict()[name]
        if due.shape != array.shape:  # RoBERTa's first rows stand for no position
            state[name] = torch.cat([torch.zeros(len(due) - len(array), array.shape[1]), array])
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert all("pooler" in name for name in missing), missing
    return theirs


def _state(model: FamilyModel, reference: EncoderReference) -> dict[str, Array]:
    state: dict[str, Array] = {}
    for key, array in model.weights.items():
        prefix = "" if key.layer is None else f"{reference.layers}.{key.layer}."
        if key.role in reference.names:
            shifted = array - 1 if reference.less_one and ROLES[key.role].is_norm else array
            state[f"{prefix}{reference.names[key.role]}.{key.part}"] = shifted
    for index in range(model.spec.n_layers):
        for name, roles in reference.joined.items():
            parts = [model.weights[TensorKey(role, index)] for role in roles]
            state[f"{reference.layers}.{index}.{name}.weight"] = np.concatenate(parts)
    return state
