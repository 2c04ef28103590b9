"""Runs one command, and ensures that nothing of it outlives the program that asked for it.

This is a script of its own, `python -I -S guardian.py SECONDS COMMAND…`, with a pipe as its standard input. When the
pipe closes - because its owner wants the command to end, crashed, or was killed with SIGKILL - the command and
everything it had started get SIGTERM, and after so many seconds SIGKILL. The script exits with the command's code, or
128 + its signal.

Asking the kernel for a signal at the parent's death (PR_SET_PDEATHSIG) would not do: it follows the *thread* that
started a process, and does not reach grandchildren, of which vLLM has many. Here it only guards the guardian. Only the
standard library is imported: the script stays in memory as long as the command runs (8 MB).

What only a clean end would have removed does not outlive the owner either: vLLM's sockets and files in the temporary
folder (the command gets a folder of its own), and its named shared memory.
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
    """A signal told this script to end."""


def main(seconds: float, command: list[str]) -> int:
    """Run the command to its end, or to the end of standard input, and return the exit code."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)  # orphans of the command become ours, so that we find them
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _tell)
    shared, folder = Shared(), _make_folder()
    child = os.fork()
    if child == 0:
        _become(libc, command, folder)
    has_ended = False
    with contextlib.suppress(Told):
        end = os.pidfd_open(child)
        ready, _, _ = select.select([sys.stdin.fileno(), end], [], [])
        has_ended = end in ready
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    shared.look(child)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) if has_ended else _end(child, seconds)
    shared.look(child)  # before the orphans end
    _sweep()
    shared.remove()
    _remove(folder)
    return status if status >= 0 else 128 - status


class Shared:
    """Finds and removes named shared memory of the command and its children, which would outlive them.

    Only they know these names, so their mappings are read when the end begins: whatever they have mapped by then, and
    what was not there before the command, is theirs. (A name that they share with another program remains usable for
    those that have it open.) LLVM's OpenMP instead leaves a file that is named after its process.
    """

    FOLDER = "/dev/shm"
    OPENMP = "__KMP_REGISTERED_LIB_"

    def __init__(self) -> None:
        """Note what exists before the command is started."""
        self._before = self._names()
        self._found: set[str] = set()

    def look(self, child: int) -> None:
        """Note the mappings of all descendants of this process, of which the child may just have died."""
        pids = [child, *_descendants(os.getpid())]
        openmp = tuple(f"{self.OPENMP}{pid}_" for pid in pids)
        found = {name for pid in pids for name in self._mapped(pid)}
        found |= {name for name in self._names() if name.startswith(openmp)}
        self._found |= found - self._before

    def remove(self) -> None:
        """Remove the files once all processes have ended."""
        for name in self._found:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self.FOLDER, name))

    def _names(self) -> set[str]:
        try:
            return set(os.listdir(self.FOLDER))
        except OSError:
            return set()

    def _mapped(self, pid: int) -> set[str]:
        try:
            with open(f"/proc/{pid}/maps") as maps:
                found = (line.rstrip("\n").partition(f"{self.FOLDER}/")[2] for line in maps)
                return {name for name in found if name and not name.endswith(" (deleted)")}
        except OSError:
            return set()


def _make_folder() -> str:
    """Make a folder for temporary files, with the shortest possible path, since sockets' paths are limited to 107
    bytes.
    """
    folder = os.path.join(os.environ.get("TMPDIR") or "/tmp", f"rowspan-{os.urandom(4).hex()}")
    os.mkdir(folder, 0o700)
    return folder


def _remove(folder: str) -> None:
    import shutil  # only now: it takes 2 MB

    shutil.rmtree(folder, ignore_errors=True)


def _become(libc: ctypes.CDLL, command: list[str], folder: str) -> None:
    """Turn this process into the command. It leads a session of its own, so that Ctrl-C reaches only its owner."""
    os.environ["TMPDIR"] = folder
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
    """Send SIGTERM to the command's process group, and SIGKILL after so many seconds."""
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
    """End all processes that the command has left behind. Its orphans become this process's children; so do theirs in
    turn.
    """
    deadline = time.monotonic() + ORPHAN_SECONDS
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < deadline:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(POLL_SECONDS)
    while True:
        for pid in _children(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, 0):
                pass
        except ChildProcessError:
            return


def _children(pid: int) -> list[int]:
    """Ids of the children of all of a process's threads; none if the process has ended."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as children:
                found += map(int, children.read().split())
    return found


def _descendants(pid: int) -> list[int]:
    children = _children(pid)
    return [*children, *(one for child in children for one in _descendants(child))]


def _tell(number: int, frame: FrameType | None) -> None:
    raise Told


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
