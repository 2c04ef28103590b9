"""SentencePiece-style BPE (Llama 2, Mistral, Gemma): spaces become ▁; the best-scored neighbours merge first, or those
that the file lists first. No torch.

Source: Kudo and Richardson 2018, https://github.com/google/sentencepiece.
"""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from rowspan.text.encoding import ids_of
from rowspan.text.vocabulary import PREFIX, TokenType, Vocabulary, faulty_vocabulary, listed_merges

SPACE = "▁"


class SentencePieceBpe:
    """Converts plain text to token ids and back, for tokenizer.ggml.model = "llama"; for "gemma4" by listed
    merges.

    space_prefix: plain text is encoded with one space before it (SentencePiece's dummy prefix), at the start and after
    every special token, so that a word is the same token there as in the middle of a text.
    """

    shrinks = 1

    def __init__(self, vocabulary: Vocabulary, *, listed: bool = False) -> None:
        """Build the tokenizer. Raises CheckpointError if scores or merges are missing, or byte tokens are misspelt.

        Args:
            listed: the file lists the merges; no space is put before a text.
        """
        self.space_prefix = not listed and vocabulary.add_space_prefix is not False
        self._byte_of = _byte_tokens(vocabulary)
        self.spells_all = len(self._byte_of) == 256
        ids, unknown = vocabulary.text_ids, None
        if vocabulary.unknown_id is not None:
            unknown = vocabulary.tokens[vocabulary.unknown_id]
            ids = {**ids, unknown: vocabulary.unknown_id}
        self._rust = Tokenizer(
            models.BPE(
                vocab=ids,
                merges=listed_merges(vocabulary) if listed else _merges(vocabulary),
                unk_token=unknown,
                fuse_unk=True,
                byte_fallback=True,
            )
        )
        if listed:  # no merge joins a newline with anything else: shorter words merge faster
            self._rust.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n+"), "isolated")

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text; characters without a token become <0xXX> byte tokens, or the unknown token."""
        if not text:
            return []
        spaced = f" {text}" if self.space_prefix else text
        return ids_of(self._rust, spaced.replace(" ", SPACE))

    def token_bytes(self, token: str) -> bytes:
        """The bytes a normal or byte token stands for."""
        byte = self._byte_of.get(token)
        return token.replace(SPACE, " ").encode() if byte is None else byte


def _byte_tokens(vocabulary: Vocabulary) -> dict[str, bytes]:
    spellings = {f"<0x{byte:02X}>": bytes([byte]) for byte in range(256)}
    of_type = {token for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True) if kind is TokenType.BYTE}
    for token in of_type - spellings.keys():
        raise faulty_vocabulary(f"the token {token!r:.40} is marked as a byte but is not spelt <0xXX>")
    return {token: spellings[token] for token in of_type}


def _merges(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Pairs of tokens in the order in which they merge.

    SentencePiece merges any two neighbours that make a token, the best score first. So every way to cut a token in two
    is a merge, ranked by the token's score.
    """
    scores = vocabulary.scores
    if not scores:
        raise faulty_vocabulary(f"{PREFIX}scores is missing, without which nothing says what merges first")
    ids = vocabulary.text_ids
    byte = TokenType.BYTE
    pieces = [piece for piece, token_id in ids.items() if vocabulary.types[token_id] is not byte]
    pieces.sort(key=lambda piece: -scores[ids[piece]])
    return [
        (left, right)
        for piece in pieces
        for cut in range(1, len(piece))
        if (left := piece[:cut]) in ids and (right := piece[cut:]) in ids
    ]
