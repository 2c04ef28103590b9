"""The request body of OpenAI's Responses API, https://platform.openai.com/docs/api-reference/responses."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from rowspan.server.openai.schema import Body, few_messages
from rowspan.server.openai.tool_schema import MAX_TOOLS, Name, Schema


class ContentPart(Body):
    """Text under one of the names that requests and answers have for it; images and files are refused by name."""

    type: str
    text: str | None = None


Parts = Annotated[list[ContentPart], Field(fail_fast=True)]


class Item(Body):
    """A message, a call, a call's result, or reasoning. Which fields are due depends on its type."""

    type: str | None = None  # None: a message
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: str | Parts | None = None
    name: Name | None = None
    call_id: str | None = None
    arguments: str | None = None
    output: str | Parts | None = None


class ResponseTool(Body):
    type: str
    name: Name | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ChosenTool(Body):
    type: Literal["function"]
    name: Name


class TextFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema_: Annotated[Schema | None, Field(alias="schema")] = None
    strict: bool | None = None


class TextOptions(Body):
    format: TextFormat | None = None


class ReasoningOptions(Body):
    effort: str | None = None


class ResponsesRequest(Body):
    """POST /v1/responses."""

    model: str | None = None
    input: str | Annotated[list[Item], Field(fail_fast=True), BeforeValidator(few_messages)]
    instructions: str | None = None
    tools: Annotated[list[ResponseTool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = None
    parallel_tool_calls: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    stream: bool | None = None
    metadata: dict[str, str] | None = None
