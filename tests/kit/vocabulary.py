"""Small vocabularies for synthetic models, as GGUF metadata."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

NORMAL, UNKNOWN, CONTROL, UNUSED, BYTE = 1, 2, 3, 5, 6  # tokenizer.ggml.token_type

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
INST = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'] + eos_token }}{% else %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% endif %}{% endfor %}"
)
MERGES = (
    *("Ġ t", "h e", "Ġt he", "i n", "Ġ a", "e r", "o n", "r e", "Ġ w", "o r", "l l", "Ġ s", "Ġa n", "Ġan d", "in g"),
    *("l d", "Ġw or", "Ġwor ld", "he ll", "hell o", "Ġ Ġ", "Ġ o", "Ġo f", "i s", "Ġ is", "1 2", "' s", "Ã ©"),
)
PIECES = (  # best first; each is the sum of two that are there
    *("▁t", "he", "▁the", "in", "▁a", "er", "on", "re", "▁w", "or", "ll", "▁s", "▁an", "▁and", "ing", "ld", "▁wor"),
    *("▁world", "hell", "hello", "▁▁", "▁o", "▁of", "is", "▁is", "▁hello", "▁he", "▁hell"),
)


def byte_characters() -> list[str]:
    """GPT-2's printable stand-ins for the bytes 0…255."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    stand_ins = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    return [stand_ins[byte] for byte in range(256)]


def bpe(vocab_size: int | None = None, pre: str = "smollm", chat_template: str | None = CHATML) -> dict[str, Any]:
    """Byte-level BPE: three special tokens, the 256 bytes, the results of `MERGES`."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = special + byte_characters() + [merge.replace(" ", "") for merge in MERGES]
    types = [CONTROL] * len(special) + [NORMAL] * (len(tokens) - len(special))
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": filled(tokens, vocab_size),
        "tokenizer.ggml.token_type": token_types(types, vocab_size),
        "tokenizer.ggml.merges": list(MERGES),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.padding_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
    } | template(chat_template)


def spm(vocab_size: int | None = None, chat_template: str | None = INST) -> dict[str, Any]:
    """SentencePiece style: <unk>, <s>, </s>, a token for every byte, `PIECES`, the printable ASCII characters."""
    special, byte_tokens = ["<unk>", "<s>", "</s>"], [f"<0x{byte:02X}>" for byte in range(256)]
    characters = ["▁", *(chr(code) for code in range(0x21, 0x7F)), "é"]
    tokens = special + byte_tokens + list(PIECES) + characters
    types = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * (len(PIECES) + len(characters))
    scores = [0.0] * (len(special) + 256) + [-float(rank) for rank in range(len(PIECES) + len(characters))]
    size = vocab_size or len(tokens)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": filled(tokens, vocab_size),
        "tokenizer.ggml.scores": np.array(scores + [-1e4] * (size - len(tokens)), np.float32),
        "tokenizer.ggml.token_type": token_types(types, vocab_size),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.add_space_prefix": True,
    } | template(chat_template)


def template(chat_template: str | None) -> dict[str, Any]:
    return {} if chat_template is None else {"tokenizer.chat_template": chat_template}


def filled(tokens: Sequence[str], vocab_size: int | None) -> list[str]:
    """The tokens, and unused ones up to the size asked for."""
    size = vocab_size or len(tokens)
    if size < len(tokens):
        raise ValueError(f"the vocabulary has {len(tokens)} tokens, more than {size}")
    return [*tokens, *(f"<|unused_{i}|>" for i in range(size - len(tokens)))]


def token_types(types: Sequence[int], vocab_size: int | None) -> np.ndarray:
    return np.array([*types, *[UNUSED] * ((vocab_size or len(types)) - len(types))], np.int32)
