"""The request bodies of the OpenAI API, as far as this engine can honour them.

Fields that nobody knows are accepted and ignored, as OpenAI's own clients and tools expect. Known fields that would
change the answer, and that Rowspan does not implement, are refused by name: see `refuse_unsupported`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from rowspan.server.error_replies import FieldError
from rowspan.server.openai.tool_schema import (
    MAX_CALLS,
    MAX_CHOICES_LISTED,
    MAX_TOOLS,
    GrammarText,
    ResponseFormat,
    Schema,
    StructuredOutputs,
    Tool,
    ToolCall,
    ToolChoice,
)

MAX_CHOICES = 16
MAX_TOP_LOGPROBS = 20
MAX_STOPS = 256
MAX_STOP_LENGTH = 4096  # characters
MAX_MESSAGES = 10_000  # messages and their parts: far above what fits into any context
MAX_BIAS = 100.0  # OpenAI's limit
MAX_BIASES = 2**18  # tokens in the largest vocabularies
MAX_SEED = 2**63 - 1


def _limit(value: int) -> int:
    if value == 0:
        raise ValueError("An answer has at least one token; -1 stands for as many as fit")
    return value


Limit = Annotated[int, Field(ge=-1), AfterValidator(_limit)]  # -1: as many tokens as fit
Seed = Annotated[int, Field(ge=-MAX_SEED - 1, le=MAX_SEED)]
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
StopString = Annotated[str, Field(max_length=MAX_STOP_LENGTH)]
# Lists are read up to their first fault only: a body of megabytes may have millions, and each costs a kilobyte.
Tokens = Annotated[list[TokenId], Field(fail_fast=True)]

# Fields of OpenAI's, vLLM's and llama.cpp's APIs that are not implemented → values (besides null) that ask for nothing.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "adaptive_target": (-1, -1.0),
    "add_special_tokens": (),
    "allowed_token_ids": (),
    "audio": (),
    "chat_template": (),
    "documents": ([],),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "min_keep": (0,),
    "mirostat": (0,),
    "modalities": (["text"],),
    "prediction": (),
    "prompt_logprobs": (),
    "use_beam_search": (False,),
    "web_search_options": (),
}


def _few_biases(value: Any) -> Any:
    """Raise ValueError if there are more biases than any vocabulary has tokens. If some are invalid, keep only the
    first of these, which is the one reported. llama-server's form, a list of pairs, becomes OpenAI's.
    """
    if isinstance(value, dict | list) and len(value) > MAX_BIASES:
        raise ValueError(f"There are {len(value)} biases; at most {MAX_BIASES} are read")
    if isinstance(value, list):
        value = dict(map(_bias, value))
    if not isinstance(value, dict):
        return value
    wrong = next((each for each in value.items() if not _is_bias(each[1])), None)
    return value if wrong is None else dict([wrong])


def _bias(pair: Any) -> tuple[str, Any]:
    match pair:
        case [int() | str() as token, False]:  # never
            return str(token), -MAX_BIAS
        case [int() | str() as token, bias]:
            return str(token), bias
    raise ValueError("In a list, each bias is [token id, number], or [token id, false]")


def _is_bias(value: Any) -> bool:
    return type(value) in (int, float) and -MAX_BIAS <= value <= MAX_BIAS


def few_messages(value: Any) -> Any:
    """Raise ValueError if there are more messages than fit into any context, before they are validated: that would take
    long while all other clients wait.
    """
    if isinstance(value, list):
        count = len(value)
        if count <= MAX_MESSAGES:
            contents = (message.get("content") if isinstance(message, dict) else None for message in value)
            count = sum(max(1, len(content)) if isinstance(content, list) else 1 for content in contents)
        if count > MAX_MESSAGES:
            raise ValueError(f"There are {count} messages and parts of messages; at most {MAX_MESSAGES} are read")
    return value


class Body(BaseModel):
    """A request body. JSON types are not converted: "5" is no number. Null counts as absent."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class StreamOptions(Body):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None  # vLLM's: usage in every chunk


class Speculative(Body):
    """Guessing of tokens (llama-server's word); n_max: at a time, at most what the server was started with; 0: none."""

    n_max: Annotated[int, Field(ge=0)] | None = None


class GenerationRequest(Body):
    """The fields that chat and completions have in common.

    If the client says nothing else, tokens are drawn from the model's own distribution, as OpenAI's API does:
    temperature 1, top_p 1, everything else off.
    """

    model: str | None = None  # None: the model that is served
    max_tokens: Limit | None = None
    n_predict: Limit | None = None  # llama.cpp's name
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=MAX_STOPS, fail_fast=True)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None  # 0 and -1: off
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repeat_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None  # llama.cpp's name
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None  # vLLM's name for the same
    repeat_last_n: Annotated[int, Field(ge=-1)] | None = None  # -1: all tokens
    # What llama.cpp adds: https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md
    typical_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_n_sigma: float | None = None
    xtc_probability: Annotated[float, Field(ge=0, le=1)] | None = None
    xtc_threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    dynatemp_range: Annotated[float, Field(ge=0, le=100)] | None = None
    dynatemp_exponent: Annotated[float, Field(ge=0, le=100)] | None = None
    dry_multiplier: Annotated[float, Field(ge=0, le=1000)] | None = None
    dry_base: Annotated[float, Field(ge=1, le=100)] | None = None
    dry_allowed_length: Annotated[int, Field(ge=0, le=MAX_STOP_LENGTH)] | None = None
    dry_penalty_last_n: Annotated[int, Field(ge=-1)] | None = None
    dry_sequence_breakers: Annotated[list[StopString], Field(max_length=MAX_STOPS, fail_fast=True)] | None = None
    bad_words: Annotated[list[StopString], Field(max_length=MAX_STOPS, fail_fast=True)] | None = None  # vLLM's
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    # The keys are token ids, or the first of pairs.
    logit_bias: (
        Annotated[dict[str, Annotated[float, Field(ge=-MAX_BIAS, le=MAX_BIAS)]], BeforeValidator(_few_biases)] | None
    ) = None
    seed: Seed | None = None
    stop: StopString | Annotated[list[StopString], Field(max_length=MAX_STOPS, fail_fast=True)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    ignore_eos: bool | None = None
    speculative: bool | Speculative | None = None
    # vLLM's: https://docs.vllm.ai/en/latest/api/vllm/sampling_params.html
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    priority: Annotated[int, Field(ge=-(2**31), le=2**31 - 1)] | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = None  # vLLM's: only so many of the last; -1: that fit
    # The form of the answer, in the words of OpenAI, vLLM and llama-server: see `rowspan.server.openai.answer_grammar`.
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Schema | GrammarText | None = None
    guided_regex: GrammarText | None = None
    guided_choice: Annotated[list[str], Field(max_length=MAX_CHOICES_LISTED, fail_fast=True)] | None = None
    guided_grammar: GrammarText | None = None
    grammar: GrammarText | None = None
    json_schema: Schema | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def usage_wanted(self) -> tuple[bool, bool]:
        """Whether to send token counts at the end of a stream, and whether in every chunk of it."""
        options = self.stream_options or StreamOptions()
        return bool(options.include_usage), bool(options.continuous_usage_stats)


class TextPart(Body):
    type: Literal["text"]
    text: str


class Message(Body):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[TextPart], Field(fail_fast=True)] | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_CALLS, fail_fast=True)] | None = None
    tool_call_id: str | None = None  # the call that a message of the role `tool` answers
    reasoning_content: str | None = None

    @model_validator(mode="after")
    def _has_content(self) -> Message:
        if self.content is None and self.role != "assistant":
            raise ValueError(f"A message of the role {self.role} needs its content")
        return self

    def for_template(self) -> dict[str, Any]:
        """The message as chat templates expect it: `developer` is OpenAI's newer word for `system`. A message that
        consists of calls keeps its content null.
        """
        message = self.model_dump(exclude_none=True)
        role = "system" if self.role == "developer" else self.role
        return {**message, "role": role, "content": message.get("content", None if self.tool_calls else "")}


class ChatRequest(GenerationRequest):
    """POST /v1/chat/completions. Without a limit an answer may fill the context."""

    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True), BeforeValidator(few_messages)]
    max_completion_tokens: Limit | None = None  # takes precedence over max_tokens, its older name
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: ToolChoice | None = None  # None: auto, if there are tools
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None  # to the template
    chat_template_kwargs: dict[str, Any] | None = None  # further variables of the template
    enable_thinking: bool | None = None  # one of these, by itself
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None


class CompletionRequest(GenerationRequest):
    """POST /v1/completions. Without a limit an answer has 16 tokens, as OpenAI documents it."""

    prompt: str | Tokens | Annotated[list[str], Field(fail_fast=True)] | Annotated[list[Tokens], Field(fail_fast=True)]
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    echo: bool | None = None
    suffix: str | None = None  # what the answer stands before
    best_of: int | None = None  # must equal n: Rowspan does not choose among answers

    @property
    def prompts(self) -> Sequence[str | list[int]]:
        """One or several prompts, each as text or token ids."""
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
