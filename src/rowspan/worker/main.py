"""Entry point of a worker process: `python -m rowspan.worker.main FD`, FD being a socket to the engine.

The engine's end of the socket closing, for whatever reason, ends the process, even in the middle of a step, in which it
may wait for another rank that is gone: no worker outlives its engine.
"""

from __future__ import annotations

import signal
import sys
import traceback
from multiprocessing.connection import Connection

from rowspan.comm.hangup import end_with
from rowspan.comm.peer_lost import PeerLostError
from rowspan.errors import RowspanError
from rowspan.kernels.ops import DeviceMemoryError
from rowspan.worker.answers import Answers
from rowspan.worker.messages import PEER_LOST, Loaded, LoadProgress, WorkerFailure, WorkerSetup

PROGRESS_BYTES = 8 << 20  # report loading in steps of this size


def main() -> None:
    # Ctrl-C in a terminal reaches the whole process group; the engine decides when its workers stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    engine = Connection(int(sys.argv[1]))
    end_with(engine.fileno())
    setup = engine.recv()
    try:
        serve(engine, setup)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the engine is gone
    except PeerLostError:
        sys.exit(PEER_LOST)  # the engine learns the cause from the peer
    except Exception as error:
        engine.send(_failure(setup.rank, error))


def serve(engine: Connection, setup: WorkerSetup) -> None:
    """Load the model and report, then do what the engine orders until it hangs up."""
    from rowspan.worker.worker import Worker  # may import torch, which takes seconds

    unreported = 0

    def report(nbytes: int) -> None:
        nonlocal unreported
        unreported += nbytes
        if unreported >= PROGRESS_BYTES:
            engine.send(LoadProgress(unreported))
            unreported = 0

    worker = Worker(setup, report)
    engine.send(LoadProgress(unreported))
    engine.send(Loaded(setup.rank))
    with Answers(engine, lambda error: _failure(setup.rank, error)) as answers:
        while True:
            answer = worker.obey(engine.recv())
            if answer is not None:
                answers.put(answer)


def _failure(rank: int, error: Exception) -> WorkerFailure:
    if isinstance(error, RowspanError):
        return WorkerFailure(rank, error.what, error.why, error.fix, "")
    if isinstance(error, DeviceMemoryError) or "out of memory" in str(error):
        what = f"Rank {rank}'s card has too little memory."
        fix = "Use a smaller model, --ctx-size or --ubatch-size, more cards, or end what else uses the card."
        return WorkerFailure(rank, what, f"{error}.", fix, "")
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        what = f"Rank {rank} ran out of memory."
        return WorkerFailure(rank, what, "", "Use a smaller --ctx-size or model, or more devices.", str(error))
    what = f"Rank {rank} failed: {type(error).__name__}: {error}"
    return WorkerFailure(rank, what, "", "Please report this with the log.", traceback.format_exc())


if __name__ == "__main__":
    main()
