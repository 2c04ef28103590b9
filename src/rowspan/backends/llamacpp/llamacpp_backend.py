"""Runs llama.cpp's server: https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md

Its own endpoint /completion takes and returns token ids, and measures time; the OpenAI-like one does neither.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from rowspan.backends.llamacpp import llamacpp_flags
from rowspan.backends.llamacpp.llamacpp_probe import Features, probe
from rowspan.backends.own_text import OwnText
from rowspan.backends.process.child import HOST, Address, ChildError, Launch
from rowspan.backends.process.dialect import template_request
from rowspan.backends.process.http_stream import call
from rowspan.backends.process.programs import find_llama_server
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
from rowspan.errors import CheckpointError, UnsupportedModelError, UsageError
from rowspan.model.families.registry import spec_of
from rowspan.model.header import ModelHeader
from rowspan.model.spec import ModelSpec
from rowspan.plan.rigs.gguf_outline import local_headers

SEEDS = 2**32 - 1  # seeds have 32 bits, of which the last value means "any"
# In Rowspan's order, and no others.
SAMPLERS = ("penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature")
# The parameters that it does not know.
REFUSED = (
    *("stop_tokens", "also_stops", "min_tokens", "bad_texts", "bad_words"),
    *("include_stop_str_in_output", "skip_special_tokens"),
)
WANTED = ["content", "tokens", "stop", "stop_type", "tokens_predicted", "timings"]  # fields to send
FINISH = {"limit": FinishReason.LENGTH, "eos": FinishReason.STOP, "word": FinishReason.STOP}

# What llama.cpp says of a split that it cannot do: the device's buffers lack `row`, or the architecture `tensor`.
ROW_REFUSALS = ("does not support split buffers", "not implemented for architecture")
NO_ROW = "Use -sm layer: this llama.cpp cannot split this model by row on these cards."


class LlamaCpp:
    """The `rowspan.backends.process.dialect.Dialect` of llama-server.

    Texts become tokens by Rowspan's own tokenizer and template if it knows the model's, as with the native engine; else
    by llama-server's endpoints. Tokens become text in llama-server.
    """

    name = BackendName.LLAMACPP
    title = "llama-server"
    capabilities = Capabilities(
        formats=(ModelFormat.GGUF,),
        sleeps="llama-server ends, and is started again",
        seeded=False,
        timings=True,
        refused=REFUSED,
        grammars=(GrammarKind.JSON_SCHEMA, GrammarKind.GRAMMAR),
    )

    def __init__(self, setup: Setup, program: Sequence[str], features: Features) -> None:
        """Check model and options.

        Raises:
            UsageError: this llama-server cannot take the model or an option.
        """
        if setup.model.format != ModelFormat.GGUF:
            raise UsageError(
                f"{setup.model.name} is a {setup.model.format}, which llama.cpp does not read.",
                fix="Use --backend vllm, or a GGUF file of the model (llama.cpp's convert_hf_to_gguf.py makes one).",
            )
        metadata: dict[str, Any] = {}
        for header in local_headers(Path(setup.model.location)):
            metadata = {**header.metadata, **metadata}
        self.version = features.version
        self._text = OwnText.of(metadata)
        self._context_size: int | None = None  # context of one request; known once the server has started
        self._reuse = setup.engine.prefix_reuse
        self._command = [*program, *llamacpp_flags.flags(setup, features, _spec(metadata))]
        self.placement = llamacpp_flags.placement(setup, features)

    @classmethod
    def open(cls, setup: Setup) -> LlamaCpp:
        """Find the program and ask what it can do. Raises the same as these steps."""
        program = find_llama_server(setup.backend)
        return cls(setup, program, probe(program))

    def launch(self, port: int, key: str) -> Launch:
        # The key is passed in the environment, since everyone on the machine can read a command line.
        return Launch([*self._command, "--host", HOST, "--port", str(port)], {"LLAMA_API_KEY": key})

    def remedy(self, said: str) -> str:
        return NO_ROW if any(words in said for words in ROW_REFUSALS) else ""

    async def limits(self, address: Address) -> Limits:
        props = await call(address, "GET", "/props")
        models = await call(address, "GET", "/v1/models")
        vocabulary = models["data"][0].get("meta", {}).get("n_vocab")
        self._context_size = props["default_generation_settings"]["n_ctx"]
        return Limits(props["default_generation_settings"]["n_ctx"], props["total_slots"], vocabulary)

    async def encode(self, address: Address, text: str) -> list[int]:
        if self._text is not None:
            return await self._text.encode(text, self._context_size)
        asked = {"content": _valid(text), "add_special": True, "parse_special": True}
        tokens: list[int] = (await call(address, "POST", "/tokenize", asked))["tokens"]
        return tokens

    @property
    def chat_template(self) -> str | None:
        return None if self._text is None or self._text.template is None else self._text.template.source

    @property
    def special_tokens(self) -> Mapping[str, str]:
        return {} if self._text is None else self._text.special_tokens

    async def encode_chat(self, address: Address, messages: Sequence[Mapping[str, Any]], **options: Any) -> list[int]:
        if self._text is not None:
            return await self._text.encode_chat(messages, self._context_size, **options)
        asked = template_request(messages, options, own=("tools", "add_generation_prompt"))
        prompt = (await call(address, "POST", "/apply-template", asked))["prompt"]
        return await self.encode(address, prompt)

    async def decode(self, address: Address, tokens: Sequence[int]) -> str:
        if self._text is not None:
            return await self._text.decode_beside(tokens)
        text: str = (await call(address, "POST", "/detokenize", {"tokens": list(tokens)}))["content"]
        return text

    def ask(
        self, tokens: Sequence[int], params: SamplingParams, stops: Sequence[str], shown: Collection[str] = ()
    ) -> tuple[str, bytes]:
        body: dict[str, Any] = {
            "prompt": list(tokens),
            "n_predict": params.max_tokens,
            "stream": True,
            "return_tokens": True,
            "response_fields": WANTED,
            "cache_prompt": self._reuse,
            "samplers": SAMPLERS,
            "temperature": params.temperature,
            # Keep the likeliest token only: otherwise the whole vocabulary goes through every sampler, for the same
            # token.
            "top_k": params.top_k if params.temperature else 1,
            "top_p": params.top_p,
            "min_p": params.min_p,
            "typical_p": params.typical_p,
            "top_n_sigma": params.top_n_sigma if params.top_n_sigma > 0 else -1.0,
            "xtc_probability": params.xtc_probability,
            "xtc_threshold": params.xtc_threshold,
            "dynatemp_range": params.dynatemp_range,
            "dynatemp_exponent": params.dynatemp_exponent,
            "repeat_penalty": params.repeat_penalty,
            "repeat_last_n": params.repeat_last_n,
            "frequency_penalty": params.frequency_penalty,
            "presence_penalty": params.presence_penalty,
            "logit_bias": [[token, bias] for token, bias in params.logit_bias.items()],
            "ignore_eos": params.ignore_eos,
            "stop": list(stops),
        }
        if params.dry is not None:
            body |= {
                "dry_multiplier": params.dry.multiplier,
                "dry_base": params.dry.base,
                "dry_allowed_length": params.dry.allowed_length,
                "dry_penalty_last_n": params.dry.last_n,
                "dry_sequence_breakers": list(params.dry.breaking_texts),
            }
        if params.seed is not None:
            body["seed"] = params.seed % SEEDS
        if params.logprobs is not None:
            body["n_probs"] = max(1, params.logprobs)
        if params.grammar is not None:
            body |= _grammar(params.grammar)
        if shown:
            body["preserved_tokens"] = sorted(shown)
        return "/completion", orjson.dumps(body)

    def reader(self, params: SamplingParams, *, continuation: bool) -> LlamaCppReader:
        has_prefix = self._text is not None and self._text.tokenizer.space_prefix and not continuation
        return LlamaCppReader(params.logprobs, strip_space=has_prefix)

    async def sleep(self, address: Address) -> bool:
        return False

    async def wake(self, address: Address) -> None:
        raise NotImplementedError("it never sleeps in memory")


class LlamaCppReader:
    """Reads the events of /completion.

    Args:
        strip_space: remove the space that SentencePiece puts before an answer.
    """

    def __init__(self, logprobs: int | None, *, strip_space: bool) -> None:
        self._logprobs = logprobs
        self._strip_space = strip_space
        self._generated = 0

    def read(self, event: bytes) -> Piece | None:
        data = orjson.loads(event)
        if "error" in data:
            raise ChildError("llama-server failed in the middle of an answer.", why=str(data["error"])[:1000])
        text = data["content"]
        if self._strip_space and text:
            text, self._strip_space = text.removeprefix(" "), False
        if not data["stop"]:
            self._generated = data["tokens_predicted"]
            return Piece(text, self._tokens(data), self._generated)
        finish = FINISH.get(data["stop_type"], FinishReason.STOP)
        timings = data["timings"]
        return Piece(text, (), data["tokens_predicted"], finish, timings.get("cache_n", 0), _timings(timings))

    def _tokens(self, data: dict[str, Any]) -> tuple[TokenText, ...]:
        if self._logprobs is None:
            return tuple(TokenText(token, b"") for token in data["tokens"])
        return tuple(self._token(item) for item in data["completion_probabilities"])

    def _token(self, item: dict[str, Any]) -> TokenText:
        others = item["top_logprobs"][: self._logprobs]
        top = tuple((bytes(other["bytes"]), other["logprob"]) for other in others)
        return TokenText(item["id"], bytes(item["bytes"]), item["logprob"], top)


def _grammar(grammar: Grammar) -> dict[str, Any]:
    if grammar.kind is GrammarKind.JSON_SCHEMA:
        return {"json_schema": orjson.loads(grammar.source)}
    return {"grammar": grammar.source}


def _timings(data: Mapping[str, Any]) -> Timings:
    return Timings(data["prompt_n"], data["prompt_ms"] / 1000, data["predicted_ms"] / 1000)


def _spec(metadata: Mapping[str, Any]) -> ModelSpec | None:
    try:
        return spec_of(ModelHeader(metadata, vocab_size=0, tied=True, for_planning=True))
    except (CheckpointError, UnsupportedModelError):
        return None


def _valid(text: str) -> str:
    """Replace lone surrogates, which JSON may hold but UTF-8 may not."""
    return text.encode(errors="replace").decode()
