"""The tokenizer's rules about special tokens, ends of turns, strange ids, and damaged metadata."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.vocabulary import bpe, spm

from rowspan.errors import CheckpointError, UnsupportedModelError
from rowspan.text.encoding import ids_of
from rowspan.text.tokenizer import Tokenizer

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=30)  # lone surrogates too
PREFIX = "tokenizer.ggml."
PADDED = Tokenizer.from_metadata(bpe(vocab_size=400))
BY_KIND = {"bpe": Tokenizer.from_metadata(bpe()), "spm": Tokenizer.from_metadata(spm())}


def with_tokens(metadata: dict[str, Any], *added: tuple[str, int], **keys: Any) -> Tokenizer:
    """The tokenizer with further (token, type)s at the end of its vocabulary, and other keys changed."""
    metadata = metadata | {PREFIX + key: value for key, value in keys.items()}
    metadata[PREFIX + "tokens"] = metadata[PREFIX + "tokens"] + [token for token, _ in added]
    metadata[PREFIX + "token_type"] = np.append(metadata[PREFIX + "token_type"], [kind for _, kind in added])
    if PREFIX + "scores" in metadata:
        metadata[PREFIX + "scores"] = np.append(metadata[PREFIX + "scores"], [0.0] * len(added))
    return Tokenizer.from_metadata(metadata)


@pytest.mark.parametrize("kind", ["bpe", "spm"])
@given(text=ANY_TEXT)
def test_any_text_survives(kind: str, text: str) -> None:
    tokenizer = BY_KIND[kind]
    ids = tokenizer.encode(text, add_special=False, parse_special=False)
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert tokenizer.decode(ids) == (whole.replace("▁", " ") if kind == "spm" else whole)


def test_special_tokens_in_the_text() -> None:
    tokenizer = Tokenizer.from_metadata(bpe())
    text = "<|im_start|>the<|im_end|>"
    assert tokenizer.encode(text) == [1, *tokenizer.encode("the"), 2]
    plain = tokenizer.encode(text, parse_special=False)
    assert not any(tokenizer.spelling(token).special for token in plain)
    assert tokenizer.decode(plain) == text
    assert tokenizer.decode([1, 2]) == ""
    assert tokenizer.decode([1, 2], skip_special=False) == "<|im_start|><|im_end|>"


def test_a_whole_word_that_spells_a_control_token_stays_text() -> None:
    tokenizer = with_tokens(bpe(pre="llama-bpe"), ("stop", 3))  # this pre-tokenizer looks whole words up first
    plain = tokenizer.encode("stop", parse_special=False, add_special=False)
    assert not any(tokenizer.spelling(token).special for token in plain)
    assert tokenizer.encode("stop", add_special=False) == [tokenizer.vocab_size - 1]


def test_user_defined_tokens_are_text_and_the_longest_one_wins() -> None:
    tokenizer = with_tokens(bpe(), ("<think>", 4), ("<think>\n", 4))
    first = tokenizer.vocab_size - 2
    for parse_special in (True, False):
        assert tokenizer.encode("<think>\n<think>", parse_special=parse_special) == [first + 1, first]
    assert tokenizer.decode([first]) == "<think>"
    assert not tokenizer.spelling(first).special


def test_bos_and_eos_come_once() -> None:
    tokenizer = with_tokens(spm(), add_eos_token=True)
    (word,) = tokenizer.encode("the", add_special=False)
    assert tokenizer.encode("the") == [1, word, 2]
    assert tokenizer.encode("<s>the</s>") == [1, word, 2]
    assert tokenizer.encode("") == [1, 2]
    assert Tokenizer.from_metadata(bpe()).encode("") == []


def test_who_begins_with_bos_where_the_file_does_not_say() -> None:
    for metadata, begins in ((bpe(), False), (bpe(pre="llama-bpe"), True), (spm(), True)):
        del metadata[PREFIX + "add_bos_token"]
        assert (Tokenizer.from_metadata(metadata).encode("the")[0] == 1) is begins


def test_the_space_before_plain_text() -> None:
    tokenizer = Tokenizer.from_metadata(spm())
    (word,) = tokenizer.encode("the", add_special=False)
    assert tokenizer.encode("the</s>the", add_special=False) == [word, 2, word]
    assert tokenizer.token_bytes(word) == b" the"
    bare = with_tokens(spm(), add_space_prefix=False)
    assert bare.decode(bare.encode(" the")) == " the"
    assert bare.token_bytes(bare.encode("the", add_special=False)[0])[:1] == b"t"


@pytest.mark.parametrize("kind", ["bpe", "spm"])
@given(
    text=st.lists(st.sampled_from(["<|im_end|>", "</s>", "<s>", "<", "|im_end|>", "a", "\ufdd0"]) | ANY_TEXT).map(
        "".join
    )
)
def test_no_special_token_is_found_in_a_guarded_text(kind: str, text: str) -> None:
    tokenizer = BY_KIND[kind]
    ids = tokenizer.encode(tokenizer.guarded(text), add_special=False)
    if "\ufdd0" not in text:
        assert ids == tokenizer.encode(text, add_special=False, parse_special=False)
    assert not any(tokenizer.spelling(token).special for token in ids)


def test_ends_of_turn() -> None:
    size = len(bpe()[PREFIX + "tokens"])
    added = [("<|eot_id|>", 3), ("<|end|>", 1), ("<turn>", 3), ("<pause>", 3)]  # <|end|> is plain text here
    tokenizer = with_tokens(bpe(), *added, eom_token_id=size + 2)
    assert tokenizer.end_ids == {0, 2, size, size + 2}
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)


@pytest.mark.parametrize("kind", [4, 1], ids=["user-defined", "normal"])
def test_markers_of_the_template_are_control_tokens_whatever_the_file_says(kind: int) -> None:
    types = bpe()[PREFIX + "token_type"].copy()
    types[1:3] = kind
    tokenizer = Tokenizer.from_metadata(bpe() | {PREFIX + "token_type": types, PREFIX + "eos_token_id": 0})
    assert tokenizer.end_ids == {0, 2}
    ids = tokenizer.encode("<|im_start|>the<|im_end|>")
    assert (ids[0], ids[-1]) == (1, 2)
    assert tokenizer.decode([2]) == ""


@pytest.mark.parametrize(
    ("added", "ends"),
    [
        (("<|return|>", "<|call|>"), {"<|return|>", "<|call|>"}),  # harmony: <|end|> ends a message
        (("<|calls|>", "<|flush|>"), {"<|calls|>", "<|flush|>"}),
        (("<|return|>",), {"<|return|>", "<|end|>"}),
        (("<turn|>", "[e~["), {"<turn|>", "[e~[", "<|end|>"}),
    ],
)
def test_where_turns_consist_of_messages(added: tuple[str, ...], ends: set[str]) -> None:
    size = len(bpe()[PREFIX + "tokens"])
    tokenizer = with_tokens(bpe(), ("<|end|>", 3), *((token, 3) for token in added))
    ids = {token: size + place for place, token in enumerate(("<|end|>", *added))}
    assert tokenizer.end_ids == {0, 2} | {ids[token] for token in ends}


@given(st.integers(-(2**40), 2**40))
def test_ids_nobody_knows_are_silent(token_id: int) -> None:
    if not 0 <= token_id < len(bpe()[PREFIX + "tokens"]):
        assert PADDED.token_bytes(token_id, special=True) == b""
        assert PADDED.decode([token_id]) == ""
        assert not PADDED.spelling(token_id).special


def test_a_long_text_without_a_space_is_quick() -> None:
    text = "a" * 200_000
    for metadata in (bpe(), bpe(pre="llama-bpe"), bpe(pre="default"), spm()):
        tokenizer = Tokenizer.from_metadata(metadata)
        assert tokenizer.decode(tokenizer.encode(text)) == text  # quadratic work would run into the test's time limit


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("model", "rwkv", "'rwkv'"),
        ("pre", "no-such-words", "'no-such-words'.*smollm"),
        ("pre", None, "names no pre-tokenizer"),
    ],
)
def test_unknown_kinds_are_refused(key: str, value: str | None, says: str) -> None:
    with pytest.raises(UnsupportedModelError, match=says):
        Tokenizer.from_metadata(bpe() | {PREFIX + key: value})


@pytest.mark.parametrize("base", [bpe(), spm()], ids=["bpe", "spm"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model", None),
        ("model", 3),
        ("pre", 3),
        ("tokens", None),
        ("tokens", []),
        ("tokens", "abc"),
        ("tokens", ["a", 3]),
        ("token_type", [1, 2]),
        ("token_type", "abc"),
        ("token_type", np.full(288, 77)),
        ("merges", ["a b", 3]),
        ("eos_token_id", "2"),
        ("eot_token_id", True),
        ("eom_token_id", 1.0),
        ("add_bos_token", 1),
        ("add_space_prefix", "yes"),
        ("scores", [[0.0]]),
    ],
)
def test_damaged_metadata_is_a_checkpoint_error(base: dict[str, Any], key: str, value: Any) -> None:
    metadata = base | {PREFIX + key: value}
    if value is None:
        del metadata[PREFIX + key]
    with pytest.raises(CheckpointError):
        Tokenizer.from_metadata(metadata)


@pytest.mark.parametrize("base", [bpe(), spm()])
@pytest.mark.parametrize("name", ["bos", "eos", "eot", "eom", "unknown", "padding", "seperator", "mask"])
@pytest.mark.parametrize("value", [-1, 2**32 - 1, 2**31, 10**6])
def test_a_special_token_that_is_none_of_the_tokens_is_absent(
    base: dict[str, Any], name: str, value: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Converters write -1 for a token that a model does not have."""
    key = f"{PREFIX}{name}_token_id"
    without = Tokenizer.from_metadata({other: base[other] for other in base if other != key})
    told = len(caplog.messages)
    tokenizer = Tokenizer.from_metadata(base | {key: value})
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.end_ids) == (without.bos_id, without.eos_id, without.end_ids)
    assert tokenizer.encode("Hello, world") == without.encode("Hello, world")
    used = name not in ("padding", "mask")
    assert [str(value) in message for message in caplog.messages[told:]] == [True] * used


@pytest.mark.parametrize("merge", ["", "a", "he llo!", "a b c", "a  b", "zz zz"])
def test_merges_that_make_no_token_are_a_checkpoint_error(merge: str) -> None:
    with pytest.raises(CheckpointError, match="merges"):
        Tokenizer.from_metadata(bpe() | {PREFIX + "merges": [merge]})


def test_scores_and_byte_tokens_of_sentencepiece_models_are_checked() -> None:
    metadata = spm()
    for scores in (None, np.full(len(metadata[PREFIX + "tokens"]), np.nan)):
        with pytest.raises(CheckpointError, match="scores"):
            Tokenizer.from_metadata(metadata | {PREFIX + "scores": scores})
    with pytest.raises(CheckpointError, match="marked as a byte"):
        with_tokens(metadata, ("0x41", 6))


@pytest.mark.parametrize("kind", ["bpe", "spm"])
@given(text=st.text(max_size=200) | st.text("\u1100\u1161\u11a8\u212ae\u0301 ", max_size=200))
def test_no_text_has_fewer_tokens_than_told_by_its_length(kind: str, text: str) -> None:
    tokenizer = BY_KIND[kind]
    assert tokenizer.least_tokens(text) <= len(tokenizer.encode(text, add_special=False))


def test_least_tokens_follow_the_longest_token() -> None:
    tokenizer = with_tokens(bpe(), ("<" + "t" * 98 + ">", 4))
    assert tokenizer.least_tokens("a" * 1000) == 10
    assert tokenizer.least_tokens("<" + "t" * 98 + ">") == len(tokenizer.encode("<" + "t" * 98 + ">")) == 1
    composed = Tokenizer.from_metadata(bpe(pre="qwen2"))  # composes characters first
    syllables = "\u1100\u1161\u11a8" * 400
    assert 0 < composed.least_tokens(syllables) <= len(composed.encode(syllables))


def test_nothing_is_told_where_characters_may_get_lost() -> None:
    metadata = spm()
    types = np.array(metadata[PREFIX + "token_type"])
    types[types == 6] = 1
    lossy = Tokenizer.from_metadata(metadata | {PREFIX + "token_type": types})
    assert lossy.least_tokens("a" * 10_000) == 0


@pytest.mark.parametrize("kind", ["bpe", "spm"])
@given(text=st.text(max_size=40))
def test_long_texts_have_the_same_tokens_as_their_parts(kind: str, text: str) -> None:
    """Long ones take another way through the library."""
    tokenizer = BY_KIND[kind]
    rust = tokenizer._algorithm._rust  # type: ignore[attr-defined]
    long = (text + " the ") * 101
    assert ids_of(rust, long) == rust.encode(long, add_special_tokens=False).ids


def test_other_threads_go_on_while_a_long_text_is_encoded() -> None:
    tokenizer, text = BY_KIND["bpe"], "the quick brown fox " * 40_000
    encoding = threading.Thread(target=tokenizer.encode, args=(text,))
    gaps = [0.0]
    started = last = time.perf_counter()
    encoding.start()
    while encoding.is_alive():
        time.sleep(0.001)
        gaps.append(time.perf_counter() - last)
        last = time.perf_counter()
    assert max(gaps) < (last - started) / 2
