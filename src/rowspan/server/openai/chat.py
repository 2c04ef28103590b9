"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastapi import APIRouter, Request, Response

from rowspan.server.error_replies import FieldError
from rowspan.server.openai.chat_format import AnswerFormat, ChatFormat
from rowspan.server.openai.chat_writer import ChatWriter
from rowspan.server.openai.reply import Reply, respond
from rowspan.server.openai.sampling_params import choice_params, limited, sampling_params, truncated
from rowspan.server.openai.schema import ChatRequest, refuse_unsupported
from rowspan.server.openai.tool_choice import OfferedTools, offered_tools
from rowspan.server.service import AnswerJob, Service


@dataclass(frozen=True)
class PreparedChat:
    """A request whose conversation has been read, for whichever API it came by.

    prompt_tokens: number of tokens in the prompt.
    answers: what the answers look like; it makes their parsers.
    """

    jobs: Sequence[AnswerJob]
    prompt_tokens: int
    answers: AnswerFormat


async def prepare_chat(service: Service, form: ChatFormat, request: ChatRequest) -> PreparedChat:
    """Read a request's conversation, and say what there is to compute.

    Raises:
        BusyError: too many other requests wait.
        RowspanError: the request is refused.
    """
    service.check_model(request.model)
    refuse_unsupported(request)
    await service.wake()
    backend = service.backend
    if request.top_logprobs and not request.logprobs:
        raise FieldError("top_logprobs needs logprobs.", field="top_logprobs", fix='Send "logprobs": true, too.')
    offered = offered_tools(request)
    with service.admitted(request.n or 1):
        messages = form.fitting_ids([message.for_template() for message in request.messages])
        prompt = await backend.encode_chat(messages, **template_options(request, offered))
        prompt = truncated(prompt, request.truncate_prompt_tokens, backend.limits.context_size)
        answers = await form.answer_format(request, offered, backend, prompt)
    params = sampling_params(
        request,
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        vocab_size=backend.limits.vocab_size,
    )
    params = limited(
        replace(params, grammar=answers.grammar),
        request.max_completion_tokens or request.max_tokens or request.n_predict,
        len(prompt),
        backend.limits.context_size,
    )
    goes_on = bool(request.continue_final_message)
    jobs = [
        AnswerJob(prompt, choice_params(params, choice), request.stops, continuation=goes_on, shown=answers.shown)
        for choice in range(request.n or 1)
    ]
    return PreparedChat(jobs, len(prompt), answers)


def chat_routes(service: Service) -> APIRouter:
    router = APIRouter()
    form = ChatFormat.of(service.backend, service.config)

    @router.post("/v1/chat/completions", summary="Answer a conversation")
    async def create_chat_completion(request: ChatRequest, http: Request) -> Response:
        chat = await prepare_chat(service, form, request)
        writer = ChatWriter(chat.answers, with_logprobs=bool(request.logprobs))
        return await respond(service, http, request, chat.jobs, Reply(service, request, writer, chat.prompt_tokens))

    return router


def template_options(request: ChatRequest, offered: OfferedTools) -> dict[str, Any]:
    """What a request says to the chat template, as `Backend.encode_chat` takes it. Raises FieldError."""
    if request.continue_final_message and request.add_generation_prompt:
        raise FieldError(
            "continue_final_message and add_generation_prompt exclude each other.",
            field="continue_final_message",
            fix="Leave one of them out.",
        )
    named = {"reasoning_effort": request.reasoning_effort, "enable_thinking": request.enable_thinking}
    options: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    options |= request.chat_template_kwargs or {}
    if reserved := {"messages", "tools", "continue_final_message", "add_generation_prompt"} & options.keys():
        raise FieldError(
            f"chat_template_kwargs has {', '.join(sorted(reserved))}, which are fields of the request.",
            field="chat_template_kwargs",
            fix="Send them as such.",
        )
    if offered.shown:
        options["tools"] = list(offered.shown)
    if request.add_generation_prompt is not None:
        options["add_generation_prompt"] = request.add_generation_prompt
    if request.continue_final_message:
        options["continue_final_message"] = True
    return options
