"""Runs one command, and sees that nothing of it outlives the program that asked for it.

Started as a script of its own, `python -I -S guardian.py SECONDS COMMAND…`, with a pipe as its standard input. When
that closes - because its owner wants the command to end, crashed, or was killed with SIGKILL - the command gets
SIGTERM, and after so many seconds SIGKILL, with everything it had started. Exits with its code, or 128 + its signal.

Asking the kernel for a signal at the parent's death (PR_SET_PDEATHSIG) would not do: it follows the *thread* that
started a process, and says nothing to grandchildren, of which vLLM has many. Here it only guards the guardian. Only the
standard library: it stays in memory as long as the command runs (8 MB).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from types import FrameType

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
POLL_SECONDS = 0.02
ORPHAN_SECONDS = 3.0  # for what the command leaves behind to end by itself: its helpers still tidy up shared memory


class Told(Exception):
    """Told to end, by a signal."""


def main(seconds: float, command: list[str]) -> int:
    """Run the command to its end, or to the end of standard input; the exit code."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)  # orphans of the command become ours, so that we find them
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _tell)
    child = os.fork()
    if child == 0:
        _become(libc, command)
    with contextlib.suppress(Told):
        end = os.pidfd_open(child)
        ready, _, _ = select.select([sys.stdin.fileno(), end], [], [])
        if end in ready:
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            _sweep()
            return status if status >= 0 else 128 - status
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    status = _end(child, seconds)
    _sweep()
    return status if status >= 0 else 128 - status


def _become(libc: ctypes.CDLL, command: list[str]) -> None:
    """Turn this process into the command. It leads a session of its own: Ctrl-C is for its owner."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr, flush=True)
        os._exit(127)


def _end(child: int, seconds: float) -> int:
    """Ask the command's group to end, and make it after so many seconds."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGTERM)
        os.killpg(child, signal.SIGCONT)  # one that is stopped would not hear of it
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(POLL_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _sweep() -> None:
    """See that what the command has left behind ends. Its orphans are our children; theirs become so in turn."""
    deadline = time.monotonic() + ORPHAN_SECONDS
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < deadline:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(POLL_SECONDS)
    while True:
        with open(f"/proc/self/task/{os.getpid()}/children") as children:
            left = [int(pid) for pid in children.read().split()]
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, 0):
                pass
        except ChildProcessError:
            return


def _tell(number: int, frame: FrameType | None) -> None:
    raise Told


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
