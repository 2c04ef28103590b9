"""Refuses metadata that would change a model's answers and that its family does not read: left out, they would be
wrong without a word.
"""

from __future__ import annotations

from typing import Any

from rowspan.errors import UnsupportedModelError
from rowspan.model.header import ModelHeader

# Keys below the architecture's name, each with the values that change nothing.
CHANGING_KEYS: dict[str, tuple[Any, ...]] = {
    "attention.scale": (0,),
    "attention.output_scale": (0, 1),
    "attention.temperature_scale": (0,),
    "attention.temperature_length": (0,),
    "attention.max_alibi_bias": (0,),
    "attention.clamp_kqv": (0,),
    "attention.causal": (True,),
    "attention.shared_kv_layers": (0,),
    "attention.indexer.top_k": (0,),
    "attn_logit_softcapping": (0,),
    "router_logit_softcapping": (0,),
    "final_logit_softcapping": (0,),
    "logit_scale": (0, 1),
    "embedding_scale": (0, 1),
    "residual_scale": (0, 1),
    "use_parallel_residual": (False,),
    "expert_count": (0,),
    "expert_group_count": (0, 1),
    "expert_chunk_feed_forward_length": (0,),
    "embedding_length_per_layer_input": (0,),
    "altup.num_inputs": (0, 1),
    "ssm.state_size": (0,),
    "full_attention_interval": (0, 1),
    "token_shift_count": (0,),
    "shortconv.l_cache": (0,),
}
# Files of other things than models, by `general.type`.
OTHER_TYPES = {
    "adapter": "a LoRA adapter, which belongs to a model",
    "mmproj": "the part of a model that sees images, which belongs to a model",
    "imatrix": "an importance matrix, which llama-quantize uses",
    "vocab": "a vocabulary alone",
}


def refuse_unread(header: ModelHeader) -> None:
    """Check what a family has left unread. Call it when the spec has been made.

    Raises:
        UnsupportedModelError: a key that the family has not read would change the answers.
    """
    kind = header.metadata.get("general.type", "model")
    if isinstance(kind, str) and kind in OTHER_TYPES:
        raise UnsupportedModelError(
            f"The file {header.name} is no model.",
            why=f"It holds {OTHER_TYPES[kind]}.",
            fix="Give the model's own file.",
        )
    for key, harmless in CHANGING_KEYS.items():
        value = header.peek(key)
        if value is not None and not header.has_read(key) and not any(_is_same(value, other) for other in harmless):
            raise UnsupportedModelError(
                f"{header.architecture}.{key} is {str(value)[:40]}, which Rowspan does not know in this architecture.",
                why="Leaving it out would silently change the model's answers.",
                fix="Choose another conversion of this model, or --backend llamacpp.",
            )


def _is_same(value: Any, other: Any) -> bool:
    return isinstance(value, bool | int | float) and bool(value == other)
