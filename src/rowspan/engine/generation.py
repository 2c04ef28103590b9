"""Turns one request's token events into pieces of text.

Types with an instance per token are NamedTuples: building one takes a quarter of a frozen dataclass's time.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rowspan.scheduler.batch import SampledToken, TokenEvent
from rowspan.scheduler.request import FinishReason, SamplingParams
from rowspan.text.detokenizer import Detokenizer
from rowspan.text.stop import StopMatcher
from rowspan.text.tokenizer import Tokenizer


class TokenText(NamedTuple):
    """A token with its text; `raw` are its exact bytes, which may be part of a character."""

    token: int
    raw: bytes
    logprob: float | None = None
    top: tuple[tuple[bytes, float], ...] = ()  # bytes and log-probability of the likeliest tokens
    special: bool = False  # it steers the model, and is no part of the text


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds that an engine measured itself for one request. None: it does not say.

    prompt_tokens: number of prompt tokens computed, without those found in the KV cache.
    prompt: from the end of the wait in the queue until the first token.
    generation: from the first token to the last.
    """

    prompt_tokens: int | None
    prompt: float | None
    generation: float | None


class Piece(NamedTuple):
    """A new part of an answer. Text may lag behind the tokens: half a character, or what may begin a stop string, is
    held back.
    """

    text: str
    tokens: tuple[TokenText, ...]
    generated: int  # tokens so far, a stop token included
    finish: FinishReason | None = None
    cached: int = 0  # prompt tokens whose cache entries were reused
    timings: Timings | None = None  # with the last piece, from engines that tell
    prompt: tuple[TokenText, ...] = ()  # with the first piece, the prompt's tokens but the first, if asked for
    stop: str | None = None  # with the last piece, the stop string that ended the text, from engines that tell
    guesses: tuple[int, int] = (0, 0)  # with the last piece: tokens that were guessed, and those that were right


class Generation:
    """Turns one request's token events into pieces of text."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        params: SamplingParams,
        stops: Sequence[str],
        *,
        continuation: bool,
        shown: Collection[str] = (),
    ) -> None:
        """Prepare for one request.

        Args:
            shown: special tokens that are part of the text nevertheless, as they are spelled.

        Raises:
            UsageError: a stop string is empty.
        """
        self._tokenizer = tokenizer
        self._stop_tokens = frozenset() if params.ignore_eos else params.stop_tokens
        self._stop_words = stop_words(tokenizer, stops)
        self._includes_stop = params.include_stop_str_in_output
        self._skips_special = params.skip_special_tokens
        self._detokenizer = Detokenizer(
            tokenizer,
            skip_special=self._skips_special,
            shown=tokenizer.token_ids(shown) | (self._stop_words.keys() if self._includes_stop else frozenset()),
            continuation=continuation,
        )
        self._matcher = StopMatcher(stops, included=self._includes_stop)
        self._generated = 0

    def advance(self, event: TokenEvent) -> Piece:
        """The next piece. If it has a finish reason but the event has none, a stop string was hit: cancel the
        request.
        """
        sampled, finish = event.sampled, event.finish
        text = ""
        tokens: tuple[TokenText, ...] = ()
        if sampled is not None:
            self._generated += 1
            if self._includes_stop or sampled.token not in self._stop_tokens:
                tokens = (self._spell(sampled),)
                text, stopped = self._matcher.push(self._detokenizer.push(sampled.token))
                if stopped:
                    finish = FinishReason.STOP
        if finish is not None:
            rest, _ = self._matcher.push(self._detokenizer.finish())
            text += rest + self._matcher.finish()
        prompt = tuple([self._spell(token) for token in event.prompt])
        stop = self._matcher.matched if finish else None
        if finish is FinishReason.STOP and stop is None and sampled is not None:
            stop = self._stop_words.get(sampled.token)
        return Piece(
            text, tokens, self._generated, finish, event.cached, prompt=prompt, stop=stop, guesses=event.guesses
        )

    def _spell(self, sampled: SampledToken) -> TokenText:
        spelling = self._tokenizer.spelling
        raw, _, special = spelling(sampled.token)
        top = tuple([(spelling(token).raw, logprob) for token, logprob in sampled.top])
        return TokenText(sampled.token, raw, sampled.logprob, top, special and self._skips_special)


def stop_words(tokenizer: Tokenizer, stops: Sequence[str]) -> dict[int, str]:
    """The stop strings that are one special token, by its id: no text that `StopMatcher` sees has them."""
    return {token: stop for stop in stops for token in tokenizer.token_ids((stop,))}
