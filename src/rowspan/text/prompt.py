"""A conversation as the token ids that a model was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rowspan.errors import UsageError
from rowspan.text.chat_template import ChatTemplate
from rowspan.text.tokenizer import Tokenizer


def tokenizer_and_template(metadata: Mapping[str, Any]) -> tuple[Tokenizer, ChatTemplate | None]:
    """Those of a GGUF file; no template where it has none. Raises UnsupportedModelError: as they do."""
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
    if template is None:
        raise no_template()
    return tokenizer.encode(template.render([dict(message) for message in messages], **options))


def no_template() -> UsageError:
    return UsageError(
        "This model has no chat template.",
        why="It was made to continue text, not to answer.",
        fix="Use /v1/completions, or an instruction-tuned model.",
    )
