"""GET /health, GET /v1/models."""

from __future__ import annotations

from fastapi import APIRouter

from rowspan.server.reply import Json
from rowspan.server.service import Service


def model_routes(service: Service) -> APIRouter:
    router = APIRouter()
    card = {
        "id": service.model_name,
        "object": "model",
        "created": service.created,
        "owned_by": "rowspan",
        "max_model_len": service.engine.context_size,  # vLLM's name; benchmarks and chat tools look for it
    }

    @router.get("/health", summary="The server is up")
    async def health() -> Json:
        return {"status": "ok"}

    @router.get("/v1/models", summary="The served model, as a list")
    async def list_models() -> Json:
        return {"object": "list", "data": [card]}

    @router.get("/v1/models/{name:path}", summary="The served model")
    async def retrieve_model(name: str) -> Json:
        service.check_model(name)
        return card

    return router
