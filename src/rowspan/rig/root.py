"""A machine as a folder of files: `/` is this machine, any other folder a recorded one.

Probe and doctor read everything through this file, so that a recorded machine is a folder of small text files at their
real paths (`sys/…`, `proc/…`, `boot/…`). What is no file on a real machine has a place there too:

- `environ`: environment variables, one NAME=value a line;
- `commands/NAME`: what a command printed; `log/kernel`: the kernel's log;
- `not-permitted`: paths, one a line, `*` for any part, that this user may not open;
- `later/`: the files that have changed some seconds later.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import BinaryIO

SMALL_FILE = 8 << 20  # bytes; what is longer is no setting of a machine
BLOCK = 1 << 20  # /proc/sys refuses to read 4 MiB at once
COMMAND_SECONDS = 20.0


class Unreadable(Exception):
    """Something could not be read, so that whatever depends on it is unknown.

    Args:
        path: the file's path, or the name of what was asked for.
        why: "missing", "not permitted", or the system's words.
        fix: how the user can make it readable, if known.
    """

    def __init__(self, path: str, why: str, fix: str = "") -> None:
        super().__init__(f"{path}: {why}")
        self.path = path
        self.why = why
        self.fix = fix


class Missing(Unreadable):
    """The file does not exist."""

    def __init__(self, path: str) -> None:
        super().__init__(path, "missing")


class NotPermitted(Unreadable):
    """The file exists, but this user may not read it."""

    def __init__(self, path: str, fix: str = "") -> None:
        super().__init__(path, "not permitted", fix)


class Root:
    """Reads files by their absolute paths, below a recorded machine's folder or, without one, on this machine.

    recorded: whether a recorded machine is read.
    """

    def __init__(self, *folders: Path) -> None:
        # The first folder that has a file provides it.
        self._folders = tuple(folder.resolve() for folder in folders) or (Path("/"),)
        self.recorded = self._folders != (Path("/"),)

    def text(self, path: str) -> str:
        """A small file's text, stripped of white space at its ends and of zero bytes.

        Raises:
            Unreadable: the file is missing, or may not be read.
        """
        return self.raw(path).decode(errors="replace").replace("\0", "").strip()

    def raw(self, path: str) -> bytes:
        """The first `SMALL_FILE` bytes of a file. Raises the same as `text`."""
        read = bytearray()
        for block in self.blocks(path):
            read += block
            if len(read) >= SMALL_FILE:
                break
        return bytes(read)

    def zipped_text(self, path: str) -> str:
        """The text of a gzip file. Raises the same as `text`."""
        try:
            return gzip.decompress(self.raw(path)).decode(errors="replace")
        except (OSError, EOFError) as error:
            raise Unreadable(path, str(error)) from error

    def number(self, path: str) -> int:
        """The number in a file, decimal or hexadecimal behind 0x. Raises the same as `text`."""
        text = self.text(path)
        try:
            return int(text, 0)
        except ValueError:
            raise Unreadable(path, f"{text[:40]!r} is no number") from None

    def has(self, path: str) -> bool:
        """Whether a file or folder exists, even if this user may not open it."""
        return self._place(path) is not None

    def names(self, path: str) -> list[str]:
        """The sorted names in a folder; none if it does not exist or may not be read."""
        if self._forbidden(path):
            return []
        found: set[str] = set()
        for folder in self._folders:
            place = self._inside(folder, path)
            with contextlib.suppress(OSError):
                found.update(os.listdir(place) if place else ())
        return sorted(found)

    def glob(self, pattern: str) -> list[str]:
        """Sorted paths that match a pattern, in which `*` stands for a name or a part of one."""
        paths = ["/"]
        for part in PurePosixPath(pattern).parts[1:]:
            if "*" in part or "[" in part:
                paths = [os.path.join(at, name) for at in paths for name in self.names(at) if fnmatchcase(name, part)]
            else:
                paths = [os.path.join(at, part) for at in paths]
        return [path for path in paths if self.has(path)]

    def target(self, path: str) -> str:
        """The absolute path that a symbolic link leads to; the path itself if it is no link.

        Raises:
            Missing: the path does not exist, or leads out of the recorded machine's folder.
        """
        for folder in self._folders:
            place = self._inside(folder, path)
            if place is not None and place.exists():
                return "/" + str(place.resolve().relative_to(folder))
        raise Missing(path)

    def may_open(self, path: str) -> bool:
        """Whether this user may read and write a file, as programs must to open a device.

        Raises:
            Missing: the path does not exist.
        """
        if not self.has(path):
            raise Missing(path)
        return not self._forbidden(path) and (self.recorded or os.access(path, os.R_OK | os.W_OK))

    def open(self, path: str) -> BinaryIO:
        """Open a file for reading. Raises the same as `text`."""
        if self._forbidden(path):
            raise NotPermitted(path)
        place = self._place(path)
        if place is None:
            raise Missing(path)
        with _explained(path):
            return place.open("rb")

    def blocks(self, path: str) -> Iterator[bytes]:
        """Read a file of any length block by block. Raises the same as `text`."""
        with self.open(path) as file, _explained(path):
            while block := file.read(BLOCK):
                yield block

    @cached_property
    def environment(self) -> Mapping[str, str]:
        """Environment variables of this process, or those recorded. Raises Missing if none were recorded."""
        if not self.recorded:
            return dict(os.environ)
        return dict(line.split("=", 1) for line in self.text("/environ").splitlines() if "=" in line)

    def command(self, name: str, *arguments: str) -> str:
        """The output of a command, stdout and stderr together; on a recorded machine the text of `commands/NAME`.

        Raises:
            Missing: the command does not exist.
            Unreadable: it fails, or takes too long.
        """
        if self.recorded:
            return self.text(f"/commands/{name}")
        if shutil.which(name) is None:
            raise Missing(name)
        call = [name, *arguments]
        try:
            done = subprocess.run(
                call, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=COMMAND_SECONDS, check=True
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise Unreadable(" ".join(call), str(error)) from error
        return done.stdout.decode(errors="replace").strip()

    def later(self, seconds: float) -> Root:
        """The machine as it is some seconds later; on a real machine this waits for so long."""
        if not self.recorded:
            time.sleep(seconds)
            return self
        return Root(self._folders[0] / "later", *self._folders)

    @cached_property
    def _not_permitted(self) -> list[str]:
        if not self.recorded:
            return []
        lists = [folder / "not-permitted" for folder in self._folders]
        return [
            line.strip() for file in lists if file.exists() for line in file.read_text(errors="replace").splitlines()
        ]

    def _forbidden(self, path: str) -> bool:
        return any(fnmatchcase(path, pattern) for pattern in self._not_permitted if pattern)

    def _place(self, path: str) -> Path | None:
        """A path's real location on this machine's disk; None if it does not exist."""
        for folder in self._folders:
            place = self._inside(folder, path)
            if place is not None and os.path.lexists(place):
                return place
        return None

    def _inside(self, folder: Path, path: str) -> Path | None:
        """Resolve a path within a recorded machine's folder; None if links would lead out of it, since anyone may have
        made it.
        """
        place = folder / path.lstrip("/")
        return place if not self.recorded or place.resolve().is_relative_to(folder) else None


def as_root(command: str) -> str:
    """The shell command that runs one of Rowspan's as root. sudo looks for programs in folders of its own, among which
    no virtual environment is, so it is given the whole path.
    """
    found = shutil.which("rowspan") or str(Path(sys.executable).parent / "rowspan")
    return f"sudo {shlex.quote(found)} {command}"


@contextlib.contextmanager
def _explained(path: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise Missing(path) from None
    except PermissionError:
        raise NotPermitted(path) from None
    except OSError as error:
        raise Unreadable(path, error.strerror or str(error)) from None
