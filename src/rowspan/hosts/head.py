"""The head: listens for the other hosts, and has them start their ranks."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection

from rowspan.checkpoint.fingerprint import ModelStamp
from rowspan.comm.meeting import HostStore
from rowspan.config import HostsConfig
from rowspan.engine.local_ranks import LocalRanks
from rowspan.engine.ranks import Ranks
from rowspan.errors import EngineError, UsageError
from rowspan.hosts.host_messages import Offer, Refusal, protocol_version
from rowspan.hosts.link import answer
from rowspan.hosts.remote_ranks import RemoteRanks
from rowspan.plan.shard import Plan
from rowspan.worker.messages import WorkerSetup

log = logging.getLogger(__name__)

RETURN_SECONDS = 10.0
"""How long a host that has lost its ranks may take to come back before requests are refused: it needs 5 s to notice, 5
s to end ranks that do not obey, and then calls again.
"""


@dataclass(frozen=True)
class _Caller:
    """A host that has called, and waits for work."""

    offer: Offer
    link: Connection
    address: str

    def __str__(self) -> str:
        return f"Host {self.offer.host} ({self.offer.name}, {self.address})"

    @property
    def is_there(self) -> bool:
        """Whether the host is still connected. It sends nothing while it waits, so anything readable means that it has
        hung up.
        """
        try:
            return not self.link.poll()
        except OSError:
            return False


class Head:
    """The head's part in a group of hosts. Use it in a `with` block: it listens, in a thread of its own."""

    def __init__(self, config: HostsConfig, model: ModelStamp, say: Callable[[str], None]) -> None:
        """Begin to listen.

        Args:
            say: called with lines that tell people at the terminal what is being waited for.

        Raises:
            UsageError: the address is not this host's, or in use.
        """
        self._config = config
        self._model = model
        self._say = say
        self._callers: dict[int, _Caller] = {}
        self._known: dict[int, Offer] = {}  # the offers for which the plan was made
        self._left_at = 0.0  # when ranks of other hosts last ended
        self._changed = threading.Condition()
        try:
            self._listener = socket.create_server((config.address, config.port), family=_family(config.address))
        except OSError as error:
            raise UsageError(
                f"Cannot listen for the other hosts on {config.place}.",
                why=f"The system says: {error.strerror or error}.",
                fix="--rdzv is an address of this host, which the others reach, and a free port.",
            ) from None
        self._thread = threading.Thread(target=self._listen, name="rowspan-hosts", daemon=True)
        self._thread.start()

    def gather(self) -> list[Offer]:
        """Wait until every host has called, however long that takes; returns their offers, host 1 first."""
        told: list[int] = []
        with self._changed:
            while missing := self._missing():
                if missing != told:
                    for host in missing:
                        self._say(
                            f"Waiting for host {host} of {self._config.n_hosts}: start `rowspan serve` there with "
                            f"--nnodes {self._config.n_hosts} --node-rank {host} --rdzv {self._config.place}."
                        )
                    told = missing
                self._changed.wait(1.0)
            self._known = {host: caller.offer for host, caller in self._callers.items()}
        return [self._known[host] for host in self._others]

    def start(self, setups: Sequence[WorkerSetup]) -> list[Ranks]:
        """See `StartRanks`."""
        callers = self._take_callers()
        plan = setups[0].plan
        parts: list[Ranks] = []
        try:
            with socket.create_server((self._config.address, 0), family=_family(self._config.address)) as store:
                between = HostStore(self._config.address, store.getsockname()[1], -1, self._config.address)
                for host, caller in callers.items():
                    theirs = [replace(setup, between=between) for setup in _on_host(setups, plan, host)]
                    parts.append(RemoteRanks(str(caller), caller.link, theirs, self._note_leaving))
                runs_store = replace(between, listener=store.fileno())
                talks = _last_lead_here(plan)
                ours = [
                    replace(setup, between=runs_store if setup.rank == talks else between)
                    for setup in _on_host(setups, plan, 0)
                ]
                parts.append(LocalRanks(ours))
        except BaseException:
            for part in parts:
                part.close()
            for caller in callers.values():
                caller.link.close()
            raise
        return parts

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that listens
        self._listener.close()
        self._thread.join()
        with self._changed:
            for caller in self._callers.values():
                caller.link.close()
            self._callers.clear()

    def __enter__(self) -> Head:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def _others(self) -> range:
        return range(1, self._config.n_hosts)

    def _missing(self) -> list[int]:
        """Numbers of hosts that have not called, or have left again."""
        for host, caller in list(self._callers.items()):
            if not caller.is_there:
                caller.link.close()
                del self._callers[host]
        return [host for host in self._others if host not in self._callers]

    def _take_callers(self) -> dict[int, _Caller]:
        """All hosts that wait; hosts that have just lost their ranks get a moment to call again.

        Raises:
            EngineError: a host is missing.
        """
        with self._changed:
            while missing := self._missing():
                left = self._left_at + RETURN_SECONDS - time.monotonic()
                if left <= 0:
                    who = ", ".join(f"{host} ({self._known[host].name})" for host in missing)
                    raise EngineError(
                        f"Host {who} is away.",
                        why="It was stopped, lost power, or cannot be reached any more.",
                        fix="Requests work again as soon as `rowspan serve` runs there and reaches this host.",
                    )
                self._changed.wait(min(left, 1.0))
            callers, self._callers = self._callers, {}
        return dict(sorted(callers.items()))

    def _note_leaving(self) -> None:
        self._left_at = time.monotonic()

    def _listen(self) -> None:
        while True:
            try:
                caller, (address, *_) = self._listener.accept()
            except OSError:
                return  # the listener is closed
            # Each caller has a thread of its own: one that stays silent must not keep the others waiting.
            threading.Thread(target=self._answer, args=(caller, address), daemon=True).start()

    def _answer(self, end: socket.socket, address: str) -> None:
        try:
            link = answer(end, self._config.key)
            offer = link.recv()
        except AuthenticationError:
            log.warning("%s called with another ROWSPAN_CLUSTER_KEY.", address)
            return
        except (EOFError, OSError) as error:
            log.warning("%s called and was not understood: %s", address, error)
            return
        caller = _Caller(offer, link, address)
        with self._changed:
            refusal = self._refusal(caller)
            if refusal is None:
                if offer.host in self._callers:
                    self._callers[offer.host].link.close()  # the same host, started again
                self._callers[offer.host] = caller
                self._say(f"{caller} has joined with {', '.join(map(str, offer.devices))}.")
                self._changed.notify_all()
                return
        self._say(f"{caller} was refused: {refusal.what} {refusal.why}")
        with contextlib.suppress(OSError):
            link.send(refusal)
        link.close()

    def _refusal(self, caller: _Caller) -> Refusal | None:
        offer, mine = caller.offer, self._config
        if offer.protocol_version != protocol_version():
            return Refusal(
                f"{caller} runs {offer.protocol_version}.",
                f"The head runs {protocol_version()}.",
                "Install the same on all hosts.",
            )
        if offer.n_hosts != mine.n_hosts or offer.host not in self._others:
            return Refusal(
                f"{caller} was started with --nnodes {offer.n_hosts} --node-rank {offer.host}.",
                f"The head was started with --nnodes {mine.n_hosts} --node-rank 0.",
                f"Number the other hosts 1 to {mine.n_hosts - 1}.",
            )
        if not offer.model.is_same(self._model):
            return Refusal(
                f"{caller} has another model file: {offer.model.name}, {offer.model.nbytes} bytes.",
                f"The head has {self._model.name}, {self._model.nbytes} bytes; size, header or weights differ.",
                "Copy the head's file to that host.",
            )
        known = self._known.get(offer.host)
        if known is not None and known.devices != offer.devices:
            return Refusal(
                f"{caller} came back with {', '.join(map(str, offer.devices))}.",
                f"The model was split for {', '.join(map(str, known.devices))}.",
                "Start it with the same --devices as before, or start the head anew.",
            )
        present = self._callers.get(offer.host)
        if present is not None and present.offer.name != offer.name and present.is_there:
            return Refusal(
                f"{caller} has the number of another host.",
                f"{present} was here first.",
                "Give every host its own --node-rank.",
            )
        return None


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _on_host(setups: Sequence[WorkerSetup], plan: Plan, host: int) -> list[WorkerSetup]:
    return [setup for setup in setups if plan.shards[setup.rank].device.host == host]


def _last_lead_here(plan: Plan) -> int:
    """The head's rank that communicates with the next host's: it runs the store in which they meet."""
    return max(shard.rank for shard in plan.shards if not shard.device.host and not shard.tp_rank)
