"""The head, before hosts that are made up: whom it waits for, whom it refuses, what it makes of their words."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from kit.gguf_builder import TinyModel
from kit.http_server import eventually

from rowspan.checkpoint.fingerprint import ModelStamp, model_stamp
from rowspan.comm.probing import trusted
from rowspan.config import EngineConfig, HostsConfig
from rowspan.engine.blueprint import make_blueprint
from rowspan.engine.ranks import PeersLostError
from rowspan.errors import EngineError, SplitError, UsageError
from rowspan.hosts import head as head_module
from rowspan.hosts.head import Head
from rowspan.hosts.host_messages import Failure, Offer, Progress, Refusal, Said, Start, protocol_version
from rowspan.hosts.link import call
from rowspan.hosts.remote_ranks import RemoteRanks
from rowspan.kernels.isa import native_module
from rowspan.model.open_checkpoint import open_checkpoint, read_spec
from rowspan.plan.device import Device
from rowspan.plan.routes import Transport, choose_routes
from rowspan.plan.shard import Plan
from rowspan.plan.split import split
from rowspan.plan.split_mode import SplitMode

KEY = b"0123456789abcdef"
MODEL = ModelStamp("tiny.gguf", 1000, "abc")
OFFER = Offer(protocol_version(), "b", 1, 2, (Device("cpu", 0, 1),), MODEL, 1 << 30)


@pytest.fixture
def config() -> HostsConfig:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return HostsConfig(2, 0, "127.0.0.1", free.getsockname()[1], KEY)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def head(config: HostsConfig, said: list[str]) -> Iterator[Head]:
    with Head(config, MODEL, said.append) as head:
        yield head


def offer(config: HostsConfig, **changes: Any) -> Connection:
    link = call((config.address, config.port), KEY)
    link.send(replace(OFFER, **changes))
    return link


def test_it_waits_and_says_for_whom(head: Head, config: HostsConfig, said: list[str]) -> None:
    with ThreadPoolExecutor(1) as pool:
        gathered = pool.submit(head.gather)
        assert eventually(lambda: bool(said))
        assert f"--nnodes 2 --node-rank 1 --rdzv {config.place}" in said[0]
        assert not gathered.done()
        with offer(config):
            assert gathered.result(10) == [OFFER]
    assert said[1:] == ["Host 1 (b, 127.0.0.1) has joined with 1/cpu:0."]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"protocol_version": "Rowspan 0.0.1 on Python 3.11"}, ["Rowspan 0.0.1", protocol_version()]),
        ({"host": 0}, ["--node-rank 0"]),
        ({"host": 2}, ["--node-rank 2", "1 to 1"]),
        ({"n_hosts": 3}, ["--nnodes 3", "--nnodes 2"]),
        ({"model": replace(MODEL, digest="abd")}, ["another model file", "(b, 127.0.0.1)"]),
        ({"model": replace(MODEL, nbytes=1001)}, ["another model file"]),
    ],
)
def test_hosts_that_do_not_fit_are_refused(
    head: Head, config: HostsConfig, said: list[str], changes: dict[str, Any], words: list[str]
) -> None:
    with offer(config, **changes) as link:
        refusal = link.recv()
    assert isinstance(refusal, Refusal)
    assert refusal.fix
    assert all(word in f"{refusal.what} {refusal.why} {refusal.fix}" for word in words)
    assert eventually(lambda: bool(said))
    with offer(config, model=replace(MODEL, name="another name for the same")):
        assert len(head.gather()) == 1, "the next one is welcome"


def test_a_number_is_one_hosts_own(head: Head, config: HostsConfig, said: list[str]) -> None:
    with offer(config):
        head.gather()
        with offer(config, name="c") as link:
            assert "number of another host" in link.recv().what
        with offer(config, devices=(Device("cpu", 0, 1), Device("cpu", 1, 1))) as link:
            assert "came back with 1/cpu:0, 1/cpu:1" in link.recv().what
        with offer(config):  # started again, before the head knows that its link is gone
            assert eventually(lambda: sum("joined" in line for line in said) == 2)


def test_a_host_that_is_away_is_an_error_and_not_for_ever(
    head: Head, config: HostsConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_module, "RETURN_SECONDS", 1.0)
    path = TinyModel().write(tmp_path / "tiny.gguf")
    devices = (Device("cpu", 0), *OFFER.devices)
    setups = make_blueprint(EngineConfig(path, devices=devices), [1 << 34]).setups()
    with offer(config) as link:
        head.gather()
    with pytest.raises(EngineError) as caught:
        head.start(setups)
    assert "Host 1 (b) is away" in str(caught.value)

    with offer(config) as link:
        head.gather()
        parts = head.start(setups)
        started = link.recv()
        assert isinstance(started, Start)
        assert [setup.rank for setup in started.setups] == [1]
        assert [len(part.links) for part in parts] == [1, 1]
        for part in reversed(parts):
            part.close()
        with pytest.raises(EOFError):
            link.recv()
    began = time.monotonic()
    with pytest.raises(EngineError):  # it may take a moment to come back, which is waited for
        head.start(setups)
    assert 0.5 < time.monotonic() - began < 5


def test_an_address_that_cannot_be_had_is_found_at_once(config: HostsConfig, head: Head) -> None:
    for wrong in (config, replace(config, address="192.0.2.1")):
        with pytest.raises(UsageError) as caught:
            Head(wrong, MODEL, print)
        assert "--rdzv" in caught.value.fix


def test_another_hosts_ranks() -> None:
    ours, theirs = Pipe()
    closed: list[bool] = []
    ranks = RemoteRanks("Host 1 (b)", ours, [], lambda: closed.append(True))
    assert theirs.recv() == Start(())
    assert ranks.is_whole
    theirs.send(Said(3, "ready"))
    assert ranks.take(ours) == (3, "ready")
    theirs.send(Progress({3: 7}))
    assert ranks.is_whole, "news between steps are no end"
    assert ranks.progress() == {3: 7}
    theirs.send(Failure("Rank 3 ran out of memory.", "", "Use less.", lost_peers=False))
    with pytest.raises(EngineError) as caught:
        ranks.take(ours)
    assert str(caught.value) == "Host 1 (b): Rank 3 ran out of memory. Use less."
    theirs.send(Failure("A rank of another host hung up.", "", "", lost_peers=True))
    with pytest.raises(PeersLostError):
        ranks.take(ours)
    theirs.close()
    with pytest.raises(EngineError, match="hung up"):
        ranks.take(ours)
    assert not ranks.is_whole
    ranks.close()
    assert closed


def test_a_stamp_is_of_what_is_in_the_file(tmp_path: Path) -> None:
    def stamp(name: str, content: bytes) -> ModelStamp:
        path = tmp_path / name
        path.write_bytes(content)
        return model_stamp(open_checkpoint(path))

    content = TinyModel(n_layers=4).to_bytes()
    first = stamp("one.gguf", content)
    assert first.is_same(stamp("two.gguf", content))
    assert not first.is_same(stamp("fine-tuned.gguf", TinyModel(n_layers=4, seed=1).to_bytes()))
    assert not first.is_same(stamp("renamed.gguf", TinyModel(n_layers=4, name="Tony").to_bytes()))
    assert not first.is_same(stamp("longer.gguf", content + b"\0"))


def test_the_tightest_host_decides_on_the_cache(tmp_path: Path) -> None:
    path = TinyModel(n_layers=4).write(tmp_path / "tiny.gguf")
    config = EngineConfig(
        path, devices=(Device("cpu", 0), Device("cpu", 0, 1), Device("cpu", 1, 1)), split_mode=SplitMode.ROW
    )
    roomy, tight = make_blueprint(config, [1 << 34]), make_blueprint(config, [1 << 21])
    assert [str(shard.device) for shard in tight.plan.shards] == ["cpu:0", "1/cpu:0", "1/cpu:1"]
    assert [shard.stage for shard in tight.plan.shards] == [0, 1, 1]
    there = sum(size.cache_per_token for size in tight.sizes[1:])
    used = tight.cache.n_blocks * config.block_size * there + sum(size.weights for size in tight.sizes[1:])
    assert tight.cache.n_blocks < roomy.cache.n_blocks
    assert used < 1 << 21


def test_what_crosses_to_another_host_takes_another_way(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(TinyModel().write(tmp_path / "tiny.gguf"))
    spec = read_spec(checkpoint)

    def ways(*devices: Device) -> list[Transport]:
        chosen = choose_routes(split(spec, checkpoint.tensors, devices, SplitMode.ROW), native=True)
        return [route.transport for route in (*chosen.groups, *chosen.links) if route is not None]

    def on_two_hosts(kind: str) -> list[Device]:
        return [Device(kind, index, host) for host in range(2) for index in range(2)]

    assert ways(*on_two_hosts("cpu")) == [Transport.SHARED, Transport.SHARED, Transport.GLOO]
    assert ways(*on_two_hosts("cuda")) == [Transport.NCCL] * 3
    assert ways(Device("cuda", 0), Device("cuda", 1), Device("cpu", 0, 1)) == [Transport.NCCL, Transport.GLOO]


def test_each_host_tries_its_own_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = open_checkpoint(TinyModel().write(tmp_path / "tiny.gguf"))
    spec = read_spec(checkpoint)
    devices = [Device("cpu", 0), Device("cpu", 0, 1), Device("cpu", 1, 1)]
    plan = split(spec, checkpoint.tensors, devices, SplitMode.ROW)
    tried: list[list[str]] = []

    def broken(part: Plan, native: Any) -> dict[Transport, str]:
        tried.append([str(shard.device) for shard in part.shards])
        return {Transport.SHARED: "rank 1 returned wrong data"}

    monkeypatch.setattr(trusted, "_known_or_probed", broken)
    routes = trusted.trusted_routes(plan, native_module())
    assert [route.transport for route in routes.links] == [Transport.GLOO]
    with pytest.raises(SplitError, match="shm cannot be trusted here"):
        trusted.check_host(plan, choose_routes(plan, native=True), 1, native_module())
    trusted.check_host(plan, choose_routes(plan, native=False), 1, native_module())
    assert tried == [["cpu:0"], ["cpu:0", "cpu:1"], ["cpu:0", "cpu:1"]]
