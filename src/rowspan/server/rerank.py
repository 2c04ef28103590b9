"""POST /v1/rerank: how relevant documents are to a query, in the form of Jina's and Cohere's APIs; and llama-server's
/embedding.

A reranker reads query and document together, and its score becomes a number between 0 and 1; or it judges by yes or no.
Any other model embeds them, and their cosine is told, as vLLM does.
"""

from __future__ import annotations

import math
import secrets
from typing import Annotated

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import Field

from rowspan.backends.protocol import unit
from rowspan.server.connection import while_connected
from rowspan.server.embeddings import (
    MAX_TEXTS,
    Input,
    Json,
    Vector,
    as_list,
    each_input,
    embedding_of,
    embeddings,
    tokens_of,
    vectors_of,
)
from rowspan.server.error_replies import FieldError
from rowspan.server.metrics import ARRIVED
from rowspan.server.openai.schema import Body
from rowspan.server.service import Service
from rowspan.server.yes_no import judged


class Document(Body):
    text: str


class RerankRequest(Body):
    model: str | None = None
    query: str
    documents: Annotated[list[str | Document], Field(min_length=1, max_length=MAX_TEXTS, fail_fast=True)]
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool | None = None
    instruction: str | None = None  # what relevance means, for models that judge; others ignore it

    @property
    def texts(self) -> list[str]:
        return [one if isinstance(one, str) else one.text for one in self.documents]


class PlainEmbeddingRequest(Body):
    """llama-server's: one text or several, as `content` or `input`. embd_normalize: 2: at length 1; -1: as they are."""

    content: Input | None = None
    input: Input | None = None
    embd_normalize: int | None = None


def rerank_routes(service: Service) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/rerank", summary="Documents by relevance to a query (Jina's, Cohere's and llama-server's API)")
    @router.post("/v2/rerank", include_in_schema=False)
    @router.post("/rerank", include_in_schema=False)
    @router.post("/v1/reranking", include_in_schema=False)
    @router.post("/reranking", include_in_schema=False)
    async def rerank(request: RerankRequest, http: Request) -> Response:
        service.check_model(request.model)
        await service.wake()
        scores, tokens = await while_connected(http.receive, relevance(service, request, http.scope[ARRIVED]))
        best = sorted(range(len(scores)), key=lambda index: (-scores[index], index))[: request.top_n]
        results: list[Json] = [{"index": index, "relevance_score": scores[index]} for index in best]
        if request.return_documents:
            results = [result | {"document": {"text": request.texts[result["index"]]}} for result in results]
        body = {
            "id": f"rerank-{secrets.token_hex(12)}",
            "object": "list",
            "model": service.model_name,
            "results": results,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
        return Response(orjson.dumps(body), media_type="application/json")

    @router.post("/embedding", summary="Vectors of texts (llama-server's API)")
    @router.post("/embeddings", include_in_schema=False)
    async def embedding(request: PlainEmbeddingRequest, http: Request) -> Response:
        given = request.content if request.input is None else request.input
        if given is None:
            raise FieldError("There is no text.", field="content", fix='Send it as "content" or "input".')
        if request.embd_normalize not in (None, -1, 2):
            raise FieldError(
                f"embd_normalize {request.embd_normalize} is not supported.",
                field="embd_normalize",
                fix="Send 2 for vectors of length 1, or -1 for them as they are.",
            )
        await service.wake()

        async def work() -> list[Vector]:
            embedding_of(service)
            with service.admitted(1):
                vectors = await vectors_of(service, await tokens_of(service, each_input(given)))
            return vectors if request.embd_normalize == -1 else [unit(vector) for vector in vectors]

        vectors = await while_connected(http.receive, work())
        body = [{"index": index, "embedding": [as_list(vector)]} for index, vector in enumerate(vectors)]
        return Response(orjson.dumps(body), media_type="application/json")

    return router


async def relevance(service: Service, request: RerankRequest, arrived: float) -> tuple[list[float], int]:
    """The relevance of each document, and the number of tokens computed."""
    backend, query, documents = service.backend, request.query, request.texts
    embedding = embedding_of(service, ranks=True)
    if embedding.judges:
        return await judged(service, query, documents, request.instruction, arrived)
    if not embedding.ranks:
        (asked, *vectors), tokens = await embeddings(service, [query, *documents])
        return [float(asked @ vector) for vector in vectors], tokens
    with service.admitted(1):
        pairs = [await backend.encode_pair(query, document) for document in documents]
        scores = await vectors_of(service, pairs)
    return [1 / (1 + math.exp(-float(score[0]))) for score in scores], sum(map(len, pairs))
