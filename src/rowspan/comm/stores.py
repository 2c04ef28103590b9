"""Opens the store in which ranks that communicate through torch.distributed meet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from torch._C._distributed_c10d import FileStore, Store, TCPStore

from rowspan.comm.meeting import Meeting
from rowspan.errors import EngineError

JOIN_TIMEOUT = timedelta(seconds=120)
"""The longest time that ranks wait for each other when they start. They meet before they load, about 3 s after they
were spawned.
"""


def open_store(meeting: Meeting, n_cards: int) -> Store:
    """Open the store of this engine: a file, or on several hosts a server that one of the ranks runs.

    Raises:
        EngineError: the server cannot be reached.
    """
    between = meeting.between
    if between is None:
        return FileStore(str(meeting.store), n_cards)
    runs_it = between.listener >= 0
    with joining(f"{between.host}, port {between.port}"):
        return TCPStore(
            between.host,
            between.port,
            is_master=runs_it,
            timeout=JOIN_TIMEOUT,
            wait_for_workers=False,
            master_listen_fd=between.listener if runs_it else None,
        )


@contextmanager
def joining(what: str) -> Iterator[None]:
    """Turn torch.distributed's errors in this block into an EngineError that says what could not be joined."""
    try:
        yield
    except RuntimeError as error:
        raise EngineError(
            f"A rank could not join {what}.",
            why=str(error).partition("\n")[0][:300],
            fix="Check that the hosts reach each other on all TCP ports: ranks listen where the system lets them.",
        ) from error
