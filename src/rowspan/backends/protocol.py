"""One way to run a model, whoever computes: what the server asks of a backend, and what a backend is told.

The common currency is the native engine's: token ids and `SamplingParams` in, `Piece`s out. Every engine takes token
ids. What a text is in tokens - tokenizer and chat template - is asked of the backend too: it knows where the model
keeps them. So everything in front is the same for all: the API, keys, limits, several answers to one prompt.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from rowspan.config import BackendConfig, EngineConfig
from rowspan.engine.generation import Piece, Timings, TokenText
from rowspan.errors import RowspanError, UsageError
from rowspan.scheduler.request import FinishReason, SamplingParams
from rowspan.scheduler.scheduler import SchedulerStats as BackendStats

__all__ = [
    "Backend",
    "BackendName",
    "BackendStats",
    "Capabilities",
    "FinishReason",
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
]


class BackendName(StrEnum):
    NATIVE = "native"
    LLAMACPP = "llamacpp"
    VLLM = "vllm"


class ModelFormat(StrEnum):
    """How a model's weights are kept."""

    GGUF = "GGUF file"
    HF = "Hugging Face folder"  # config.json and safetensors; quantized by GPTQ or AWQ, or not


class MissingBackendError(RowspanError):
    """The program that a backend runs is not installed."""

    exit_code = 2
    http_status = 503
    code = "backend_missing"


class UnsupportedOptionError(UsageError):
    """An option, or a field of a request, that this backend cannot honour."""

    code = "unsupported_by_backend"


@dataclass(frozen=True)
class Model:
    """What to run.

    name: what clients call it.
    location: a path; or, of the format HF only, a repository ORG/NAME that the engine fetches itself.
    vocabulary: token ids it has, as far as a folder's config.json says.
    """

    name: str
    location: str
    format: ModelFormat
    vocabulary: int | None = None


@dataclass(frozen=True)
class Setup:
    """How to run it.

    engine: the options that all backends share.
    given: names of those fields of `engine` that the user has set: a default may be passed over, a wish may not.
    """

    model: Model
    engine: EngineConfig
    given: frozenset[str]
    backend: BackendConfig


@dataclass(frozen=True)
class Capabilities:
    """What a backend can do, for those who choose among them.

    formats: of models. splits: a model over several devices, `row` and `layer`. sleeps: how it sleeps, in words.
    seeded: the same seed gives the same text, whoever else is served.
    timings: pieces bring the engine's own measurements.
    refused: `SamplingParams` it cannot honour, by name; a request that sets one is refused.
    """

    formats: tuple[ModelFormat, ...]
    sleeps: str
    seeded: bool
    timings: bool
    refused: tuple[str, ...] = ()


@dataclass(frozen=True)
class Limits:
    """Of the running model. context_size: tokens of one request. parallel: requests at once. vocab_size: token ids;
    None: the engine does not say."""

    context_size: int
    parallel: int
    vocab_size: int | None


class HealthState(StrEnum):
    READY = "ready"
    ASLEEP = "asleep"
    LOADING = "loading"
    FAILED = "failed"


@dataclass(frozen=True)
class Health:
    """detail: why, when it is not ready; for the log and the owner, not for clients."""

    state: HealthState
    detail: str = ""


@dataclass(frozen=True)
class LoadWatch:
    """Told how loading goes, on any thread. read: bytes of the model so far, and of how many. said: a line that the
    engine prints."""

    read: Callable[[int, int], None] = lambda done, total: None
    said: Callable[[str], None] = lambda line: None


class Backend(Protocol):
    """A model and what runs it. `start` comes first; after `stop` it may be started again."""

    @property
    def name(self) -> BackendName: ...

    @property
    def version(self) -> str:
        """The engine's own words."""
        ...

    @property
    def command(self) -> Sequence[str]:
        """The other program's command line, for reports; empty for the native engine. Without the key."""
        ...

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def limits(self) -> Limits:
        """Known once it has started."""
        ...

    def start(self, watch: LoadWatch) -> None:
        """Load the model, and return when it answers.

        Raises:
            RowspanError: says what is wrong and what to do.
        """
        ...

    def stop(self, *, drain_seconds: float = 0.0) -> None:
        """Take no more requests, let running ones finish for so long, then end everything that was started. A second
        call, from another thread, may cut the drain of the first one short."""
        ...

    def health(self) -> Health:
        """How it is. Costs nothing, and never wakes it."""
        ...

    async def stats(self) -> BackendStats | None:
        """What its scheduler counts; None: it does not tell, or is asleep. Never wakes it.

        Raises:
            RowspanError: it is being stopped.
        """
        ...

    async def sleep(self) -> None:
        """Give the devices back; what is running is not waited for. Requests are refused until `wake`."""
        ...

    async def wake(self) -> None:
        """Be ready again. Raises as `start`."""
        ...

    async def encode(self, text: str) -> list[int]:
        """Token ids of a text, with those that the model wants at its beginning."""
        ...

    async def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Token ids of a conversation, ready for the assistant's turn.

        Raises:
            UsageError: the model has no chat template, or its template refuses these messages.
        """
        ...

    async def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, special ones spelled out, as it goes on after other text."""
        ...

    def stream(
        self, tokens: Sequence[int], params: SamplingParams, stops: Sequence[str] = (), *, continuation: bool = False
    ) -> AsyncGenerator[Piece, None]:
        """Pieces of one answer as they come; the last one has a finish reason. Closing the generator cancels it.

        Args:
            params: `stop_tokens` left empty are the model's own end tokens.
            continuation: the text goes on after the prompt's, rather than being an answer.

        Raises:
            UnsupportedOptionError: a parameter that this backend cannot honour.
            RowspanError: the request was refused, or the engine failed.
        """
        ...
