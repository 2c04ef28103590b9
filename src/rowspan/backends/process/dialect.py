"""The interface to other programs that serve a model, by which they differ: how to start them, send requests and read
answers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from rowspan.backends.process.child import Address, Launch
from rowspan.backends.protocol import BackendName, Capabilities, Limits, Piece, SamplingParams


class EventReader(Protocol):
    """Reads the events of one answer."""

    def read(self, event: bytes) -> Piece | None:
        """The piece in an event's data; None if it has none.

        Raises:
            ValueError, KeyError, TypeError, IndexError: the event is malformed.
            RowspanError: the event is an error.
        """
        ...


class Dialect(Protocol):
    """One kind of server program."""

    name: BackendName
    title: str  # the program's name for people
    version: str
    placement: str  # where the model goes, for people
    capabilities: Capabilities

    def launch(self, port: int, key: str) -> Launch: ...

    def remedy(self, said: str) -> str:
        """What to do if the program ends while loading and says this; empty if that is not known."""
        ...

    async def limits(self, address: Address) -> Limits:
        """The limits that the running server reports."""
        ...

    async def encode(self, address: Address, text: str) -> list[int]: ...

    @property
    def chat_template(self) -> str | None: ...

    @property
    def special_tokens(self) -> Mapping[str, str]: ...

    async def encode_chat(
        self, address: Address, messages: Sequence[Mapping[str, Any]], **options: Any
    ) -> list[int]: ...

    async def decode(self, address: Address, tokens: Sequence[int]) -> str: ...

    def ask(
        self, tokens: Sequence[int], params: SamplingParams, stops: Sequence[str], shown: Collection[str] = ()
    ) -> tuple[str, bytes]:
        """Path and body of the request for one answer, as a stream.

        Args:
            shown: special tokens that are part of the text nevertheless.

        Raises:
            UnsupportedOptionError: the server cannot honour a parameter.
        """
        ...

    def reader(self, params: SamplingParams, *, continuation: bool) -> EventReader: ...

    async def sleep(self, address: Address) -> bool:
        """Make the running server give its devices back; False: it cannot, so that it must be ended."""
        ...

    async def wake(self, address: Address) -> None:
        """Wake the server after a `sleep` that returned True."""
        ...


def template_request(
    messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any], *, own: Sequence[str]
) -> dict[str, Any]:
    """The body that asks a server to apply its chat template.

    Args:
        options: as `Backend.encode_chat` takes them.
        own: those that are fields of the request itself; others are the template's variables.
    """
    given = {name: value for name, value in options.items() if value is not None}
    variables = {name: value for name, value in given.items() if name not in own}
    asked = {"messages": list(messages), **{name: given[name] for name in own if name in given}}
    return asked | ({"chat_template_kwargs": variables} if variables else {})
