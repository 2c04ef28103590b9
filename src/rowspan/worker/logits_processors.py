"""What changes a sequence's logits before its next token is chosen: one processor for each cause, applied in order.

A processor does not touch logits. It says what is to change as data, a few numbers or a bit a token, which the host
applies to its logits (`apply`), and a card to its own (`rowspan.worker.sampling_batch`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from rowspan.scheduler.batch import NewSequence
from rowspan.scheduler.request import SamplingParams
from rowspan.text.grammar import Grammar
from rowspan.worker.logits_changes import Addition, LogitsChange, Penalty, Tokens
from rowspan.worker.repetition import BadWords, DryPenalty


class LogitsProcessor(Protocol):
    """Changes the logits of one sequence. It keeps its own state: it is made with the tokens known so far
    (`NewSequence.tokens`), and is told of each that follows.
    """

    @property
    def needs_last_token(self) -> bool:
        """Whether its change depends on the last token: the next step cannot be launched before that is known, then."""
        ...

    def accept(self, token: int) -> None:
        """The sequence goes on with this token."""
        ...

    def roll_back(self, n_tokens: int) -> None:
        """Forget the last so many tokens: the sequence does not go on with them after all."""
        ...

    def change(self, vocabulary: int) -> LogitsChange | None:
        """The change to the logits of the next token; None: no change. Later calls leave the returned arrays alone."""
        ...


MakeProcessors = Callable[[NewSequence], Sequence[LogitsProcessor]]
"""Makes a sequence's processors, in the order in which they are applied."""


MakeMask = Callable[[Grammar, NewSequence], LogitsProcessor]
"""Makes the processor that enforces a sequence's grammar."""


def logits_processors(sequence: NewSequence, make_mask: MakeMask | None = None) -> list[LogitsProcessor]:
    """Make the processors that a sequence's parameters ask for, in the order of llama.cpp's default chain.

    Args:
        make_mask: None: grammars are left out, for questions about the others.
    """
    params, processors = sequence.params, list[LogitsProcessor]()
    if params.min_tokens and params.stop_tokens and not params.ignore_eos:
        generated = len(sequence.tokens) - sequence.prompt_length
        processors.append(MinTokens(params.stop_tokens, params.min_tokens - generated))
    if params.logit_bias:
        processors.append(LogitBias(params.logit_bias))
    if params.repeat_penalty != 1.0 and params.repeat_last_n:
        processors.append(RepeatPenalty(params.repeat_penalty, params.repeat_last_n, sequence.tokens))
    if params.frequency_penalty or params.presence_penalty:
        penalties = (params.frequency_penalty, params.presence_penalty)
        processors.append(CountPenalty(*penalties, sequence.tokens, sequence.prompt_length))
    if params.dry is not None:
        processors.append(DryPenalty(params.dry, sequence.tokens))
    if params.bad_words:
        processors.append(BadWords(params.bad_words, sequence.tokens, sequence.prompt_length))
    if params.grammar is not None and make_mask is not None:
        processors.append(make_mask(params.grammar, sequence))
    return processors


def needs_last_token(params: SamplingParams) -> bool:
    """Whether a step of a sequence with these parameters cannot be planned before its last token is known."""
    sequence = NewSequence(0, tokens=(), prompt_length=0, params=params)
    return params.grammar is not None or any(processor.needs_last_token for processor in logits_processors(sequence))


class LogitBias:
    """Adds given numbers (OpenAI)."""

    needs_last_token = False

    def __init__(self, biases: Mapping[int, float]) -> None:
        """Args: biases: by token; those of tokens that the vocabulary does not have are ignored."""
        self._biases = biases

    def accept(self, token: int) -> None:
        pass

    def roll_back(self, n_tokens: int) -> None:
        pass

    def change(self, vocabulary: int) -> Addition | None:
        known = {token: bias for token, bias in self._biases.items() if 0 <= token < vocabulary}
        return Addition(_ids(known), np.fromiter(known.values(), np.float32)) if known else None


class MinTokens:
    """Keeps tokens that end an answer from coming too early (vLLM)."""

    needs_last_token = True  # it counts them

    def __init__(self, stops: Iterable[int], missing: int) -> None:
        """Args: missing: number of tokens that must come before."""
        self._stops = sorted(stops)
        self._missing = missing

    def accept(self, token: int) -> None:
        self._missing -= 1

    def roll_back(self, n_tokens: int) -> None:
        self._missing += n_tokens

    def change(self, vocabulary: int) -> Addition | None:
        known = [token for token in self._stops if 0 <= token < vocabulary]
        if self._missing <= 0 or not known:
            return None
        return Addition(_ids(known), np.full(len(known), -np.inf, np.float32))


class RepeatPenalty:
    """Makes tokens less likely that the sequence has already (Keskar et al. 2019, section 4.1)."""

    needs_last_token = True

    def __init__(self, factor: float, last_n: int, tokens: Sequence[int]) -> None:
        """Args: last_n: tokens to look back on; negative: all of them. tokens: of the sequence so far."""
        self._factor = factor
        self._last_n = last_n
        self._tokens = list(tokens)

    def accept(self, token: int) -> None:
        self._tokens.append(token)

    def roll_back(self, n_tokens: int) -> None:
        del self._tokens[len(self._tokens) - n_tokens :]

    def change(self, vocabulary: int) -> Penalty | None:
        if not self._tokens:
            return None
        return Penalty(_ids(set(self._tokens if self._last_n < 0 else self._tokens[-self._last_n :])), self._factor)


class CountPenalty:
    """Subtracts from the logits of generated tokens: frequency times their count, and presence once (OpenAI)."""

    needs_last_token = True

    def __init__(self, frequency: float, presence: float, tokens: Sequence[int], prompt_length: int) -> None:
        """Args: tokens: of the sequence so far, of which the first prompt_length are not counted."""
        self._frequency = frequency
        self._presence = presence
        self._prompt_left = max(0, prompt_length - len(tokens))  # tokens of it that are still to come
        self._generated = list(tokens[prompt_length:])
        self._counts = Counter(self._generated)

    def accept(self, token: int) -> None:
        if self._prompt_left:
            self._prompt_left -= 1
            return
        self._generated.append(token)
        self._counts[token] += 1

    def roll_back(self, n_tokens: int) -> None:
        kept = len(self._generated) - n_tokens
        self._prompt_left += max(0, -kept)
        for token in self._generated[max(0, kept) :]:
            self._counts[token] -= 1
            if not self._counts[token]:
                del self._counts[token]
        del self._generated[max(0, kept) :]

    def change(self, vocabulary: int) -> Addition | None:
        if not self._counts:
            return None
        counts = np.fromiter(self._counts.values(), np.float32)
        return Addition(_ids(self._counts), -(self._frequency * counts + self._presence))


def _ids(tokens: Iterable[int]) -> Tokens:
    return np.fromiter(tokens, np.intp)
