"""POST /v1/embeddings: vectors of texts."""

from __future__ import annotations

from typing import Annotated, Literal

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import Field

from rowspan.server.connection import while_connected
from rowspan.server.embeddings import Input, as_base64, as_list, each_input, embeddings
from rowspan.server.openai.schema import Body
from rowspan.server.service import Service


class EmbeddingRequest(Body):
    """truncate_prompt_tokens: vLLM's: tokens that are left of longer texts; -1: as many as fit."""

    model: str | None = None
    input: Input
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = None
    user: str | None = None


def embedding_routes(service: Service) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/embeddings", summary="Vectors of texts")
    async def create_embeddings(request: EmbeddingRequest, http: Request) -> Response:
        service.check_model(request.model)
        await service.wake()
        inputs, truncated = each_input(request.input), request.truncate_prompt_tokens
        work = embeddings(service, inputs, request.dimensions, truncated or None)
        vectors, tokens = await while_connected(http.receive, work)
        write = as_base64 if request.encoding_format == "base64" else as_list
        data = [
            {"object": "embedding", "index": index, "embedding": write(vector)} for index, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        body = {"object": "list", "model": service.model_name, "data": data, "usage": usage}
        return Response(orjson.dumps(body), media_type="application/json")

    return router
