"""How the served model writes reasoning and calls, and what a request makes of it: a grammar, and a parser."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rowspan.backends.protocol import Backend, Grammar, GrammarKind
from rowspan.config import ServerConfig
from rowspan.server.openai.answer_grammar import answer_grammar, enforceable
from rowspan.server.openai.schema import ChatRequest
from rowspan.server.openai.tool_choice import OfferedTools
from rowspan.text.chat_formats.call_grammar import arguments_grammar, calls_grammar, calls_schema, can_wait
from rowspan.text.chat_formats.generic_json import GENERIC_JSON
from rowspan.text.chat_formats.output_parser import OutputParser, ReasoningTags
from rowspan.text.chat_formats.registry import reasoning_format, tool_format
from rowspan.text.chat_formats.tool_format import ToolFormat
from rowspan.text.grammar import GrammarError, Thought, check_grammar

log = logging.getLogger(__name__)

TAIL = 16  # last tokens of a prompt, among which the opening of reasoning would be


@dataclass(frozen=True)
class ChatFormat:
    """How a model writes calls and reasoning."""

    tools: ToolFormat
    reasoning: ReasoningTags | None

    @classmethod
    def of(cls, backend: Backend, config: ServerConfig) -> ChatFormat:
        """What the options say; else what the model's chat template shows. Raises UsageError for an unknown name."""
        template = backend.chat_template or ""
        return cls(tool_format(config.tool_call_parser, template), reasoning_format(config.reasoning_parser, template))

    def fitting_ids(self, messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The messages, with identifiers of calls that the model's template takes."""
        if self.tools.keeps_id("call_of_another_format"):
            return list(messages)
        fits, new_ids = self.tools.keeps_id, dict[str, str]()

        def fitting(call_id: Any) -> Any:
            if not isinstance(call_id, str) or fits(call_id):
                return call_id
            return new_ids.setdefault(call_id, self.tools.new_id("", len(new_ids)))

        changed = []
        for message in messages:
            calls = [{**call, "id": fitting(call.get("id"))} for call in message.get("tool_calls") or ()]
            answered = {"tool_call_id": fitting(message["tool_call_id"])} if "tool_call_id" in message else {}
            changed.append({**message, **answered, **({"tool_calls": calls} if calls else {})})
        return changed

    async def answer_format(
        self, request: ChatRequest, offered: OfferedTools, backend: Backend, prompt: Sequence[int]
    ) -> AnswerFormat:
        """What one request's answers look like.

        Raises:
            FieldError: a grammar or schema cannot be enforced.
        """
        begun = await self._begun(backend, prompt)
        asked = await answer_grammar(request)
        full = GrammarKind.LARK in backend.capabilities.grammars
        thought = self.tools.thought if full else None
        tags = None if request.continue_final_message and not begun else self.reasoning  # what goes on is no thought
        if tags is not None and full:
            thought = Thought(tags.opening, tags.closing, begun, markers=tags.markers)
        if offered.required or offered.strict or asked is not None:
            offered = await asyncio.to_thread(_with_known_schemas, offered)
        for place, tool in enumerate(request.tools or ()):
            if tool.function.name in offered.strict:
                schema = Grammar(GrammarKind.JSON_SCHEMA, json.dumps(tool.function.parameters or {}))
                await enforceable(schema, f"tools[{place}].function.parameters")
        form, grammar = self.tools, asked
        if offered.required:
            form = form if form.written is not None and full else GENERIC_JSON
            grammar = _calls(form, offered, thought) if full else calls_schema(offered.callable, offered.parallel)
        elif offered.strict and asked is None and full and can_wait(form):
            grammar = _calls(form, offered, thought)
        elif asked is not None and full:
            may_call = bool(offered.callable) and can_wait(form)
            calls = _calls(form, replace(offered, required=True), None) if may_call else None
            grammar = replace(asked, thought=thought, alternative=calls)
        if grammar is not None and not full:
            begun = False  # the grammar holds from the first token on
        return AnswerFormat(form if offered.callable or form.always else None, offered.callable, tags, begun, grammar)

    async def _begun(self, backend: Backend, prompt: Sequence[int]) -> bool:
        """Whether the prompt ends within the reasoning, which many templates begin."""
        if self.reasoning is None:
            return False
        tail = await backend.decode(prompt[-TAIL:])
        return tail.rfind(self.reasoning.opening) > tail.rfind(self.reasoning.closing)


@dataclass(frozen=True)
class AnswerFormat:
    """What the answers to one request look like.

    tool_format: None: there are no calls.
    begun: the prompt ends within the reasoning.
    """

    tool_format: ToolFormat | None
    tools: Mapping[str, Mapping[str, Any]]
    reasoning: ReasoningTags | None
    begun: bool
    grammar: Grammar | None

    @property
    def is_plain(self) -> bool:
        """Whether answers are nothing but text."""
        return self.tool_format is None and self.reasoning is None

    @property
    def shown(self) -> tuple[str, ...]:
        """Special tokens that the parser must see."""
        tags = self.reasoning.markers if self.reasoning else ()
        return (*tags, *(self.tool_format.markers if self.tool_format else ()))

    def parser(self) -> OutputParser:
        """Make the parser of one answer."""
        return OutputParser(self.tool_format, self.tools, self.reasoning, begun=self.begun)


def _with_known_schemas(offered: OfferedTools) -> OfferedTools:
    """The same, but without the schemas, of tools that are not strict, of which nothing can be enforced."""
    known = dict(offered.callable)
    for name, schema in offered.callable.items():
        if name not in offered.strict:
            try:
                check_grammar(arguments_grammar(schema))
            except GrammarError as error:
                log.warning("The schema of %s is not enforced: %s", name, error)
                known[name] = {}
    return replace(offered, callable=known)


def _calls(form: ToolFormat, offered: OfferedTools, thought: Thought | None) -> Grammar:
    return calls_grammar(
        form,
        offered.callable,
        strict=offered.strict,
        required=offered.required,
        parallel=offered.parallel,
        thought=thought,
    )
