"""Renders chat templates: turns messages into the prompt that a model was trained on, by the Jinja template in its
checkpoint. No torch.

A template is code from the internet: it runs in a sandbox that bounds its time and memory (`template_bounds.py`), over
its own copy of the data.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser

from rowspan.errors import CheckpointError, UnsupportedModelError, UsageError
from rowspan.text.template_bounds import MAX_LENGTH, BoundedEnvironment, deadline
from rowspan.text.tokenizer import TEMPLATE_KEY, Tokenizer

FOREIGN = ("user", "tool")  # roles whose texts are neither the operator's nor the model's


class ChatTemplate:
    """A model's chat template, with the helpers Hugging Face's templates expect.

    Helpers: raise_exception(message), strftime_now(format), tojson (no HTML escaping), {% break %}, {% continue %}, and
    {% generation %} blocks, which change nothing.

    guard: what is done to texts of users and tools, so that no special token is found in them.

    Raises:
        UnsupportedModelError: the template is no valid Jinja.
    """

    def __init__(
        self, source: str, *, bos_token: str, eos_token: str, guard: Callable[[str], str] = lambda text: text
    ) -> None:
        environment = BoundedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[LoopControlExtension, _GenerationBlock]
        )
        environment.add_filter("tojson", _to_json)
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        self.source = source
        self._guard = guard
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        try:
            self._template = environment.from_string(source)
        except (TemplateSyntaxError, RecursionError) as error:
            raise UnsupportedModelError(
                "The model's chat template cannot be read.",
                why=f"Jinja says: {error}.",
                fix="Use raw completions, or another conversion of this model.",
            ) from error

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], tokenizer: Tokenizer) -> ChatTemplate | None:
        """The checkpoint's template; None if it has none.

        Raises:
            CheckpointError: the key holds something else than text.
            UnsupportedModelError: the template is no valid Jinja.
        """
        source = metadata.get(TEMPLATE_KEY)
        if source is None:
            return None
        if not isinstance(source, str):
            raise CheckpointError(
                "The model file's chat template is damaged.",
                why=f"The metadata key {TEMPLATE_KEY} holds no text.",
                fix="Fetch the file again; if it stays so, the conversion was faulty.",
            )

        def spelling(token_id: int | None) -> str:
            return "" if token_id is None else tokenizer.token_bytes(token_id, special=True).decode(errors="replace")

        return cls(
            source,
            bos_token=spelling(tokenizer.bos_id),
            eos_token=spelling(tokenizer.eos_id),
            guard=tokenizer.guarded,
        )

    def render(
        self,
        messages: list[dict[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: list[dict[str, Any]] | None = None,
        documents: list[dict[str, Any]] | None = None,
        **extra: Any,
    ) -> str:
        """The prompt for a conversation.

        Args:
            messages: as OpenAI's API has them. Content given as a list of text parts is joined to one text.
            add_generation_prompt: end with the beginning of the assistant's turn.
            tools: function definitions, for templates that know of tools.
            documents: texts to answer from, for templates that know of documents.
            extra: further variables of the template, such as enable_thinking or reasoning_effort.

        Raises:
            UsageError: the template refuses these messages, or a content part is not text.
        """
        variables = {
            **self._tokens,
            **extra,
            **deadline(),
            "messages": [self._guarded(_with_plain_content(message)) for message in messages],
            "add_generation_prompt": add_generation_prompt,
            "tools": tools,
            "documents": documents,
        }
        pieces: list[str] = []
        length = 0
        try:
            for piece in self._template.generate(variables):
                length += len(piece)
                if length > MAX_LENGTH:
                    raise TemplateError(f"the prompt grows beyond {MAX_LENGTH} characters")
                pieces.append(piece)
        except (
            Exception
        ) as error:  # the template is a foreign program: whatever it raises, the messages did not suit it
            raise UsageError(
                "The model's chat template does not accept these messages.",
                why=f"It says: {error}.",
                fix="Check the roles, their order, and that every message has its content.",
            ) from error
        return "".join(pieces)

    def _guarded(self, message: dict[str, Any]) -> dict[str, Any]:
        content = message.get("content")
        if message.get("role") not in FOREIGN or not isinstance(content, str):
            return message
        return {**message, "content": self._guard(content)}


class _GenerationBlock(Extension):
    """Renders only the body of {% generation %}…{% endgeneration %}, which marks the assistant's words for training."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _with_plain_content(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    if not isinstance(content, list):
        return message
    texts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, dict) else part
            raise UsageError(
                f"A message has a content part of type {kind!r:.40}.",
                why="This model reads text only.",
                fix='Send parts of the form {"type": "text", "text": "…"}, or a plain text.',
            )
        texts.append(part["text"])
    return {**message, "content": "".join(texts)}


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
