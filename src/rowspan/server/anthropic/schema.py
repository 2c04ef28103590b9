"""The request bodies of Anthropic's Messages API.

https://docs.claude.com/en/api/messages
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from rowspan.server.openai.schema import MAX_STOPS, Body, StopString, few_messages
from rowspan.server.openai.tool_schema import MAX_TOOLS, Name


class Block(Body):
    """A part of a message. Which fields are due depends on its type."""

    type: str
    text: str | None = None
    id: str | None = None  # of a call
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None  # of a call's result
    content: str | Annotated[list[Block], Field(fail_fast=True)] | None = None
    is_error: bool | None = None
    thinking: str | None = None


Content = str | Annotated[list[Block], Field(fail_fast=True)]


class MessageParam(Body):
    role: Literal["user", "assistant", "system"]
    content: Content


class ToolParam(Body):
    type: str | None = None  # "custom", or one of Anthropic's own tools
    name: Name
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None


class ToolChoiceParam(Body):
    type: Literal["auto", "any", "tool", "none"]
    name: Name | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Body):
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = None


class OutputFormat(Body):
    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(Body):
    format: OutputFormat | None = None
    effort: str | None = None


class CountRequest(Body):
    """POST /v1/messages/count_tokens."""

    model: str
    messages: Annotated[list[MessageParam], Field(min_length=1, fail_fast=True), BeforeValidator(few_messages)]
    system: Content | None = None
    tools: Annotated[list[ToolParam], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: ToolChoiceParam | None = None
    thinking: Thinking | None = None


class MessagesRequest(CountRequest):
    """POST /v1/messages."""

    max_tokens: Annotated[int, Field(ge=1)]
    stop_sequences: Annotated[list[StopString], Field(max_length=MAX_STOPS, fail_fast=True)] | None = None
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None

    @property
    def wants_thinking(self) -> bool:
        return self.thinking is not None and self.thinking.type != "disabled"
