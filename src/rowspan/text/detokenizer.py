"""Detokenizer: converts token ids to text as they arrive, never half a character. No torch."""

from __future__ import annotations

from codecs import utf_8_decode

from rowspan.text.tokenizer import Tokenizer


class Detokenizer:
    """Converts one stream of tokens to text; its results together equal `Tokenizer.decode` with the same options.

    Args:
        skip_special: leave special tokens out.
        shown: special tokens that are part of the text nevertheless.
        continuation: False for a text of its own, such as a chat answer: the leading space that SentencePiece models
            put before the first word is dropped. True for text that continues a raw prompt.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        skip_special: bool = True,
        shown: frozenset[int] = frozenset(),
        continuation: bool = False,
    ) -> None:
        self._tokenizer = tokenizer
        self._shown = shown
        self._special = not skip_special
        self._drop_space = tokenizer.space_prefix and not continuation
        self._begun = b""  # of a character that is not whole yet

    def push(self, token_id: int) -> str:
        """The new text that a token completes: whole characters only. Bytes that can no longer become one turn into
        U+FFFD.
        """
        data = self._tokenizer.token_bytes(token_id, special=self._special or token_id in self._shown)
        if data and self._drop_space:
            data = data.removeprefix(b" ")
            self._drop_space = False
        text, used = utf_8_decode(self._begun + data, "replace", False)
        self._begun = (self._begun + data)[used:]
        return text

    def finish(self) -> str:
        """The remaining text: U+FFFD for a character that was never completed."""
        begun, self._begun = self._begun, b""
        return begun.decode(errors="replace")
