"""A logits processor that allows the tokens with which a grammar can go on, by llguidance.

The mask of a token is computed by a thread as soon as the token before it is known: while the engine plans the next
step and the rank computes it. llguidance gives Python's lock free meanwhile.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rowspan.scheduler.batch import NewSequence
from rowspan.text.grammar import Grammar, GrammarError
from rowspan.worker.logits_changes import AllowedTokens

if TYPE_CHECKING:
    from llguidance import LLMatcher

    from rowspan.text.grammar_tokens import GrammarTokens

log = logging.getLogger(__name__)

THREADS = 4
MAX_COMPILED = 32  # grammars that are kept, compiled

Bitmap = NDArray[np.uint8]


class GrammarMasks:
    """Makes the processors of all sequences with a grammar. Nothing is loaded before the first of them."""

    def __init__(self, open_tokens: Callable[[], GrammarTokens]) -> None:
        """Args: open_tokens: reads the model's vocabulary."""
        self._open_tokens = open_tokens
        self._threads: ThreadPoolExecutor | None = None
        self._tokens: Future[GrammarTokens] | None = None
        self._compiled: OrderedDict[Grammar, Future[LLMatcher]] = OrderedDict()

    def processor(self, grammar: Grammar, sequence: NewSequence) -> GrammarMask:
        """Make one sequence's processor. It returns at once: a thread compiles the grammar."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="rowspan-grammar")
            self._tokens = self._threads.submit(self._open_tokens)
        if grammar not in self._compiled:
            self._compiled[grammar] = self._threads.submit(self._compile, grammar)
            if len(self._compiled) > MAX_COMPILED:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(grammar)
        return GrammarMask(self._compiled[grammar], self._threads, sequence)

    def _compile(self, grammar: Grammar) -> LLMatcher:
        from llguidance import LLMatcher, LLParserLimits

        assert self._tokens is not None, "asked for before"
        tokens = self._tokens.result()
        try:
            source = grammar.for_llguidance(tokens.special)
        except GrammarError as error:
            source = str(error)  # no grammar either, so that the matcher says so
        return LLMatcher(tokens.for_llguidance, source, log_level=0, limits=LLParserLimits(verbose_errors=False))


class GrammarMask:
    """Allows the tokens with which one sequence's grammar can go on. Where it ends, and if it cannot be enforced, these
    are the model's end tokens.
    """

    needs_last_token = True

    def __init__(self, compiled: Future[LLMatcher], threads: ThreadPoolExecutor, sequence: NewSequence) -> None:
        self._threads = threads
        self._prompt_left = max(0, sequence.prompt_length - len(sequence.tokens))  # tokens of it still to come
        self._failed = False
        self._matches: list[bool] = []  # of generated tokens: whether the grammar goes on with it
        generated = sequence.tokens[sequence.prompt_length :]
        self._mask: Future[tuple[LLMatcher, Bitmap]] = threads.submit(self._start, compiled, generated)

    def accept(self, token: int) -> None:
        if self._prompt_left:
            self._prompt_left -= 1
            return
        matcher, _ = self._mask.result()
        self._mask = self._threads.submit(self._go_on, matcher, token)

    def roll_back(self, n_tokens: int) -> None:
        matcher, _ = self._mask.result()
        kept = len(self._matches) - n_tokens
        self._prompt_left += max(0, -kept)
        taken_back = sum(self._matches[max(0, kept) :])
        del self._matches[max(0, kept) :]
        if taken_back:
            matcher.rollback(taken_back)
            self._mask = self._threads.submit(self._now, matcher)

    def change(self, vocabulary: int) -> AllowedTokens | None:
        """None within the prompt, which is given."""
        return None if self._prompt_left else AllowedTokens(self._mask.result()[1])

    def _start(self, compiled: Future[LLMatcher], tokens: tuple[int, ...]) -> tuple[LLMatcher, Bitmap]:
        matcher = compiled.result().deep_copy()
        for token in tokens:
            self._consume(matcher, token)
        return self._now(matcher)

    def _go_on(self, matcher: LLMatcher, token: int) -> tuple[LLMatcher, Bitmap]:
        self._consume(matcher, token)
        return self._now(matcher)

    def _consume(self, matcher: LLMatcher, token: int) -> None:
        """A guessed token, which will be taken back, may be none that the grammar allows; nor does it know end tokens
        behind its end. What follows either is not looked at.
        """
        on_track = all(self._matches[-1:])
        self._matches.append(on_track and matcher.try_consume_tokens([token]) == 1)

    def _now(self, matcher: LLMatcher) -> tuple[LLMatcher, Bitmap]:
        mask = np.frombuffer(matcher.compute_bitmask(), np.uint8)
        if matcher.is_error() and not self._failed:
            self._failed = True
            log.error("A grammar cannot be enforced, and its answer ends: %s", matcher.get_error())
        return matcher, mask
