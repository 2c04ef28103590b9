"""Tokenizer: converts text to token ids and back, built from a checkpoint's metadata. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, NamedTuple, Protocol

from rowspan.errors import UnsupportedModelError
from rowspan.text.bpe import ByteLevelBpe
from rowspan.text.pretokenizers import pre_tokenizer
from rowspan.text.spm import SentencePieceBpe
from rowspan.text.vocabulary import TokenType, Vocabulary

# Control tokens that end a turn, whether or not the metadata says so: conversions often name only one of several.
END_OF_TURN = frozenset(
    {
        "</s>",
        "<end_of_turn>",
        "<|end_of_text|>",
        "<|end|>",
        "<|endoftext|>",
        "<|eom_id|>",
        "<|eot_id|>",
        "<|eot|>",
        "<|im_end|>",
    }
)
SPECIAL_TYPES = (TokenType.CONTROL, TokenType.UNKNOWN)


class Algorithm(Protocol):
    """The part that differs between kinds of tokenizers: converts plain text (no special tokens) to ids, and a token to
    bytes.
    """

    @property
    def space_prefix(self) -> bool:
        """Whether plain text is encoded with a space put before it."""
        ...

    @property
    def spells_all(self) -> bool:
        """Whether every byte has a token, so that no byte is lost and no two become the same unknown token."""
        ...

    @property
    def shrinks(self) -> int:
        """The largest factor by which normalization may shorten a text's bytes before tokens are made of them."""
        ...

    def encode(self, text: str) -> list[int]: ...

    def token_bytes(self, token: str) -> bytes: ...


class Spelling(NamedTuple):
    raw: bytes  # bytes of the token's spelling
    text: bytes  # bytes that it adds to a text
    special: bool  # whether it steers the model instead of being part of the text


class Tokenizer:
    """Converts text to token ids and back.

    bos_id, eos_id: None if the model has no such token.
    end_ids: every id that ends a turn or a text.
    vocab_size: number of tokens that the tokenizer knows; the model's embedding may be padded to more.
    """

    def __init__(self, vocabulary: Vocabulary, algorithm: Algorithm, *, add_bos: bool, add_eos: bool) -> None:
        self._vocabulary = vocabulary
        self._algorithm = algorithm
        self._prefix = [vocabulary.bos_id] if add_bos and vocabulary.bos_id is not None else []
        self._suffix = [vocabulary.eos_id] if add_eos and vocabulary.eos_id is not None else []
        self.bos_id = vocabulary.bos_id
        self.eos_id = vocabulary.eos_id
        self.vocab_size = len(vocabulary.tokens)
        self.end_ids = _end_ids(vocabulary)
        # Tokens found in the text before the algorithm sees it: user-defined ones always, special ones on demand.
        self._added = _ids_of(vocabulary, (TokenType.USER_DEFINED,))
        self._added_and_special = self._added | _ids_of(vocabulary, SPECIAL_TYPES)
        self._spellings: dict[int, Spelling] = {}  # spellings that were asked for so far
        self._find_added = _finder(self._added)
        self._find_added_and_special = _finder(self._added_and_special)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Tokenizer:
        """Build the tokenizer a checkpoint describes under GGUF's keys tokenizer.ggml.*.

        Raises:
            UnsupportedModelError: a kind of tokenizer or pre-tokenizer Rowspan does not know.
            CheckpointError: keys are missing, malformed or contradict each other.
        """
        vocabulary = Vocabulary.from_metadata(metadata)
        algorithm: Algorithm
        match vocabulary.model:
            case "gpt2":
                pre = pre_tokenizer(vocabulary.pre)
                algorithm, add_bos = ByteLevelBpe(vocabulary, pre), pre.add_bos
            case "llama":
                algorithm, add_bos = SentencePieceBpe(vocabulary), True
            case "gemma4":
                algorithm, add_bos = SentencePieceBpe(vocabulary, listed=True), True
            case other:
                raise UnsupportedModelError(
                    f"Tokenizer {other!r} is not supported.",
                    why="Rowspan knows gpt2 (byte-level BPE), llama and gemma4 (SentencePiece BPE).",
                    fix="Choose a model with one of these tokenizers.",
                )
        return cls(
            vocabulary,
            algorithm,
            add_bos=add_bos if vocabulary.add_bos is None else vocabulary.add_bos,
            add_eos=bool(vocabulary.add_eos),
        )

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Token ids of any text; lone surrogates count as U+FFFD.

        Args:
            add_special: put BOS first and EOS last if the model wants them, never twice: a rendered chat template may
                begin with BOS already.
            parse_special: texts of special tokens, such as <|im_start|>, become their ids. False: they stay text.
        """
        added, find = (
            (self._added_and_special, self._find_added_and_special)
            if parse_special
            else (self._added, self._find_added)
        )
        ids: list[int] = []
        # Splitting by a pattern with one group leaves plain text at even places, tokens at odd ones.
        for place, part in enumerate(find.split(_without_surrogates(text))):
            if place % 2:
                ids.append(added[part])
            elif part:
                ids += self._algorithm.encode(part)
        if not add_special:
            return ids
        prefix = [] if ids[:1] == self._prefix else self._prefix
        suffix = [] if ids[-1:] == self._suffix else self._suffix
        return [*prefix, *ids, *suffix]

    def least_tokens(self, text: str) -> int:
        """The least number of tokens that a text can have, computed at once from its length."""
        return len(text.encode(errors="replace")) // self._longest if self._algorithm.spells_all else 0

    @cached_property
    def _longest(self) -> int:
        """The largest number of a text's bytes that one token may stand for."""
        spelt = (len(self._spell(token_id).raw) for token_id in range(self.vocab_size))
        return max(1, *spelt) * self._algorithm.shrinks

    def token_bytes(self, token_id: int, *, special: bool = False) -> bytes:
        """The exact bytes that a token adds to the output; none for ids that the tokenizer does not know.

        Args:
            special: spell special tokens out instead of leaving them out.
        """
        spelling = self.spelling(token_id)
        return spelling.raw if special else spelling.text

    def spelling(self, token_id: int) -> Spelling:
        """A token's text and bytes; empty for ids that the tokenizer does not know."""
        known = self._spellings.get(token_id)
        if known is None:
            if not 0 <= token_id < self.vocab_size:
                return Spelling(b"", b"", False)
            known = self._spellings[token_id] = self._spell(token_id)
        return known

    def _spell(self, token_id: int) -> Spelling:
        token = self._vocabulary.tokens[token_id]
        match self._vocabulary.types[token_id]:
            case TokenType.CONTROL | TokenType.UNKNOWN:
                return Spelling(token.encode(), b"", True)
            case TokenType.USER_DEFINED:
                data = token.encode()
            case TokenType.UNUSED:
                data = b""
            case _:
                data = self._algorithm.token_bytes(token)
        return Spelling(data, data, False)

    @property
    def space_prefix(self) -> bool:
        """Whether text is encoded with a space put before it, which decoding removes again."""
        return self._algorithm.space_prefix

    def decode(self, token_ids: Iterable[int], *, skip_special: bool = True, continuation: bool = False) -> str:
        """The text of tokens; bytes that are no UTF-8 become U+FFFD.

        Args:
            skip_special: leave special tokens out.
            continuation: the text goes on after other text, so its leading space is part of it. Otherwise the space
                that `encode` put first (SentencePiece models only) is taken away, so that a text decodes to itself.
        """
        data = b"".join(self.token_bytes(token_id, special=not skip_special) for token_id in token_ids)
        if self.space_prefix and not continuation:
            data = data.removeprefix(b" ")
        return data.decode(errors="replace")


def _end_ids(vocabulary: Vocabulary) -> frozenset[int]:
    named = {token_id for token_id in (vocabulary.eos_id, vocabulary.eot_id, vocabulary.eom_id) if token_id is not None}
    known = {
        token_id
        for token_id, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True))
        if kind is TokenType.CONTROL and token in END_OF_TURN
    }
    return frozenset(named | known)


def _ids_of(vocabulary: Vocabulary, types: tuple[TokenType, ...]) -> dict[str, int]:
    tokens = enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True))
    return {token: token_id for token_id, (token, kind) in tokens if kind in types and token}


def _finder(tokens: Iterable[str]) -> re.Pattern[str]:
    """A pattern that matches any of the tokens, the longest of those that begin at one place; it matches nothing if
    there are no tokens.
    """
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")


def _without_surrogates(text: str) -> str:
    """Valid Unicode: surrogate pairs become the character they stand for, lone surrogates U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
