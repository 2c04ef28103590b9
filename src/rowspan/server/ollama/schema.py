"""The request bodies of Ollama's API, https://docs.ollama.com/api. Unlike OpenAI's, its answers are streams unless a
request says otherwise.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from rowspan.server.embeddings import MAX_TEXTS
from rowspan.server.openai.schema import MAX_STOPS, Body, Seed, StopString, Tokens, few_messages
from rowspan.server.openai.tool_schema import MAX_TOOLS, Tool


class Options(Body):
    """Parameters of a model. Those about loading it (num_gpu, num_thread, …) are the server's, and ignored."""

    num_predict: int | None = None  # -1, -2: as many as fit
    num_ctx: int | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repeat_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    repeat_last_n: Annotated[int, Field(ge=-1)] | None = None
    typical_p: Annotated[float, Field(ge=0, le=1)] | None = None
    mirostat: int | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    seed: Seed | None = None
    stop: StopString | Annotated[list[StopString], Field(max_length=MAX_STOPS, fail_fast=True)] | None = None


class OllamaFunction(Body):
    name: str
    arguments: dict[str, Any] | None = None


class OllamaCall(Body):
    function: OllamaFunction
    id: str | None = None


class OllamaMessage(Body):
    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    images: list[Any] | None = None
    tool_calls: Annotated[list[OllamaCall], Field(fail_fast=True)] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class OllamaRequest(Body):
    """The fields that chat and generate have in common."""

    model: str
    stream: bool | None = None
    format: Literal["json", ""] | dict[str, Any] | None = None
    options: Options | None = None
    think: bool | Literal["low", "medium", "high"] | None = None
    keep_alive: str | int | float | None = None  # accepted: the model stays loaded as the server was told


class OllamaChatRequest(OllamaRequest):
    """POST /api/chat. Without messages it asks to load the model."""

    messages: Annotated[list[OllamaMessage], Field(fail_fast=True), BeforeValidator(few_messages)] | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None


class OllamaGenerateRequest(OllamaRequest):
    """POST /api/generate. Without a prompt it asks to load the model."""

    prompt: str | None = None
    system: str | None = None
    suffix: str | None = None
    template: str | None = None
    raw: bool | None = None
    images: list[Any] | None = None
    context: Tokens | None = None


class OllamaEmbedRequest(Body):
    """POST /api/embed, and with one `prompt` its older form, /api/embeddings. Without a text it asks to load the
    model.

    truncate: texts longer than the context lose their ends, unless this is false.
    """

    model: str
    input: str | Annotated[list[str], Field(max_length=MAX_TEXTS, fail_fast=True)] | None = None
    prompt: str | None = None
    truncate: bool | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    options: Options | None = None
    keep_alive: str | int | float | None = None

    @property
    def texts(self) -> list[str]:
        return [self.input] if isinstance(self.input, str) else self.input or []


class NamedModel(Body):
    """A request about a model. Older clients say `name`."""

    model: str | None = None
    name: str | None = None

    @property
    def asked(self) -> str | None:
        return self.model or self.name
