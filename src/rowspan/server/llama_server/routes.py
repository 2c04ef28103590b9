"""POST /completion and /infill, GET /slots: llama-server's own API."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from rowspan.backends.protocol import check_least_length, check_lengths
from rowspan.server.connection import EventStream, while_connected
from rowspan.server.error_replies import BusyError
from rowspan.server.fill_in_middle import fill_in_prompt
from rowspan.server.llama_server.schema import CompletionRequest, InfillRequest, LlamaServerRequest, refuse_unsupported
from rowspan.server.llama_server.writer import CompletionWriter
from rowspan.server.metrics import ARRIVED
from rowspan.server.openai.answer_grammar import answer_grammar
from rowspan.server.openai.sampling_params import limited, sampling_params
from rowspan.server.openai.schema import refuse_unsupported as refuse_unsupported_everywhere
from rowspan.server.service import AnswerJob, Service

# What a request was generated with, as it is told.
TOLD = (
    *("temperature", "top_k", "top_p", "min_p", "typical_p", "top_n_sigma", "xtc_probability", "xtc_threshold"),
    *("repeat_penalty", "repeat_last_n", "frequency_penalty", "presence_penalty", "seed", "ignore_eos", "max_tokens"),
)


def llama_server_routes(service: Service) -> APIRouter:
    router = APIRouter()
    backend = service.backend

    async def encode(prompt: str | Sequence[int | str]) -> list[int]:
        """Token ids of a prompt; texts within it continue what stands before them."""
        if isinstance(prompt, str):
            return await backend.encode(prompt)
        parts = [part for part in prompt if part != ""]
        check_least_length(len(parts), backend.limits.context_size)  # each has a token, and takes its time
        begin = await backend.encode("")
        tokens: list[int] = []
        for part in parts:
            if isinstance(part, int):
                tokens.append(part)
            else:
                spelled = await backend.encode(part)
                tokens += spelled if not tokens else spelled[len(begin) :]
        return tokens

    async def answer(asked: LlamaServerRequest, prompt: list[int], http: Request) -> Response:
        request = asked.with_defaults()
        params = sampling_params(request, logprobs=asked.n_probs or None, vocab_size=backend.limits.vocab_size)
        params = replace(params, grammar=await answer_grammar(request))
        params = limited(params, request.n_predict or request.max_tokens, len(prompt), backend.limits.context_size)
        check_lengths(len(prompt), params.max_tokens, backend.limits.context_size)  # before it is spelled
        settings: dict[str, Any] = {name: getattr(params, name) for name in TOLD}
        writer = CompletionWriter(
            service.model_name,
            await backend.decode(prompt),
            len(prompt),
            {**settings, "n_ctx": backend.limits.context_size, "n_predict": params.max_tokens, "stop": request.stops},
            http.scope[ARRIVED],
            asked.n_probs or 0,
            bool(asked.return_tokens),
        )
        pieces = service.answer([AnswerJob(prompt, params, request.stops, continuation=True)], http.scope[ARRIVED])
        if not request.stream:
            whole = await while_connected(http.receive, writer.whole(pieces))
            return Response(orjson.dumps(whole), media_type="application/json")
        _, first = await while_connected(http.receive, anext(pieces))
        return EventStream(writer.stream(first, pieces, http.scope))

    @router.post("/completion", summary="Continue a text (llama-server's API)")
    @router.post("/completions", summary="Continue a text (llama-server's API)")
    async def create_completion(request: CompletionRequest, http: Request) -> Response:
        service.check_model(request.model)
        refuse_unsupported_everywhere(request)
        refuse_unsupported(request)
        await service.wake()
        with service.admitted(1):
            prompt = await encode(request.prompt)
        return await answer(request, prompt, http)

    @router.post("/infill", summary="Write what belongs between two texts (llama-server's API)")
    async def infill(request: InfillRequest, http: Request) -> Response:
        service.check_model(request.model)
        refuse_unsupported_everywhere(request)
        refuse_unsupported(request)
        await service.wake()
        others = [(file.filename, file.text) for file in request.input_extra or ()]
        prefix = request.input_prefix + (request.prompt or "")
        with service.admitted(1):
            prompt = await fill_in_prompt(backend, prefix, request.input_suffix, others=others, field="input_prefix")
        return await answer(request, prompt, http)

    @router.get("/slots", summary="Requests that are being computed (llama-server's API)")
    async def slots(fail_on_no_slot: bool = False) -> list[dict[str, Any]]:
        """As many slots as requests are computed at once. Which request has which is not told: Rowspan has no slots,
        its requests share one cache.
        """
        stats, limits = await backend.stats(), backend.limits
        running = stats.running if stats else 0
        if fail_on_no_slot and running >= limits.parallel:
            raise BusyError("No slot is free.", fix="Try again in a moment.")
        return [
            {"id": number, "n_ctx": limits.context_size, "is_processing": number < running, "speculative": False}
            for number in range(limits.parallel)
        ]

    return router
