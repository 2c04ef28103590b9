"""Streaming detokenization: whole characters only, and in the end the same text as decoding at once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.vocabulary import bpe, spm

from rowspan.text.detokenizer import Detokenizer
from rowspan.text.tokenizer import Tokenizer

BPE = Tokenizer.from_metadata(bpe(vocab_size=400))
SPM = Tokenizer.from_metadata(spm(vocab_size=450))


def stream(tokenizer: Tokenizer, ids: list[int], **options: Any) -> list[str]:
    detokenizer = Detokenizer(tokenizer, **options)
    return [*(detokenizer.push(token_id) for token_id in ids), detokenizer.finish()]


@pytest.mark.parametrize("tokenizer", [BPE, SPM], ids=["bpe", "spm"])
@given(ids=st.lists(st.integers(-3, 460), max_size=30), skip_special=st.booleans(), continuation=st.booleans())
def test_streaming_equals_decoding_at_once(
    tokenizer: Tokenizer, ids: list[int], skip_special: bool, continuation: bool
) -> None:
    streamed = "".join(stream(tokenizer, ids, skip_special=skip_special, continuation=continuation))
    assert streamed == tokenizer.decode(ids, skip_special=skip_special, continuation=continuation)


@pytest.mark.parametrize("tokenizer", [BPE, SPM], ids=["bpe", "spm"])
@given(text=st.text(max_size=20))
def test_no_piece_holds_half_a_character(tokenizer: Tokenizer, text: str) -> None:
    pieces = stream(tokenizer, tokenizer.encode(text, add_special=False, parse_special=False))
    assert "".join(pieces) == text  # and so no piece holds a replacement character that the text has not


def test_an_emoji_of_four_tokens_appears_with_the_last() -> None:
    ids = BPE.encode("😀!")
    assert stream(BPE, ids) == ["", "", "", "😀", "!", ""]


def test_bytes_that_cannot_become_a_character_do_not_hold_back_what_follows() -> None:
    begun, letter = BPE.encode("é😀")[-4], BPE.encode("x")[0]  # the first byte of four, then a letter
    assert stream(BPE, [begun, letter, begun]) == ["", "\ufffdx", "", "\ufffd"]


def test_the_leading_space_belongs_to_continuations_only() -> None:
    ids = SPM.encode("the world", add_special=False)
    assert stream(SPM, ids) == ["the", " world", ""]
    assert stream(SPM, ids, continuation=True) == [" the", " world", ""]
    assert stream(SPM, [SPM.eos_id or 0, *ids]) == ["", "the", " world", ""]
    assert "".join(stream(BPE, BPE.encode(" the"))) == " the"
