"""The same model in transformers: an independent implementation with the same weights, in float32."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import gguf
import numpy as np
import torch
import transformers
from kit.gguf_builder import TinyModel
from torch import Tensor

NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def reference_model(tiny: TinyModel, rope_parameters: dict[str, Any] | None = None) -> Any:
    """A transformers model with the tiny model's weights.

    rope_parameters: RoPE scaling in transformers' terms; the caller says it twice, in two languages, on purpose.
    """
    weights = tiny.weights()
    head_dim = tiny.head_dim or tiny.hidden_size // tiny.n_heads
    kinds = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
    kind = kinds[tiny.architecture]
    options: dict[str, Any] = {}
    if tiny.sliding_window:
        options |= {"sliding_window": tiny.sliding_window}
        if kind.startswith("Qwen"):
            options |= {"use_sliding_window": True, "max_window_layers": 0}
    elif kind == "Mistral":
        options["sliding_window"] = None
    if kind == "Llama" and tiny.bias:
        options["attention_bias"] = True
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=weights["token_embd.weight"].shape[0],
        hidden_size=tiny.hidden_size,
        intermediate_size=tiny.ffn_size,
        num_hidden_layers=tiny.n_layers,
        num_attention_heads=tiny.n_heads,
        num_key_value_heads=tiny.n_kv_heads,
        head_dim=head_dim,
        max_position_embeddings=tiny.context_length,
        rms_norm_eps=1e-5,
        tie_word_embeddings=tiny.tied,
        rope_parameters={"rope_theta": tiny.rope_base, "rope_type": "default"} | (rope_parameters or {}),
        attn_implementation="eager",
        **options,
    )
    model = getattr(transformers, f"{kind}ForCausalLM")(config).float().eval()
    state = {}
    for name, array in weights.items():
        if name == "rope_freqs.weight":
            continue
        *block, role, part = name.split(".")
        if kind in ("Llama", "Mistral") and role in ("attn_q", "attn_k"):
            array = _unpermute(array, tiny.n_heads if role == "attn_q" else tiny.n_kv_heads)
        prefix = f"model.layers.{block[1]}." if block else ""
        state[f"{prefix}{NAMES[role]}.{part}"] = torch.from_numpy(array.copy())
    if options.get("attention_bias"):  # there it means a bias of o as well
        for layer in range(tiny.n_layers):
            state[f"model.layers.{layer}.self_attn.o_proj.bias"] = torch.zeros(tiny.hidden_size)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert set(missing) <= {"lm_head.weight"}, missing
    model.tie_weights()
    return model


def reference_hidden(model: Any, tokens: Sequence[int]) -> Tensor:
    """Hidden states of every token after the final norm."""
    with torch.inference_mode():
        states: Tensor = model.model(torch.tensor([list(tokens)])).last_hidden_state[0]
    return states


def reference_logits(model: Any, tokens: list[int]) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = model(torch.tensor([tokens])).logits[0]
    return logits


def real_reference(path: Path) -> Any:
    """A GGUF file as transformers itself reads and dequantizes it. It would parse the file twice, and list the names of
    tensors once for each module: half a minute."""
    with (
        patch("gguf.GGUFReader", cache(gguf.GGUFReader)),
        patch("gguf.get_tensor_name_map", cache(gguf.get_tensor_name_map)),
    ):
        return transformers.AutoModelForCausalLM.from_pretrained(
            str(path.parent), gguf_file=path.name, dtype=torch.float32
        ).eval()


def _unpermute(array: np.ndarray, n_heads: int) -> np.ndarray:
    """GGUF interleaves the two halves of each head's rows in llama-like models; transformers keeps them apart."""
    rows = array.shape[0] // n_heads
    return array.reshape(n_heads, rows // 2, 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)
