"""`rowspan serve` on several hosts: the head's part and the others'."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NoReturn

from rowspan.config import EngineConfig, HostsConfig
from rowspan.engine.open import Blueprint, draw_up
from rowspan.engine.ranks import StartRanks
from rowspan.errors import UsageError
from rowspan.plan.split import SplitMode


@contextmanager
def gathered(
    hosts: HostsConfig, config: EngineConfig, split_mode: str | None
) -> Iterator[tuple[Blueprint, StartRanks]]:
    """The head: wait for the others, and decide what runs where. split_mode: as typed, if it was."""
    from rowspan.checkpoint.open import open_checkpoint
    from rowspan.checkpoint.stamp import model_stamp
    from rowspan.hosts.head import Head

    if split_mode == SplitMode.NONE:
        raise UsageError("--split-mode none uses one device only.", fix="Use layer or row, or leave out --nnodes.")
    if split_mode is None:
        config = replace(config, split_mode=SplitMode.LAYER)
    with Head(hosts, model_stamp(open_checkpoint(config.model_path)), say) as head:
        offers = head.gather()
        devices = (*config.devices, *(device for offer in offers for device in offer.devices))
        blueprint = draw_up(replace(config, devices=devices), [offer.free_memory for offer in offers])
        at_work = {shard.device.host for shard in blueprint.plan.shards}
        if idle := set(range(hosts.n_hosts)) - at_work:
            raise UsageError(
                f"Host {min(idle)} would have nothing to do.", fix="Leave out --n-gpu-layers, or the host."
            )
        yield blueprint, head.start


def serve_head(hosts: HostsConfig, config: EngineConfig) -> NoReturn:
    """Another host: run ranks for the head until told to stop."""
    import signal
    import sys

    from rowspan.hosts.agent import Agent

    signal.signal(signal.SIGINT, lambda signum, frame: sys.exit(128 + signum))  # as for SIGTERM
    Agent(hosts, config, say).run()


def say(line: str) -> None:
    """To people at the terminal, or in the log."""
    from rowspan.cli.console_output import stderr_console

    stderr_console().print(line, markup=False, highlight=False)
