"""Transports are tried in processes of their own; those that lie, hang or die are named, and the next ones used."""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil
import pytest
from kit.bare_plan import plan_of
from kit.leftovers import leftovers

from rowspan.comm.probing import supervise, trusted
from rowspan.comm.probing.exercises import Act, exercises
from rowspan.comm.probing.plan import bare_plan
from rowspan.comm.probing.supervise import Fault, NotProbed, probe_routes
from rowspan.errors import SplitError, UsageError
from rowspan.kernels.isa import native_module
from rowspan.plan.device import Device, parse_devices
from rowspan.plan.routes import Route, Routes, Transport, choose_routes
from rowspan.plan.shard import Plan
from rowspan.rig import copies

NATIVE = native_module()
pytestmark = pytest.mark.skipif(NATIVE is None, reason="native kernels: none here")
SHM, SOCKETS, NCCL, HOST = Transport.SHARED, Transport.SOCKETS, Transport.NCCL, Transport.HOST
CARDS = (Device("cuda", 0), Device("cuda", 1))


@pytest.fixture(autouse=True)
def _nothing_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROWSPAN_PROBES", str(tmp_path / "probes.json"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def routes_of(plan: Plan, transport: Transport) -> Routes:
    groups = (Route(transport, "") if len(plan.stage(stage)) > 1 else None for stage in range(plan.n_stages))
    return Routes(tuple(groups), (Route(transport, ""),) * (plan.n_stages - 1))


def break_transport(monkeypatch: pytest.MonkeyPatch, transport: str, fault: str) -> None:
    script = Path(__file__).parents[1] / "kit" / "faulty_probe.py"
    monkeypatch.setattr(supervise, "COMMAND", (sys.executable, str(script), transport, fault))


@pytest.mark.parametrize(
    ("ranks_per_stage", "transport", "tensors"),
    [
        ((2,), SHM, False),
        ((2, 1), SHM, False),
        ((1, 2), SOCKETS, False),
        ((3,), SOCKETS, False),
        ((1, 2), HOST, True),
    ],
)
def test_sound_transports_pass(ranks_per_stage: tuple[int, ...], transport: Transport, tensors: bool) -> None:
    plan = plan_of(*ranks_per_stage)
    with leftovers() as left:
        assert probe_routes(plan, routes_of(plan, transport), NATIVE, tensors=tensors) is None
    assert not left()


def test_every_call_is_tried_at_a_tokens_size_and_a_prompts() -> None:
    plan = plan_of(2, 1)
    tried = exercises(plan, routes_of(plan, SHM))
    for act in Act:
        sizes = [each.nbytes for each in tried if each.act is act]
        assert (min(sizes), max(sizes)) == (16 << 10, 16 << 20)
    assert all(each.rounds > 1 for each in tried if each.nbytes <= 2 << 20)
    assert not exercises(plan_of(1), Routes((None,), ()))


WRONG = "rank 1 returned wrong data on it: 1 of 65536 words are wrong: word 77 is 0x"


@pytest.mark.parametrize(
    ("transport", "ranks_per_stage", "fault", "says"),
    [
        (SHM, (2,), "flip", WRONG),
        (SHM, (1, 1), "flip", WRONG),
        (SOCKETS, (2,), "flip", WRONG),
        (SOCKETS, (1, 1), "flip", WRONG),
        (SHM, (2,), "kill", "rank 1 was killed by signal 9"),
        (SOCKETS, (1, 1), "kill", "rank 1 was killed by signal 9"),
        (SOCKETS, (2,), "raise", "rank 1 ended with status 1 RuntimeError: peer access is not supported"),
        (SHM, (2,), "hang", "no end in 5 s"),
        (SOCKETS, (1, 1), "hang", "no end in 5 s"),
    ],
)
def test_a_fault_is_named(
    transport: Transport, ranks_per_stage: tuple[int, ...], fault: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault == "hang":
        monkeypatch.setattr(supervise, "SECONDS", 5.0)
    break_transport(monkeypatch, transport, fault)
    plan = plan_of(*ranks_per_stage)
    with leftovers() as left:
        found = probe_routes(plan, routes_of(plan, transport), NATIVE)
    assert found is not None
    assert found.transport is transport
    act = "all-reduce" if len(ranks_per_stage) == 1 else "hand-over"
    assert found.what.startswith(f"{act} of 256 KiB between ranks 0, 1: {says}")
    assert not left()


def test_a_trial_that_cannot_start_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "COMMAND", (sys.executable, "-c", "import sys; sys.exit('no such library')"))
    plan = plan_of(2)
    fault = probe_routes(plan, routes_of(plan, SHM), NATIVE)
    assert fault == Fault(SHM, "joining: rank 0 ended with status 1 no such library") or fault == Fault(
        SHM, "joining: rank 1 ended with status 1 no such library"
    )


def test_a_card_that_is_not_there_is_no_fault_of_a_transport() -> None:
    plan = plan_of(2, kind="cuda", first=90)
    with pytest.raises(NotProbed, match="no cuda:9"):
        probe_routes(plan, routes_of(plan, NCCL), NATIVE)


def test_no_rank_of_a_trial_outlives_who_started_it(tmp_path: Path) -> None:
    """Killed while a rank hangs."""
    script = Path(__file__).parents[1] / "kit" / "faulty_probe.py"
    code = f"""
import sys
sys.path.insert(0, {str(script.parents[1])!r})
from kit.bare_plan import plan_of
from rowspan.comm.probing import supervise
from rowspan.kernels.isa import native_module
from rowspan.plan.routes import Route, Routes, Transport
supervise.COMMAND = (sys.executable, {str(script)!r}, "shm", "hang")
supervise.probe_routes(plan_of(2), Routes((Route(Transport.SHARED, ""),), ()), native_module())
"""
    with psutil.Popen([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)}) as starter:
        ranks: list[psutil.Process] = []
        while len(ranks) < 2:
            ranks = starter.children()
        starter.kill()
    gone, alive = psutil.wait_procs(ranks, 10)
    assert len(gone) == 2
    assert not alive


# What is used then


def test_the_next_path_is_used_and_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    break_transport(monkeypatch, SHM, "flip")
    with caplog.at_level(logging.INFO):
        routes = trusted.trusted_routes(plan_of(2, 1), NATIVE)
    assert routes.transports == (SOCKETS,)
    assert routes.probed
    assert routes.groups[0] is not None
    assert (
        "shm is switched off: all-reduce of 256 KiB between ranks 0, 1: rank 1 returned wrong" in routes.groups[0].why
    )
    (warning,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith("shm is switched off, ranks use sockets: all-reduce of 256 KiB between ranks 0, 1")
    assert "rowspan doctor --probe" in warning


def test_no_path_left_is_an_error_and_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trusted, "probe_routes", lambda plan, routes, native: Fault(routes.transports[0], "lies"))
    with pytest.raises(SplitError, match=r"cpu:0, cpu:1.*shm: lies; sockets: lies"):
        trusted.trusted_routes(plan_of(2), NATIVE)
    monkeypatch.setattr(trusted, "probe_routes", lambda plan, routes, native: None)
    assert trusted.trusted_routes(plan_of(2), NATIVE).transports == (SHM,)


@pytest.mark.parametrize(
    ("kind", "native", "ways"),
    [("cuda", True, (NCCL, HOST, SOCKETS)), ("cuda", False, (NCCL, SOCKETS)), ("cpu", True, (SHM, SOCKETS))],
)
def test_paths_in_the_order_of_speed(kind: str, native: bool, ways: tuple[Transport, ...]) -> None:
    broken: dict[Transport, str] = {}
    for way in ways:
        (route,) = choose_routes(plan_of(1, 1, kind=kind), native=native, broken=broken).links
        assert route.transport is way
        assert all(f"{transport} is switched off: lies" in route.why for transport in broken)
        broken[way] = "lies"
    with pytest.raises(SplitError):
        choose_routes(plan_of(1, 1, kind=kind), native=native, broken=broken)


@pytest.mark.parametrize(
    ("answer", "variables", "first"),
    [
        ({"cuda:0 → cuda:1": True, "cuda:1 → cuda:0": True}, {}, NCCL),
        ({"cuda:0 → cuda:1": True, "cuda:1 → cuda:0": False}, {}, HOST),
        ({"cuda:0 → cuda:2": False, "cuda:1 → cuda:0": True}, {}, NCCL),
        ({"cuda:0 → cuda:1": False}, {"NCCL_P2P_DISABLE": "1"}, NCCL),
    ],
)
def test_nccl_is_not_trusted_over_copies_that_lie(
    answer: dict[str, bool], variables: dict[str, str], first: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trusted, "probe_routes", lambda plan, routes, native: None)
    monkeypatch.setattr(copies, "try_copies", lambda: answer)
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    faults = trusted.find_faults(plan_of(2, kind="cuda"), NATIVE)
    assert choose_routes(plan_of(2, kind="cuda"), native=True, broken=faults).transports == (first,)


# What is remembered


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """Plans that were tried."""
    tried: list[Plan] = []
    monkeypatch.setattr(trusted, "probe_routes", lambda plan, routes, native: tried.append(plan))
    return tried


def test_a_verdict_is_remembered_for_its_circumstances(trials: list[Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    assert not trusted.known_routes(plan_of(2), NATIVE).probed
    for _ in range(2):
        assert trusted.trusted_routes(plan_of(2), NATIVE).probed
    assert trusted.known_routes(plan_of(2), NATIVE).probed
    assert len(trials) == 1
    trusted.trusted_routes(plan_of(1, 1), NATIVE)
    assert len(trials) == 2, "another topology"
    circumstances = trusted.circumstances_of(plan_of(2), NATIVE)
    for change in ("kernel", "rowspan", "topology"):
        monkeypatch.setattr(trusted, "circumstances_of", lambda plan, native, c=change: {**circumstances, c: "other"})
        trusted.trusted_routes(plan_of(2), NATIVE)
    assert len(trials) == 5
    trusted.forget()
    trusted.trusted_routes(plan_of(2), NATIVE)
    assert len(trials) == 6


def test_a_fault_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    def lying(plan: Plan, routes: Routes, native: Any) -> Fault | None:
        return Fault(SHM, "lies") if routes.uses(SHM) else None

    monkeypatch.setattr(trusted, "probe_routes", lying)
    trusted.trusted_routes(plan_of(2), NATIVE)
    monkeypatch.setattr(trusted, "probe_routes", None)
    assert trusted.known_routes(plan_of(2), NATIVE).transports == (SOCKETS,)
    assert trusted.trusted_routes(plan_of(2), NATIVE).transports == (SOCKETS,)


@pytest.mark.parametrize("damage", ["", "[]", '{"a": 1}', "\0", "{"])
def test_a_damaged_memory_is_probed_over(
    damage: str, trials: list[Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "folder" / "probes.json"
    monkeypatch.setenv("ROWSPAN_PROBES", str(path))
    path.parent.mkdir()
    path.write_text(damage)
    for _ in range(2):
        assert trusted.trusted_routes(plan_of(2), NATIVE).probed
    assert len(trials) == 1
    assert [file.name for file in path.parent.iterdir()] == ["probes.json"]
    (kept,) = [entry for entry in json.loads(path.read_text()).values() if isinstance(entry, dict)]
    assert kept["faults"] == {}
    assert {"kernel", "rowspan", "topology"} <= set(kept["circumstances"])


def test_a_memory_that_cannot_be_written_only_costs_time(
    trials: list[Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ROWSPAN_PROBES", str(tmp_path / "file" / "probes.json"))
    for _ in range(2):
        assert trusted.trusted_routes(plan_of(2), NATIVE).probed
    assert len(trials) == 2


def test_topologies_are_not_remembered_without_end(
    trials: list[Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trusted, "REMEMBERED", 3)
    for rows in range(2, 8):
        trusted.trusted_routes(plan_of(rows), NATIVE)
    assert len(json.loads((tmp_path / "probes.json").read_text())) == 3
    assert trusted.known_routes(plan_of(7), NATIVE).probed


def test_ranks_that_share_a_card_talk_through_the_host() -> None:
    """NCCL refuses two ranks on one card, and counts all cards of a plan as one world."""
    card, other = CARDS
    for stages in ([[card, card]], [[card], [card]], [[card, card], [other]]):
        assert choose_routes(bare_plan(stages), native=True).transports == (HOST,)
    assert choose_routes(bare_plan([[card], [other]]), native=True).transports == (NCCL,)
    assert parse_devices("cuda:0,cuda:0") == (card, card)
    with pytest.raises(UsageError, match="named twice"):
        parse_devices("cpu:0,cpu:0")
