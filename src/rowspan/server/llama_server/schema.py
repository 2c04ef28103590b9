"""The request bodies of llama-server's own API. What it does unless a request says otherwise differs from OpenAI's."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from rowspan.server.error_replies import FieldError
from rowspan.server.llama_server.samplers import switched_off
from rowspan.server.openai.schema import MAX_TOP_LOGPROBS, GenerationRequest, TokenId

MAX_SAMPLERS = 32
SamplerWord = Annotated[str, Field(max_length=MAX_SAMPLERS)]
Prompt = str | Annotated[list[TokenId | str], Field(fail_fast=True)]

# Its defaults; OpenAI's are no filters, and temperature 1.
DEFAULTS = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}
# What would change the answer → values that ask for nothing.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "image_data": ([],),
    "lora": ([],),
    "n_indent": (0,),
    "post_sampling_probs": (False,),
    "t_max_predict_ms": (0, -1),
}


class LlamaServerRequest(GenerationRequest):
    """The fields that completion and infill have in common. Those about its slots and its cache are accepted: the
    answer is the same.
    """

    samplers: SamplerWord | Annotated[list[SamplerWord], Field(max_length=MAX_SAMPLERS, fail_fast=True)] | None = None
    n_probs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    return_tokens: bool | None = None
    cache_prompt: bool | None = None
    id_slot: int | None = None

    def with_defaults(self) -> GenerationRequest:
        """The request with llama-server's defaults where it says nothing, and without samplers that it does not name.

        Raises:
            FieldError: it names samplers that cannot be had.
        """
        missing = {name: value for name, value in DEFAULTS.items() if getattr(self, name) is None}
        off = {} if self.samplers is None else switched_off(self.samplers)
        return self.model_copy(update=missing | off)


class CompletionRequest(LlamaServerRequest):
    """POST /completion. prompt: a text, token ids, or texts and ids in turn."""

    prompt: Prompt


class ExtraFile(GenerationRequest):
    filename: str = ""
    text: str


class InfillRequest(LlamaServerRequest):
    """POST /infill. prompt: what has been written already between prefix and suffix."""

    input_prefix: str
    input_suffix: str
    input_extra: Annotated[list[ExtraFile], Field(max_length=1000, fail_fast=True)] | None = None
    prompt: str | None = None


def refuse_unsupported(request: LlamaServerRequest) -> None:
    """Raise FieldError if a field is set that would change the answer, and is not implemented."""
    for name, nothing in UNSUPPORTED.items():
        value = (request.model_extra or {}).get(name)
        if value is not None and value not in nothing:
            raise FieldError(f"{name} is not supported.", field=name, fix="Leave it out.")
