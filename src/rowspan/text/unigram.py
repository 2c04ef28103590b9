"""Unigram language model (T5, XLM-RoBERTa): of all ways to cut a text into tokens the most probable one. No torch.

Source: Kudo 2018, https://github.com/google/sentencepiece, whose models carry their normalization as a table
(`precompiled_charsmap`): a length, a double array that finds prefixes of a text, and the texts that replace them.
"""

from __future__ import annotations

import struct

import numpy as np
from tokenizers import Regex, Tokenizer, models, normalizers

from rowspan.text.encoding import ids_of
from rowspan.text.spm import SPACE
from rowspan.text.vocabulary import PREFIX, TokenType, Vocabulary, faulty_vocabulary

SEARCHED = (TokenType.NORMAL, TokenType.UNDEFINED, TokenType.USER_DEFINED, TokenType.UNUSED)


class Unigram:
    """Converts plain text to token ids and back, for tokenizer.ggml.model = "t5". Characters without a token become the
    unknown token.
    """

    spells_all = False
    shrinks = 1

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Build the tokenizer. Raises CheckpointError if scores or the unknown token are missing, or the table of
        normalization points beyond itself.
        """
        if not vocabulary.scores:
            raise faulty_vocabulary(f"{PREFIX}scores is missing, without which nothing says how probable a token is")
        if vocabulary.unknown_id is None:
            raise faulty_vocabulary(f"{PREFIX}unknown_token_id is missing")
        self.space_prefix = vocabulary.add_space_prefix is not False
        # Text has no spaces when it is searched, so a token that is spelt with one is never found.
        pieces = [
            (token if kind in SEARCHED else f" {token}", score)
            for token, kind, score in zip(vocabulary.tokens, vocabulary.types, vocabulary.scores, strict=True)
        ]
        self._rust = Tokenizer(models.Unigram(pieces, unk_id=vocabulary.unknown_id))
        steps: list[normalizers.Normalizer] = []
        if vocabulary.charsmap:
            steps.append(normalizers.Precompiled(_checked(vocabulary.charsmap)))
        if vocabulary.remove_extra_whitespaces is not False:
            steps += [normalizers.Replace(Regex(" +"), " "), normalizers.Replace(Regex(r"\A | \z"), "")]
        if self.space_prefix:
            steps.append(normalizers.Prepend(SPACE))
        self._rust.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text."""
        return ids_of(self._rust, text)

    def token_bytes(self, token: str) -> bytes:
        """The bytes a normal token stands for."""
        return token.replace(SPACE, " ").encode()


def _checked(charsmap: bytes) -> bytes:
    """The table of normalization, whose every step stays within it: the library that walks it does not look.

    A unit of the array leads from place p to p ^ offset ^ c for a byte c, and by its flag to a value, which is where a
    replacement begins.
    """
    (length,) = struct.unpack_from("<I", charsmap) if len(charsmap) >= 4 else (0,)
    texts = charsmap[4 + length :]
    if not length or length % 4 or texts[-1:] != b"\0":
        raise faulty_vocabulary(f"{PREFIX}precompiled_charsmap is cut off")
    units = np.frombuffer(charsmap[4 : 4 + length], "<u4").astype(np.int64)
    steps = units >> 31 == 0
    walked = units[steps]
    places = np.nonzero(steps)[0] ^ ((walked >> 10) << ((walked & 512) >> 6))
    values = places[(walked >> 8) & 1 == 1]
    beyond = (places | 255) >= len(units)
    if beyond.any() or ((units[values] & 0x7FFFFFFF) >= len(texts)).any():
        raise faulty_vocabulary(f"{PREFIX}precompiled_charsmap points beyond its end")
    try:
        texts.decode()
    except UnicodeDecodeError as error:
        raise faulty_vocabulary(f"{PREFIX}precompiled_charsmap holds texts that are no UTF-8") from error
    return charsmap
