"""Runs a host that is not the head: it calls the head, runs the ranks that the head asks for, and calls again
afterwards.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, wait
from typing import NoReturn

import psutil

from rowspan.checkpoint.fingerprint import model_stamp
from rowspan.comm.probing.trusted import check_host
from rowspan.config import EngineConfig, HostsConfig
from rowspan.engine.cores import share_cores
from rowspan.engine.hang_detector import LOOK_SECONDS
from rowspan.engine.local_ranks import LocalRanks
from rowspan.engine.ranks import PeersLostError
from rowspan.errors import EngineError, RowspanError, SplitError, UsageError
from rowspan.hosts.host_messages import Failure, Offer, Progress, Refusal, Said, Start, protocol_version
from rowspan.hosts.link import call, own_address
from rowspan.kernels.isa import is_native, kernels_used, native_module
from rowspan.model.open_checkpoint import open_checkpoint
from rowspan.worker.messages import WorkerSetup

log = logging.getLogger(__name__)

CALL_SECONDS = 1.0  # seconds between two attempts to reach the head


class Agent:
    """Serves a head until it is told to stop."""

    def __init__(self, hosts: HostsConfig, config: EngineConfig, say: Callable[[str], None]) -> None:
        """Prepare this host.

        Args:
            config: this host's model file, devices, threads and kernels. The head decides everything else.
            say: called with lines for people at the terminal.

        Raises:
            RowspanError: the model file cannot be read.
        """
        devices = tuple(replace(device, host=hosts.host) for device in config.devices)
        self._hosts = hosts
        self._config = replace(config, devices=devices)
        self._model = model_stamp(open_checkpoint(config.model_path))
        self._say = say

    def run(self) -> NoReturn:
        """Serve one head after the other.

        Raises:
            UsageError: the head has another key, or refuses this host.
        """
        while True:
            with closing(self._call()) as link:
                self._say(f"Connected to the head at {self._hosts.place}; waiting for work.")
                try:
                    self._serve(link)
                except (EOFError, OSError) as error:
                    reason = "hung up" if isinstance(error, EOFError | ConnectionError) else "does not answer"
                    self._say(f"The head {reason}; this host's ranks have been ended.")
                except EngineError as error:
                    log.error("%s", error)
                    lost_peers = isinstance(error, PeersLostError)
                    with suppress(OSError):
                        link.send(Failure(error.what, error.why, error.fix, lost_peers))

    def _call(self) -> Connection:
        """Reach the head and send this host's offer, however long that takes."""
        told = ""
        while True:
            try:
                link = call((self._hosts.address, self._hosts.port), self._hosts.key)
                link.send(self._offer())
                return link
            except AuthenticationError:
                raise UsageError(
                    f"The head at {self._hosts.place} has another ROWSPAN_CLUSTER_KEY.",
                    fix="Set the same key on all hosts.",
                ) from None
            except OSError as error:
                reason = error.strerror or str(error)
            if reason != told:
                self._say(f"Waiting for the head at {self._hosts.place}: {reason}.")
                told = reason
            time.sleep(CALL_SECONDS)

    def _offer(self) -> Offer:
        return Offer(
            protocol_version=protocol_version(),
            name=socket.gethostname(),
            host=self._hosts.host,
            n_hosts=self._hosts.n_hosts,
            devices=self._config.devices,
            model=self._model,
            free_memory=psutil.virtual_memory().available,
        )

    def _serve(self, link: Connection) -> None:
        """Run the ranks that the head asks for.

        Raises:
            EOFError, OSError: the head has vanished.
            EngineError: a rank died or failed.
            UsageError: the head refuses this host.
        """
        match link.recv():
            case Refusal(what, why, fix):
                raise UsageError(what, why=why, fix=fix)
            case Start(setups):
                ready = self._prepared(setups, own_address(link))
                numbers = ", ".join(str(setup.rank) for setup in ready)
                self._say(f"Starting rank{'s' if len(ready) > 1 else ''} {numbers}.")
                with closing(LocalRanks(ready)) as ranks:
                    _pass_on(link, ranks)

    def _prepared(self, setups: Sequence[WorkerSetup], address: str) -> list[WorkerSetup]:
        """The setups that the head sent, with this host's own settings filled in."""
        plan = setups[0].plan
        try:
            check_host(plan, setups[0].routes, self._hosts.host, native_module())
        except SplitError as error:
            raise EngineError(error.what, why=error.why, fix=error.fix) from None
        shares = share_cores(plan, self._config, self._hosts.host)
        ready = []
        for setup in setups:
            try:
                kind = plan.shards[setup.rank].device.kind
                isa, _ = kernels_used(self._config.cpu_isa, kind, setup.dtype, self._config.card_kernels)
            except RowspanError as error:
                raise EngineError(error.what, why=error.why, fix=error.fix) from None
            if is_native(isa) != is_native(setup.cpu_isa):
                raise EngineError(
                    f"Its kernels are {isa}'s, the head's are {setup.cpu_isa}'s.",
                    why="Native kernels and torch's hold the cache in different types.",
                    fix="Install Rowspan with a C++ compiler on all hosts, and set ROWSPAN_CPU_ISA on all or on none.",
                )
            assert setup.between is not None, "the head says where ranks meet"
            between = replace(setup.between, address=address)
            cores, threads = shares[setup.rank]
            ready.append(
                replace(
                    setup,
                    model_path=self._config.model_path,
                    cpu_isa=isa,
                    cores=cores,
                    threads=threads,
                    between=between,
                )
            )
        return ready


def _pass_on(head: Connection, ranks: LocalRanks) -> None:
    """Pass orders to the ranks, and their messages to the head, until a rank or the head ends. Raises the same as
    `Agent._serve`.
    """
    counts = ranks.progress()
    head.send(Progress(counts))
    while True:
        readable = wait([head, *ranks.links], LOOK_SECONDS)
        for link in readable:
            assert isinstance(link, Connection)
            if link is head:
                ranks.send(head.recv())
            else:
                head.send(Said(*ranks.take(link)))
        if not readable and ranks.progress() != counts:
            counts = ranks.progress()
            head.send(Progress(counts))
