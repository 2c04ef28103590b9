"""Links between hosts: `multiprocessing.connection` over TCP. Both ends prove that they know the key before either
reads anything else, because messages are unpickled, which may run any code. Later messages are not encrypted.

A host that vanishes silently (power, cable) is noticed by the system within `SILENCE_SECONDS`: it probes idle links,
and gives up those whose data are not acknowledged. Reading and writing then raise OSError.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge

SILENCE_SECONDS = 5
HANDSHAKE_SECONDS = 5


def call(address: tuple[str, int], key: bytes) -> Connection:
    """Connect to the other end.

    Raises:
        AuthenticationError: it has another key.
        OSError: nobody listens there, or another program.
    """
    link = _link(socket.create_connection(address, timeout=HANDSHAKE_SECONDS))
    with _shaking_hands(link):
        answer_challenge(link, key)
        deliver_challenge(link, key)
    return link


def answer(caller: socket.socket, key: bytes) -> Connection:
    """Make a link from an accepted socket, which the link then owns. Raises the same as `call`."""
    link = _link(caller)
    with _shaking_hands(link):
        deliver_challenge(link, key)
        answer_challenge(link, key)
    return link


def own_address(link: Connection) -> str:
    """The address under which the other end sees this one."""
    with socket.socket(fileno=link.fileno()) as borrowed:
        address: str = borrowed.getsockname()[0]
        borrowed.detach()
    return address


def _link(end: socket.socket) -> Connection:
    end.settimeout(None)  # Connection needs a blocking descriptor
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 2)
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, SILENCE_SECONDS - 2)
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * SILENCE_SECONDS)
    return Connection(end.detach())


@contextmanager
def _shaking_hands(link: Connection) -> Iterator[None]:
    """Limit how long the handshake in this block may take; the link is closed if it fails."""
    try:
        _limit_reading(link, HANDSHAKE_SECONDS)
        yield
        _limit_reading(link, 0)
    except AuthenticationError:
        link.close()
        raise
    except (AssertionError, EOFError, OSError, ValueError) as error:  # raised if the handshake is malformed
        link.close()
        raise ConnectionError(f"{error}" or "who is there does not speak as a Rowspan host does") from None


def _limit_reading(link: Connection, seconds: int) -> None:
    """Set how long reading may wait. 0: no limit."""
    with socket.socket(fileno=link.fileno()) as borrowed:
        borrowed.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", seconds, 0))
        borrowed.detach()
