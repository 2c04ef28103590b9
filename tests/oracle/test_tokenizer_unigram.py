"""The Unigram model against the sentencepiece library, on small models trained here; a damaged table is refused."""

from __future__ import annotations

import io
import random
import unicodedata
from typing import Any

import numpy as np
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from kit.sentencepiece_gguf import PREFIX, as_gguf, charsmap_of

from rowspan.errors import CheckpointError
from rowspan.text.tokenizer import Tokenizer

PROSE = "the world and the other words of this one, hello there; 12 hills, 345 wells (more) in Ängelholm: naïve café ½ "


def train(normalization: str, *, remove_spaces: bool) -> sentencepiece.SentencePieceProcessor:
    draw = random.Random(1)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(draw.choices(PROSE.split(), k=12)) for _ in range(200)]),
        model_writer=model,
        model_type="unigram",
        vocab_size=90,
        hard_vocab_limit=False,
        normalization_rule_name=normalization,
        remove_extra_whitespaces=remove_spaces,
        num_threads=1,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def unigram(reference: sentencepiece.SentencePieceProcessor, *, remove_spaces: bool) -> dict[str, Any]:
    return as_gguf(reference) | {
        PREFIX + "model": "t5",
        PREFIX + "precompiled_charsmap": charsmap_of(reference),
        PREFIX + "remove_extra_whitespaces": remove_spaces,
    }


REFERENCES = {
    "T5's normalization": train("nmt_nfkc", remove_spaces=True),
    "folded": train("nmt_nfkc_cf", remove_spaces=True),
    "identity": train("identity", remove_spaces=False),
}
METADATA = {name: unigram(each, remove_spaces=name != "identity") for name, each in REFERENCES.items()}
TOKENIZERS = {name: Tokenizer.from_metadata(metadata) for name, metadata in METADATA.items()}
# What Unicode had in version 3.2 is in every table of normalization.
OLD = st.characters(exclude_categories=["Cs"], exclude_characters="\0").filter(
    lambda c: unicodedata.ucd_3_2_0.category(c) != "Cn"
)
TEXTS = (
    st.text("theworld ,12Äé½ﬁＡ①漢😀\t\n\u3000\u00a0", max_size=40)
    | st.lists(st.sampled_from([*PROSE.split(" "), " ", "\n", "</s>", "<unk>"]), max_size=20).map(" ".join)
    | st.text(OLD, max_size=20)
)


@pytest.mark.parametrize("name", REFERENCES)
@given(text=TEXTS)
def test_same_ids_as_sentencepiece(name: str, text: str) -> None:
    reference, tokenizer = REFERENCES[name], TOKENIZERS[name]
    ids = tokenizer.encode(text, add_special=False, parse_special=False)
    assert ids == reference.encode(text)
    if reference.unk_id() not in ids:
        assert tokenizer.decode(ids) == reference.decode(ids)
    assert tokenizer.encode(text, parse_special=False) == [*ids, reference.eos_id()]


def test_tokens_without_a_text_are_never_found_in_one() -> None:
    tokenizer = TOKENIZERS["T5's normalization"]
    plain = tokenizer.encode("a</s>b <unk> c", add_special=False, parse_special=False)
    assert tokenizer.eos_id not in plain
    assert tokenizer.encode("the</s>")[-1] == tokenizer.eos_id
    assert tokenizer.encode("the</s>").count(tokenizer.eos_id or -1) == 1


@pytest.mark.parametrize("missing", ["scores", "unknown_token_id"])
def test_what_must_be_there(missing: str) -> None:
    metadata = {key: value for key, value in METADATA["identity"].items() if key != PREFIX + missing}
    with pytest.raises(CheckpointError, match=missing):
        Tokenizer.from_metadata(metadata)


@given(data=st.data())
def test_a_damaged_table_is_refused_or_stays_within_itself(data: st.DataObject) -> None:
    metadata = METADATA["T5's normalization"]
    table = metadata[PREFIX + "precompiled_charsmap"].copy()
    places = data.draw(st.lists(st.integers(0, 7) | st.integers(0, len(table) - 1), max_size=20))
    for place in places:
        table[place] = data.draw(st.integers(0, 255))
    table = table[: data.draw(st.just(len(table)) | st.integers(0, len(table)))]
    try:
        tokenizer = Tokenizer.from_metadata(metadata | {PREFIX + "precompiled_charsmap": table})
    except CheckpointError:
        return
    tokenizer.encode(data.draw(TEXTS))


@pytest.mark.parametrize("table", ["abc", [1, 2], np.zeros(3, np.int32)])
def test_a_table_of_another_kind_is_refused(table: Any) -> None:
    with pytest.raises(CheckpointError, match="precompiled_charsmap"):
        Tokenizer.from_metadata(METADATA["identity"] | {PREFIX + "precompiled_charsmap": table})
