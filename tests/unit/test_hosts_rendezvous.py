"""Options and variables that say which hosts there are."""

from __future__ import annotations

import pytest

from rowspan.config import HostsConfig
from rowspan.errors import UsageError
from rowspan.hosts.rendezvous import hosts_config

KEY = {"ROWSPAN_CLUSTER_KEY": "0123456789abcdef"}
BY_HAND = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1234", "WORLD_SIZE": "3", "RANK": "2"}
BY_TORCHRUN = {
    **BY_HAND,
    "TORCHELASTIC_RUN_ID": "x",
    "TORCHELASTIC_USE_AGENT_STORE": "False",
    "GROUP_WORLD_SIZE": "3",
    "GROUP_RANK": "2",
    "LOCAL_WORLD_SIZE": "1",
}


@pytest.mark.parametrize(
    ("options", "environment", "wanted"),
    [
        ((2, 1, "10.0.0.1:7"), KEY, (2, 1, "10.0.0.1", 7)),
        ((2, 0, "head"), KEY, (2, 0, "head", 29400)),
        ((2, 0, "[fe80::1]:7"), KEY, (2, 0, "fe80::1", 7)),
        ((2, 0, "[fe80::1]"), KEY, (2, 0, "fe80::1", 29400)),
        ((None, None, None), KEY | BY_HAND, (3, 2, "10.0.0.1", 1234)),
        ((None, None, None), KEY | BY_TORCHRUN, (3, 2, "10.0.0.1", 1234)),
        ((None, None, "10.0.0.9:9"), KEY | BY_TORCHRUN, (3, 2, "10.0.0.9", 9)),
        ((2, 0, "10.0.0.9:9"), KEY | BY_HAND, (2, 0, "10.0.0.9", 9)),
        ((None, None, None), KEY | {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "a"}, (2, 1, "a", 29400)),
    ],
)
def test_hosts(
    options: tuple[int | None, int | None, str | None],
    environment: dict[str, str],
    wanted: tuple[int, int, str, int],
) -> None:
    assert hosts_config(*options, environment) == HostsConfig(*wanted, b"0123456789abcdef")


@pytest.mark.parametrize("environment", [{}, {"WORLD_SIZE": "1", "RANK": "0", "MASTER_ADDR": "a"}])
def test_one_host_needs_nothing(environment: dict[str, str]) -> None:
    assert hosts_config(None, None, None, environment) is None
    assert hosts_config(1, 0, None, environment) is None


@pytest.mark.parametrize(
    ("options", "environment", "word"),
    [
        ((2, 1, "10.0.0.1:7"), {}, "openssl"),
        ((2, 1, "10.0.0.1:7"), {"ROWSPAN_CLUSTER_KEY": "short"}, "5 characters"),
        ((2, 2, "10.0.0.1:7"), KEY, "none of 2 hosts"),
        ((2, None, "10.0.0.1:7"), KEY, "--node-rank"),
        ((2, 0, None), KEY, "--rdzv"),
        ((2, 0, "10.0.0.1:x"), KEY, "10.0.0.1:x"),
        ((2, 0, ":7"), KEY, ":7"),
        ((None, 1, None), KEY, "--nnodes"),
        ((None, None, "10.0.0.1:7"), KEY, "--nnodes"),
        ((None, None, None), KEY | BY_TORCHRUN | {"LOCAL_WORLD_SIZE": "2"}, "--nproc-per-node 1"),
        ((None, None, None), KEY | BY_HAND | {"WORLD_SIZE": "1:4"}, "1:4"),
    ],
)
def test_what_does_not_fit_is_said(
    options: tuple[int | None, int | None, str | None], environment: dict[str, str], word: str
) -> None:
    with pytest.raises(UsageError) as caught:
        hosts_config(*options, environment)
    assert word in str(caught.value)
    assert caught.value.fix
