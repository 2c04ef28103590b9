"""Pre-tokenizers: how text is cut into words before byte-level BPE merges within each word. No torch.

The name in tokenizer.ggml.pre stands for the regular expressions that a model was trained with. A wrong one corrupts
prompts silently, so an unknown name is refused, never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tokenizers import Regex, pre_tokenizers

from rowspan.errors import UnsupportedModelError

# GPT-2's, https://github.com/openai/gpt-2/blob/master/src/encoder.py
GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

# cl100k_base's, https://github.com/openai/tiktoken/blob/main/tiktoken_ext/openai_public.py, as Llama 3 and Qwen 2
# publish it in their tokenizer.json; they differ in how many digits make a word.
CL100K_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class PreTokenizer:
    """How one family of models cuts text.

    patterns: applied one after another, each to the pieces left by the one before; matches and the text between them
        are the new pieces.
    nfc: normalize the text to Unicode's form NFC first.
    ignore_merges: a word that is a token as a whole becomes that token, whatever the merges say.
    add_bos: whether prompts begin with BOS if the file does not say.
    """

    patterns: tuple[str, ...]
    nfc: bool = False
    ignore_merges: bool = False
    add_bos: bool = False

    def splitter(self) -> pre_tokenizers.Sequence:
        """The library's object that cuts a text at the patterns."""
        return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(p), "isolated") for p in self.patterns])


GPT2 = PreTokenizer((GPT2_WORDS,))
SMOLLM = PreTokenizer((r"\p{N}", GPT2_WORDS))
LLAMA3 = PreTokenizer((CL100K_WORDS.format(digits=r"\p{N}{1,3}"),), ignore_merges=True, add_bos=True)
QWEN2 = PreTokenizer((CL100K_WORDS.format(digits=r"\p{N}"),), nfc=True)
# What llama.cpp, which coined the name, does for it (src/llama-vocab.cpp).
DEFAULT = PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", GPT2_WORDS, r"\p{N}+", r"[0-9][0-9][0-9]"))

PRE_TOKENIZERS: Mapping[str, PreTokenizer] = {
    "default": DEFAULT,
    "gpt-2": GPT2,
    "smollm": SMOLLM,
    "llama-bpe": LLAMA3,
    "llama3": LLAMA3,
    "llama-v3": LLAMA3,
    "qwen2": QWEN2,
    "deepseek-r1-qwen": QWEN2,
}


def pre_tokenizer(name: str | None) -> PreTokenizer:
    """The pre-tokenizer of that name.

    Raises:
        UnsupportedModelError: an unknown name, or none (files from before the key existed).
    """
    found = PRE_TOKENIZERS.get(name or "")
    if found is None:
        what = f"Pre-tokenizer {name!r} is not supported." if name else "The model file names no pre-tokenizer."
        raise UnsupportedModelError(
            what,
            why=f"Rowspan knows {', '.join(sorted(PRE_TOKENIZERS))}; a wrong guess would corrupt every prompt.",
            fix="Choose another conversion of this model." if name else "Convert the model with a current converter.",
        )
    return found
