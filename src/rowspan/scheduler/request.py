"""A caller's wishes (`SamplingParams`), and the scheduler's state of one request (`Request`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rowspan.kvcache.tables import Tables
from rowspan.text.grammar import Grammar

if TYPE_CHECKING:
    from rowspan.scheduler.batch import SampledToken


@dataclass(frozen=True, slots=True)
class Dry:
    """A penalty on tokens that would go on with a repetition: see `rowspan.worker.repetition`.

    last_n: tokens to look back on; 0 and less: all of them.
    breaking_texts: no repetition goes on across a token that holds one of these; the engine looks up which do.
    breakers: those tokens.
    """

    multiplier: float
    base: float = 1.75
    allowed_length: int = 2
    last_n: int = -1
    breaking_texts: tuple[str, ...] = ("\n", ":", '"', "*")
    breakers: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to choose tokens, and when to stop.

    Order of the steps (that of llama.cpp's default chain): logit_bias, penalties, DRY, top_n_sigma, top_k, typical_p,
    top_p, min_p, XTC, temperature (with dynatemp_range: by how sure the model is).
    """

    max_tokens: int = 128
    temperature: float = 1.0  # 0 = greedy
    top_k: int = 0  # 0 = off
    top_p: float = 1.0
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64  # tokens the repeat penalty looks back on; -1 = all of them
    frequency_penalty: float = 0.0  # counts generated tokens only, as OpenAI and vLLM do
    presence_penalty: float = 0.0
    dry: Dry | None = None
    top_n_sigma: float = 0.0  # tokens up to so many standard deviations below the likeliest's logit; 0 and less: all
    typical_p: float = 1.0
    xtc_probability: float = 0.0  # of leaving out all tokens above the threshold but the least likely of them
    xtc_threshold: float = 0.1
    dynatemp_range: float = 0.0  # the temperature may differ by so much, where it is not 0
    dynatemp_exponent: float = 1.0  # how the temperature rises with the entropy
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    bad_texts: tuple[str, ...] = ()  # that must not be generated; the engine makes tokens of them
    bad_words: tuple[tuple[int, ...], ...] = ()  # sequences of tokens that must not be
    seed: int | None = None  # None: a fresh one for every request
    stop_tokens: frozenset[int] = frozenset()
    also_stops: frozenset[int] = frozenset()  # tokens that end the answer beside those, also with ignore_eos
    ignore_eos: bool = False  # do not stop at stop_tokens
    min_tokens: int = 0  # so many come before any token that ends the answer
    include_stop_str_in_output: bool = False  # what ended the answer is part of it, unless it is left out as special
    skip_special_tokens: bool = True  # they are no part of the text
    priority: int = 0  # among requests that wait, lower numbers come first
    guesses: int | None = None  # tokens guessed at a time at most; None: as many as the engine was told
    grammar: Grammar | None = None  # what the answer may be; checked by `rowspan.text.grammar.check_grammar`
    logprobs: int | None = None  # None: off; n: the chosen token's log-probability and the n most likely ones
    prompt_logprobs: int | None = None  # the same of each token of the prompt but the first

    @property
    def needs_order(self) -> bool:
        """Whether the token is drawn by filters that need all tokens in order: on hosts only, and slowly."""
        is_filtered = self.top_n_sigma > 0 or self.typical_p < 1.0 or self.xtc_probability > 0
        return is_filtered or (self.dynatemp_range > 0 and self.temperature > 0)


class FinishReason(StrEnum):
    STOP = "stop"  # a stop token or stop string; or the hidden states that were asked for
    LENGTH = "length"  # max_tokens, or the end of the context
    CANCELLED = "cancelled"
    ERROR = "error"


class WantedStates(StrEnum):
    """The tokens whose hidden states a request asks for instead of an answer."""

    LAST = "last"
    ALL = "all"


@dataclass(slots=True, eq=False)
class Request:
    """One sequence that is catching up: keys and values of the first `computed` of its `tokens` are in the KV cache,
    and those of the first `planned` will be once the steps under way are done.
    """

    seq_id: int
    tokens: list[int]  # prompt, then what was generated
    params: SamplingParams
    needs_last_token: bool = False  # before its next step is planned: see `rowspan.worker.logits_processors`
    states: WantedStates | None = None  # None: it asks for tokens; else params.max_tokens is 0
    prompt_length: int = 0
    computed: int = 0
    planned: int = 0
    tables: Tables = ()  # of its cache blocks, in each group; empty while it waits
    cached: int = 0  # tokens whose cache entries were reused when the request was first admitted
    introduced: bool = False  # the workers know its tokens and parameters
    block_hashes: list[bytes] = field(default_factory=list)  # of its full blocks, as far as they were needed
    told_states: list[NDArray[np.float32]] = field(default_factory=list)  # of what is computed
    told_scores: list[SampledToken] = field(default_factory=list)  # of the prompt's tokens, as far as they are known
    guesses: tuple[int, int] = (0, 0)  # made so far, and right
    preemptions: int = 0  # times it lost its blocks to an older request

    def __post_init__(self) -> None:
        self.prompt_length = self.prompt_length or len(self.tokens)

    def precedes(self, waiting: Request) -> bool:
        """Whether it comes before another one that waits and arrived earlier."""
        return self.params.priority < waiting.params.priority

    @property
    def in_flight(self) -> bool:
        """Whether it is part of a step whose result is not back yet."""
        return self.planned > self.computed

    @property
    def missing(self) -> int:
        """Number of known tokens for which no step has been planned."""
        return len(self.tokens) - self.planned

    @property
    def is_scored(self) -> bool:
        """Whether its prompt's log-probabilities are wanted, and not told yet."""
        return self.params.prompt_logprobs is not None and not self.generated

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_length
