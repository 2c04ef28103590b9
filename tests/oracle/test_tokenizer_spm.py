"""SentencePiece-style BPE against the sentencepiece library, on small models trained here."""

from __future__ import annotations

import io
import random

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from kit.sentencepiece_gguf import PREFIX, as_gguf

from rowspan.text.tokenizer import Tokenizer

PIECES = 110  # beside control and byte tokens
PROSE = "the world and the other words of this one, hello there; 12 hills, 345 wells (more) in Ängelholm: naïve café "


def train(alphabet: str | None, *, byte_fallback: bool) -> sentencepiece.SentencePieceProcessor:
    """A model as Llama 2's was made: no normalization, all spaces kept. Learns prose, or noise of an alphabet."""
    draw = random.Random(1)
    words = PROSE.split() if alphabet is None else ["".join(draw.choices(alphabet, k=8)) for _ in range(200)]
    lines = [" ".join(draw.choices(words, k=12)) for _ in range(200)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=3 + (256 if byte_fallback else 0) + PIECES,
        byte_fallback=byte_fallback,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        num_threads=1,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


REFERENCES = {
    "prose": train(None, byte_fallback=True),
    "prose without bytes": train(None, byte_fallback=False),
    "ab": train("ab", byte_fallback=True),
    "aab▁": train("aab", byte_fallback=True),
}
TOKENIZERS = {name: Tokenizer.from_metadata(as_gguf(reference)) for name, reference in REFERENCES.items()}
TEXTS = (
    st.text("ab ", max_size=40)
    | st.text("theworld \n▁\t12é漢😀\r\u3000\u0301", max_size=40)
    | st.lists(st.sampled_from([*PROSE.split(" "), " ", "\n"]), max_size=20).map(" ".join)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
)


@pytest.mark.parametrize("name", REFERENCES)
@given(text=TEXTS)
def test_same_ids_and_same_text_as_sentencepiece(name: str, text: str) -> None:
    reference, tokenizer = REFERENCES[name], TOKENIZERS[name]
    ids = tokenizer.encode(text, add_special=False, parse_special=False)
    assert ids == reference.encode(text)
    if reference.unk_id() not in ids:
        assert tokenizer.decode(ids) == reference.decode(ids) == text.replace("▁", " ")
    assert tokenizer.encode(text, parse_special=False) == [reference.bos_id(), *ids]


@pytest.mark.parametrize("name", REFERENCES)
@given(places=st.lists(st.integers(1, PIECES), max_size=20))
def test_any_pieces_decode_as_in_sentencepiece(name: str, places: list[int]) -> None:
    ids = [TOKENIZERS[name].vocab_size - place for place in places]
    assert TOKENIZERS[name].decode(ids) == REFERENCES[name].decode(ids)


@given(text=st.text("the world\n.,é12😀 ", max_size=40))
def test_listed_merges_of_gemma_4(text: str) -> None:
    """The same merges, best first, as a list: the same tokens, but for the space that is put before a text."""
    metadata = as_gguf(REFERENCES["prose"]) | {PREFIX + "add_space_prefix": False}
    ranks = dict(zip(metadata[PREFIX + "tokens"], metadata[PREFIX + "scores"], strict=True))
    merges = [
        (-ranks[piece], f"{piece[:cut]} {piece[cut:]}")
        for piece, kind in zip(metadata[PREFIX + "tokens"], metadata[PREFIX + "token_type"], strict=True)
        for cut in range(1, len(piece))
        if kind == 1 and piece[:cut] in ranks and piece[cut:] in ranks
    ]
    listed = metadata | {
        PREFIX + "model": "gemma4",
        PREFIX + "merges": [pair for _, pair in sorted(merges, key=lambda pair: pair[0])],
    }
    expected = Tokenizer.from_metadata(metadata).encode(text)
    assert Tokenizer.from_metadata(listed).encode(text) == expected
