"""`rowspan doctor` and `rowspan devices` as their users meet them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from kit.recorded_rig import recorded_rigs, unpack
from typer.testing import CliRunner, Result

from rowspan.cli.main import app
from rowspan.errors import UsageError
from rowspan.rig import checks

HEAVY = ("torch", "numpy", "matplotlib", "httpx", "huggingface_hub", "psutil", "pynvml", "pydantic")
CHECKS = {file.stem.replace("_", ".") for file in Path(*checks.__path__).glob("[!_]*.py")}
"""Ids of all checks: each is a file, called after it."""
MAIN = "from rowspan.cli.main import main; main()"


def rowspan(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", MAIN, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def run(*arguments: object) -> Result:
    """In this process, which is quicker."""
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture
def debian(tmp_path: Path) -> Path:
    return unpack("dual-w7900-debian-no-p2p", tmp_path)


@pytest.mark.parametrize("command", ["doctor", "devices"])
def test_nothing_heavy_is_imported(command: str, debian: Path) -> None:
    told = f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    code = f"import atexit, sys; atexit.register(lambda: {told})"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; {MAIN}", command, "--root", str(debian)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.strip() == "[]"


def test_the_exit_status_follows_the_split(debian: Path) -> None:
    assert run("doctor", "--root", debian, "-sm", "row").exit_code == 1
    assert run("doctor", "--root", debian, "-sm", "none").exit_code == 0
    desktop = unpack("w7900-desktop-on-compute-card", debian / "other")
    assert run("doctor", "--root", desktop).exit_code == 0, "a note is no fault"
    done = rowspan("doctor", "--root", debian / "nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert "is no folder" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (["--root", "etc"], "holds no recorded machine"),
        (["--root", ".", "--report", "--json"], "exclude each other"),
        (["--root", ".", "--probe"], "recorded machine has no cards"),
        (["--root", ".", "--baseline", "check"], "recorded machine cannot be measured"),
    ],
)
def test_wrong_requests_are_explained(
    wrong: list[str], says: str, debian: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(debian)
    error = run("doctor", *wrong).exception
    assert isinstance(error, UsageError)
    assert says in str(error)
    assert error.fix


def test_a_page_for_people(debian: Path) -> None:
    page = run("doctor", "--root", debian, "-sm", "row").stdout
    assert page.index("amd.kcfg.p2p") < page.index("amd.iommu") < page.index("Unknown, because")
    first = page.splitlines()[:4]
    assert first[0].startswith("Findings: 3")
    assert [line.split()[:2] for line in first[1:]] == [
        ["BREAKS", "amd.kcfg.p2p:"],
        ["BREAKS", "amd.p2p.links:"],
        ["SLOW", "amd.iommu:"],
    ]
    assert "Not tried     comm.host" in page
    assert "Not here" not in page
    assert "Not here" in run("doctor", "--root", debian, "--all").stdout
    for part in (
        "CONFIG_PCI_P2PDMA, CONFIG_HSA_AMD_P2P",
        "Segmentation fault in hipMemcpy2DAsync",
        "$ sudo update-grub && sudo reboot",
        "Run it as root: sudo /",
        "Findings: 3, of which 3 matter to split mode row; 1 unknown",
    ):
        assert part in page
    assert "None" not in page


def test_one_check_is_explained(debian: Path) -> None:
    found = run("doctor", "amd.iommu", "--root", debian)
    assert found.exit_code == 1
    assert found.stdout.startswith("SLOW          IOMMU passes through")
    passed = run("doctor", "PCIE.AER", "--root", debian)
    assert passed.exit_code == 0
    assert passed.stdout.startswith("PASS          PCIe errors")
    for part in ("aer_dev_fatal", "Reseat the card", "pcieaer-howto"):
        assert part in passed.stdout
    error = run("doctor", "pcie", "--root", debian).exception
    assert isinstance(error, UsageError)
    assert "pcie.aer" in str(error)


@pytest.mark.parametrize("name", recorded_rigs())
@pytest.mark.parametrize("columns", [80, 140])
def test_pages_fit_the_terminal(name: str, columns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rowspan.cli.doctor.page_width", lambda: columns)
    lines = run("doctor", "--root", unpack(name, tmp_path), "-sm", "row").stdout.splitlines()
    whole = [line for line in lines if len(line) > columns]
    assert all("$ " in line or " " not in line[14:].strip() for line in whole)  # commands, and single long words


def test_json_holds_every_check(debian: Path) -> None:
    answer = json.loads(run("doctor", "--root", debian, "-sm", "row", "--json").stdout)
    assert answer["split_mode"] == "row"
    assert {check["id"] for check in answer["checks"]} == CHECKS
    first = answer["checks"][0]
    keys = ("id", "state", "impact", "sureness")
    assert [first[key] for key in keys] == ["amd.kcfg.p2p", "finding", "breaks", "high"]
    assert all(first[field] for field in ("evidence", "healthy", "symptom", "errors", "fix", "sources", "reads"))
    assert set(first["commands"]) == {"", "debian"}
    assert {check["state"] for check in answer["checks"]} == {
        "finding",
        "unknown",
        "pass",
        "not tried",
        "not applicable",
    }


def test_a_report_for_forums(debian: Path) -> None:
    (debian / "proc/sys/kernel/hostname").write_text("threadripper")  # part of the processor's name, as it happens
    done = run("doctor", "--root", debian, "-sm", "row", "--report")
    assert done.exit_code == 1
    assert done.stdout.startswith("## Rig report\n")
    assert "threadripper" not in done.stdout.lower()


def test_devices_of_a_recorded_machine(tmp_path: Path) -> None:
    folder = unpack("three-unequal-cards", tmp_path)
    page = run("devices", "--root", folder, "--sample", "5").stdout
    for part in ("NVIDIA GeForce RTX 4060 Ti", "16 GT/s x4", "chipset", "no CNS", "Links while watched"):
        assert part in page
    answer = json.loads(run("devices", "--root", folder, "--json").stdout)
    parts = {"system", "cpu", "memory", "cards", "peers", "unread", "kernels", "card_kernels", "samples"}
    assert parts == set(answer)
    assert [card["link"]["width"] for card in answer["cards"]] == [8, 8, 4]


def test_this_machine_is_examined_without_root() -> None:
    done = rowspan("doctor", "--json")
    assert done.returncode in (0, 1), done.stderr
    assert {check["id"] for check in json.loads(done.stdout)["checks"]} == CHECKS
