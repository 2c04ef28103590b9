"""Converts a sentence-transformers model of BERT's architecture to GGUF, with llama.cpp's names: for packages that hold
its folder. No torch.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rowspan.checkpoint.gguf_writer import Float32Tensor, Value, write_gguf
from rowspan.errors import CheckpointError

CONTROL, NORMAL = 3, 1  # types of tokens
POOLINGS = {"pooling_mode_mean_tokens": 1, "pooling_mode_cls_token": 2, "pooling_mode_lasttoken": 3}
OUTSIDE = {
    "embeddings.word_embeddings.weight": "token_embd.weight",
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
    "embeddings.LayerNorm.weight": "token_embd_norm.weight",
    "embeddings.LayerNorm.bias": "token_embd_norm.bias",
}
IN_LAYER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
LAYER_NAME = re.compile(r"encoder\.layer\.(\d+)\.(.+)\.(weight|bias)")
UNUSED = re.compile(r"embeddings\.position_ids|pooler\.dense\.(weight|bias)")  # no part of an embedding


def convert_bert(folder: Path, to: Path, name: str) -> None:
    """Write the model in `folder` (config.json, vocab.txt, 1_Pooling/config.json, model.safetensors) as one GGUF file.

    Raises:
        CheckpointError: it is another model than BERT, or its weights are not float32.
    """
    config = _json(folder / "config.json")
    if config.get("model_type") != "bert" or config.get("hidden_act") != "gelu":
        raise _misfit(f"it is of the type {config.get('model_type')!r}")
    pooling = _json(folder / "1_Pooling" / "config.json")
    metadata: dict[str, Value] = {
        "general.architecture": "bert",
        "general.name": name,
        "bert.block_count": config["num_hidden_layers"],
        "bert.context_length": config["max_position_embeddings"],
        "bert.embedding_length": config["hidden_size"],
        "bert.feed_forward_length": config["intermediate_size"],
        "bert.attention.head_count": config["num_attention_heads"],
        "bert.attention.layer_norm_epsilon": float(config["layer_norm_eps"]),
        "bert.attention.causal": False,
        "bert.pooling_type": next((number for key, number in POOLINGS.items() if pooling.get(key)), 0),
        **_vocabulary(folder, config),
    }
    data = memoryview((folder / "model.safetensors").read_bytes())
    write_gguf(to, metadata, list(_tensors(data)))


def _vocabulary(folder: Path, config: dict[str, Any]) -> dict[str, Value]:
    """Tokens that begin a word are marked by ▁, where BERT marks those that continue one by ##."""
    tokens = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    special = {token for token in tokens if token.startswith("[") and token.endswith("]")}
    begins = {token: "\u2581" + token for token in tokens if not token.startswith("##") and token not in special}
    ids = {token: index for index, token in enumerate(tokens)}
    return {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.tokens": [begins.get(token, token.removeprefix("##")) for token in tokens],
        "tokenizer.ggml.token_type": [CONTROL if token in special else NORMAL for token in tokens],
        "tokenizer.ggml.token_type_count": config["type_vocab_size"],
        "tokenizer.ggml.bos_token_id": ids["[CLS]"],
        "tokenizer.ggml.seperator_token_id": ids["[SEP]"],
        "tokenizer.ggml.unknown_token_id": ids["[UNK]"],
        "tokenizer.ggml.padding_token_id": ids["[PAD]"],
        "tokenizer.ggml.mask_token_id": ids["[MASK]"],
    }


def _tensors(data: memoryview) -> Iterator[Float32Tensor]:
    """Those of a safetensors file (https://github.com/huggingface/safetensors#format), in its order."""
    (length,) = struct.unpack_from("<Q", data)
    header: dict[str, Any] = json.loads(bytes(data[8 : 8 + length]))
    for name, info in header.items():
        if name == "__metadata__" or UNUSED.fullmatch(name):
            continue
        if info["dtype"] != "F32":
            raise _misfit(f"{name} is stored as {info['dtype']}")
        start, end = (8 + length + offset for offset in info["data_offsets"])
        yield Float32Tensor(_gguf_name(name), info["shape"], data[start:end])


def _gguf_name(name: str) -> str:
    match = LAYER_NAME.fullmatch(name)
    if match is not None and match[2] in IN_LAYER:
        return f"blk.{match[1]}.{IN_LAYER[match[2]]}.{match[3]}"
    if name not in OUTSIDE:
        raise _misfit(f"it has a tensor {name}")
    return OUTSIDE[name]


def _json(path: Path) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return parsed


def _misfit(why: str) -> CheckpointError:
    return CheckpointError("The model cannot be converted to GGUF.", why=f"BERT in float32 is expected, but {why}.")
