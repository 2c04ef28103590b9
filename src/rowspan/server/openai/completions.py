"""POST /v1/completions: continues a prompt."""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Sequence
from dataclasses import replace

from fastapi import APIRouter, Request, Response

from rowspan.backends.protocol import BackendName, Piece, TokenText
from rowspan.server.error_replies import FieldError
from rowspan.server.fill_in_middle import fill_in_prompt
from rowspan.server.openai.answer_grammar import answer_grammar
from rowspan.server.openai.reply import Json, Reply, ServerAnswer, respond
from rowspan.server.openai.sampling_params import choice_params, limited, sampling_params, truncated
from rowspan.server.openai.schema import CompletionRequest, refuse_unsupported
from rowspan.server.service import AnswerJob, Service

DEFAULT_MAX_TOKENS = 16  # OpenAI's default
MAX_ANSWERS = 2048  # limit of prompts × n in one request


class CompletionWriter:
    """Writes choices as text.

    Args:
        echoes: for each choice, the prompt's text if the client wants it repeated.
        begins: for each choice, the first token of such a prompt, if log-probabilities are wanted: it has none.
    """

    id_prefix = "cmpl"
    whole_object = chunk_object = "text_completion"

    def __init__(self, echoes: Sequence[str], begins: Sequence[TokenText | None], *, with_logprobs: bool) -> None:
        self._echoes = list(echoes)
        self._begins = list(begins)
        self._logprobs = [LegacyLogprobs() for _ in echoes] if with_logprobs else None

    def whole(self, index: int, answer: ServerAnswer) -> Json:
        return {"text": self._echoes[index] + answer.text, "logprobs": self._of(index, answer.tokens)}

    def part(self, index: int, piece: Piece) -> Json | None:
        text, self._echoes[index] = self._echoes[index] + piece.text, ""
        tokens = piece.prompt + piece.tokens
        logprobs = self._of(index, tokens)
        if not (text or piece.finish or (logprobs and tokens)):
            return None
        return {"text": text, "logprobs": logprobs}

    def _of(self, index: int, tokens: Sequence[TokenText]) -> Json | None:
        if self._logprobs is None:
            return None
        begin, self._begins[index] = self._begins[index], None
        return self._logprobs[index].write([begin, *tokens] if begin else tokens)


class LegacyLogprobs:
    """The older form of log-probabilities: parallel lists, with each token's offset in the text in characters."""

    def __init__(self) -> None:
        self._offset = 0
        self._decoder = getincrementaldecoder("utf-8")("replace")

    def write(self, tokens: Sequence[TokenText]) -> Json:
        return {
            "tokens": [_spelling(token.raw) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [None if token.logprob is None else _top(token) for token in tokens],
            "text_offset": [self._advance(token) for token in tokens],
        }

    def _advance(self, token: TokenText) -> int:
        raw = b"" if token.special else token.raw
        start, self._offset = self._offset, self._offset + len(self._decoder.decode(raw))
        try:
            return self._offset - len(raw.decode())
        except UnicodeDecodeError:
            return start


def _top(token: TokenText) -> dict[str, float | None]:
    """Log-probabilities of the likeliest tokens, best first, always including the chosen token."""
    top: dict[str, float | None] = {}
    for raw, logprob in token.top:
        top.setdefault(_spelling(raw), logprob)
    top.setdefault(_spelling(token.raw), token.logprob)
    return top


def _spelling(raw: bytes) -> str:
    """A token's text; part of a character is written in OpenAI's notation."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def completion_routes(service: Service) -> APIRouter:
    router = APIRouter()
    backend = service.backend

    async def encode(prompt: str | list[int], suffix: str | None) -> list[int]:
        if suffix:
            text = prompt if isinstance(prompt, str) else await backend.decode(prompt)
            return await fill_in_prompt(backend, text, suffix, field="suffix")
        return await backend.encode(prompt) if isinstance(prompt, str) else prompt

    async def spell(prompt: str | list[int]) -> str:
        if isinstance(prompt, str):
            return prompt.encode(errors="replace").decode()  # JSON may hold lone surrogates, UTF-8 may not
        return await backend.decode(prompt)

    async def first_token(prompt: Sequence[int]) -> TokenText | None:
        return TokenText(prompt[0], (await backend.decode(prompt[:1])).encode()) if prompt else None

    @router.post("/v1/completions", summary="Continue a text")
    async def create_completion(request: CompletionRequest, http: Request) -> Response:
        service.check_model(request.model)
        refuse_unsupported(request)
        await service.wake()
        n = request.n or 1
        _check(request, n, backend.name)
        with service.admitted(len(request.prompts) * n):
            prompts = [await encode(prompt, request.suffix) for prompt in request.prompts]
        last = request.truncate_prompt_tokens
        prompts = [truncated(prompt, last, backend.limits.context_size) for prompt in prompts]
        params = sampling_params(request, logprobs=request.logprobs, vocab_size=backend.limits.vocab_size)
        is_scored = bool(request.echo) and request.logprobs is not None
        params = replace(
            params,
            grammar=await answer_grammar(request),
            prompt_logprobs=request.logprobs if is_scored else None,
        )
        max_tokens = request.max_tokens or request.n_predict or DEFAULT_MAX_TOKENS
        jobs = [
            AnswerJob(
                prompt,
                choice_params(limited(params, max_tokens, len(prompt), backend.limits.context_size), choice),
                request.stops,
                continuation=True,
            )
            for prompt in prompts
            for choice in range(n)
        ]
        spelled = [await spell(prompt) if request.echo else "" for prompt in request.prompts]
        echoes = [text for text in spelled for _ in range(n)]
        firsts = [await first_token(prompt) for prompt in prompts] if is_scored else []
        begins = [first for first in firsts for _ in range(n)] or [None] * len(echoes)
        writer = CompletionWriter(echoes, begins, with_logprobs=request.logprobs is not None)
        reply = Reply(service, request, writer, sum(map(len, prompts)))
        return await respond(service, http, request, jobs, reply)

    return router


def _check(request: CompletionRequest, n: int, backend: BackendName) -> None:
    n_answers = len(request.prompts) * n
    if not 1 <= n_answers <= MAX_ANSWERS:
        raise FieldError(
            f"The request asks for {n_answers} answers (prompts times n).",
            field="prompt",
            fix=f"Send a prompt, or up to {MAX_ANSWERS // n} of them.",
        )
    if request.best_of is not None and request.best_of != n:
        raise FieldError(
            f"best_of {request.best_of} with n {n} is not supported.",
            field="best_of",
            why="Rowspan does not choose among answers.",
            fix="Leave best_of out, or make it equal to n.",
        )
    if request.echo and request.logprobs is not None and backend is not BackendName.NATIVE:
        raise FieldError(
            f"echo together with logprobs is not supported with --backend {backend}.",
            field="echo",
            why="It does not tell the prompt's log-probabilities, and leaving them out would mislead.",
            fix="Leave out one of them.",
        )
