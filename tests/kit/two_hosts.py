"""Two hosts on one machine: network namespaces, joined by a cable that can be pulled. Linux, as root."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
CLONE_NEWNET = 0x40000000


@dataclass(frozen=True)
class Host:
    namespace: str
    address: str
    inside: ThreadPoolExecutor  # of one thread, whose sockets are the host's

    def start(self, command: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(["ip", "netns", "exec", self.namespace, *command], text=True, **options)

    def do(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function whose sockets are to be this host's."""
        return self.inside.submit(function, *arguments).result()

    def cut(self) -> None:
        """Pull the cable, as far as this host is concerned: nothing comes, nothing goes, and nobody is told."""
        _ip("-n", self.namespace, "link", "set", "wire", "down")

    def mend(self) -> None:
        _ip("-n", self.namespace, "link", "set", "wire", "up")

    def processes(self) -> list[int]:
        listed = subprocess.run(["ip", "netns", "pids", self.namespace], capture_output=True, text=True, check=True)
        return [int(pid) for pid in listed.stdout.split()]


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Raises PermissionError: this machine does not let us."""
    names = [f"rowspan-test-{os.getpid()}-{number}" for number in range(2)]
    addresses = ["10.211.0.1", "10.211.0.2"]
    with ExitStack() as made:
        for name in names:
            _ip("netns", "add", name)
            made.callback(_ip, "netns", "del", name)
        _ip("link", "add", "wire", "netns", names[0], "type", "veth", "peer", "name", "wire", "netns", names[1])
        hosts = []
        for name, address in zip(names, addresses, strict=True):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "wire")
            for device in ("lo", "wire"):
                _ip("-n", name, "link", "set", device, "up")
            inside = made.enter_context(ThreadPoolExecutor(1, initializer=_enter, initargs=(name,)))
            hosts.append(Host(name, address, inside))
        yield hosts[0], hosts[1]


def _ip(*arguments: str) -> None:
    try:
        subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise PermissionError("there is no `ip` here") from None
    except subprocess.CalledProcessError as error:
        raise PermissionError(error.stderr.strip()) from None


def _enter(namespace: str) -> None:
    """Move this thread's future sockets into a network namespace."""
    with Path("/run/netns", namespace).open() as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET):
            raise PermissionError(os.strerror(ctypes.get_errno()))
