"""Relevance by a model that was trained to answer yes or no (Qwen3-Reranker): the probability that its first token is
"yes", of these two.

Source of the prompt: https://huggingface.co/Qwen/Qwen3-Reranker-0.6B.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import aclosing

from rowspan.backends.protocol import SamplingParams
from rowspan.server.service import AnswerJob, Service

TASK = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".'
)
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
RANKS = 1000  # likeliest tokens among which both are looked for
FAR = -100.0  # log-probability of a token that is not among them


async def judged(
    service: Service, query: str, documents: Sequence[str], instruction: str | None, arrived: float
) -> tuple[list[float], int]:
    """The relevance of each document, and the number of tokens computed."""
    backend = service.backend
    asked = f"<Instruct>: {instruction or INSTRUCTION}\n<Query>: {query}\n<Document>: "
    with service.admitted(len(documents)):
        yes, no = [await _first_token(service, word) for word in ("yes", "no")]
        prompts = [
            await backend.encode_chat(
                [{"role": "system", "content": TASK}, {"role": "user", "content": asked + document}],
                enable_thinking=False,
            )
            for document in documents
        ]
    params = SamplingParams(
        max_tokens=1, temperature=0.0, ignore_eos=True, logprobs=min(RANKS, backend.limits.vocab_size or RANKS)
    )
    scores = [0.5] * len(documents)
    jobs = [AnswerJob(prompt, params, (), continuation=False) for prompt in prompts]
    async with aclosing(service.answer(jobs, arrived)) as pieces:
        async for index, piece in pieces:
            for token in piece.tokens:
                found = dict(token.top)
                scores[index] = 1 / (1 + math.exp(found.get(no, FAR) - found.get(yes, FAR)))
    return scores, sum(map(len, prompts))


async def _first_token(service: Service, word: str) -> bytes:
    """The bytes of the token with which a word begins."""
    around = set(await service.backend.encode(""))
    tokens = [token for token in await service.backend.encode(word) if token not in around]
    return (await service.backend.decode(tokens[:1])).encode()
