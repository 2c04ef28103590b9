"""What a rank says to the engine: in order, as soon as it is there, and without keeping the rank waiting."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection

import pytest

from rowspan.worker.answers import Answers, Later


@pytest.fixture
def ends() -> Iterator[tuple[Connection, Connection]]:
    """The rank's and the engine's."""
    one, other = socket.socketpair()
    with Connection(one.detach()) as rank, Connection(other.detach()) as engine:
        yield rank, engine


def failure(error: Exception) -> str:
    return f"failed: {error}"


def test_what_is_there_is_sent_at_once(ends: tuple[Connection, Connection]) -> None:
    before = threading.active_count()
    with Answers(ends[0], failure) as answers:
        answers.put("a")
        assert ends[1].recv() == "a"
        assert threading.active_count() == before


def test_what_comes_later_holds_up_what_follows_but_not_the_rank(ends: tuple[Connection, Connection]) -> None:
    done = [threading.Event(), threading.Event()]

    def wait(number: int) -> Later:
        return Later(lambda: (done[number].wait(30), number)[1])

    with Answers(ends[0], failure) as answers:
        answers.put(wait(0))
        answers.put(wait(1))
        answers.put("after")
        assert not ends[1].poll(0.05)
        done[1].set()
        assert not ends[1].poll(0.05)
        done[0].set()
        assert [ends[1].recv() for _ in range(3)] == [0, 1, "after"]
        done[0].clear()
        answers.put(wait(0))
        assert not ends[1].poll(0.05)
        done[0].set()
        assert ends[1].recv() == 0, "it leaves by itself"


def test_an_error_is_told_after_what_came_before_it(ends: tuple[Connection, Connection]) -> None:
    def fail() -> object:
        raise RuntimeError("the card is gone")

    with Answers(ends[0], failure) as answers:
        answers.put(Later(lambda: 1))
        answers.put(Later(fail))
        answers.put(Later(lambda: 2))
    assert ends[1].recv() == 1
    assert ends[1].recv() == "failed: the card is gone"
    assert not ends[1].poll()


def test_an_engine_that_is_gone_is_no_error(ends: tuple[Connection, Connection]) -> None:
    ends[1].close()
    with Answers(ends[0], failure) as answers:
        answers.put(Later(lambda: 1))
