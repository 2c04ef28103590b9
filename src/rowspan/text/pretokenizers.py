"""Pre-tokenizers: how text is cut into words before byte-level BPE merges within each word. No torch.

The name in tokenizer.ggml.pre stands for the regular expressions that a model was trained with. A wrong one corrupts
prompts silently, so an unknown name is refused, never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

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

# o200k_base's, from the same file: words are capitals, then small letters; `but` takes letters out.
CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
O200K_WORDS = (
    r"[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}{but}]*[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}{but}]+{apostrophe}"
    r"|[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}{but}]+[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}{but}]*{apostrophe}"
    r"|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
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
GLM4 = replace(LLAMA3, add_bos=False)
DBRX = replace(GLM4, ignore_merges=False)
QWEN2 = PreTokenizer((CL100K_WORDS.format(digits=r"\p{N}"),), nfc=True)
STABLELM2 = replace(QWEN2, nfc=False)
# As Qwen 3.5 publishes it: combining marks belong to words.
QWEN35 = PreTokenizer(
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    nfc=True,
)
# o200k_base's, as tiktoken publishes it; Mistral's Tekken without contractions, and with single digits.
GPT_4O = PreTokenizer((O200K_WORDS.format(apostrophe=CONTRACTIONS, digits=r"\p{N}{1,3}", but=""),))
TEKKEN = PreTokenizer((O200K_WORDS.format(apostrophe="", digits=r"\p{N}", but=""),), ignore_merges=True, add_bos=True)
# As tokenization_kimi.py of moonshotai/Kimi-K2-Instruct has it: Chinese letters make words of their own.
KIMI_K2 = PreTokenizer(
    (
        r"\p{Han}+|"
        + O200K_WORDS.format(apostrophe=CONTRACTIONS, digits=r"\p{N}{1,3}", but=r"&&[^\p{Han}]").replace("/]*", "]*"),
    )
)
# As tokenizer.json of DeepSeek's models has them.
DEEPSEEK_LLM = PreTokenizer(
    (
        r"[\r\n]",
        r"\s?[\p{Lu}\p{Ll}\p{Lt}]+",
        r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
        r"\s+$",
        r"[一-龥ࠀ-一가-퟿]+",
        r"\p{N}+",
    )
)
DEEPSEEK_CODER = PreTokenizer((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+", r"\p{N}"))
DEEPSEEK_V3 = PreTokenizer(
    (
        r"\p{N}{1,3}",
        r"[一-龥぀-ゟ゠-ヿ]+",
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    )
)
BAILINGMOE = PreTokenizer(
    (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",)
)
SEED_CODER = PreTokenizer(
    (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+",)
)
EXAONE_MOE = PreTokenizer(
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
    )
)
# What llama.cpp, which coined these names, does for them (src/llama-vocab.cpp); Cohere's digits are grouped from the
# right.
COHERE2 = PreTokenizer((r"\d{1,3}(?=(?:\d{3})*\b)", *GPT_4O.patterns))
LAGUNA = PreTokenizer((r"[^\n]+|[\n]+", *STABLELM2.patterns))
MINICPM5 = PreTokenizer((r"\p{N}{1,3}", CL100K_WORDS.format(digits=r"\p{N}+")), ignore_merges=True)
FALCON = PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", GPT2_WORDS, r"[0-9][0-9][0-9]"))
DEFAULT = PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", GPT2_WORDS, r"\p{N}+", r"[0-9][0-9][0-9]"))

NAMES: Mapping[PreTokenizer, Sequence[str]] = {
    DEFAULT: ("default",),
    GPT2: (
        "gpt-2",
        "phi-2",
        "mpt",
        "olmo",
        "jais",
        "trillion",
        "granite-docling",
        "exaone4",
        "gigachat",
        "mellum",
        "a.x-4.0",
        "modern-bert",
    ),
    SMOLLM: ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"),
    FALCON: ("falcon",),
    LLAMA3: ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
    GLM4: ("glm4", "glm5"),
    DBRX: ("dbrx", "smaug-bpe", "chatglm-bpe"),
    QWEN2: ("qwen2", "deepseek-r1-qwen", "megrez", "kormo", "f2llmv2"),
    STABLELM2: ("stablelm2", "hunyuan", "solar-open", "grok-2"),
    QWEN35: ("qwen35",),
    GPT_4O: ("gpt-4o", "llama4", "minimax-m2", "kanana2", "talkie"),
    TEKKEN: ("tekken",),
    KIMI_K2: ("kimi-k2",),
    DEEPSEEK_LLM: ("deepseek-llm",),
    DEEPSEEK_CODER: ("deepseek-coder",),
    DEEPSEEK_V3: ("deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"),
    BAILINGMOE: ("bailingmoe", "bailingmoe2", "llada-moe"),
    SEED_CODER: ("seed-coder",),
    EXAONE_MOE: ("exaone-moe",),
    COHERE2: ("cohere2moe", "tiny_aya"),
    LAGUNA: ("laguna",),
    MINICPM5: ("minicpm5",),
}
PRE_TOKENIZERS: Mapping[str, PreTokenizer] = {name: pre for pre, names in NAMES.items() for name in names}


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
