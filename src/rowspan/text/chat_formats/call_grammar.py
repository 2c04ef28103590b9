"""The grammar of tool calls: what a model may write so that calls parse and their arguments satisfy their schemas."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from rowspan.text.chat_formats.tool_format import ToolFormat, Tools
from rowspan.text.grammar import JSON_OPTIONS, Grammar, GrammarKind, Thought, Words


def can_wait(tool_format: ToolFormat) -> bool:
    """Whether calls can be constrained in the midst of free text: they begin with a marker."""
    written = tool_format.written
    return written is not None and (written.opening or written.before).startswith(tool_format.markers or "\0")


def calls_grammar(
    tool_format: ToolFormat,
    tools: Tools,
    *,
    strict: Collection[str],
    required: bool,
    parallel: bool,
    thought: Thought | None = None,
) -> Grammar:
    """The grammar of an answer that calls some of these tools.

    Args:
        tool_format: one that has `written`.
        strict: names of tools whose schemas must be enforced to the letter; of others as far as llguidance can.
        required: the answer consists of calls; else of text and calls, for which `can_wait` must hold.
        parallel: several calls are allowed.
        thought: what may come before.
    """
    written = tool_format.written
    assert written is not None, "the caller has asked"
    words = Words(tool_format.markers)
    several = parallel and not written.single
    opening, trigger = words.of(written.opening), ""
    if not required:
        trigger, opening = ("", opening) if not opening else (f"until_{opening[0]}", opening[1:])
    lines, calls = list[str](), list[str]()
    for place, (name, schema) in enumerate(tools.items()):
        begin = words.of(written.before + name)
        if not required and not written.opening:
            trigger, begin = f"until_{begin[0]}", begin[1:]
        number = ["/:[0-9]+/"] if written.numbered else []
        parts = [*begin, *number, *words.of(written.between), f"arguments_{place}", *words.of(written.after)]
        lines.append(f"call_{place}: {' '.join(parts)}")
        lines.append(f"arguments_{place}: %json {json.dumps(_schema(schema, lenient=name not in strict))}")
        calls.append(f"call_{place}")
    more = f"({' '.join([*words.of(written.separator), 'call'])})*" if several else ""
    section = " ".join([*opening, "call", more, *words.of(written.closing)])
    if required:
        start = f"start: {section}"
    elif written.opening:
        start = f"start: ({trigger} {section})? ANY_TEXT?"
    else:
        start = f"start: ({trigger} call){'*' if several else '?'} ANY_TEXT?"
    source = "\n".join([start, f"call: {' | '.join(calls)}", *lines])
    before = None if thought is None else replace(thought, answer="")
    return Grammar(GrammarKind.LARK, source, markers=tool_format.markers, thought=before)


def arguments_grammar(schema: Mapping[str, Any]) -> Grammar:
    """The grammar of one tool's arguments, of which only as much as can be is enforced."""
    return Grammar(GrammarKind.JSON_SCHEMA, json.dumps(_schema(schema, lenient=True)))


def calls_schema(tools: Tools, parallel: bool) -> Grammar:
    """The same as a JSON schema, for engines that take no more: a list of calls, as generic JSON has them."""
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": name}, "arguments": {**schema, "type": "object"}},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for name, schema in tools.items()
    ]
    several = {} if parallel else {"maxItems": 1}
    source = {"type": "array", "items": {"anyOf": calls}, "minItems": 1, **several}
    return Grammar(GrammarKind.JSON_SCHEMA, json.dumps(source))


def _schema(schema: Any, *, lenient: bool) -> dict[str, Any]:
    """A function's parameters as llguidance takes them: always an object."""
    return {**schema, "type": "object", "x-guidance": JSON_OPTIONS | {"lenient": lenient}}
