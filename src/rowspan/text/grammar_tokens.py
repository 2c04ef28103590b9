"""A model's vocabulary as llguidance takes it. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rowspan.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLTokenizer

CONTINUED = "\x02"  # a byte of its own in any vocabulary, which never joins what follows it


class GrammarTokens:
    """The tokens of one model, for llguidance: what each adds to a text, and which are special.

    It takes up to a second to make, for large vocabularies.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        """Args: vocab_size: of the model, whose embedding may be padded to more tokens than the tokenizer knows."""
        from llguidance import LLTokenizer, TokenizerWrapper

        spellings = [tokenizer.spelling(token_id) for token_id in range(vocab_size)]
        ends = sorted(tokenizer.end_ids) or [tokenizer.eos_id or 0]
        self._special = {spelling.raw: token for token, spelling in enumerate(spellings) if spelling.special}
        vocabulary = _Vocabulary(
            tokenizer, [spelling.raw for spelling in spellings], [*self._special.values()], ends[0]
        )
        self.for_llguidance: LLTokenizer = LLTokenizer(TokenizerWrapper(vocabulary), n_vocab=vocab_size, eos_token=ends)

    def special(self, text: str) -> int | None:
        """The id of the special token that is spelled so; None: there is none."""
        return self._special.get(text.encode())


class _Vocabulary:
    """What llguidance asks a tokenizer for."""

    def __init__(self, tokenizer: Tokenizer, tokens: list[bytes], special_token_ids: list[int], eos: int) -> None:
        self._tokenizer = tokenizer
        self.tokens = tokens
        self.special_token_ids = special_token_ids
        self.eos_token_id = eos
        self.bos_token_id = tokenizer.bos_id

    def __call__(self, text: bytes) -> list[int]:
        """The tokens of text that continues other text, to which SentencePiece models would add a space."""
        before = [] if not self._tokenizer.space_prefix else self._encode(CONTINUED)
        return self._encode(("" if not before else CONTINUED) + text.decode(errors="replace"))[len(before) :]

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special=False, parse_special=False)
