"""The engine from Python: `LLM("smollm2:135m").chat("Hello")`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowspan import hub
from rowspan.config import EngineConfig
from rowspan.engine.engine import Engine
from rowspan.engine.generation import Piece, TokenText
from rowspan.engine.pooling import Pooling, unit
from rowspan.engine.python_tools import Call, PythonTool, result_message, text_and_calls, tools_by_name
from rowspan.errors import UsageError
from rowspan.plan.device import parse_devices
from rowspan.plan.split_mode import SplitMode
from rowspan.scheduler.request import FinishReason, SamplingParams
from rowspan.text.chat_formats.output_parser import OutputParser
from rowspan.text.chat_formats.registry import reasoning_format, tool_format
from rowspan.text.grammar import Grammar, GrammarKind

Message = Mapping[str, Any]
AT_ONCE = 64  # texts that wait in the engine at the same time
REASONING_TAIL = 16  # last tokens of a prompt, among which the opening of reasoning would be


@dataclass(frozen=True)
class Answer:
    """A finished answer.

    reasoning: what the model thought before it, of models that do. messages: those that tools added: the model's calls,
        and what they gave.
    """

    text: str
    tokens: tuple[TokenText, ...]
    prompt_tokens: int
    finish: FinishReason
    reasoning: str = ""
    messages: tuple[Message, ...] = ()

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Score:
    """How probable a text is. tokens: with the log-probability of each; the first has none."""

    logprob: float
    tokens: tuple[TokenText, ...]


class LLM:
    """A model, loaded and ready. Close it, or use it in a `with` block: it owns worker processes.

    Sampling options of the methods are the fields of `rowspan.scheduler.request.SamplingParams`, and `stop`, a list of
    strings that end the answer.
    """

    def __init__(self, model: str = hub.DEFAULT_MODEL, *, devices: str = "cpu:0", split: str = "layer", **options: Any):
        """Load a model.

        Args:
            model: a path, a catalog name, or hf:org/repo; fetched when it is not here yet.
            devices: such as "cpu:0,cpu:1".
            split: "none", "layer" or "row".
            options: further fields of `rowspan.config.EngineConfig`.

        Raises:
            RowspanError: says what is wrong and what to do.
        """
        _check_names(options, EngineConfig, "option")
        if split not in list(SplitMode):
            raise UsageError(f"{split!r} is no split mode.", fix="Choose none, layer or row.")
        config = EngineConfig(
            model_path=hub.resolve(model).path, devices=parse_devices(devices), split_mode=SplitMode(split), **options
        )
        self.engine = Engine.open(config.with_env())

    def chat(
        self,
        messages: str | Sequence[Message],
        *,
        stop: Sequence[str] = (),
        schema: Mapping[str, Any] | None = None,
        tools: Sequence[Callable[..., Any]] = (),
        rounds: int = 8,
        **sampling: Any,
    ) -> Answer:
        """Answer a conversation; a string is one user message.

        Args:
            schema: a JSON schema that the answer follows.
            tools: functions that the model may call; the answer is what it says in the end.
            rounds: of calls, at most.

        Raises:
            RowspanError: the conversation does not fit the context, an option is unknown, or the engine failed.
        """
        known, conversation = tools_by_name(tools), _conversation(messages)
        params = _params(sampling, schema)
        added: list[Message] = []
        for left in reversed(range(rounds + 1)):
            answer, calls = self._turn([*conversation, *added], known if left else {}, params, stop)
            if not calls:
                return replace(answer, messages=tuple(added))
            added.append(
                {"role": "assistant", "content": answer.text, "tool_calls": [call.for_template() for call in calls]}
            )
            added += [result_message(call, known) for call in calls]
        raise AssertionError("the last round offers no tools")

    def stream(self, messages: str | Sequence[Message], *, stop: Sequence[str] = (), **sampling: Any) -> Iterator[str]:
        """Like `chat`, but yields the answer in pieces, reasoning and all. Leaving the loop ends the answer."""
        pieces = self.engine.generate(self._encode(messages), _params(sampling), stop)
        return (piece.text for piece in pieces if piece.text)

    async def achat(self, messages: str | Sequence[Message], **options: Any) -> Answer:
        """`chat` for asyncio."""
        return await asyncio.to_thread(partial(self.chat, messages, **options))

    async def astream(
        self, messages: str | Sequence[Message], *, stop: Sequence[str] = (), **sampling: Any
    ) -> AsyncGenerator[str, None]:
        """`stream` for asyncio."""
        tokens = await asyncio.to_thread(self._encode, messages)
        async with aclosing(self.engine.stream(tokens, _params(sampling), stop)) as pieces:
            async for piece in pieces:
                if piece.text:
                    yield piece.text

    def complete(
        self,
        prompt: str | Sequence[int],
        *,
        stop: Sequence[str] = (),
        schema: Mapping[str, Any] | None = None,
        **sampling: Any,
    ) -> Answer:
        """Continue a text, or token ids. Raises the same as `chat`."""
        tokens = self.engine.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
        pieces = self.engine.generate(tokens, _params(sampling, schema), stop, continuation=True)
        return _collect(pieces, len(tokens))

    def generate(self, prompts: Sequence[str | Sequence[int]], **options: Any) -> list[Answer]:
        """Continue several texts at once; the answers come in their order. Options and errors are those of
        `complete`.
        """
        if isinstance(prompts, str):
            raise UsageError("generate() takes a list of prompts.", fix="Use complete() for one.")
        with ThreadPoolExecutor(max(1, min(AT_ONCE, len(prompts)))) as pool:
            return list(pool.map(partial(self.complete, **options), prompts))

    def score(self, texts: Sequence[str]) -> list[Score]:
        """Log-probabilities of texts. Raises RowspanError: a text is empty or too long, or a card computes."""
        if isinstance(texts, str):
            raise UsageError("score() takes a list of texts.", fix=f"Write [{texts[:20]!r}].")
        with ThreadPoolExecutor(max(1, min(AT_ONCE, len(texts)))) as pool:
            return list(pool.map(self._score, texts))

    def embed(self, texts: Sequence[str], *, dimensions: int | None = None) -> NDArray[np.float32]:
        """Embeddings of texts, computed together: (texts, size), each of length 1.

        Args:
            dimensions: how many of their first elements to keep; None: all.

        Raises:
            RowspanError: a text does not fit the context, or the model gives scores instead.
        """
        if isinstance(texts, str):
            raise UsageError("embed() takes a list of texts.", fix=f"Write [{texts[:20]!r}].")
        if self.engine.pooling is Pooling.RANK:
            raise UsageError(f"{self.engine.blueprint.spec.name} ranks pairs of texts, and embeds none.")
        tokens = [self.engine.tokenizer.encode(text) for text in texts]
        with ThreadPoolExecutor(max(1, min(AT_ONCE, len(tokens)))) as pool:
            embeddings = pool.map(self.engine.embedding, tokens)
            return np.array([unit(embedding, dimensions) for embedding in embeddings], np.float32)

    def close(self) -> None:
        self.engine.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _encode(self, messages: str | Sequence[Message], **template_options: Any) -> list[int]:
        return self.engine.encode_chat(_conversation(messages), **template_options)

    def _turn(
        self,
        conversation: Sequence[Message],
        tools: Mapping[str, PythonTool],
        params: SamplingParams,
        stop: Sequence[str],
    ) -> tuple[Answer, list[Call]]:
        """One answer, and the calls in it."""
        template = self.engine.template.source if self.engine.template is not None else ""
        form = tool_format(None, template) if tools else None
        thought = reasoning_format(None, template)
        offered = {"tools": [tool.described() for tool in tools.values()]} if tools else {}
        tokens = self._encode(conversation, **offered)
        end = self.engine.tokenizer.decode(tokens[-REASONING_TAIL:], skip_special=False, continuation=True)
        begun = thought is not None and end.rfind(thought.opening) > end.rfind(thought.closing)
        shown = (*(thought.markers if thought else ()), *(form.markers if form else ()))
        answer = _collect(self.engine.generate(tokens, params, stop, shown=shown), len(tokens))
        parser = OutputParser(form, {name: tool.schema for name, tool in tools.items()}, thought, begun=begun)
        text, reasoning, calls = text_and_calls([*parser.push(answer.text), *parser.finish()])
        return replace(answer, text=text, reasoning=reasoning), calls

    def _score(self, text: str) -> Score:
        tokens = self.engine.tokenizer.encode(text)
        params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0)
        first = next(iter(self.engine.generate(tokens, params)))
        begin = TokenText(tokens[0], self.engine.tokenizer.token_bytes(tokens[0], special=True))
        return Score(sum(token.logprob or 0.0 for token in first.prompt), (begin, *first.prompt))


def _collect(pieces: Iterator[Piece], prompt_tokens: int) -> Answer:
    text: list[str] = []
    tokens: list[TokenText] = []
    finish = FinishReason.STOP
    for piece in pieces:
        text.append(piece.text)
        tokens.extend(piece.tokens)
        finish = piece.finish or finish
    return Answer("".join(text), tuple(tokens), prompt_tokens, finish)


def _conversation(messages: str | Sequence[Message]) -> Sequence[Message]:
    return [{"role": "user", "content": messages}] if isinstance(messages, str) else messages


def _params(sampling: Mapping[str, Any], schema: Mapping[str, Any] | None = None) -> SamplingParams:
    _check_names(sampling, SamplingParams, "sampling option")
    params = SamplingParams(**sampling)
    if schema is None:
        return params
    return replace(params, grammar=Grammar(GrammarKind.JSON_SCHEMA, json.dumps(schema)))


def _check_names(given: Mapping[str, Any], kind: type, what: str) -> None:
    known = [field.name for field in fields(kind)]
    for name in given:
        if name not in known:
            raise UsageError(f"{name!r} is no {what}.", fix=f"There are {', '.join(known)}.")
