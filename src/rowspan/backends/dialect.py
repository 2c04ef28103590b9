"""What differs between other programs that serve a model: how they are started, asked, and understood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rowspan.backends.child import Address, Launch
from rowspan.backends.protocol import BackendName, Capabilities, Limits, Piece, SamplingParams


class EventReader(Protocol):
    """Understands the events of one answer."""

    def read(self, event: bytes) -> Piece | None:
        """The piece in an event's data; None: there is none.

        Raises:
            ValueError, KeyError, TypeError, IndexError: the event is nonsense.
            RowspanError: the event is an error.
        """
        ...


class Dialect(Protocol):
    """One kind of server."""

    name: BackendName
    title: str  # of the program
    version: str
    capabilities: Capabilities

    def launch(self, port: int, key: str) -> Launch: ...

    async def limits(self, address: Address) -> Limits:
        """What the running server says of itself."""
        ...

    async def encode(self, address: Address, text: str) -> list[int]: ...

    async def encode_chat(self, address: Address, messages: Sequence[Mapping[str, Any]]) -> list[int]: ...

    async def decode(self, address: Address, tokens: Sequence[int]) -> str: ...

    def ask(self, tokens: Sequence[int], params: SamplingParams, stops: Sequence[str]) -> tuple[str, bytes]:
        """Path and body of the request for one answer, as a stream.

        Raises:
            UnsupportedOptionError: a parameter that cannot be honoured.
        """
        ...

    def reader(self, params: SamplingParams, *, continuation: bool) -> EventReader: ...

    async def sleep(self, address: Address) -> bool:
        """Have the running server give its devices back; False: it cannot, so it is to be ended."""
        ...

    async def wake(self, address: Address) -> None:
        """After a `sleep` that was True."""
        ...
