"""What people reported of their machines, as changes to recorded ones: found, unknown, or a note, and no more."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from kit.recorded_rig import unpack

from rowspan.plan.split_mode import SplitMode
from rowspan.rig.check import CheckState, Impact
from rowspan.rig.checks import all_checks
from rowspan.rig.doctor import CheckVerdict, Diagnosis, examine
from rowspan.rig.probe import pci
from rowspan.rig.root import Root

CHECKS = all_checks()
W7900, R9700, A6000, RTX3090 = (
    *("dual-w7900-ubuntu-p2p", "dual-r9700-idle-burn"),
    *("dual-a6000-falling-off-the-bus", "dual-3090-nvlink"),
)
AMDGPU = "amdgpu 0000:03:00.0: amdgpu:"
KFD_NODES = "sys/class/kfd/kfd/topology/nodes"


def diagnose(folder: Path, split: SplitMode = SplitMode.ROW) -> Diagnosis:
    return examine(Root(folder), CHECKS, split)


def logged(rig: str, folder: Path, *lines: str, keep: bool = False) -> Path:
    """A recorded rig with these lines in its kernel's log."""
    log = unpack(rig, folder) / "log/kernel"
    log.parent.mkdir(exist_ok=True)
    before = log.read_text() if keep else ""
    log.write_text(before + "".join(f"[  812.{number:06}] {line}\n" for number, line in enumerate(lines)))
    return folder


def verdict(diagnosis: Diagnosis, check: str) -> CheckVerdict:
    return next(one for one in diagnosis.verdicts if one.check.id == check)


@pytest.mark.parametrize(
    "line",
    [
        f"{AMDGPU} MES(1) failed to respond to msg=REMOVE_QUEUE",
        f"{AMDGPU} MES(0) failed to respond to msg=MISC (WAIT_REG_MEM)",
        "amdgpu 0000:03:00.0: MES(1) failed to respond to msg=INVALIDATE_TLBS",
        f"{AMDGPU} MES(1) ring buffer is full.",
        "amdgpu: qcm fence wait loop timeout expired",
        "amdgpu: The cp might be in an unrecoverable state due to an unsuccessful queues preemption",
        f"{AMDGPU} HIQ MQD's queue_doorbell_id0 is not 0, Queue preemption time out",
        "amdgpu: Failed to evict process queues",
        f"{AMDGPU} GPU reset begin! and before it: ring comp_1.0.0 timeout, signaled seq=1",
    ],
)
def test_hangs_of_every_generation_are_found(line: str, tmp_path: Path) -> None:
    found = verdict(diagnose(logged(R9700, tmp_path, line)), "amd.mes")
    assert (found.outcome.state, found.impact) == (CheckState.FINDING, Impact.BREAKS)
    assert found.title.startswith("Hangs")


@pytest.mark.parametrize(
    ("line", "title", "impact"),
    [
        (f"{AMDGPU} VM_L2_PROTECTION_FAULT_STATUS:0x00E01030", "Memory faults", Impact.BREAKS),
        (f"{AMDGPU} [gfxhub0] no-retry page fault (src_id:0 ring:24)", "Memory faults", Impact.BREAKS),
        (f"{AMDGPU} GPU reset begin!", "Resets", Impact.NOTE),
    ],
)
def test_faults_and_resets_are_no_hangs(line: str, title: str, impact: Impact, tmp_path: Path) -> None:
    found = verdict(diagnose(logged(W7900, tmp_path, line)), "amd.mes")
    assert found.title.startswith(title)
    assert found.impact is impact


def test_too_many_queues_are_a_note(tmp_path: Path) -> None:
    line = "amdgpu: Runlist is getting oversubscribed. Expect reduced ROCm performance."
    diagnosis = diagnose(logged(W7900, tmp_path, line))
    found = verdict(diagnosis, "amd.queues")
    assert (found.outcome.state, found.impact, diagnosis.exit_code) == (CheckState.FINDING, Impact.NOTE, 0)
    assert "GPU_MAX_HW_QUEUES" in found.fix


@pytest.mark.parametrize("split", list(SplitMode))
def test_a_card_that_the_compute_driver_skips_is_missed(split: SplitMode, tmp_path: Path) -> None:
    line = "kfd kfd: amdgpu: skipped device 1002:7448, PCI rejects atomics 730<0"
    folder = logged(W7900, tmp_path, line)
    nodes = sorted(path.parent for path in (folder / KFD_NODES).glob("*/properties"))
    shutil.rmtree(nodes[-1])
    for links in (folder / KFD_NODES).glob("*/p2p_links"):
        shutil.rmtree(links)
    diagnosis = diagnose(folder, split)
    found = verdict(diagnosis, "amd.node")
    assert (found.outcome.state, found.impact, diagnosis.exit_code) == (CheckState.FINDING, Impact.BREAKS, 1)
    told = " ".join(found.outcome.evidence)
    assert "has no node for it (slot path 0000:" in told
    assert "does not pass PCIe atomics on" in told
    assert [hit.message for hit in found.outcome.hits] == [line]


@pytest.mark.parametrize(
    ("line", "kind", "impact"),
    [
        ("NVRM: Xid: 154, GPU recovery action changed to 0x2 (Node Reboot Required)", "reset needed", Impact.BREAKS),
        ("NVRM: Xid (PCI:0000:41:00): 154, GPU recovery action changed to 0x1 (GPU Reset Required)", "GPU Reset", 3),
        ("NVRM: Xid (PCI:0000:41:00): 45, pid=4242, name=llama-server, Ch 00000008", "a program's fault", Impact.NOTE),
        ("NVRM: Xid (PCI:0000:41:00): 13, pid=4242, Graphics SM Warp Exception", "a program's fault", Impact.NOTE),
        ("NVRM: Xid (0000:41:00): 31, Ch 0000000b, engmask 00000120", "a program's fault", Impact.NOTE),
        ("NVRM: Xid (PCI:0000:41:00): 62, pid='<unknown>', 0000(0000)", "the card", Impact.BREAKS),
        ("NVRM: Xid (PCI:0000:41:00): 94, pid=1, Contained: SM (0x1)", "the card", Impact.BREAKS),
        ("NVRM: Xid (PCI:0000:41:00): 149, NETIR_LINK_EVT", "NVLink", Impact.BREAKS),
        ("NVRM: Xid (PCI:0000:41:00): 120, GSP task panic", "driver or firmware", Impact.BREAKS),
        ("NVRM: Xid (PCI:0000:41:00): 999, new", "see NVIDIA's catalog", Impact.BREAKS),
    ],
)
def test_xids_have_their_meaning(line: str, kind: str, impact: Impact, tmp_path: Path) -> None:
    diagnosis = diagnose(logged(RTX3090, tmp_path, line))
    found = verdict(diagnosis, "nv.xid")
    assert kind in " ".join(found.outcome.evidence)
    assert found.impact == impact
    assert diagnosis.exit_code == int(impact > Impact.NOTE)


@pytest.mark.parametrize("kind", ["DMA", "DMA-FQ", "identity"])
def test_an_iommu_that_translates_under_nvidia_cards(kind: str, tmp_path: Path) -> None:
    folder = unpack(RTX3090, tmp_path)
    for card in nvidia_cards(folder):
        (card / "iommu_group").mkdir(exist_ok=True)
        (card / "iommu_group/type").write_text(kind)
    wanted = CheckState.PASS if kind == "identity" else CheckState.FINDING
    assert verdict(diagnose(folder), "nv.iommu").outcome.state is wanted
    assert not verdict(diagnose(folder, SplitMode.LAYER), "nv.iommu").concerns


def nvidia_cards(folder: Path) -> list[Path]:
    found = [path for path in sorted((folder / "sys/bus/pci/devices").iterdir()) if (path / "vendor").exists()]
    return [
        path
        for path in found
        if (path / "vendor").read_text().strip() == "0x10de" and (path / "class").read_text().startswith("0x03")
    ]


@pytest.mark.parametrize("rig", [RTX3090, "dual-4090-no-p2p"])
def test_two_cards_on_one_lane_each_are_not_well_because_they_are_equal(rig: str, tmp_path: Path) -> None:
    folder = unpack(rig, tmp_path)
    for card in nvidia_cards(folder):
        (card / "current_link_width").write_text("1")
        (card / "current_link_speed").write_text("2.5 GT/s PCIe")
    diagnosis = diagnose(folder, SplitMode.LAYER)
    found = verdict(diagnosis, "pcie.width")
    assert (found.outcome.state, found.impact, diagnosis.exit_code) == (CheckState.FINDING, Impact.SLOW, 1)


def test_a_single_card_in_a_narrow_slot_is_told_of(tmp_path: Path) -> None:
    folder = unpack("three-unequal-cards", tmp_path)
    first, *others = nvidia_cards(folder)
    for other in others:
        other.unlink()  # out of the list of PCI devices
    assert verdict(diagnose(folder), "pcie.width").outcome.state is CheckState.PASS
    (first / "current_link_width").write_text("1")
    assert verdict(diagnose(folder), "pcie.width").outcome.state is CheckState.FINDING


Change = Callable[[Path], object]
FLOOD = [
    f"pcieport 0000:00:1c.4: AER: Correctable error message received from 0000:05:00.{number % 8}"
    for number in range(400)
]


def without_counters(folder: Path) -> Path:
    for counters in folder.rglob("aer_dev_*"):
        counters.unlink()
    return folder


def test_a_flood_about_another_device_hides_nothing(tmp_path: Path) -> None:
    folder = without_counters(logged(A6000, tmp_path, *FLOOD, keep=True))
    found = verdict(diagnose(folder), "pcie.aer")
    assert found.outcome.state is CheckState.FINDING
    assert len(found.outcome.hits) == 2
    assert all("0000:82:00.0" in hit.addresses for hit in found.outcome.hits)


@pytest.mark.parametrize(
    "lines",
    [
        [
            "{359}[Hardware Error]: event severity: corrected",
            "{359}[Hardware Error]:  section_type: PCIe error",
            "{359}[Hardware Error]:   device_id: CARD",
        ],
        ["nvidia CARD: AER: PCIe Bus Error: severity=Uncorrectable (Fatal), type=Transaction Layer"],
        ["nvidia CARD: PCIe Bus Error: severity=Corrected, type=Data Link Layer, (Receiver ID)"],
        ["pcieport PORT: DPC: containment event, status:0x1f01 source:0x0000"],
        ["pcieport PORT: pciehp: Slot(1): Link Down"],
        ["nvidia CARD: AER: can't recover (no error_detected callback)"],
    ],
)
def test_errors_in_every_spelling_are_found(lines: list[str], tmp_path: Path) -> None:
    folder = without_counters(unpack(A6000, tmp_path))
    port, *_, card = pci.root_path(Root(folder), "0000:82:00.0")
    (folder / "log/kernel").write_text("\n".join(lines).replace("CARD", card).replace("PORT", port))
    assert verdict(diagnose(folder), "pcie.aer").outcome.state is CheckState.FINDING
    others = "\n".join(lines).replace("CARD", "0000:05:00.0").replace("PORT", "0000:00:1c.4")
    (folder / "log/kernel").write_text(others)
    assert verdict(diagnose(folder), "pcie.aer").outcome.state is CheckState.PASS


@pytest.mark.parametrize("option", ["pci=noaer", "pci=nommconf,noaer", "pcie_ports=compat"])
def test_errors_that_are_not_reported_are_unknown(option: str, tmp_path: Path) -> None:
    folder = without_counters(logged(RTX3090, tmp_path))
    cmdline = folder / "proc/cmdline"
    assert verdict(diagnose(folder), "pcie.aer").outcome.state is CheckState.PASS
    cmdline.write_text(f"{cmdline.read_text().strip()} {option}\n")
    unknown = verdict(diagnose(folder), "pcie.aer")
    assert unknown.outcome.state is CheckState.UNKNOWN
    assert "errors are not reported" in " ".join(unknown.outcome.evidence)


def test_several_nodes_of_one_processor_are_one_place(tmp_path: Path) -> None:
    folder = unpack(W7900, tmp_path)
    for node in range(4):
        place = folder / f"sys/devices/system/node/node{node}"
        place.mkdir(parents=True, exist_ok=True)
        (place / "cpulist").write_text(f"{node * 12}-{node * 12 + 11}")
        core = folder / f"sys/devices/system/cpu/cpu{node * 12}/topology"
        core.mkdir(parents=True, exist_ok=True)
        (core / "physical_package_id").write_text("0")
    cards = [path for path in (folder / "sys/bus/pci/devices").iterdir() if (path / "numa_node").exists()]
    for number, card in enumerate(cards):
        (card / "numa_node").write_text(str(number % 4))
    assert verdict(diagnose(folder), "numa").outcome.state is CheckState.PASS
    (folder / "sys/devices/system/cpu/cpu12/topology/physical_package_id").write_text("1")
    assert verdict(diagnose(folder), "numa").outcome.state is CheckState.FINDING


def test_llama_cpp_that_is_not_here_is_no_riddle(tmp_path: Path) -> None:
    folder = unpack("cpu-only-server", tmp_path)
    assert verdict(diagnose(folder), "llamacpp.amx").outcome.state is not CheckState.NOT_APPLICABLE
    (folder / "commands/llama-server").unlink()
    assert verdict(diagnose(folder), "llamacpp.amx").outcome.state is CheckState.NOT_APPLICABLE


def test_access_control_is_switched_off_on_the_bridges_that_have_it(tmp_path: Path) -> None:
    for name in ("dual-w7900-neglected-server", "dual-a6000-falling-off-the-bus"):
        found = verdict(diagnose(unpack(name, tmp_path / name)), "pcie.acs")
        if found.outcome.state is CheckState.FINDING:
            commands = [line for lines in found.commands_for("debian").values() for line in lines]
            assert commands
            assert all("BRIDGE" not in line and "setpci -s 0000:" in line for line in commands)
            return
    raise AssertionError("no recorded rig has access control on")
