"""GET /health, GET /v1/models."""

from __future__ import annotations

import orjson
from fastapi import APIRouter, Response

from rowspan.backends.protocol import HealthState
from rowspan.server.openai.reply import Json
from rowspan.server.service import Service


def model_routes(service: Service) -> APIRouter:
    router = APIRouter()
    card = {
        "id": service.model_name,
        "object": "model",
        "created": service.created,
        "owned_by": "rowspan",
        "max_model_len": service.backend.limits.context_size,  # vLLM's name; benchmarks and chat tools look for it
    }

    @router.get("/health", summary="The server is up")
    async def health() -> Response:
        state = service.backend.health().state
        usable = state in (HealthState.READY, HealthState.ASLEEP)  # asleep: a request wakes it, this does not
        body = orjson.dumps({"status": "ok" if usable else state})
        return Response(body, 200 if usable else 503, media_type="application/json")

    @router.get("/v1/models", summary="The served model, as a list")
    async def list_models() -> Json:
        return {"object": "list", "data": [card]}

    @router.get("/v1/models/{name:path}", summary="The served model")
    async def retrieve_model(name: str) -> Json:
        service.check_model(name)
        return card

    return router
