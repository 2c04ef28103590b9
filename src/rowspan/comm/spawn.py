"""Starts the ranks of one host: each is a process with a socket to its starter, and inherits what it needs to find the
others.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import IO, Any

from rowspan.comm.environment import rank_environment
from rowspan.comm.shared import SharedLayout, SharedMemory
from rowspan.plan.device import Device
from rowspan.plan.shard import Plan
from rowspan.rig.root import Root


@dataclass(frozen=True)
class RankProcess:
    """A rank that was started. link: the socket to it; the rank ends when this process does."""

    process: subprocess.Popen[bytes]
    link: Connection


def share_memory(native: Any, plan: Plan, most_tokens: int, owner: ExitStack) -> tuple[SharedLayout | None, int]:
    """Make the memory that all ranks of a plan share.

    Args:
        native: the compiled module that uses it; None if there is none.
        most_tokens: number of tokens in the largest message.
        owner: closes this process's descriptor once the ranks have inherited it.

    Returns:
        The layout and the descriptor; None and -1 without a native module.
    """
    if native is None:
        return None, -1
    layout = SharedLayout.of(native, plan, most_tokens)
    memory = SharedMemory.create(layout.nbytes)
    owner.callback(os.close, memory)
    return layout, memory


def spawn_rank(
    command: Sequence[str],
    setup: Any,
    device: Device,
    inherited: Iterable[int],
    *,
    threads: int,
    defaults: Mapping[str, str] | None = None,
    output: int | IO[bytes] | None = None,
    errors: int | IO[bytes] | None = None,
) -> RankProcess:
    """Start one rank, and send it its setup.

    Args:
        command: the rank's program; the descriptor of its end of the socket is added as last argument.
        inherited: descriptors that the rank inherits; -1 is left out.
        threads: number of threads for its libraries.
        defaults: environment variables to set unless the user has set them.
        output, errors: where its stdout and stderr go; None: where this process's go.

    Raises:
        OSError: the system has no process or descriptor left.
    """
    ours, theirs = socket.socketpair()
    environment = dict(os.environ) if device.kind == "cpu" else rank_environment(os.environ, Root())
    with theirs:
        try:
            process = subprocess.Popen(
                [*command, str(theirs.fileno())],
                pass_fds=[fd for fd in (theirs.fileno(), *inherited) if fd >= 0],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env={**(defaults or {}), **environment, "OMP_NUM_THREADS": str(threads)},
            )
        except BaseException:
            ours.close()
            raise
    link = Connection(ours.detach())
    with suppress(OSError):  # it has ended already: whoever waits for its first word finds out how
        link.send(setup)
    return RankProcess(process, link)
