"""Finds which hosts run a model together and where they meet: from options, or from the variables that torchrun and
similar launchers set.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping

from rowspan.config import HostsConfig
from rowspan.errors import UsageError

DEFAULT_PORT = 29400  # the default port of torchrun
SHORTEST_KEY = 16
HOW_TO_MAKE_A_KEY = "Set ROWSPAN_CLUSTER_KEY to the same secret on all hosts; `openssl rand -hex 32` makes one."


def hosts_config(
    n_hosts: int | None, host: int | None, place: str | None, environment: Mapping[str, str] = os.environ
) -> HostsConfig | None:
    """The hosts as the options [--nnodes, --node-rank, --rdzv] name them, or the environment for options not given.
    None: there is one host only.

    Under torchrun the address in MASTER_ADDR and MASTER_PORT is taken, where torchrun runs a store: the head chooses a
    port and leaves it there for the others.

    Raises:
        UsageError: the options do not fit together, or there is no key.
    """
    by_torchrun = "TORCHELASTIC_RUN_ID" in environment
    if n_hosts is None:
        n_hosts = _number(environment, "NNODES", "GROUP_WORLD_SIZE", "WORLD_SIZE")
    if host is None and n_hosts is not None and n_hosts > 1:
        host = _number(environment, "NODE_RANK", "GROUP_RANK", "RANK")
    if n_hosts is None or n_hosts < 2:
        if host or place:
            raise UsageError("--node-rank and --rdzv are for several hosts.", fix="Say how many: --nnodes 2.")
        return None
    if _number(environment, "LOCAL_WORLD_SIZE") not in (None, 1):
        raise UsageError(
            "There is more than one process of Rowspan on this host.",
            why="It starts a process for each device by itself.",
            fix="Use torchrun --nproc-per-node 1, and name the devices with --devices.",
        )
    if host is None or not 0 <= host < n_hosts:
        raise UsageError(
            f"--node-rank {host} is none of {n_hosts} hosts."
            if host is not None
            else "Which host this is, is not said.",
            fix=f"Give each its own --node-rank, 0 to {n_hosts - 1}; 0 serves.",
        )
    key = _key(environment)
    master = environment.get("MASTER_ADDR")
    if place is not None:
        address, port = _parse(place)
    elif master is None:
        raise UsageError(
            "Where the hosts meet is not said.", fix="Give all of them an address of the head: --rdzv 10.0.0.1:29400."
        )
    else:
        address, port = master, _number(environment, "MASTER_PORT") or DEFAULT_PORT
        if by_torchrun:
            port = _port_by_torchrun(environment, address, port, n_hosts, host)
    return HostsConfig(n_hosts, host, address, port, key)


def _key(environment: Mapping[str, str]) -> bytes:
    key = environment.get("ROWSPAN_CLUSTER_KEY", "")
    if len(key) < SHORTEST_KEY:
        raise UsageError(
            f"ROWSPAN_CLUSTER_KEY has {len(key)} characters, {SHORTEST_KEY} are the least."
            if key
            else "Several hosts need a key.",
            why="Whoever reaches the head could run programs on it.",
            fix=HOW_TO_MAKE_A_KEY,
        )
    return key.encode()


def _number(environment: Mapping[str, str], *names: str) -> int | None:
    """The number in the first of these variables that is set."""
    for name in names:
        if value := environment.get(name):
            try:
                return int(value)
            except ValueError:
                raise UsageError(f"{name}={value} is no number.", fix="Unset it, or use --nnodes and so on.") from None
    return None


def _parse(place: str) -> tuple[str, int]:
    """Read HOST, HOST:PORT or [IPv6]:PORT."""
    address, colon, port = place.rpartition(":")
    if not colon or "]" in port:
        address, port = place, str(DEFAULT_PORT)
    address = address.removeprefix("[").removesuffix("]")
    if not address or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise UsageError(f"--rdzv {place} is no address.", fix="Write the head's, as in --rdzv 10.0.0.1:29400.")
    return address, int(port)


def _port_by_torchrun(environment: Mapping[str, str], address: str, port: int, n_hosts: int, host: int) -> int:
    """The port that the head listens on, exchanged through torchrun's store. A child process does this, since it must
    import torch.
    """
    if environment.get("TORCHELASTIC_USE_AGENT_STORE", "True") != "True":
        return port  # the port is free, as torchrun runs no store there
    words = [f"rowspan/{environment.get('TORCHELASTIC_RESTART_COUNT', '0')}", str(n_hosts)]
    if not host:
        with socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET) as free:
            words.append(str(free.getsockname()[1]))
    done = subprocess.run(
        [sys.executable, "-P", "-m", "rowspan.comm.torchrun_store", address, str(port), *words],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise UsageError(
            f"torchrun's store at {address}:{port} cannot be used.",
            why=(done.stderr.strip().splitlines() or [""])[-1][:300],
            fix="Name a free port of the head instead: --rdzv HOST:29400.",
        )
    return int(done.stdout)
