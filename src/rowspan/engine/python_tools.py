"""Python functions as tools: described to a model, and called with what it writes."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from pydantic import ConfigDict, Field, ValidationError, create_model

from rowspan.errors import UsageError
from rowspan.text.chat_formats.deltas import CallArguments, CallEnd, CallStart, Delta, Reasoning, Text

Json = dict[str, Any]


@dataclass(frozen=True)
class PythonTool:
    """A function that a model may call.

    function: its type hints say what it takes, its docstring what it is for.
    model: of its arguments.
    """

    name: str
    description: str
    function: Callable[..., Any]
    model: Any

    @classmethod
    def of(cls, function: Callable[..., Any]) -> PythonTool:
        """Raises UsageError: the function takes arguments that have no name of their own."""
        hints = get_type_hints(function)
        taken: dict[str, Any] = {}
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
                raise UsageError(
                    f"{function.__name__}() cannot be a tool.",
                    why=f"Its parameter {name} has no name that a model could use.",
                    fix="Give it ordinary parameters.",
                )
            default = ... if parameter.default is parameter.empty else parameter.default
            taken[name] = (hints.get(name, str), Field(default=default))
        model = create_model(function.__name__, __config__=ConfigDict(extra="forbid"), **taken)
        return cls(function.__name__, inspect.getdoc(function) or "", function, model)

    @property
    def schema(self) -> Json:
        schema: Json = self.model.model_json_schema()
        return schema

    def described(self) -> Json:
        """The tool in OpenAI's form, as chat templates take it."""
        about = {"name": self.name, "description": self.description, "parameters": self.schema}
        return {"type": "function", "function": about}

    def call(self, arguments: str) -> str:
        """The function's result as text; or what was wrong, for the model to read."""
        try:
            checked = self.model.model_validate_json(arguments or "{}")
        except ValidationError as error:
            return f"Error: {error.errors()[0]['msg']}"
        try:
            result = self.function(**{name: getattr(checked, name) for name in type(checked).model_fields})
        except Exception as error:
            return f"Error: {type(error).__name__}: {error}"
        return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, default=str)


@dataclass(frozen=True)
class Call:
    """A call that a model wrote. arguments: JSON."""

    id: str
    name: str
    arguments: str

    def for_template(self) -> Json:
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": "function", "function": function}


def tools_by_name(functions: Sequence[Callable[..., Any]]) -> dict[str, PythonTool]:
    """Raises UsageError: two have one name, or one cannot be a tool."""
    tools = [PythonTool.of(function) for function in functions]
    found = {tool.name: tool for tool in tools}
    if len(found) < len(tools):
        raise UsageError("Two tools have one name.", fix="Rename one of the functions.")
    return found


def text_and_calls(deltas: Sequence[Delta]) -> tuple[str, str, list[Call]]:
    """An answer's text, its reasoning, and its whole calls."""
    text = thought = ""
    calls: list[Call] = []
    begun: list[str] = []
    for delta in deltas:
        match delta:
            case Text(part):
                text += part
            case Reasoning(part):
                thought += part
            case CallStart(name, call_id):
                begun = [call_id or f"call_{len(calls)}", name, ""]
            case CallArguments(part) if begun:
                begun[2] += part
            case CallEnd() if begun:
                calls.append(Call(begun[0], begun[1], begun[2] or "{}"))
                begun = []
    return text, thought, calls


def result_message(call: Call, tools: Mapping[str, PythonTool]) -> Json:
    """What a call gave, as a message."""
    tool = tools.get(call.name)
    told = f"Error: there is no tool {call.name}." if tool is None else tool.call(call.arguments)
    return {"role": "tool", "tool_call_id": call.id, "name": call.name, "content": told}
