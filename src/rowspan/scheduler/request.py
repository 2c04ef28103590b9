"""What a caller asks for (`SamplingParams`) and what the scheduler remembers of it (`Request`)."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to choose tokens, and when to stop.

    Order of the steps (that of llama.cpp's default chain): logit_bias, penalties, top_k, top_p, min_p, temperature.
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
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None  # None: a fresh one for every request
    stop_tokens: frozenset[int] = frozenset()
    ignore_eos: bool = False  # do not stop at stop_tokens
    logprobs: int | None = None  # None: off; n: the chosen token's log-probability and the n most likely ones

    @property
    def penalizes(self) -> bool:
        """What may be chosen next depends on the tokens chosen before, beside what the model makes of them."""
        return self.repeat_penalty != 1.0 or self.frequency_penalty != 0.0 or self.presence_penalty != 0.0


class FinishReason(StrEnum):
    STOP = "stop"  # a stop token or stop string
    LENGTH = "length"  # max_tokens, or the end of the context
    CANCELLED = "cancelled"
    ERROR = "error"


def block_table(blocks: Iterable[int] = ()) -> array[int]:
    """Cache blocks of a sequence as 32-bit integers: at 64 sequences of 16,000 tokens, a step's tables of Python's
    integers took 3 ms to send and to read."""
    return array("i", blocks)


@dataclass(slots=True, eq=False)
class Request:
    """One sequence, catching up: `computed` of `tokens` have their keys and values in the cache, and will have up to
    `planned` once the steps under way are done."""

    seq_id: int
    tokens: list[int]  # prompt, then what was generated
    params: SamplingParams
    prompt_length: int = 0
    computed: int = 0
    planned: int = 0
    blocks: array[int] = field(default_factory=block_table)
    cached: int = 0  # tokens whose cache entries were reused when the request was first admitted
    introduced: bool = False  # the workers know its tokens and parameters
    block_hashes: list[bytes] = field(default_factory=list)  # of its full blocks, as far as they were needed
    preemptions: int = 0  # times it lost its blocks to an older request

    def __post_init__(self) -> None:
        self.prompt_length = self.prompt_length or len(self.tokens)

    @property
    def in_flight(self) -> bool:
        """Part of a step whose result is not back yet."""
        return self.planned > self.computed

    @property
    def missing(self) -> int:
        """Known tokens that no step has been planned for."""
        return len(self.tokens) - self.planned

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_length
