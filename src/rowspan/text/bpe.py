"""Byte-level BPE (Radford et al. 2019): text becomes UTF-8 bytes, bytes become letters, letters merge. No torch."""

from __future__ import annotations

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from rowspan.text.encoding import ids_of
from rowspan.text.pretokenizers import PreTokenizer
from rowspan.text.vocabulary import Vocabulary, listed_merges


def _letters() -> dict[str, int]:
    """GPT-2's alphabet: printable Latin-1 stands for itself, the other bytes for the letters from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + rank): byte for rank, byte in enumerate(others)}


BYTE_OF_LETTER = _letters()
NFC_SHRINKS = 3  # largest factor: three Hangul letters become one syllable, U+212A becomes K


class ByteLevelBpe:
    """Converts plain text to token ids and back, for tokenizer.ggml.model = "gpt2"."""

    space_prefix = False

    def __init__(self, vocabulary: Vocabulary, pre: PreTokenizer) -> None:
        """Build the tokenizer. Raises CheckpointError if the merges do not fit the tokens."""
        self._rust = Tokenizer(
            models.BPE(
                vocab=vocabulary.text_ids,
                merges=listed_merges(vocabulary),
                ignore_merges=pre.ignore_merges,
            )
        )
        if pre.nfc:
            self._rust.normalizer = normalizers.NFC()
        self.spells_all = vocabulary.text_ids.keys() >= BYTE_OF_LETTER.keys()
        self.shrinks = NFC_SHRINKS if pre.nfc else 1
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        self._rust.pre_tokenizer = pre_tokenizers.Sequence([pre.splitter(), byte_level])

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text."""
        return ids_of(self._rust, text)

    def token_bytes(self, token: str) -> bytes:
        """The bytes a normal token stands for. A character that is no byte's letter stands for itself."""
        try:
            return bytes([BYTE_OF_LETTER[letter] for letter in token])
        except KeyError:
            return token.encode()
