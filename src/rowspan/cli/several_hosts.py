"""`rowspan serve` on several hosts: the head's part, and that of the other hosts."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NoReturn

from rowspan.backends.choose import Choice
from rowspan.backends.native import NativeBackend
from rowspan.backends.protocol import BackendName, ModelFormat, Setup
from rowspan.checkpoint.fingerprint import model_stamp
from rowspan.cli.console_output import stderr_console
from rowspan.config import HostsConfig
from rowspan.engine.blueprint import make_blueprint
from rowspan.errors import UsageError
from rowspan.hosts.agent import Agent
from rowspan.hosts.head import Head
from rowspan.model.open_checkpoint import open_checkpoint
from rowspan.plan.split_mode import SplitMode


@contextmanager
def gathered(hosts: HostsConfig, backend: BackendName | None, setup: Setup) -> Iterator[Choice]:
    """On the head: wait for the other hosts, and decide what runs where.

    Args:
        backend: the backend that the user asked for.

    Raises:
        RowspanError: this cannot run on several hosts.
    """
    if backend not in (None, BackendName.NATIVE) or setup.model.format != ModelFormat.GGUF:
        raise UsageError(
            "Only the native engine runs on several hosts.", fix="Use --backend native and a GGUF file, or one host."
        )
    config = setup.engine
    if "split_mode" not in setup.given:
        config = replace(config, split_mode=SplitMode.LAYER)
    elif config.split_mode is SplitMode.NONE:
        raise UsageError("--split-mode none uses one device only.", fix="Use layer or row, or leave out --nnodes.")
    with Head(hosts, model_stamp(open_checkpoint(config.model_path)), say) as head:
        offers = head.gather()
        devices = (*config.devices, *(device for offer in offers for device in offer.devices))
        blueprint = make_blueprint(replace(config, devices=devices), [offer.free_memory for offer in offers])
        at_work = {shard.device.host for shard in blueprint.plan.shards}
        if idle := set(range(hosts.n_hosts)) - at_work:
            raise UsageError(f"Host {min(idle)} would have nothing to do.", fix="Leave out the host, or -ngl.")
        yield Choice(NativeBackend(blueprint, start=head.start))


def serve_head(hosts: HostsConfig, setup: Setup) -> NoReturn:
    """On another host: run ranks for the head until told to stop."""
    signal.signal(signal.SIGINT, lambda signum, frame: sys.exit(128 + signum))  # exit as for SIGTERM
    Agent(hosts, setup.engine, say).run()


def say(line: str) -> None:
    """Print a line for people at the terminal, or for the log."""
    stderr_console().print(line, markup=False, highlight=False)
