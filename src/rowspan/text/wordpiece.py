"""WordPiece (BERT, MiniLM): words are lower-cased and cut at spaces, punctuation and Chinese characters; within a word
the longest token comes first. No torch.

Sources: Schuster and Nakajima 2012, https://github.com/google-research/bert. GGUF files mark the tokens that begin a
word with ▁, where BERT marks those that continue one with ##.
"""

from __future__ import annotations

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from rowspan.text.encoding import ids_of
from rowspan.text.spm import SPACE
from rowspan.text.vocabulary import PREFIX, Vocabulary, faulty_vocabulary

CONTINUES = "##"
LONGEST_WORD = 100  # characters; longer words are unknown
# Ids in BERT's own vocabulary, which files may leave out.
UNKNOWN, BEGIN, SEPARATOR = 100, 101, 102


class WordPiece:
    """Converts plain text to token ids and back, for tokenizer.ggml.model = "bert". A word that its tokens cannot spell
    becomes the unknown token.
    """

    space_prefix = True  # the token of a first word is spelt with a space, too
    spells_all = False
    shrinks = 1

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Build the tokenizer. Raises CheckpointError if there is no unknown token."""
        unknown_id = UNKNOWN if vocabulary.unknown_id is None else vocabulary.unknown_id
        if unknown_id >= len(vocabulary.tokens):
            raise faulty_vocabulary(f"{PREFIX}unknown_token_id is missing")
        # Plain text, which is cut at punctuation, cannot spell the names of special tokens.
        ids = {_as_bert(token): token_id for token, token_id in vocabulary.text_ids.items()}
        unknown = vocabulary.tokens[unknown_id]
        self._rust = Tokenizer(
            models.WordPiece(
                vocab={**ids, unknown: unknown_id}, unk_token=unknown, max_input_chars_per_word=LONGEST_WORD
            )
        )
        lowercase = vocabulary.lowercase is not False
        self._rust.normalizer = normalizers.BertNormalizer(
            lowercase=lowercase,
            strip_accents=lowercase if vocabulary.strip_accents is None else vocabulary.strip_accents,
        )
        self._rust.pre_tokenizer = pre_tokenizers.BertPreTokenizer()

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text."""
        return ids_of(self._rust, text)

    def token_bytes(self, token: str) -> bytes:
        """The bytes a normal token stands for."""
        return token.replace(SPACE, " ", 1).encode()


def _as_bert(token: str) -> str:
    return token.removeprefix(SPACE) if token.startswith(SPACE) else CONTINUES + token


def bert_ids(vocabulary: Vocabulary) -> tuple[int, int]:
    """The tokens that begin and end a text. Raises CheckpointError if the vocabulary has no such tokens."""
    begin = BEGIN if vocabulary.bos_id is None else vocabulary.bos_id
    separator = SEPARATOR if vocabulary.separator_id is None else vocabulary.separator_id
    if max(begin, separator) >= len(vocabulary.tokens):
        raise faulty_vocabulary(f"{PREFIX}bos_token_id or {PREFIX}seperator_token_id is missing")
    return begin, separator
