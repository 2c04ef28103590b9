"""The vocabulary of a model that the sentencepiece library has, as a converter writes it into a GGUF file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import sentencepiece

PREFIX = "tokenizer.ggml."


def as_gguf(reference: sentencepiece.SentencePieceProcessor) -> dict[str, Any]:
    """The metadata of a model of the kind "llama"; other kinds change the key."""
    ids = range(reference.get_piece_size())
    kinds = [(reference.is_unknown, 2), (reference.is_control, 3), (reference.is_unused, 5), (reference.is_byte, 6)]
    return {
        PREFIX + "model": "llama",
        PREFIX + "tokens": [reference.id_to_piece(i) for i in ids],
        PREFIX + "scores": np.array([reference.get_score(i) for i in ids], np.float32),
        PREFIX + "token_type": np.array([next((kind for is_, kind in kinds if is_(i)), 1) for i in ids], np.int32),
        PREFIX + "bos_token_id": reference.bos_id(),
        PREFIX + "eos_token_id": reference.eos_id(),
        PREFIX + "unknown_token_id": reference.unk_id(),
    }


def charsmap_of(reference: sentencepiece.SentencePieceProcessor) -> np.ndarray:
    """The table of normalization: field 2 of the model's field 3, as sentencepiece_model.proto numbers them."""
    (spec,) = (value for number, value in _fields(reference.serialized_model_proto()) if number == 3)
    (table,) = (value for number, value in _fields(spec) if number == 2)
    return np.frombuffer(table, np.uint8)


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Numbers and bytes of a protobuf message's fields; those that are numbers have no bytes here."""
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = message[place]
            place += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while place < len(message):
        number, wire = divmod(varint(), 8)
        if wire == 0:
            varint()
            length = 0
        else:
            length = {1: 8, 5: 4}.get(wire) or varint()
        yield number, message[place : place + length]
        place += length
