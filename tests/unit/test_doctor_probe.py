"""`rowspan doctor --probe` tries what ranks of this machine talk by, and says what is wrong with it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from kit.recorded_rig import unpack
from typer.testing import CliRunner

from rowspan.cli.main import app
from rowspan.comm.probing import each_transport, supervise, trusted
from rowspan.comm.probing.supervise import NotProbed
from rowspan.kernels.isa import native_module
from rowspan.plan.routes import Transport
from rowspan.plan.split_mode import SplitMode
from rowspan.rig.check import CheckState
from rowspan.rig.checks import all_checks
from rowspan.rig.doctor import examine
from rowspan.rig.root import Root, Unreadable

FAULTY = Path(__file__).parents[1] / "kit" / "faulty_probe.py"
needs_native = pytest.mark.skipif(native_module() is None, reason="native kernels: none here")


def probed(*options: str) -> tuple[int, dict[str, Any]]:
    """Exit status, and checks by their ids."""
    done = CliRunner().invoke(app, ["doctor", "--probe", "--json", *options])
    return done.exit_code, {check["id"]: check for check in json.loads(done.stdout)["checks"]}


@needs_native
def test_a_sound_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ROWSPAN_PROBES", str(tmp_path / "probes.json"))
    trusted.remember({"a": "machine"}, {})
    _, checks = probed()
    assert [checks[f"comm.{name}"]["state"] for name in ("shm", "sockets")] == ["pass", "pass"]
    assert checks["comm.shm"]["evidence"] == [
        "cpu:0, cpu:1 by row, sums and gathers of 16 KiB to 16 MiB: as sent",
        "cpu:0, cpu:1 by layer, hand-overs of 16 KiB to 16 MiB: as sent",
    ]
    assert trusted.recall({"a": "machine"}) is None, "engines probe anew, too"


@needs_native
def test_a_lie_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "COMMAND", (sys.executable, str(FAULTY), "shm", "flip"))
    status, checks = probed()
    assert status == 1
    shm = checks["comm.shm"]
    assert (shm["state"], shm["impact"]) == ("finding", "breaks")
    assert "rank 1 returned wrong data on it: 1 of 65536 words" in shm["evidence"][0]
    assert shm["symptom"]
    assert "sockets meanwhile" in shm["fix"]
    assert checks["comm.sockets"]["state"] == "pass"


def states(
    folder: Path, name: str, tried: Mapping[Transport, str | Unreadable]
) -> tuple[dict[str, CheckState], list[Any]]:
    """Of a recorded machine's transports, as if it could be tried."""
    asked = []

    def probe_transport(transport: Transport, n_cards: int) -> Mapping[str, str]:
        asked.append((transport, n_cards))
        answer = tried.get(transport, "")
        if isinstance(answer, Unreadable):
            raise answer
        return {"by row": "", "by layer": answer}

    checks = [check for check in all_checks() if check.id.startswith("comm.")]
    diagnosis = examine(Root(unpack(name, folder)), checks, SplitMode.ROW, transports=probe_transport)
    return {verdict.check.id: verdict.outcome.state for verdict in diagnosis.verdicts}, asked


def test_cards_are_tried_with_all_of_them(tmp_path: Path) -> None:
    no_torch = Unreadable("host", "torch sees 0 cards")
    found, asked = states(tmp_path, "dual-4090-no-p2p", {Transport.NCCL: "lies", Transport.HOST: no_torch})
    assert found == {
        "comm.nccl": CheckState.FINDING,
        "comm.host": CheckState.UNKNOWN,
        "comm.shm": CheckState.PASS,
        "comm.sockets": CheckState.PASS,
    }
    assert dict(asked) == {Transport.NCCL: 2, Transport.HOST: 2, Transport.SHARED: 0, Transport.SOCKETS: 0}


def test_a_machine_without_cards_has_none_to_try(tmp_path: Path) -> None:
    found, _ = states(tmp_path, "cpu-only-server", {})
    assert found["comm.nccl"] == found["comm.host"] == CheckState.NOT_APPLICABLE


@pytest.mark.parametrize(
    ("transport", "n_cards", "stages"),
    [
        (Transport.NCCL, 3, [["cuda:0,cuda:1,cuda:2"], ["cuda:0", "cuda:1", "cuda:2"]]),
        (Transport.HOST, 1, [["cuda:0", "cpu:0"]]),
        (Transport.HOST, 2, [["cuda:0,cuda:1"], ["cuda:0", "cuda:1", "cpu:0"]]),
    ],
)
def test_cards_are_tried_by_row_and_by_layer(
    transport: Transport, n_cards: int, stages: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def probe_routes(plan: Any, routes: Any, native: Any) -> None:
        assert routes.transports == (transport,)
        tried.append([",".join(str(shard.device) for shard in plan.stage(stage)) for stage in range(plan.n_stages)])

    monkeypatch.setattr(each_transport, "probe_routes", probe_routes)
    assert set(each_transport.probe_transport(transport, n_cards, object()).values()) == {""}
    assert tried == stages


def test_what_cannot_be_tried_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unreadable, match="no native module"):
        each_transport.probe_transport(Transport.SHARED, 0, None)

    def refuse(plan: Any, routes: Any, native: Any) -> None:
        raise NotProbed("torch sees 0 cards")

    monkeypatch.setattr(each_transport, "probe_routes", refuse)
    with pytest.raises(Unreadable, match="torch sees 0 cards"):
        each_transport.probe_transport(Transport.NCCL, 2, None)
