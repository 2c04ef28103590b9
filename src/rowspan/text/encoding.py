"""Encodes text with the `tokenizers` library while other threads go on."""

from __future__ import annotations

from tokenizers import Tokenizer

SHORT = 500  # characters


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids of a text. Only the library's call for several texts releases Python's lock, which matters since 5 MB
    of text take seconds; for short texts the other call is as fast.
    """
    if len(text) <= SHORT:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    else:
        ids = tokenizer.encode_batch([text], add_special_tokens=False)[0].ids
    return ids
