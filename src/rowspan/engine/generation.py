"""One request's answer as text: token events in, pieces of text out.

What there is one of per token is a NamedTuple: built in a quarter of a frozen dataclass's time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rowspan.scheduler.batch import SampledToken, TokenEvent
from rowspan.scheduler.request import FinishReason, SamplingParams
from rowspan.text.detokenizer import Detokenizer
from rowspan.text.stop import StopMatcher
from rowspan.text.tokenizer import Tokenizer


class TokenText(NamedTuple):
    """A token as people read it; `raw` are its exact bytes, which may be part of a character."""

    token: int
    raw: bytes
    logprob: float | None = None
    top: tuple[tuple[bytes, float], ...] = ()  # bytes and log-probability of the likeliest tokens
    special: bool = False  # it steers the model, and is no part of the text


@dataclass(frozen=True, slots=True)
class Timings:
    """What an engine measured of one request itself; seconds. None: it does not say.

    prompt_tokens: computed, without those found in the cache. prompt: until the first token, without the wait in the
    queue; generation: from there to the last.
    """

    prompt_tokens: int | None
    prompt: float | None
    generation: float | None


class Piece(NamedTuple):
    """New text of an answer. Text may lag behind the tokens: half a character, or what may begin a stop string, is
    held back."""

    text: str
    tokens: tuple[TokenText, ...]
    generated: int  # tokens so far, a stop token included
    finish: FinishReason | None = None
    cached: int = 0  # prompt tokens whose cache entries were reused
    timings: Timings | None = None  # with the last piece, from engines that tell


class Generation:
    """Turns one request's token events into pieces of text."""

    def __init__(
        self, tokenizer: Tokenizer, params: SamplingParams, stops: Sequence[str], *, continuation: bool
    ) -> None:
        """
        Raises:
            UsageError: a stop string is empty.
        """
        self._tokenizer = tokenizer
        self._stop_tokens = frozenset() if params.ignore_eos else params.stop_tokens
        self._detokenizer = Detokenizer(tokenizer, continuation=continuation)
        self._matcher = StopMatcher(stops)
        self._generated = 0

    def advance(self, event: TokenEvent) -> Piece:
        """The next piece. A finish before the event's own means that a stop string was hit: cancel the request."""
        sampled, finish = event.sampled, event.finish
        text = ""
        tokens: tuple[TokenText, ...] = ()
        if sampled is not None:
            self._generated += 1
            if sampled.token not in self._stop_tokens:
                tokens = (self._spell(sampled),)
                text, stopped = self._matcher.push(self._detokenizer.push(sampled.token))
                if stopped:
                    finish = FinishReason.STOP
        if finish is not None:
            rest, _ = self._matcher.push(self._detokenizer.finish())
            text += rest + self._matcher.finish()
        return Piece(text, tokens, self._generated, finish, event.cached)

    def _spell(self, sampled: SampledToken) -> TokenText:
        spelling = self._tokenizer.spelling
        raw, _, special = spelling(sampled.token)
        top = tuple([(spelling(token).raw, logprob) for token, logprob in sampled.top])
        return TokenText(sampled.token, raw, sampled.logprob, top, special)
