"""Runs vLLM's OpenAI server: https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html

/v1/completions takes token ids, and returns them beside the text if asked to (`return_token_ids`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import orjson

from rowspan.backends.process.child import HOST, Address, ChildError, Launch
from rowspan.backends.process.dialect import template_request
from rowspan.backends.process.http_stream import HttpRefusal, call
from rowspan.backends.process.programs import find_vllm_python
from rowspan.backends.protocol import (
    BackendName,
    Capabilities,
    FinishReason,
    Grammar,
    GrammarKind,
    Limits,
    ModelFormat,
    Piece,
    SamplingParams,
    Setup,
    Timings,
    TokenText,
)
from rowspan.backends.vllm import vllm_flags
from rowspan.backends.vllm.vllm_probe import VllmFeatures, probe
from rowspan.errors import UsageError
from rowspan.text.prompt import no_template

FINISH = {"length": FinishReason.LENGTH, "stop": FinishReason.STOP}
DONE = b"[DONE]"

# The parameters that it does not know.
REFUSED = (
    *("dry", "top_n_sigma", "typical_p", "xtc_probability", "dynatemp_range"),
    *("bad_words",),  # of tokens; it takes texts
)


class Vllm:
    """The `rowspan.backends.process.dialect.Dialect` of vLLM.

    Tokenizing and detokenizing happen in vLLM: tokenizer and chat template are the Hugging Face folder's, for which
    Rowspan has no reader. /tokenize applies the template, so that a conversation is sent once to get its tokens, and
    the tokens are then sent for the answer.
    """

    name = BackendName.VLLM
    title = "vLLM"

    def __init__(self, setup: Setup, python: str, features: VllmFeatures) -> None:
        """Check model and options.

        Raises:
            UsageError: vLLM cannot take the model or an option.
        """
        if setup.model.format != ModelFormat.HF:
            raise UsageError(
                f"{setup.model.name} is a {setup.model.format}, which vLLM does not read.",
                why="vLLM has no loader for it any more (the plain weights, GPTQ and AWQ are safetensors).",
                fix="Use --backend native or llamacpp, or the Hugging Face folder of the model.",
            )
        self.version = f"vLLM {features.version}"
        self.placement = " and ".join(map(str, setup.engine.devices))
        self._launch = vllm_flags.launch(setup, python, features)
        self._vocabulary = setup.model.vocabulary
        self._parallel = setup.engine.parallel
        self._sleeps = vllm_flags.SLEEP in self._launch.command
        self.capabilities = Capabilities(
            formats=(ModelFormat.HF,),
            sleeps="its weights go to RAM" if self._sleeps else "vLLM ends, and is started again",
            seeded=False,
            timings=vllm_flags.METRICS in self._launch.command,
            refused=REFUSED,
            grammars=tuple(kind for kind in GrammarKind if kind is not GrammarKind.LARK),
        )

    @classmethod
    def open(cls, setup: Setup) -> Vllm:
        """Find the interpreter and ask what its vLLM can do. Raises the same as these steps."""
        python = find_vllm_python(setup.backend)
        return cls(setup, python, probe(python))

    def launch(self, port: int, key: str) -> Launch:
        # The key is passed in the environment, since everyone on the machine can read a command line.
        return Launch(
            [*self._launch.command, "--host", HOST, "--port", str(port)],
            {**self._launch.environment, "VLLM_API_KEY": key},
        )

    def remedy(self, said: str) -> str:
        return ""

    async def limits(self, address: Address) -> Limits:
        (model,) = (await call(address, "GET", "/v1/models"))["data"]
        return Limits(model["max_model_len"], self._parallel, self._vocabulary)

    async def encode(self, address: Address, text: str) -> list[int]:
        asked = {"prompt": text.encode(errors="replace").decode()}  # JSON may hold lone surrogates, UTF-8 may not
        tokens: list[int] = (await call(address, "POST", "/tokenize", asked))["tokens"]
        return tokens

    @property
    def chat_template(self) -> str | None:
        return None

    @property
    def special_tokens(self) -> Mapping[str, str]:
        return {}

    async def encode_chat(self, address: Address, messages: Sequence[Mapping[str, Any]], **options: Any) -> list[int]:
        own = ("tools", "add_generation_prompt", "continue_final_message")
        try:
            answer = await call(address, "POST", "/tokenize", template_request(messages, options, own=own))
        except HttpRefusal as refusal:
            if refusal.status == 400 and "chat template" in refusal.message:
                raise no_template() from None
            raise
        tokens: list[int] = answer["tokens"]
        return tokens

    async def decode(self, address: Address, tokens: Sequence[int]) -> str:
        text: str = (await call(address, "POST", "/detokenize", {"tokens": list(tokens)}))["prompt"]
        return text

    def ask(
        self, tokens: Sequence[int], params: SamplingParams, stops: Sequence[str], shown: Collection[str] = ()
    ) -> tuple[str, bytes]:
        body: dict[str, Any] = {
            "prompt": list(tokens),
            "max_tokens": params.max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_token_ids": True,
            "temperature": params.temperature,
            "top_k": params.top_k,
            "top_p": params.top_p,
            "min_p": params.min_p,
            "repetition_penalty": params.repeat_penalty,
            "frequency_penalty": params.frequency_penalty,
            "presence_penalty": params.presence_penalty,
            "ignore_eos": params.ignore_eos,
            "stop": list(stops),
        }
        if stop_tokens := params.stop_tokens | params.also_stops:
            body["stop_token_ids"] = sorted(stop_tokens)
        if params.bad_texts:
            body["bad_words"] = list(params.bad_texts)
        if params.min_tokens:
            body["min_tokens"] = params.min_tokens
        if params.logit_bias:
            body["logit_bias"] = {str(token): bias for token, bias in params.logit_bias.items()}
        if params.seed is not None:
            body["seed"] = params.seed
        if params.logprobs is not None:
            body["logprobs"] = params.logprobs
        if params.grammar is not None:
            body["structured_outputs"] = _grammar(params.grammar)
        if shown or not params.skip_special_tokens:
            body["skip_special_tokens"] = False
        if params.include_stop_str_in_output:
            body["include_stop_str_in_output"] = True
        if params.priority:
            body["priority"] = params.priority
        return "/v1/completions", orjson.dumps(body)

    def reader(self, params: SamplingParams, *, continuation: bool) -> VllmReader:
        return VllmReader(params.logprobs)

    async def sleep(self, address: Address) -> bool:
        if self._sleeps:
            await call(address, "POST", "/sleep?level=1")
        return self._sleeps

    async def wake(self, address: Address) -> None:
        await call(address, "POST", "/wake_up")


class VllmReader:
    """Reads the events of /v1/completions. The finish reason comes before the usage, and both make the last piece."""

    def __init__(self, logprobs: int | None) -> None:
        self._logprobs = logprobs
        self._generated = 0
        self._last: Piece | None = None

    def read(self, event: bytes) -> Piece | None:
        if event == DONE:
            return self._last  # None: it ended without a reason, which the caller finds
        data = orjson.loads(event)
        if "error" in data:
            raise ChildError("vLLM failed in the middle of an answer.", why=str(data["error"])[:1000])
        if not data["choices"]:
            return self._end(data)
        (choice,) = data["choices"]
        token_ids = choice["token_ids"] or []
        self._generated += len(token_ids)
        tokens = self._tokens(token_ids, choice["logprobs"])
        reason = choice["finish_reason"]
        if reason is None:
            return Piece(choice["text"], tokens, self._generated)
        if reason == "stop" and choice.get("stop_reason") is None:
            tokens = tokens[:-1]  # the end token: counted, but none of the answer
        self._last = Piece(choice["text"], tokens, self._generated, FINISH.get(reason, FinishReason.ERROR))
        return None

    def _end(self, data: Mapping[str, Any]) -> Piece | None:
        """The last piece, now that the usage is known; later events are not waited for."""
        last, usage = self._last, data["usage"]
        if last is None:
            return None
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        timings = _timings(data.get("metrics") or {}, usage["prompt_tokens"] - cached)
        return Piece(last.text, last.tokens, last.generated, last.finish, cached, timings)

    def _tokens(self, token_ids: Sequence[int], logprobs: Mapping[str, Any] | None) -> tuple[TokenText, ...]:
        if self._logprobs is None or logprobs is None:
            return tuple(TokenText(token, b"") for token in token_ids)
        # vLLM tells a token's text, not its bytes: a part of a character is U+FFFD.
        found = zip(token_ids, logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True)
        return tuple(TokenText(token, text.encode(), one, self._top(top)) for token, text, one, top in found)

    def _top(self, top: Mapping[str, float] | None) -> tuple[tuple[bytes, float], ...]:
        best = sorted((top or {}).items(), key=lambda item: -item[1])[: self._logprobs]
        return tuple((text.encode(), logprob) for text, logprob in best)


def _grammar(grammar: Grammar) -> dict[str, Any]:
    match grammar.kind:
        case GrammarKind.JSON_SCHEMA:
            return {"json": orjson.loads(grammar.source)}
        case GrammarKind.CHOICE:
            return {"choice": orjson.loads(grammar.source)}
        case kind:
            return {kind.value: grammar.source}


def _timings(metrics: Mapping[str, float | None], prompt_tokens: int) -> Timings | None:
    first, generation = metrics.get("time_to_first_token_ms"), metrics.get("generation_time_ms")
    if first is None or generation is None:
        return None
    return Timings(prompt_tokens, first / 1000, generation / 1000)
