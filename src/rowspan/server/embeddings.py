"""Embeds texts for the routes of every dialect: tokens, the work itself, and how vectors are written."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field

from rowspan.backends.protocol import Embedding, unit
from rowspan.errors import UsageError
from rowspan.server.error_replies import FieldError
from rowspan.server.openai.schema import Tokens
from rowspan.server.service import Service

Json = dict[str, Any]
Vector = NDArray[np.float32]
T = TypeVar("T")

MAX_TEXTS = 2048  # OpenAI's limit
AT_ONCE = 64  # texts of one request that are under way: others' need not wait for all of them


def _few_texts(value: Any) -> Any:
    """Raise ValueError if there are too many texts, or none; what they are is checked behind it."""
    if isinstance(value, list) and not (value and type(value[0]) is int) and not 0 < len(value) <= MAX_TEXTS:
        raise ValueError(f"There are {len(value)} texts; one to {MAX_TEXTS} are read")
    return value


SomeTokens = Annotated[Tokens, Field(min_length=1)]
Several = Annotated[list[str], Field(fail_fast=True)] | Annotated[list[SomeTokens], Field(fail_fast=True)]
Input = Annotated[str | SomeTokens | Several, BeforeValidator(_few_texts)]
FOREIGN = "Send texts. (LangChain sends tokens of another model unless told check_embedding_ctx_length=False.)"


def each_input(given: Input) -> Sequence[str | list[int]]:
    """One or several inputs, each as text or token ids."""
    if isinstance(given, str):
        return [given]
    if isinstance(given[0], int):
        return [[one for one in given if isinstance(one, int)]]
    return [one for one in given if not isinstance(one, int)]


def embedding_of(service: Service, *, ranks: bool = False) -> Embedding:
    """What the served model's embeddings are.

    Raises:
        UsageError: the backend tells none, or the model ranks pairs of texts instead.
    """
    embedding = service.backend.embedding
    if embedding is None:
        raise UsageError(
            f"Embeddings are not to be had with --backend {service.backend.name}.", fix="Use --backend native."
        )
    if embedding.ranks and not ranks:
        raise UsageError(
            f"{service.model_name} is a reranker, and gives no embeddings.",
            fix="POST to /v1/rerank, or serve another model.",
        )
    return embedding


async def tokens_of(
    service: Service, inputs: Sequence[str | list[int]], truncated: int | None = None
) -> list[list[int]]:
    """Token ids of all inputs.

    Args:
        truncated: tokens that are left of longer ones: of their beginning, and their last; -1: as many as fit; None:
            they stay as they are, to be refused.

    Raises:
        FieldError: token ids are not this model's.
    """
    backend = service.backend
    around = await backend.encode("") if any(not isinstance(one, str) for one in inputs) else []
    lists = [await backend.encode(one) if isinstance(one, str) else _checked(one, around) for one in inputs]
    if truncated is None:
        return lists
    context = backend.limits.context_size
    most = context if truncated == -1 else min(truncated, context)
    return [tokens if len(tokens) <= most else [*tokens[: most - 1], tokens[-1]] for tokens in lists]


def _checked(tokens: list[int], around: Sequence[int]) -> list[int]:
    if around and tokens[0] != around[0]:
        raise FieldError(
            "The token ids are another model's.",
            field="input",
            why=f"Texts of this one begin with the token {around[0]}.",
            fix=FOREIGN,
        )
    return tokens


async def vectors_of(service: Service, lists: Sequence[Sequence[int]]) -> list[Vector]:
    """Embeddings of token lists at whatever length, or scores, computed together; counted as tokens of prompts."""
    vectors = await _at_once(service.backend.embed, lists)
    service.metrics.count_prompt_tokens(sum(map(len, lists)))
    return vectors


async def _at_once(work: Callable[[Sequence[int]], Awaitable[T]], lists: Sequence[Sequence[int]]) -> list[T]:
    """The work for each list, some at a time. If one fails, or the caller is cancelled, so are the others."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(tokens: Sequence[int]) -> T:
        async with room:
            return await work(tokens)

    tasks = [asyncio.create_task(one(tokens)) for tokens in lists]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def checked_dimensions(embedding: Embedding, dimensions: int | None) -> int | None:
    """Raise FieldError if more dimensions are asked for than there are."""
    if dimensions is not None and dimensions > embedding.size:
        raise FieldError(
            f"dimensions is {dimensions}; an embedding has {embedding.size}.",
            field="dimensions",
            fix=f"Ask for {embedding.size} or less.",
        )
    return dimensions


def as_list(vector: Vector) -> list[float]:
    floats: list[float] = vector.tolist()
    return floats


def as_base64(vector: Vector) -> str:
    """Little-endian float32, as OpenAI's clients ask for by default."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


async def embeddings(
    service: Service, inputs: Sequence[str | list[int]], dimensions: int | None = None, truncated: int | None = None
) -> tuple[list[Vector], int]:
    """Embeddings of length 1, and the number of their tokens."""
    embedding = embedding_of(service)
    checked_dimensions(embedding, dimensions)
    with service.admitted(1):
        lists = await tokens_of(service, inputs, truncated)
        vectors = await vectors_of(service, lists)
    return [unit(vector, dimensions) for vector in vectors], sum(map(len, lists))
