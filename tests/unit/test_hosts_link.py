"""Links between hosts over real sockets: who is let in, who is not, and who is not waited for."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection

import pytest

from rowspan.hosts import link
from rowspan.hosts.link import answer, call, own_address

KEY = b"0123456789abcdef"
LOOPBACK = "127.0.0.1"


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server((LOOPBACK, 0)) as listener:
        yield listener


def in_background(function: Callable[[], object]) -> Future[object]:
    future: Future[object] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def test_both_ends_know_the_key(listener: socket.socket) -> None:
    answered = in_background(lambda: answer(listener.accept()[0], KEY))
    with call(listener.getsockname(), KEY) as ours:
        theirs = answered.result(10)
        assert isinstance(theirs, Connection)
        with theirs:
            ours.send({"tokens": list(range(100_000))})
            assert theirs.recv() == {"tokens": list(range(100_000))}
            theirs.send(1)
            assert ours.recv() == 1
            assert own_address(ours) == LOOPBACK
            ours.close()
            with pytest.raises(EOFError):
                theirs.recv()


def test_another_key_is_told_apart_from_nobody(listener: socket.socket) -> None:
    answered = in_background(lambda: answer(listener.accept()[0], KEY))
    with pytest.raises(AuthenticationError):
        call(listener.getsockname(), b"another key, as long")
    with pytest.raises(AuthenticationError):
        answered.result(10)
    address = listener.getsockname()
    listener.close()
    with pytest.raises(ConnectionRefusedError):
        call(address, KEY)


def test_who_says_nothing_is_not_waited_for(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "HANDSHAKE_SECONDS", 1)
    began = time.monotonic()
    with socket.create_connection(listener.getsockname()), pytest.raises(ConnectionError):
        answer(listener.accept()[0], KEY)
    with pytest.raises(ConnectionError):  # nobody accepts
        call(listener.getsockname(), KEY)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("words", [b"GET / HTTP/1.1\r\n\r\n", b"\x00\x00\x00\x05hello", b"\x7f\xff\xff\xff", b""])
def test_strangers_are_turned_away_before_anything_is_unpickled(listener: socket.socket, words: bytes) -> None:
    with socket.create_connection(listener.getsockname()) as stranger:
        stranger.sendall(words)
        stranger.shutdown(socket.SHUT_WR)
        with pytest.raises((ConnectionError, AuthenticationError)):
            answer(listener.accept()[0], KEY)
