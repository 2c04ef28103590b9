"""Prompts for models that fill in the middle of a text: code between what stands before and after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rowspan.backends.protocol import Backend
from rowspan.server.error_replies import FieldError


class Markers(NamedTuple):
    """Special tokens around the parts of a prompt, as they are spelled."""

    prefix: str
    suffix: str
    middle: str
    file: str = ""  # before the name of another file
    suffix_first: bool = False


# By family; the first whose markers are tokens of the model counts.
KNOWN = (
    Markers("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|file_sep|>"),  # Qwen coder, CodeGemma
    Markers("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<file_sep>"),  # StarCoder 2, Granite, SmolLM
    Markers("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek coder: its hole stands before the suffix
    Markers("<fim-prefix>", "<fim-suffix>", "<fim-middle>", "<filename>"),  # StarCoder, Refact
    Markers("▁<PRE>", "▁<SUF>", "▁<MID>"),  # Code Llama
    Markers("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),  # GLM
    Markers("[PREFIX]", "[SUFFIX]", "", suffix_first=True),  # Codestral
)


async def fill_in_prompt(
    backend: Backend, prefix: str, suffix: str, *, others: Sequence[tuple[str, str]] = (), field: str
) -> list[int]:
    """Token ids of a prompt that asks for what belongs between two texts.

    Args:
        others: further files, each with its name, that help the model; left out where it has no marker for them.
        field: of the request, to blame.

    Raises:
        FieldError: the model has no tokens for it.
    """
    begin = await backend.encode("")
    for markers in KNOWN:
        ids = [(await backend.encode(marker))[len(begin) :] for marker in markers[:3] if marker]
        if all(len(tokens) == 1 for tokens in ids):
            break
    else:
        raise FieldError(
            "This model cannot fill in the middle of a text.",
            field=field,
            why="It has no tokens that mark what stands before and after.",
            fix="Serve a model for code, such as qwen2.5-coder.",
        )
    files = "".join(f"{markers.file}{name}\n{text}\n" for name, text in others) if markers.file else ""
    if markers.suffix_first:
        text = f"{markers.suffix}{suffix}{markers.prefix}{prefix}"
    else:
        text = f"{files}{markers.prefix}{prefix}{markers.suffix}{suffix}{markers.middle}"
    return await backend.encode(text)
