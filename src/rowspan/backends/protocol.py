"""The interface of all backends, which the server uses to run a model, whichever engine computes.

Its types are the native engine's: token ids and `SamplingParams` in, `Piece`s out, since every engine takes token ids.
Tokenizing, and applying the chat template, are the backend's work too: it knows where the model keeps them. So
everything in front of a backend is the same for all: the API, keys, limits, several answers to one prompt.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rowspan.config import BackendConfig, EngineConfig
from rowspan.engine.generation import Piece, Timings, TokenText
from rowspan.engine.pooling import unit
from rowspan.errors import RowspanError, UsageError
from rowspan.scheduler.limits import check_least_length, check_lengths
from rowspan.scheduler.request import Dry, FinishReason, SamplingParams
from rowspan.scheduler.scheduler import SchedulerStats as BackendStats
from rowspan.text.grammar import Grammar, GrammarKind

__all__ = [
    "Backend",
    "BackendName",
    "BackendStats",
    "Capabilities",
    "Dry",
    "Embedding",
    "FinishReason",
    "Grammar",
    "GrammarKind",
    "Health",
    "HealthState",
    "Limits",
    "LoadWatch",
    "MissingBackendError",
    "Model",
    "ModelFormat",
    "Piece",
    "SamplingParams",
    "Setup",
    "Timings",
    "TokenText",
    "UnsupportedOptionError",
    "check_least_length",
    "check_lengths",
    "unit",
]


class BackendName(StrEnum):
    NATIVE = "native"
    LLAMACPP = "llamacpp"
    VLLM = "vllm"


class ModelFormat(StrEnum):
    """The format of a model's files."""

    GGUF = "GGUF file"
    HF = "Hugging Face folder"  # config.json and safetensors; quantized by GPTQ or AWQ, or not


class MissingBackendError(RowspanError):
    """The program that a backend runs is not installed."""

    exit_code = 2
    http_status = 503
    code = "backend_missing"


class UnsupportedOptionError(UsageError):
    """This backend cannot honour an option, or a field of a request."""

    code = "unsupported_by_backend"


@dataclass(frozen=True)
class Model:
    """A model to run.

    name: the name by which clients call it.
    location: a path; or, for the format HF only, a repository ORG/NAME that the engine fetches itself.
    vocabulary: number of token ids, if a folder's config.json tells it.
    """

    name: str
    location: str
    format: ModelFormat
    vocabulary: int | None = None


@dataclass(frozen=True)
class Setup:
    """How to run a model.

    engine: the options that all backends share.
    given: names of the fields of `engine` that the user has set: a backend may ignore a default, but not a wish.
    """

    model: Model
    engine: EngineConfig
    given: frozenset[str]
    backend: BackendConfig


@dataclass(frozen=True)
class Capabilities:
    """Abilities of a backend, as shown to those who choose among them.

    formats: formats of models.
    sleeps: how it sleeps, in words.
    seeded: the same seed gives the same text, whatever other requests are served.
    timings: pieces bring the engine's own measurements.
    refused: names of the `SamplingParams` that it cannot honour; a request that sets one is refused.
    grammars: the kinds of grammars that it can enforce.
    """

    formats: tuple[ModelFormat, ...]
    sleeps: str
    seeded: bool
    timings: bool
    refused: tuple[str, ...] = ()
    grammars: tuple[GrammarKind, ...] = ()


@dataclass(frozen=True)
class Limits:
    """Limits of the running model.

    context_size: tokens of one request.
    parallel: requests at once.
    vocab_size: number of token ids; None: the engine does not say.
    """

    context_size: int
    parallel: int
    vocab_size: int | None


@dataclass(frozen=True)
class Embedding:
    """What a model makes of a text instead of an answer.

    size: elements of an embedding.
    ranks: it gives a score of a pair of texts instead, as `encode_pair` joins them.
    writes: it also answers.
    judges: it was trained to answer yes or no to whether a document is relevant.
    """

    size: int
    ranks: bool
    writes: bool
    judges: bool = False


class HealthState(StrEnum):
    READY = "ready"
    ASLEEP = "asleep"
    LOADING = "loading"
    FAILED = "failed"


@dataclass(frozen=True)
class Health:
    """The backend's state. detail: why it is not ready; for the log and the owner, not for clients."""

    state: HealthState
    detail: str = ""


@dataclass(frozen=True)
class LoadWatch:
    """Functions that are called on any thread while a model loads.

    read: gets the number of the model's bytes read so far, and of all.
    said: gets a line that the engine prints.
    """

    read: Callable[[int, int], None] = lambda done, total: None
    said: Callable[[str], None] = lambda line: None


class Backend(Protocol):
    """A model and the engine that runs it. `start` comes first; after `stop` it may be started again."""

    @property
    def name(self) -> BackendName: ...

    @property
    def version(self) -> str:
        """The engine's version, in its own words."""
        ...

    @property
    def command(self) -> Sequence[str]:
        """The other program's command line, for reports, without the key; empty for the native engine."""
        ...

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def limits(self) -> Limits:
        """The running model's limits; known once it has started."""
        ...

    def start(self, watch: LoadWatch) -> None:
        """Load the model, and return when it answers.

        Raises:
            RowspanError: says what is wrong and what to do.
        """
        ...

    def stop(self, *, drain_seconds: float = 0.0) -> None:
        """Take no more requests, let running ones finish for `drain_seconds`, then end everything that was started. A
        second call, from another thread, may cut the drain of the first one short.
        """
        ...

    def health(self) -> Health:
        """The present state. Asking costs nothing, and never wakes the backend."""
        ...

    async def stats(self) -> BackendStats | None:
        """The scheduler's figures; None if the backend does not tell them, or is asleep. Returns at once, and never
        wakes it.
        """
        ...

    async def sleep(self) -> None:
        """Give the devices back, without waiting for running requests. Requests are refused until `wake`."""
        ...

    async def wake(self) -> None:
        """Get ready again. Raises the same as `start`."""
        ...

    async def encode(self, text: str) -> list[int]:
        """Token ids of a text, with those that the model requires at its beginning."""
        ...

    @property
    def chat_template(self) -> str | None:
        """The source of the running model's chat template; None: there is none, or the engine does not tell."""
        ...

    @property
    def special_tokens(self) -> Mapping[str, str]:
        """Spellings of the running model's special tokens, by the names that tokenizer_config.json has for them; none
        if the engine does not tell.
        """
        ...

    async def encode_chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> list[int]:
        """Token ids of a conversation, ready for the assistant's turn.

        Args:
            options: `tools`, `add_generation_prompt`, `continue_final_message`, and variables of the template, as
                `rowspan.text.prompt.render_chat` takes them.

        Raises:
            UsageError: the model has no chat template, or its template refuses these messages.
        """
        ...

    async def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, special ones spelled out, as it continues other text."""
        ...

    @property
    def embedding(self) -> Embedding | None:
        """What the running model's embeddings are; None: this backend cannot tell any."""
        ...

    async def embed(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """The embedding of a text, (size,), at whatever length; or the scores that a classifier gives.

        Raises:
            UnsupportedOptionError: this backend cannot.
            RowspanError: the request was refused, or the engine failed.
        """
        ...

    async def encode_pair(self, first: str, second: str) -> list[int]:
        """Token ids of two texts for a model that ranks."""
        ...

    def stream(
        self,
        tokens: Sequence[int],
        params: SamplingParams,
        stops: Sequence[str] = (),
        *,
        continuation: bool = False,
        shown: Collection[str] = (),
    ) -> AsyncGenerator[Piece, None]:
        """Yield pieces of one answer as they come; the last one has a finish reason. Closing the generator cancels the
        answer.

        Args:
            params: if `stop_tokens` are empty, the model's own end tokens are used.
            continuation: the text continues the prompt's text, rather than being an answer.
            shown: special tokens that are part of the text nevertheless, as they are spelled.

        Raises:
            UnsupportedOptionError: this backend cannot honour a parameter.
            RowspanError: the request was refused, or the engine failed.
        """
        ...
