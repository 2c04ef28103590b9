"""Encodes a conversation as the token ids that a model was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rowspan.errors import UsageError
from rowspan.text.chat_template import ChatTemplate
from rowspan.text.tokenizer import Tokenizer
from rowspan.text.tool_history import fitting


def tokenizer_and_template(metadata: Mapping[str, Any]) -> tuple[Tokenizer, ChatTemplate | None]:
    """Tokenizer and chat template of a GGUF file; the template is None if it has none. Raises UnsupportedModelError if
    one of them is not supported.
    """
    tokenizer = Tokenizer.from_metadata(metadata)
    return tokenizer, ChatTemplate.from_metadata(metadata, tokenizer)


def encode_chat(
    template: ChatTemplate | None, tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], **options: Any
) -> list[int]:
    """Token ids of a conversation, ready for the assistant's turn.

    Args:
        options: variables of the template.

    Raises:
        UsageError: the model has no chat template, or its template refuses these messages.
    """
    return tokenizer.encode(render_chat(template, messages, **options))


def render_chat(
    template: ChatTemplate | None,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    continue_final_message: bool = False,
    **options: Any,
) -> str:
    """The text that `encode_chat` tokenizes. Raises the same.

    Args:
        tools: definitions of functions that may be called.
        continue_final_message: end within the last message, for the model to go on with it.
    """
    if template is None:
        raise no_template()
    conversation, shown = fitting(template, messages, tools)
    if shown:
        options["tools"] = shown
    if not continue_final_message:
        return template.render(conversation, **options)
    final = conversation[-1].get("content") if conversation else None
    rendered = template.render(conversation, **{**options, "add_generation_prompt": False})
    text = final.rstrip() if isinstance(final, str) else ""
    place = rendered.rfind(text) if text else -1
    if place < 0:
        raise UsageError(
            "The last message cannot be continued.",
            why="It has no text, or the model's chat template changes it.",
            fix="Leave continue_final_message out.",
        )
    return rendered[: place + len(text)]


def no_template() -> UsageError:
    return UsageError(
        "This model has no chat template.",
        why="It was made to continue text, not to answer.",
        fix="Use /v1/completions, or an instruction-tuned model.",
    )
