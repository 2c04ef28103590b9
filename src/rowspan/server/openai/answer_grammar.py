"""The form that a request's answer must have, by any of the fields that ask for one, as a grammar."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from rowspan.backends.protocol import Grammar, GrammarKind
from rowspan.server.error_replies import FieldError
from rowspan.server.openai.schema import GenerationRequest
from rowspan.server.openai.tool_schema import ResponseFormat, StructuredOutputs
from rowspan.text.grammar import GrammarError, check_grammar

ANY_OBJECT = {"type": "object"}


async def answer_grammar(request: GenerationRequest) -> Grammar | None:
    """The grammar of the answer; None if nothing is asked of it. It is checked in a thread: a large one takes a while.

    Raises:
        FieldError: a grammar or schema cannot be enforced, or there are several.
    """
    asked = _asked(request)
    if not asked:
        return None
    if len(asked) > 1:
        raise FieldError(
            f"{' and '.join(asked)} ask for different forms of the answer.",
            field=list(asked)[-1],
            fix="Leave all but one of them out.",
        )
    ((field, grammar),) = asked.items()
    await enforceable(grammar, field)
    return grammar


async def enforceable(grammar: Grammar, field: str) -> None:
    """Raise FieldError, which names the request's field, if a grammar cannot be enforced."""
    try:
        await asyncio.to_thread(check_grammar, grammar)
    except GrammarError as error:
        raise FieldError(f"{field}: {error.what}", field=field, why=error.why, fix=error.fix) from None


def _asked(request: GenerationRequest) -> dict[str, Grammar]:
    found = {
        "response_format": _of_format(request.response_format),
        "structured_outputs": _of_structured(request.structured_outputs),
        "guided_json": _schema(request.guided_json),
        "guided_regex": _text(GrammarKind.REGEX, request.guided_regex),
        "guided_choice": _choice(request.guided_choice),
        "guided_grammar": _text(GrammarKind.GRAMMAR, request.guided_grammar),
        "grammar": _text(GrammarKind.GRAMMAR, request.grammar),
        "json_schema": _schema(request.json_schema),
    }
    return {field: grammar for field, grammar in found.items() if grammar is not None}


def _of_format(form: ResponseFormat | None) -> Grammar | None:
    if form is None or form.type == "text":
        return None
    schema = form.schema_
    if form.type == "json_schema":
        schema = form.json_schema.schema_ if form.json_schema is not None else schema
        if schema is None:
            raise FieldError(
                "response_format.json_schema is missing.", field="response_format.json_schema", fix="Send its schema."
            )
    return _schema(ANY_OBJECT if schema is None else schema)


def _of_structured(asked: StructuredOutputs | None) -> Grammar | None:
    if asked is None:
        return None
    if asked.structural_tag is not None:
        raise FieldError(
            "structured_outputs.structural_tag is not supported.",
            field="structured_outputs.structural_tag",
            fix="Send tools, whose calls are constrained if they are strict, or a grammar in Lark.",
        )
    found = [
        _schema(asked.json_),
        _text(GrammarKind.REGEX, asked.regex),
        _choice(asked.choice),
        _text(GrammarKind.GRAMMAR, asked.grammar),
        _schema(ANY_OBJECT) if asked.json_object else None,
    ]
    grammars = [grammar for grammar in found if grammar is not None]
    if len(grammars) != 1:
        raise FieldError(
            f"structured_outputs asks for {len(grammars)} forms of the answer.",
            field="structured_outputs",
            fix="Send one of json, regex, choice, grammar and json_object.",
        )
    return grammars[0]


def _schema(schema: Any) -> Grammar | None:
    """The grammar of a schema, which may also come as JSON text."""
    if schema is None or schema == "":
        return None
    if schema is True:
        schema = {}  # anything; llguidance takes objects only
    return Grammar(GrammarKind.JSON_SCHEMA, schema if isinstance(schema, str) else json.dumps(schema))


def _choice(texts: list[str] | None) -> Grammar | None:
    return Grammar(GrammarKind.CHOICE, json.dumps(texts)) if texts else None


def _text(kind: GrammarKind, source: str | None) -> Grammar | None:
    return Grammar(kind, source) if source else None
