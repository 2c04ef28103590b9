"""What clients may send: the request bodies of the OpenAI API, as far as this engine can honour them.

Fields nobody knows are accepted and ignored, as OpenAI's own clients and tools expect. Known fields that would change
the answer, and that Rowspan does not implement, are refused by name: see `refuse_unsupported`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rowspan.server.error_replies import FieldError

MAX_CHOICES = 16
MAX_TOP_LOGPROBS = 20
MAX_STOPS = 256
MAX_SEED = 2**63 - 1

Seed = Annotated[int, Field(ge=-MAX_SEED - 1, le=MAX_SEED)]
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]

# Fields of OpenAI's, vLLM's and llama.cpp's APIs that are not implemented → values (besides null) that ask for nothing.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "bad_words": ([],),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "grammar": ("",),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "json_schema": (),
    "min_tokens": (0,),
    "modalities": (["text"],),
    "prediction": (),
    "prompt_logprobs": (),
    "response_format": ({"type": "text"},),
    "stop_token_ids": ([],),
    "structured_outputs": (),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "use_beam_search": (False,),
    "web_search_options": (),
}


class Body(BaseModel):
    """JSON is taken as it is: "5" is no number. Null counts as absent."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class StreamOptions(Body):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None  # vLLM's: usage in every chunk


class GenerationRequest(Body):
    """What chat and completions have in common.

    Where the client says nothing, tokens are drawn from the model's own distribution, as OpenAI's API does:
    temperature 1, top_p 1, everything else off.
    """

    model: str | None = None  # None: the model that is served
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None  # 0 and -1: off
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repeat_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None  # llama.cpp's name
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None  # vLLM's name for the same
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None  # keys: token ids
    seed: Seed | None = None
    stop: str | Annotated[list[str], Field(max_length=MAX_STOPS)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    ignore_eos: bool | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def usage_wanted(self) -> tuple[bool, bool]:
        """At the end of a stream; in every chunk of it."""
        options = self.stream_options or StreamOptions()
        return bool(options.include_usage), bool(options.continuous_usage_stats)


class TextPart(Body):
    type: Literal["text"]
    text: str


class Message(Body):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None

    @model_validator(mode="after")
    def _has_content(self) -> Message:
        if self.content is None and self.role != "assistant":
            raise ValueError(f"A message of the role {self.role} needs its content")
        return self

    def for_template(self) -> dict[str, Any]:
        """As chat templates know messages: `developer` is OpenAI's newer word for `system`."""
        message = self.model_dump(exclude_none=True)
        role = "system" if self.role == "developer" else self.role
        return {**message, "role": role, "content": message.get("content", "")}


class ChatRequest(GenerationRequest):
    """POST /v1/chat/completions. Without a limit an answer may fill the context."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None  # goes before max_tokens, its older name
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None


class CompletionRequest(GenerationRequest):
    """POST /v1/completions. Without a limit an answer has 16 tokens, as OpenAI documents it."""

    prompt: str | list[TokenId] | list[str] | list[list[TokenId]]
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    echo: bool | None = None
    best_of: int | None = None  # as many as n, or else it would have to choose

    @property
    def prompts(self) -> Sequence[str | list[int]]:
        """One or several, each text or token ids."""
        match self.prompt:
            case str() as text:
                return [text]
            case [int(), *_] as token_ids:
                return [cast("list[int]", token_ids)]
            case several:
                return cast("Sequence[str | list[int]]", several)


def refuse_unsupported(request: GenerationRequest) -> None:
    """Raise FieldError for a field that would change the answer if it were not ignored."""
    for field, value in (request.model_extra or {}).items():
        if field in UNSUPPORTED and value is not None and value not in UNSUPPORTED[field]:
            raise FieldError(
                f"The field {field} is not supported.",
                field=field,
                why="Ignoring it would silently change the answer.",
                fix="Leave it out.",
            )
