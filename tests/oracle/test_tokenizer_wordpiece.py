"""WordPiece against a slow implementation of what google-research/bert describes (tokenization.py), in plain Python."""

from __future__ import annotations

import unicodedata
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowspan.errors import CheckpointError
from rowspan.text.tokenizer import Tokenizer

PREFIX = "tokenizer.ggml."
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
BEGINS = [*"abceéEi!,'1漢ßάαà", "the", "world", "un", "12", "aa"]
CONTINUES = ["he", "r", "ld", "l", "d", "aff", "able", "a", "b", "c", "e", "é", "s", "2", "ing", "ά", "α", "i"]
CHINESE = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0xF900, 0xFAFF), (0x20000, 0x2A6DF))


def bert(**keys: Any) -> dict[str, Any]:
    """A small vocabulary as a converter writes it."""
    tokens = [*SPECIAL, *(f"▁{word}" for word in BEGINS), *CONTINUES]
    return {
        PREFIX + "model": "bert",
        PREFIX + "tokens": tokens,
        PREFIX + "token_type": np.array([3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL)), np.int32),
        PREFIX + "unknown_token_id": 1,
        PREFIX + "bos_token_id": 2,
        PREFIX + "seperator_token_id": 3,
    } | {PREFIX + key: value for key, value in keys.items()}


def words(text: str, *, lowercase: bool) -> list[str]:
    kept = [" " if unicodedata.category(c) == "Zs" or c in "\t\n\r" else c for c in text]
    kept = [c for c in kept if c not in "\0\ufffd" and not unicodedata.category(c).startswith("C")]
    spaced = "".join(f" {c} " if any(first <= ord(c) <= last for first, last in CHINESE) else c for c in kept)
    if lowercase:
        spaced = "".join(c for c in unicodedata.normalize("NFD", spaced) if unicodedata.category(c) != "Mn").lower()
    punctuation = (
        f" {c} "
        if unicodedata.category(c).startswith("P") or (c.isascii() and c.isprintable() and not c.isalnum() and c != " ")
        else c
        for c in spaced
    )
    return "".join(punctuation).split()


def slow_ids(text: str, *, lowercase: bool) -> list[int]:
    tokens = bert()[PREFIX + "tokens"]
    ids: list[int] = []
    for word in words(text, lowercase=lowercase):
        pieces, rest, mark = [], word, "▁"
        while rest:
            longest = next((rest[:end] for end in range(len(rest), 0, -1) if mark + rest[:end] in tokens[4:]), None)
            if longest is None:
                break
            pieces.append(tokens.index(mark + longest, 4))
            rest, mark = rest[len(longest) :], ""
        ids += [1] if rest else pieces
    return ids


# Without characters that Python's and the library's versions of Unicode sort differently.
OLD = st.characters(exclude_categories=["Cs", "Co", "Cn", "Zl", "Zp"]).filter(
    lambda c: unicodedata.ucd_3_2_0.category(c) == unicodedata.category(c)
)
TEXTS = (
    st.lists(st.sampled_from([*BEGINS, *CONTINUES, " ", "unaffable", "!?", "THE", "Ά"]), max_size=20).map("".join)
    | st.text("theworldÉé ’'1,漢\t\n\u3000\u0301ß", max_size=30)
    | st.text(OLD, max_size=20)
)


@pytest.mark.parametrize("lowercase", [True, False])
@given(text=TEXTS)
def test_same_ids_as_the_slow_loop(lowercase: bool, text: str) -> None:
    tokenizer = Tokenizer.from_metadata(bert(**{"normalizer.lowercase": lowercase}))
    expected = slow_ids(text, lowercase=lowercase)
    assert tokenizer.encode(text, add_special=False, parse_special=False) == expected
    assert tokenizer.encode(text, parse_special=False) == [2, *expected, 3]


def test_what_the_tokens_look_like() -> None:
    tokenizer = Tokenizer.from_metadata(bert())
    ids = tokenizer.encode("UNaffable  the-world", add_special=False)
    assert [tokenizer.token_bytes(each, special=True) for each in ids] == [
        *(b" un", b"aff", b"able", b" the", b"[UNK]", b" world")
    ]
    assert tokenizer.decode(tokenizer.encode("the world")) == "the world"
    assert tokenizer.encode("[SEP]the")[1] == 3
    assert 3 not in tokenizer.encode("[SEP]the", parse_special=False, add_special=False)
    assert tokenizer.encode("a" * 101, add_special=False) == [1]
    assert Tokenizer.from_metadata(bert(add_bos_token=False, add_sep_token=False)).encode("the") == ids[3:4]


@pytest.mark.parametrize("missing", ["unknown_token_id", "bos_token_id", "seperator_token_id"])
def test_special_tokens_must_be_there(missing: str) -> None:
    metadata = bert()
    del metadata[PREFIX + missing]
    with pytest.raises(CheckpointError, match=missing):
        Tokenizer.from_metadata(metadata)
