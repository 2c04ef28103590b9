"""Pre-tokenizers against the published regular expressions, applied by the `regex` module."""

from __future__ import annotations

import unicodedata

import pytest
import regex  # type: ignore[import-untyped]
from hypothesis import example, given
from hypothesis import strategies as st

from rowspan.text.pretokenizers import PRE_TOKENIZERS

# As published: openai/gpt-2 encoder.py; the tokenizer.json of Meta-Llama-3-8B and of Qwen2-7B.
GPT2 = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# tiktoken's o200k_base; Mistral-Nemo-2407, Qwen3.5, DeepSeek-V3 and -Coder, Seed-Coder, Ling (tokenizer.json); Kimi-K2
# (tokenization_kimi.py, whose && the `regex` module spells the same way in its version 1).
UPPER, LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
SHORTENED = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
END = r"\s*[\r\n]+|\s+(?!\S)|\s+"
GPT_4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?[{UPPER}]*[{LOWER}]+{SHORTENED}?|[^\r\n\p{{L}}\p{{N}}]?[{UPPER}]+[{LOWER}]*{SHORTENED}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{END}"
)
TEKKEN = GPT_4O.replace(f"{SHORTENED}?", "").replace(r"\p{N}{1,3}", r"\p{N}")
OTHER = r"&&[^\p{Han}]"
KIMI_K2 = (
    rf"(?V1)\p{{Han}}+|[^\r\n\p{{L}}\p{{N}}]?[{UPPER}{OTHER}]*[{LOWER}{OTHER}]+{SHORTENED}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?[{UPPER}{OTHER}]+[{LOWER}{OTHER}]*{SHORTENED}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{END}"
)
QWEN35 = rf"{SHORTENED}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{END}"
BAILING = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
SEED = rf"{SHORTENED}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{END}"
ASCII = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"
SEVERAL = {
    "deepseek-v3": [
        r"\p{N}{1,3}",
        "[一-龥\u3040-ゟ゠-ヿ]+",
        rf"{ASCII}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+[\r\n]*|{END}",
    ],
    "deepseek-coder": [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\ud7ff]+", r"\p{N}"],
    "cohere2moe": [r"\d{1,3}(?=(?:\d{3})*\b)", GPT_4O],
    "laguna": [r"[^\n]+|[\n]+", QWEN2],
    "minicpm5": [r"\p{N}{1,3}", QWEN2.replace(r"\p{N}|", r"\p{N}+|")],
    "command-r": [r"\p{N}", GPT2],
}

NASTY = [
    "I'm sure they'LL say it'S 'tis o'clock, we'd've",
    "1234567 12,345.67 ½ ² Ⅷ ٣٤٥ a1b22c333",
    "a  b   c \t d\n\n e \r\n f\r\r\n   \n  g  ",
    "漢字かなカナ한국어 ภาษาไทย हिन्दी עברית العربية",
    "e\u0301 ẞß İi ſ'ſ K",
    "👩‍👩‍👧‍👦🇩🇪 ☃️!?… «quoted» __init__(self) -> None: #%$ ~~~",
    "\u00a0\u2003\u3000x\u200b\ufeff\u0085\u2028y\x00\x1c\x1fz",
    "https://example.org/a?b=c&d=%20 user@host.tld C:\\path\\file",
]
# The two engines know different versions of Unicode; what was there in version 3.2 is the same in both.
OLD = st.characters(exclude_categories=["Cs"]).filter(lambda c: unicodedata.ucd_3_2_0.category(c) != "Cn")
SHORT = st.sampled_from(list(" \t\n\r'sStTrReEmMlLvVdDaé漢1²٣.,!_-\u00a0\u3000\u2028\u0301😀"))
TEXTS = st.text(SHORT, max_size=40) | st.text(OLD, max_size=40) | st.sampled_from(NASTY)


def oracle(pattern: str, text: str) -> list[str]:
    """Matches, and the text between them."""
    return [piece for piece in regex.split(f"({pattern})", text) if piece]


def rowspan(name: str, text: str) -> list[str]:
    return [piece for piece, _ in PRE_TOKENIZERS[name].splitter().pre_tokenize_str(text)]


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("gpt-2", GPT2),
        ("llama-bpe", LLAMA3),
        ("glm4", LLAMA3),
        ("qwen2", QWEN2),
        ("gpt-4o", GPT_4O),
        ("minimax-m2", GPT_4O),
        ("tekken", TEKKEN),
        ("kimi-k2", KIMI_K2),
        ("qwen35", QWEN35),
        ("bailingmoe2", BAILING),
        ("seed-coder", SEED),
    ],
)
@given(text=TEXTS)
@example(text="".join(NASTY))
def test_words(name: str, pattern: str, text: str) -> None:
    assert rowspan(name, text) == oracle(pattern, text)


@pytest.mark.parametrize("name", SEVERAL)
@given(text=TEXTS)
@example(text="".join(NASTY))
def test_words_by_several_patterns(name: str, text: str) -> None:
    pieces = [text]
    for pattern in SEVERAL[name]:
        pieces = [word for piece in pieces for word in oracle(pattern, piece)]
    assert rowspan(name, text) == pieces


@given(text=TEXTS)
def test_smollm_cuts_out_every_digit_first(text: str) -> None:
    pieces = [word for part in oracle(r"\p{N}", text) for word in oracle(GPT2, part)]
    assert rowspan("smollm", text) == pieces


def test_what_the_words_look_like() -> None:
    assert rowspan("smollm", "it's 42") == ["it", "'s", " ", "4", "2"]
    assert rowspan("gpt-2", "it's 4242") == ["it", "'s", " 4242"]
    assert rowspan("llama-bpe", "IT'S 4242!\n\nx") == ["IT", "'S", " ", "424", "2", "!\n\n", "x"]
    assert rowspan("qwen2", "it's 42") == ["it", "'s", " ", "4", "2"]
    assert rowspan("default", "a-b 12345") == ["a", "-", "b", " ", "123", "45"]
