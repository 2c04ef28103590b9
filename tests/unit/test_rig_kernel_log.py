"""Known lines in a log of any length."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowspan.rig.checks import all_checks
from rowspan.rig.kernel_log import KEPT, Hits, LogPattern, blocks, scan
from rowspan.rig.root import NotPermitted, Root

PATTERNS = {check.id: check.log for check in all_checks() if check.log}
MES = "amdgpu 0000:03:00.0: amdgpu: MES failed to respond to msg=REMOVE_QUEUE"


def hits_of(text: str, check: str) -> Hits:
    return scan([text.encode()], PATTERNS)[check]


@pytest.mark.parametrize(
    ("line", "time"),
    [
        (f"[  203.051365] {MES}", "203.051365 s"),
        (f"2024-05-01T10:00:00+02:00 kernel: {MES}", "2024-05-01T10:00:00+02:00"),
        (f"2024-05-01T10:00:00+0200 lab kernel: {MES}", "2024-05-01T10:00:00+0200"),
        (f"2024-05-01T10:00:00,123456+02:00 {MES}", "2024-05-01T10:00:00,123456+02:00"),
        (f"May  1 10:00:00 lab kernel: [  203.05] {MES}", "May  1 10:00:00"),
        (MES, ""),
    ],
    ids=["dmesg", "journal", "journal with host", "dmesg iso", "syslog", "bare"],
)
def test_times_and_cards(line: str, time: str) -> None:
    (hit,) = hits_of(line, "amd.mes").latest
    assert (hit.time, hit.addresses, hit.message) == (time, ("0000:03:00.0",), MES)


@pytest.mark.parametrize(
    "message",
    [
        "amdgpu: MES failed to respond to msg=ADD_QUEUE",
        "[drm] *ERROR* MES failed to response msg=14",
        "amdgpu 0000:c3:00.0: amdgpu: failed to remove hardware queue from MES, doorbell=0x1802",
        "amdgpu: MES might be in unrecoverable state, issue a GPU reset",
        "[drm:amdgpu_mes_x [amdgpu]] *ERROR* MES ring buffer is full.",
        "[drm:amdgpu_mes_reg_write_reg_wait [amdgpu]] *ERROR* failed to reg_write_reg_wait",
        "amdgpu 0000:c5:00.0: amdgpu: ring gfx_0.0.0 timeout, signaled seq=1, emitted seq=3",
        "amdgpu 0000:c5:00.0: amdgpu: GPU reset begin!",
        "amdgpu 0000:c5:00.0: amdgpu: Failed to evict queue 1",
        "amdgpu 0000:c3:00.0: amdgpu: GCVM_L2_PROTECTION_FAULT_STATUS:0x00841051",
        "amdgpu 0000:03:00.0: amdgpu: SMU: I'm not done with your previous command: SMN_C2PMSG_66:0x12",
    ],
)
def test_each_of_amds_lines_is_known(message: str) -> None:
    assert hits_of(f"[ 1.0] {message}\n", "amd.mes").count == 1


@pytest.mark.parametrize(
    "message",
    [
        "amdgpu 0000:03:00.0: amdgpu: GPU reset succeeded, trying to resume",
        "amdgpu 0000:03:00.0: amdgpu: ring gfx_0.0.0 uses VM inv eng 0 on hub 0",
        "nvme nvme0: I/O 12 QID 3 timeout, aborting",
        "xhci_hcd 0000:02:00.0: ring buffer timeout in command ring",
        "pcieport 0000:00:01.1: AER: enabled with IRQ 28",
        "NVRM: loading NVIDIA UNIX x86_64 Kernel Module  550.107.02",
        "[drm] amdgpu: 49136M of VRAM memory ready",
    ],
)
def test_harmless_lines_are_no_hits(message: str) -> None:
    assert all(hits.count == 0 for hits in scan([f"[ 1.0] {message}\n".encode()], PATTERNS).values())


def test_many_hits_are_counted_and_the_latest_are_kept() -> None:
    hits = hits_of("".join(f"[ {second}.5] {MES}\n" for second in range(1000)), "amd.mes")
    assert hits.count == 1000
    assert [hit.time for hit in hits.latest] == [f"{second}.5 s" for second in range(1000 - KEPT, 1000)]


@given(
    lines=st.lists(
        st.sampled_from(["", "harmless", "MES", f"[ 1.5] {MES}", "NVRM: Xid (PCI:0000:82:00): 79, x"]), max_size=30
    ),
    size=st.integers(1, 90),
)
def test_it_does_not_matter_where_blocks_end(lines: list[str], size: int) -> None:
    text = "\n".join(lines).encode()
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    found = scan(pieces, PATTERNS)
    assert found == scan([text], PATTERNS)
    assert found["amd.mes"].count == lines.count(f"[ 1.5] {MES}")
    assert found["nv.xid"].count == sum("Xid" in line for line in lines)


def test_a_hundred_megabytes_are_read_in_bounded_memory(tmp_path: Path) -> None:
    quiet = b"".join(b"[%8d.000000] systemd[1]: Started session %d of user somebody.\n" % (n, n) for n in range(16_000))
    loud = b"".join(b"[%8d.250000] %s\n" % (n, MES.encode()) for n in range(100))
    path = tmp_path / "log/kernel"
    path.parent.mkdir()
    with path.open("wb") as file:
        file.write(loud)
        while file.tell() < 100_000_000:
            file.write(quiet)
        file.write(bytes(5_000_000) + b"\n" + loud)  # a damaged stretch without a line's end
    tracemalloc.start()
    hits = scan(blocks(Root(tmp_path)), PATTERNS)["amd.mes"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (hits.count, hits.latest[-1].time) == (200, "99.250000 s")
    assert peak < 8_000_000


def test_a_log_that_may_not_be_read_is_no_empty_log(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log/kernel").touch()
    (tmp_path / "not-permitted").write_text("/log/kernel")
    with pytest.raises(NotPermitted):
        list(blocks(Root(tmp_path)))


def program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def read_log() -> Iterator[bytes]:
    return blocks(Root())


def test_the_journal_is_asked_first_then_dmesg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin")
    program(tmp_path, "dmesg", "echo from dmesg")
    program(tmp_path, "journalctl", "echo from the journal")
    assert b"".join(read_log()) == b"from the journal\n"
    program(tmp_path, "journalctl", "exit 0")  # what it does without permission
    assert b"".join(read_log()) == b"from dmesg\n"
    program(tmp_path, "dmesg", "echo dmesg: read kernel buffer failed >&2; exit 1")
    with pytest.raises(NotPermitted) as refusal:
        list(read_log())
    assert "systemd-journal" in refusal.value.fix


def test_a_pattern_names_a_part_of_what_it_fits() -> None:
    assert all(isinstance(pattern, LogPattern) and pattern.literal for of in PATTERNS.values() for pattern in of)
