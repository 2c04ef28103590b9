"""Vocabulary: a checkpoint's metadata about its tokens, checked once. No torch.

The keys are those of GGUF, tokenizer.ggml.* (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Any

import numpy as np

from rowspan.errors import CheckpointError

log = logging.getLogger(__name__)

PREFIX = "tokenizer.ggml."


class TokenType(IntEnum):
    """Values of tokenizer.ggml.token_type, after SentencePiece's piece types."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by id, and the ids with a meaning of their own (None: the model has no such token).

    model: the algorithm, such as "gpt2" (byte-level BPE); the caller refuses those that it does not know.
    pre: name of the pre-tokenizer; None if the file gives none.
    scores: one per token, in SentencePiece models only; higher ones merge first.
    separator_id: the token that ends a text of BERT's.
    charsmap: SentencePiece's table of normalization; empty if there is none.
    add_bos and further flags: None if the file leaves it to the algorithm.
    """

    model: str
    pre: str | None
    tokens: list[str]
    types: list[TokenType]
    merges: list[str]
    scores: list[float]
    bos_id: int | None
    eos_id: int | None
    eot_id: int | None
    eom_id: int | None
    unknown_id: int | None
    separator_id: int | None
    charsmap: bytes
    add_bos: bool | None
    add_eos: bool | None
    add_sep: bool | None
    add_space_prefix: bool | None
    remove_extra_whitespaces: bool | None
    lowercase: bool | None
    strip_accents: bool | None

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Vocabulary:
        """Read and check the tokenizer's keys.

        Raises:
            CheckpointError: a key is missing, has the wrong type, or contradicts another.
        """
        model = _string(metadata, "model")
        if model is None:
            raise CheckpointError(
                "The model file holds no tokenizer.",
                why=f"The metadata key {PREFIX}model is missing.",
                fix="Convert the model again, together with its tokenizer files.",
            )
        tokens = _strings(metadata, "tokens")
        if not tokens:
            raise faulty_vocabulary(f"{PREFIX}tokens is missing or empty")

        def token_id(name: str) -> int | None:
            value = metadata.get(f"{PREFIX}{name}_token_id")
            if value is None:
                return None
            if isinstance(value, bool) or not isinstance(value, int):
                raise faulty_vocabulary(f"{PREFIX}{name}_token_id is {value!r:.40}, not a number")
            if not 0 <= value < len(tokens):  # -1 of a model without such a token, read as 4294967295
                log.warning("%s%s_token_id is %d; of %d tokens none is meant.", PREFIX, name, value, len(tokens))
                return None
            return value

        return cls(
            model=model,
            pre=_string(metadata, "pre"),
            tokens=tokens,
            types=_types(metadata, len(tokens)),
            merges=_strings(metadata, "merges"),
            scores=_scores(metadata, len(tokens)),
            bos_id=token_id("cls") if token_id("bos") is None else token_id("bos"),
            eos_id=token_id("eos"),
            eot_id=token_id("eot"),
            eom_id=token_id("eom"),
            unknown_id=token_id("unknown"),
            separator_id=token_id("seperator"),  # GGUF spells it so
            charsmap=_bytes(metadata, "precompiled_charsmap"),
            add_bos=_flag(metadata, "add_bos_token"),
            add_eos=_flag(metadata, "add_eos_token"),
            add_sep=_flag(metadata, "add_sep_token"),
            add_space_prefix=_flag(metadata, "add_space_prefix"),
            remove_extra_whitespaces=_flag(metadata, "remove_extra_whitespaces"),
            lowercase=_flag(metadata, "normalizer.lowercase"),
            strip_accents=_flag(metadata, "normalizer.strip_accents"),
        )

    @cached_property
    def text_ids(self) -> dict[str, int]:
        """Ids of the tokens that plain text may become, by their spelling; of equal spellings the first counts."""
        plain = (TokenType.NORMAL, TokenType.UNDEFINED, TokenType.USER_DEFINED, TokenType.BYTE)
        ids: dict[str, int] = {}
        for token_id, (token, kind) in enumerate(zip(self.tokens, self.types, strict=True)):
            if kind in plain:
                ids.setdefault(token, token_id)
        return ids


def faulty_vocabulary(why: str) -> CheckpointError:
    """The error for a vocabulary that cannot be used."""
    return CheckpointError(
        "The model file's vocabulary is faulty.",
        why=f"{why[0].upper()}{why[1:]}.",
        fix="Fetch the file again; if it stays so, the conversion was faulty.",
    )


def _string(metadata: Mapping[str, Any], key: str) -> str | None:
    value = metadata.get(PREFIX + key)
    if value is not None and not isinstance(value, str):
        raise faulty_vocabulary(f"{PREFIX}{key} is {value!r:.40}, not a text")
    return value


def _flag(metadata: Mapping[str, Any], key: str) -> bool | None:
    value = metadata.get(PREFIX + key)
    if value is not None and not isinstance(value, bool):
        raise faulty_vocabulary(f"{PREFIX}{key} is {value!r:.40}, not true or false")
    return value


def _bytes(metadata: Mapping[str, Any], key: str) -> bytes:
    value = metadata.get(PREFIX + key)
    if value is None:
        return b""
    if not isinstance(value, np.ndarray) or value.dtype not in (np.int8, np.uint8):
        raise faulty_vocabulary(f"{PREFIX}{key} is not a list of bytes")
    return value.tobytes()


def _strings(metadata: Mapping[str, Any], key: str) -> list[str]:
    value = metadata.get(PREFIX + key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise faulty_vocabulary(f"{PREFIX}{key} is not a list of texts")
    return value


def _numbers(metadata: Mapping[str, Any], key: str, count: int) -> np.ndarray | None:
    value = metadata.get(PREFIX + key)
    if value is None:
        return None
    numbers = np.asarray(value)
    if numbers.shape != (count,) or numbers.dtype.kind not in "iuf":
        raise faulty_vocabulary(f"{PREFIX}{key} is not a list of {count} numbers, one a token")
    return numbers


def _types(metadata: Mapping[str, Any], count: int) -> list[TokenType]:
    numbers = _numbers(metadata, "token_type", count)
    if numbers is None:
        return [TokenType.NORMAL] * count
    by_value = {int(kind): kind for kind in TokenType}
    try:
        return [by_value[value] for value in numbers.tolist()]
    except KeyError as error:
        raise faulty_vocabulary(f"{PREFIX}token_type holds {error}, which is no token type") from error


def _scores(metadata: Mapping[str, Any], count: int) -> list[float]:
    numbers = _numbers(metadata, "scores", count)
    if numbers is None:
        return []
    if not np.isfinite(numbers).all():
        raise faulty_vocabulary(f"{PREFIX}scores holds values that are no numbers")
    scores: list[float] = numbers.tolist()
    return scores


def listed_merges(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Pairs of tokens in the order in which they merge; "a b" in the file.

    Raises:
        CheckpointError: a pair is none, or does not make a token.
    """
    known = vocabulary.text_ids
    merges = []
    for merge in vocabulary.merges:
        between = merge.find(" ", 1)  # a token may be a space
        left, right = merge[: max(0, between)], merge[between + 1 :]
        if left not in known or right not in known or left + right not in known:
            raise faulty_vocabulary(
                f"{PREFIX}merges holds {merge!r:.60}, which is not a pair of tokens that make a token"
            )
        merges.append((left, right))
    return merges
