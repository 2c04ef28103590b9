"""Tokens and templates, as llama-server and vLLM offer them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Field

from rowspan.backends.protocol import HealthState
from rowspan.server.error_replies import FieldError
from rowspan.server.llama_server.schema import DEFAULTS
from rowspan.server.openai.chat import template_options
from rowspan.server.openai.schema import Body, ChatRequest, Tokens
from rowspan.server.openai.tool_choice import offered_tools
from rowspan.server.service import Service

Json = dict[str, Any]


class TokenizeRequest(Body):
    """llama-server says `content` and adds special tokens only if asked to; vLLM says `prompt`, and adds them."""

    content: str | None = None
    prompt: str | None = None
    add_special: bool | None = None
    add_special_tokens: bool | None = None
    with_pieces: bool | None = None


class DetokenizeRequest(Body):
    tokens: Annotated[Tokens, Field(max_length=10_000_000)]


def text_routes(service: Service) -> APIRouter:
    router = APIRouter()

    @router.post("/tokenize", summary="Token ids of a text (llama-server's and vLLM's API)")
    async def tokenize(request: TokenizeRequest) -> Json:
        text = request.content if request.prompt is None else request.prompt
        if text is None:
            raise FieldError("There is no text.", field="content", fix='Send it as "content" or "prompt".')
        asked = request.add_special if request.prompt is None else request.add_special_tokens
        await service.wake()
        backend = service.backend
        with service.admitted(1):
            tokens = await backend.encode(text)
            special = await backend.encode("")
        if not (request.prompt is not None if asked is None else asked) and tokens[: len(special)] == special:
            tokens = tokens[len(special) :]
        body: Json = {"tokens": tokens, "count": len(tokens), "max_model_len": backend.limits.context_size}
        if request.with_pieces:
            body["tokens"] = [{"id": token, "piece": await backend.decode([token])} for token in tokens]
        return body

    @router.post("/detokenize", summary="The text of token ids (llama-server's and vLLM's API)")
    async def detokenize(request: DetokenizeRequest) -> Json:
        await service.wake()
        text = await service.backend.decode(request.tokens)
        return {"content": text, "prompt": text}

    @router.post("/apply-template", summary="A conversation as the model reads it (llama-server's API)")
    async def apply_template(request: ChatRequest) -> Json:
        service.check_model(request.model)
        options = template_options(request, offered_tools(request))
        await service.wake()
        with service.admitted(1):
            messages = [message.for_template() for message in request.messages]
            prompt = await service.backend.encode_chat(messages, **options)
        return {"prompt": await service.backend.decode(prompt)}

    @router.get("/tokenizer_info", summary="The tokenizer's special tokens and template (vLLM's API)")
    async def tokenizer_info() -> Json:
        await service.wake()
        backend = service.backend
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "chat_template": backend.chat_template,
            "model_max_length": backend.limits.context_size,
            **backend.special_tokens,
        }

    @router.get("/props", summary="The server's properties (llama-server's API)")
    async def props() -> Json:
        limits = service.backend.limits
        return {
            "default_generation_settings": {"n_ctx": limits.context_size, "params": DEFAULTS},
            "total_slots": limits.parallel,
            "model_alias": service.model_name,
            "model_path": service.model_name,
            "chat_template": service.backend.chat_template or "",
            **service.backend.special_tokens,
            "is_sleeping": service.backend.health().state is HealthState.ASLEEP,
            "modalities": {"vision": False, "audio": False},
            "build_info": service.fingerprint,
        }

    return router
