"""Tokenizer: converts text to token ids and back, built from a checkpoint's metadata. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple, Protocol

from rowspan.errors import UnsupportedModelError
from rowspan.text.bpe import ByteLevelBpe
from rowspan.text.pretokenizers import pre_tokenizer
from rowspan.text.spm import SentencePieceBpe
from rowspan.text.unigram import Unigram
from rowspan.text.vocabulary import TokenType, Vocabulary
from rowspan.text.wordpiece import WordPiece, bert_ids

# Tokens that end a turn, whether or not the metadata says so: conversions often name only one of several.
END_OF_TURN = frozenset(
    {
        "</s>",
        "<eos>",
        "<end_of_turn>",
        "<end_of_utterance>",
        "<turn|>",
        "<|call|>",
        "<|calls|>",
        "<|end_of_text|>",
        "<|end|>",
        "<|endoftext|>",
        "<|eom_id|>",
        "<|eot_id|>",
        "<|eot|>",
        "<|flush|>",
        "<|im_end|>",
        "<|return|>",
        "<|tool_response>",
        "<｜end▁of▁sentence｜>",
        "[EOS]",
        "[EOT]",
        "[e~[",
    }
)
# Where a turn consists of several messages, <|end|> ends a message only: in gpt-oss' harmony, and Solar's.
END_OF_MESSAGE = "<|end|>"
TURNS_OF_MESSAGES = (frozenset({"<|return|>", "<|call|>"}), frozenset({"<|flush|>", "<|calls|>"}))
SPECIAL_TYPES = (TokenType.CONTROL, TokenType.UNKNOWN)
TEMPLATE_KEY = "tokenizer.chat_template"
GUARD = "\ufdd0"  # no character, by Unicode's own definition: no text has it
_MARKER = re.compile(r"<[|｜][^<>|｜\s]+[|｜]>")


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

    def __init__(
        self, vocabulary: Vocabulary, algorithm: Algorithm, *, prefix: int | None = None, suffix: int | None = None
    ) -> None:
        """Args:
        prefix, suffix: the token that goes before and behind every text; None: none.
        """
        self._vocabulary = vocabulary
        self._algorithm = algorithm
        self._prefix = [] if prefix is None else [prefix]
        self._suffix = [] if suffix is None else [suffix]
        self.bos_id = vocabulary.bos_id
        self.eos_id = vocabulary.eos_id
        self.vocab_size = len(vocabulary.tokens)
        self.end_ids = _end_ids(vocabulary)
        # Tokens found in the text before the algorithm sees it: user-defined ones always, special ones on demand.
        self._added = _ids_of(vocabulary, (TokenType.USER_DEFINED,))
        self._added_and_special = self._added | _ids_of(vocabulary, SPECIAL_TYPES)
        self._spellings: dict[int, Spelling] = {}  # spellings that were asked for so far
        self._special = self._added_and_special.keys() - self._added.keys()
        self._find_special = _finder(self._special)
        self._find_guarded = _finder(map(_guarded, self._special))
        self._find_added = _finder(self._added)
        self._find_added_and_special = _finder(self._added_and_special)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Tokenizer:
        """Build the tokenizer a checkpoint describes under GGUF's keys tokenizer.ggml.*.

        Raises:
            UnsupportedModelError: a kind of tokenizer or pre-tokenizer Rowspan does not know.
            CheckpointError: keys are missing, malformed or contradict each other.
        """
        vocabulary = with_control_types(Vocabulary.from_metadata(metadata), metadata.get(TEMPLATE_KEY))
        match vocabulary.model:
            case "gpt2":
                pre = pre_tokenizer(vocabulary.pre)
                return cls._between_bos_and_eos(vocabulary, ByteLevelBpe(vocabulary, pre), add_bos=pre.add_bos)
            case "llama":
                return cls._between_bos_and_eos(vocabulary, SentencePieceBpe(vocabulary), add_bos=True)
            case "gemma4":
                return cls._between_bos_and_eos(vocabulary, SentencePieceBpe(vocabulary, listed=True), add_bos=True)
            case "t5":
                return cls._between_bos_and_eos(vocabulary, Unigram(vocabulary), add_bos=False, add_eos=True)
            case "bert":
                begin, separator = bert_ids(vocabulary)
                return cls(
                    vocabulary,
                    WordPiece(vocabulary),
                    prefix=None if vocabulary.add_bos is False else begin,
                    suffix=None if vocabulary.add_sep is False else separator,
                )
            case other:
                raise UnsupportedModelError(
                    f"Tokenizer {other!r} is not supported.",
                    why="Rowspan knows gpt2 (byte-level BPE), llama and gemma4 (SentencePiece BPE), t5 (Unigram) and "
                    "bert (WordPiece).",
                    fix="Choose a model with one of these tokenizers.",
                )

    @classmethod
    def _between_bos_and_eos(
        cls, vocabulary: Vocabulary, algorithm: Algorithm, *, add_bos: bool, add_eos: bool = False
    ) -> Tokenizer:
        """add_bos, add_eos: whether the tokens go around a text if the file does not say."""
        return cls(
            vocabulary,
            algorithm,
            prefix=vocabulary.bos_id if _either(vocabulary.add_bos, add_bos) else None,
            suffix=vocabulary.eos_id if _either(vocabulary.add_eos, add_eos) else None,
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
                ids += self._algorithm.encode(self._unguarded(part) if GUARD in part else part)
        if not add_special:
            return ids
        prefix = [] if ids[:1] == self._prefix else self._prefix
        suffix = [] if ids[-1:] == self._suffix else self._suffix
        return [*prefix, *ids, *suffix]

    def encode_pair(self, first: str, second: str) -> list[int]:
        """Token ids of two texts as a cross-encoder reads them: each with what goes around a text, but the second
        without its first token. RoBERTa's end each text, and one that begins, with the same token.
        """
        begin = self._suffix if isinstance(self._algorithm, Unigram) else []
        behind = self.encode(second)
        return [*self.encode(first), *begin, *(behind[1:] if behind[:1] == self._prefix else behind)]

    def token_ids(self, texts: Iterable[str]) -> frozenset[int]:
        """The ids of those texts that are one token, special or user-defined."""
        return frozenset(self._added_and_special[text] for text in texts if text in self._added_and_special)

    def guarded(self, text: str) -> str:
        """The text, in which `encode` finds no special tokens but the same words: what users write cannot end their
        turn, nor begin another's.
        """
        return self._find_special.sub(lambda found: _guarded(found[0]), text)

    def _unguarded(self, text: str) -> str:
        return self._find_guarded.sub(lambda found: found[0].replace(GUARD, "", 1), text)

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


def with_control_types(vocabulary: Vocabulary, template: object) -> Vocabulary:
    """The vocabulary, with the type of tokens corrected that control a conversation: converters write tokens that were
    added to a model as user-defined, or even as ordinary ones, which text is never cut at.

    Args:
        template: the chat template of the same file. A token that looks like a marker and stands in it is one.
    """
    text = template if isinstance(template, str) else ""

    def corrected(token: str, kind: TokenType) -> TokenType:
        if kind is TokenType.USER_DEFINED and token in END_OF_TURN:
            return TokenType.CONTROL
        if kind in (TokenType.NORMAL, TokenType.UNDEFINED) and _MARKER.fullmatch(token) and token in text:
            return TokenType.CONTROL
        return kind

    types = [corrected(*each) for each in zip(vocabulary.tokens, vocabulary.types, strict=True)]
    return replace(vocabulary, types=types)


def _either(said: bool | None, otherwise: bool) -> bool:
    return otherwise if said is None else said


def _end_ids(vocabulary: Vocabulary) -> frozenset[int]:
    named = {token_id for token_id in (vocabulary.eos_id, vocabulary.eot_id, vocabulary.eom_id) if token_id is not None}
    known = {
        token: token_id
        for token_id, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True))
        if kind is TokenType.CONTROL and token in END_OF_TURN
    }
    if any(known.keys() >= turns for turns in TURNS_OF_MESSAGES):
        named.discard(known.pop(END_OF_MESSAGE, -1))
    return frozenset(named | set(known.values()))


def _ids_of(vocabulary: Vocabulary, types: tuple[TokenType, ...]) -> dict[str, int]:
    tokens = enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True))
    return {token: token_id for token_id, (token, kind) in tokens if kind in types and token}


def _guarded(token: str) -> str:
    return token[0] + GUARD + token[1:]


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
