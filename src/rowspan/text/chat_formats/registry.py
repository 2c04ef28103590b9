"""Finds the format of calls and of reasoning that a model was trained on, by its chat template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from rowspan.errors import UsageError
from rowspan.text.chat_formats.cohere import COHERE
from rowspan.text.chat_formats.deepseek import DEEPSEEK_V3, DEEPSEEK_V31
from rowspan.text.chat_formats.gemma3 import GEMMA3
from rowspan.text.chat_formats.gemma4 import FUNCTION_GEMMA, GEMMA4
from rowspan.text.chat_formats.generic_json import GENERIC_JSON
from rowspan.text.chat_formats.glm45 import GLM45
from rowspan.text.chat_formats.harmony import HARMONY
from rowspan.text.chat_formats.hermes import HERMES
from rowspan.text.chat_formats.kimi_k2 import KIMI_K2
from rowspan.text.chat_formats.llama3 import LLAMA3
from rowspan.text.chat_formats.llama4 import LLAMA4
from rowspan.text.chat_formats.marked_lists import GRANITE, PHI4
from rowspan.text.chat_formats.minimax_m2 import MINIMAX_M2
from rowspan.text.chat_formats.mistral import MISTRAL, MISTRAL_ARGS
from rowspan.text.chat_formats.output_parser import ReasoningTags
from rowspan.text.chat_formats.qwen3_coder import QWEN3_CODER, SEED_OSS
from rowspan.text.chat_formats.tool_format import ToolFormat

Form = TypeVar("Form")

# Words of a template → the format of calls that it is of; the first whose words are all there counts.
DETECTED: tuple[tuple[tuple[str, ...], ToolFormat], ...] = (
    (("<|channel|>", "<|message|>"), HARMONY),
    (("<tool_call|>",), GEMMA4),
    (("<start_function_call>",), FUNCTION_GEMMA),
    (("<｜tool▁sep｜>", "```json"), DEEPSEEK_V3),
    (("<｜tool▁sep｜>",), DEEPSEEK_V31),
    (("<|tool_calls_section_begin|>",), KIMI_K2),
    (("<minimax:tool_call>",), MINIMAX_M2),
    (("<arg_key>",), GLM45),
    (("<seed:tool_call>",), SEED_OSS),
    (("<function=", "<parameter="), QWEN3_CODER),
    (("<|START_ACTION|>",), COHERE),
    (("<|tool_call|>", "<|start_of_role|>"), GRANITE),
    (("<|tool_call|>",), PHI4),
    (("<|tool|>",), PHI4),
    (("[TOOL_CALLS]", "[ARGS]"), MISTRAL_ARGS),
    (("[TOOL_CALLS]",), MISTRAL),
    (("<tool_call>",), HERMES),
    (("<|header_start|>",), LLAMA4),
    (("<|start_header_id|>", "ipython"), LLAMA3),
    (("<start_of_turn>",), GEMMA3),
)
# By the names that --tool-call-parser takes, which are vLLM's.
TOOL_FORMATS = {form.name: form for form in (GENERIC_JSON, *(form for _, form in DETECTED))}

TAGS = {
    "think": ReasoningTags("<think>", "</think>"),
    "mistral": ReasoningTags("[THINK]", "[/THINK]"),
    "cohere": ReasoningTags("<|START_THINKING|>", "<|END_THINKING|>"),
    "seed_oss": ReasoningTags("<seed:think>", "</seed:think>"),
    "gemma4": ReasoningTags("<|channel>thought", "<channel|>", ("<|channel>", "<channel|>")),
}
# By the names that --reasoning-parser takes: those of tags, and vLLM's for models that write <think>.
THINKING = ("deepseek_r1", "qwen3", "glm45", "minimax_m2", "kimi_k2")
REASONING: dict[str, ReasoningTags | None] = {
    "none": None,
    "openai": None,  # the format of its calls says what is reasoning
    **dict.fromkeys(THINKING, TAGS["think"]),
    **TAGS,
}


def tool_format(name: str | None, template: str) -> ToolFormat:
    """The format of this name; without one, that of a template's models: generic JSON if it is none that is known.

    Raises:
        UsageError: there is no format of this name.
    """
    if name is not None:
        return _named(TOOL_FORMATS, name, "--tool-call-parser")
    return next((form for words, form in DETECTED if all(word in template for word in words)), GENERIC_JSON)


def reasoning_format(name: str | None, template: str) -> ReasoningTags | None:
    """The tags of reasoning of this name; without one, those that a template speaks of. Raises as `tool_format`."""
    if name is not None:
        return _named(REASONING, name, "--reasoning-parser")
    return next((tags for tags in TAGS.values() if tags.closing in template), None)


def _named(formats: Mapping[str, Form], name: str, option: str) -> Form:
    if name not in formats:
        raise UsageError(f"{option} {name} is not known.", fix=f"Choose one of {', '.join(sorted(formats))}.")
    return formats[name]
