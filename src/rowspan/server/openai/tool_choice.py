"""Which tools a request lets the model call, and whether it must."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rowspan.server.error_replies import FieldError
from rowspan.server.openai.schema import ChatRequest
from rowspan.server.openai.tool_schema import AllowedTools, NamedTool, Tool


@dataclass(frozen=True)
class OfferedTools:
    """What a request says of tools.

    shown: definitions for the chat template.
    callable: schemas of the parameters of those that may be called, by name.
    strict: names of those whose schemas must be enforced to the letter.
    required: the answer must be a call.
    parallel: it may be several; the one that the request names is called once.
    """

    shown: tuple[Mapping[str, Any], ...] = ()
    callable: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    strict: frozenset[str] = frozenset()
    required: bool = False
    parallel: bool = True


def offered_tools(request: ChatRequest) -> OfferedTools:
    """Raises FieldError: tool_choice names a function that is not there, or asks for a call where there are none."""
    tools, choice = request.tools or [], request.tool_choice
    if choice == "none" or (not tools and choice in (None, "auto")):
        return OfferedTools()
    if not tools:
        raise FieldError("tool_choice asks for a call, and there are no tools.", field="tool_choice", fix="Send tools.")
    shown, allowed = tools, tools
    required = choice == "required" or isinstance(choice, NamedTool)
    if isinstance(choice, NamedTool):
        allowed = _named(tools, [choice])
    elif isinstance(choice, AllowedTools):
        shown = allowed = _named(tools, choice.allowed_tools.tools)
        required = choice.allowed_tools.mode == "required"
    return OfferedTools(
        shown=tuple(_for_template(tool) for tool in shown),
        callable={tool.function.name: tool.function.parameters or {} for tool in allowed},
        strict=frozenset(tool.function.name for tool in allowed if tool.function.strict),
        required=required,
        parallel=request.parallel_tool_calls is not False and not isinstance(choice, NamedTool),
    )


def _for_template(tool: Tool) -> dict[str, Any]:
    """The definition that models were trained on: always with parameters, and without what is OpenAI's alone."""
    function = tool.function.model_dump(exclude_none=True, exclude={"strict"})
    return {"type": "function", "function": {"parameters": {"type": "object", "properties": {}}, **function}}


def _named(tools: list[Tool], named: list[NamedTool]) -> list[Tool]:
    names = [each.function.name for each in named]
    known = {tool.function.name for tool in tools}
    for name in names:
        if name not in known:
            raise FieldError(
                f"tool_choice names {name!r:.100}, and no tool has that name.",
                field="tool_choice",
                fix="Name one of the tools.",
            )
    return [tool for tool in tools if tool.function.name in names]
