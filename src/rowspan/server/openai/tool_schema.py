"""The parts of a chat request that are about tools, and about the form that an answer must have."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_TOOLS = 1024
MAX_CALLS = 1024  # of one message
MAX_CHOICES_LISTED = 10_000  # texts that an answer may be one of
MAX_GRAMMAR_LENGTH = 1 << 20  # characters

Name = Annotated[str, Field(min_length=1, max_length=256)]
GrammarText = Annotated[str, Field(max_length=MAX_GRAMMAR_LENGTH)]
Schema = dict[str, Any] | bool


class Part(BaseModel):
    """A part of a request body. JSON types are not converted."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class Function(Part):
    """A function that the model may call. parameters: a JSON schema; None: it takes none."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Part):
    type: Literal["function"]
    function: Function


class NamedFunction(Part):
    name: Name


class NamedTool(Part):
    """The function that must be called."""

    type: Literal["function"]
    function: NamedFunction


class AllowedToolsMode(Part):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1, max_length=MAX_TOOLS, fail_fast=True)]


class AllowedTools(Part):
    """The functions, among those that are defined, that may be called."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedToolsMode


ToolChoice = Literal["none", "auto", "required"] | NamedTool | AllowedTools


class FunctionCall(Part):
    """arguments: an object as JSON text; some clients send the object itself."""

    name: Name
    arguments: str | dict[str, Any] | None = None


class ToolCall(Part):
    """A call in an assistant's message."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCall


class JsonSchemaFormat(Part):
    name: str | None = None
    description: str | None = None
    schema_: Annotated[Schema | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(Part):
    """The form of an answer: plain text, any JSON object, or what a schema describes.

    schema: llama-server's and other servers' shorter form, for the types json_object and json_schema.
    """

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None
    schema_: Annotated[Schema | None, Field(alias="schema")] = None


class StructuredOutputs(Part):
    """vLLM's field for structured output; one of these."""

    json_: Annotated[Schema | GrammarText | None, Field(alias="json")] = None
    regex: GrammarText | None = None
    choice: Annotated[list[str], Field(min_length=1, max_length=MAX_CHOICES_LISTED, fail_fast=True)] | None = None
    grammar: GrammarText | None = None
    json_object: bool | None = None
    structural_tag: dict[str, Any] | GrammarText | None = None
