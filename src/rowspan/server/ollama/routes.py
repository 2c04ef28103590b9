"""Ollama's API, for tools that speak nothing else. The one model that is served is the list of models."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from rowspan.backends.protocol import HealthState
from rowspan.server.chat_turn import chat_request, steps
from rowspan.server.connection import EventStream, while_connected
from rowspan.server.embeddings import as_list, embeddings
from rowspan.server.metrics import ARRIVED
from rowspan.server.ollama.schema import (
    NamedModel,
    OllamaChatRequest,
    OllamaEmbedRequest,
    OllamaGenerateRequest,
    OllamaRequest,
    Options,
)
from rowspan.server.ollama.to_chat import chat_of, chat_of_prompt, sampling_fields, without_tag
from rowspan.server.ollama.writer import OllamaWriter, Parts, as_message, as_response
from rowspan.server.openai.chat import PreparedChat, prepare_chat
from rowspan.server.openai.chat_format import AnswerFormat, ChatFormat
from rowspan.server.openai.sampling_params import limited, sampling_params
from rowspan.server.service import AnswerJob, Service

API_VERSION = "0.13.0"  # of Ollama's API that this speaks: clients ask for a least one
Json = dict[str, Any]


def ollama_routes(service: Service) -> APIRouter:
    router = APIRouter(prefix="/api")
    form = ChatFormat.of(service.backend, service.config)

    async def answer(http: Request, request: OllamaRequest, chat: PreparedChat, writer: OllamaWriter) -> Response:
        answer = steps(chat, service.answer(chat.jobs, http.scope[ARRIVED]))
        if request.stream is False:
            whole = await while_connected(http.receive, writer.whole(answer))
            return Response(orjson.dumps(whole), media_type="application/json")
        first = await while_connected(http.receive, anext(answer))
        return EventStream(writer.stream(first, answer, http.scope), "application/x-ndjson")

    def writer(http: Request, request: OllamaRequest, chat: PreparedChat, *, is_chat: bool) -> OllamaWriter:
        shape = as_message if is_chat else as_response
        return OllamaWriter(request.model, http.url.path, chat.prompt_tokens, http.scope[ARRIVED], shape)

    def loaded(request: OllamaRequest, parts: Json) -> Response:
        service.check_model(without_tag(request.model))
        head = {"model": request.model, "created_at": _now()}
        return Response(
            orjson.dumps(head | parts | {"done": True, "done_reason": "load"}), media_type="application/json"
        )

    @router.post("/chat", summary="Answer a conversation (Ollama's API)")
    async def chat(request: OllamaChatRequest, http: Request) -> Response:
        if not request.messages:
            return loaded(request, as_message(Parts()))
        prepared = await prepare_chat(service, form, chat_of(request))
        return await answer(http, request, prepared, writer(http, request, prepared, is_chat=True))

    @router.post("/generate", summary="Answer or continue a prompt (Ollama's API)")
    async def generate(request: OllamaGenerateRequest, http: Request) -> Response:
        if not request.prompt:
            return loaded(request, as_response(Parts()))
        if request.raw:
            prepared = await _raw(service, request)
        else:
            prepared = await prepare_chat(service, form, chat_of_prompt(request))
        return await answer(http, request, prepared, writer(http, request, prepared, is_chat=False))

    async def embedded(
        request: OllamaEmbedRequest, http: Request, texts: Sequence[str]
    ) -> tuple[list[list[float]], int]:
        service.check_model(without_tag(request.model))
        if not texts:
            return [], 0
        await service.wake()
        truncated = None if request.truncate is False else -1
        work = embeddings(service, texts, request.dimensions, truncated)
        vectors, tokens = await while_connected(http.receive, work)
        return [as_list(vector) for vector in vectors], tokens

    @router.post("/embed", summary="Vectors of texts (Ollama's API)")
    async def embed(request: OllamaEmbedRequest, http: Request) -> Json:
        vectors, tokens = await embedded(request, http, request.texts)
        taken = int((time.perf_counter() - http.scope[ARRIVED]) * 1e9)
        counts = {"total_duration": taken, "load_duration": 0, "prompt_eval_count": tokens}
        return {"model": request.model, "embeddings": vectors} | counts

    @router.post("/embeddings", summary="The vector of a text (Ollama's API, older form)")
    async def embed_prompt(request: OllamaEmbedRequest, http: Request) -> Json:
        vectors, _ = await embedded(request, http, [request.prompt] if request.prompt else [])
        return {"embedding": vectors[0] if vectors else []}

    @router.post("/pull", summary="Whether a model is here (Ollama's API)")
    async def pull(request: NamedModel) -> Response:
        service.check_model(without_tag(request.asked or ""))
        return Response(orjson.dumps({"status": "success"}) + b"\n", media_type="application/x-ndjson")

    @router.post("/show", summary="The served model (Ollama's API)")
    async def show(request: NamedModel) -> Json:
        service.check_model(without_tag(request.asked or ""))
        abilities = ["completion"] if service.backend.chat_template is None else ["completion", "tools"]
        if form.reasoning is not None:
            abilities.append("thinking")
        told = service.backend.embedding
        if told is not None and not told.writes:
            abilities = [] if told.ranks else ["embedding"]
        return {
            "modelfile": "",
            "parameters": "",
            "template": service.backend.chat_template or "",
            "details": _details(),
            "model_info": {
                "general.architecture": "rowspan",
                "rowspan.context_length": service.backend.limits.context_size,
            },
            "capabilities": abilities,
            "modified_at": _time(service.created),
        }

    @router.get("/tags", summary="The served model, as a list (Ollama's API)")
    async def tags() -> Json:
        return {"models": [_card(service)]}

    @router.get("/ps", summary="The served model, if it is loaded (Ollama's API)")
    async def ps() -> Json:
        is_loaded = service.backend.health().state is HealthState.READY
        card = _card(service) | {"expires_at": "9999-12-31T23:59:59Z", "size_vram": 0}
        return {"models": [card | {"context_length": service.backend.limits.context_size}] if is_loaded else []}

    @router.get("/version", summary="The version of Ollama's API")
    async def version() -> Json:
        return {"version": API_VERSION}

    return router


async def _raw(service: Service, request: OllamaGenerateRequest) -> PreparedChat:
    """A prompt that is to be continued as it is, without a template."""
    service.check_model(without_tag(request.model))
    await service.wake()
    backend, options = service.backend, request.options or Options()
    with service.admitted(1):
        prompt = await backend.encode(request.prompt or "")
    # A conversation's request has the same fields, and checks them.
    fields = chat_request(sampling_fields(options) | {"messages": [{"role": "user", "content": ""}]})
    params = sampling_params(fields, logprobs=None, vocab_size=backend.limits.vocab_size)
    params = limited(params, fields.max_tokens, len(prompt), backend.limits.context_size)
    plain = AnswerFormat(None, {}, None, begun=False, grammar=None)
    return PreparedChat([AnswerJob(prompt, params, fields.stops, continuation=True)], len(prompt), plain)


def _card(service: Service) -> Json:
    name = service.model_name
    digest = hashlib.sha256(name.encode()).hexdigest()  # clients compare it, and look for nothing in it
    return {
        "name": name,
        "model": name,
        "modified_at": _time(service.created),
        "size": 0,
        "digest": digest,
        "details": _details(),
    }


def _details() -> Json:
    return {
        "parent_model": "",
        "format": "gguf",
        "family": "",
        "families": [],
        "parameter_size": "",
        "quantization_level": "",
    }


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")
