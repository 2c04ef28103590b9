"""Byte-level BPE against a slow loop in plain Python, and the real model's tokenizer against transformers."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.vocabulary import bpe, byte_characters

from rowspan.model.open_checkpoint import open_checkpoint
from rowspan.text.pretokenizers import NAMES, PRE_TOKENIZERS
from rowspan.text.tokenizer import Tokenizer

PREFIX = "tokenizer.ggml."
LETTERS = byte_characters()
TEXTS = [
    "The quick brown fox jumps over the lazy dog. It's 1234 km away; isn't it?",
    "def f(x):\n    return x ** 2  # squared\n\n\n\tprint(f(3.14159))",
    "Größe, naïve café, Ελλάδα, Россия, 漢字, かな, 한국어, العربية, हिन्दी",
    "👩‍👩‍👧‍👦 🇩🇪 e\u0301 \u00a0\u3000 ½ ² Ⅷ",
    "   leading, trailing   ",
    "\n\n \r\n \t ",
    "",
]


class SlowBpe:
    """Merge the best-ranked pair, leftmost first, until there is none (Sennrich et al. 2016)."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self.pre = PRE_TOKENIZERS[metadata[PREFIX + "pre"]]
        self.ids = {token: token_id for token_id, token in enumerate(metadata[PREFIX + "tokens"])}
        self.ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(metadata[PREFIX + "merges"])}

    def encode(self, text: str) -> list[int]:
        if self.pre.nfc:
            text = unicodedata.normalize("NFC", text)
        words = [word for word, _ in self.pre.splitter().pre_tokenize_str(text)]  # has a test of its own
        return [self.ids[part] for word in words for part in self._merged(word) if part in self.ids]

    def _merged(self, word: str) -> list[str]:
        parts = [LETTERS[byte] for byte in word.encode()]
        if self.pre.ignore_merges and "".join(parts) in self.ids:
            return ["".join(parts)]
        while pairs := [(self.ranks[pair], at) for at, pair in enumerate(pairwise(parts)) if pair in self.ranks]:
            _, at = min(pairs)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        return parts


def random_bpe(pre: str) -> dict[str, Any]:
    """Merges drawn at random, later ones of earlier ones, and a few whole words that no merge makes."""
    draw = random.Random(pre)
    metadata = bpe(pre=pre, chat_template=None)
    pieces = [LETTERS[byte] for byte in " abceé1".encode()]
    merges: list[str] = []
    while len(merges) < 120:
        left, right = draw.choice(pieces), draw.choice(pieces)
        if left + right not in pieces:
            merges.append(f"{left} {right}")
            pieces.append(left + right)
    tokens = [*metadata[PREFIX + "tokens"][:3], *LETTERS, *(merge.replace(" ", "") for merge in merges)]
    tokens += [word for word in ("cab", "ĠÃ©a", "eee") if word not in tokens]
    types = [3] * 3 + [1] * (len(tokens) - 3)
    return metadata | {PREFIX + "tokens": tokens, PREFIX + "merges": merges, PREFIX + "token_type": types}


VOCABULARIES = {names[0]: random_bpe(names[0]) for names in NAMES.values()}
TOKENIZERS = {pre: (Tokenizer.from_metadata(data), SlowBpe(data)) for pre, data in VOCABULARIES.items()}


@pytest.mark.parametrize("pre", VOCABULARIES)
@given(text=st.text(" abceé1e\u0301'", max_size=40) | st.sampled_from(TEXTS))
def test_random_merges(pre: str, text: str) -> None:
    tokenizer, slow = TOKENIZERS[pre]
    ids = tokenizer.encode(text, add_special=False)
    assert ids == slow.encode(text)
    assert tokenizer.decode(ids) == (unicodedata.normalize("NFC", text) if slow.pre.nfc else text)


@pytest.fixture(scope="module")
def metadata(smollm2_path: Path) -> Mapping[str, Any]:
    return open_checkpoint(smollm2_path).metadata


@pytest.mark.parametrize("pre", ["smollm", "llama-bpe"])
def test_the_real_vocabulary(metadata: Mapping[str, Any], pre: str) -> None:
    metadata = {**metadata, PREFIX + "pre": pre, PREFIX + "add_bos_token": False}
    tokenizer, slow = Tokenizer.from_metadata(metadata), SlowBpe(metadata)
    draw = random.Random(0)
    words = "".join(TEXTS).split(" ")
    texts = TEXTS + ["".join(draw.choices(["\n", " ", *words], k=30)) for _ in range(30)]
    for text in texts:
        ids = tokenizer.encode(text)
        assert ids == slow.encode(text)
        assert tokenizer.decode(ids) == text


def test_the_real_model_knows_how_its_turns_end(metadata: Mapping[str, Any]) -> None:
    tokenizer = Tokenizer.from_metadata(metadata)
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id) == (49152, 1, 2)
    assert tokenizer.end_ids == {0, 2}
    assert tokenizer.encode("<|im_start|>user\nhi<|im_end|>\n") == [1, 4093, 198, 6004, 2, 198]


@pytest.mark.heavy
def test_the_real_tokenizer_and_template_as_in_transformers(smollm2_path: Path, metadata: Mapping[str, Any]) -> None:
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    from rowspan.text.chat_template import ChatTemplate

    reference = AutoTokenizer.from_pretrained(smollm2_path.parent, gguf_file=smollm2_path.name)
    # Its reader of GGUF ignores tokenizer.ggml.pre; the model's own tokenizer.json has these two.
    reference.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer = Tokenizer.from_metadata(metadata)
    special = ["<|im_start|>user\nhi<|im_end|>\n", "<|endoftext|><|im_end|> text between <|im_start|>"]
    for text in TEXTS + special:
        ids = tokenizer.encode(text)
        assert ids == reference(text).input_ids
        assert tokenizer.decode(ids) == reference.decode(ids, skip_special_tokens=True)
        assert tokenizer.decode(ids, skip_special=False) == reference.decode(ids)
    template = ChatTemplate.from_metadata(metadata, tokenizer)
    assert template is not None
    chat = [{"role": role, "content": f"{role} <&> 'é'"} for role in ("system", "user", "assistant", "user")]
    for messages in (chat, chat[1:]):
        for prompt in (True, False):
            expected = reference.apply_chat_template(messages, add_generation_prompt=prompt, tokenize=False)
            assert template.render(messages, add_generation_prompt=prompt) == expected
