"""The doctor on recorded machines: what it must find, what it must not, what it cannot know."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.recorded_rig import recorded_rigs, unpack

from rowspan.plan.split_mode import SplitMode
from rowspan.rig.check import Check, CheckState, Impact, Machine, Need, Outcome
from rowspan.rig.checks import all_checks
from rowspan.rig.doctor import Diagnosis, examine
from rowspan.rig.probe.rig import probe
from rowspan.rig.probe.system import FAMILIES
from rowspan.rig.root import Root, Unreadable

CHECKS = {check.id: check for check in all_checks()}
RIGS = recorded_rigs()
WANTED = [
    "amd.kcfg.p2p",
    "amd.p2p.links",
    "amd.p2p.param",
    "amd.dkms.p2p",
    "amd.rebar",
    "amd.iommu",
    "amd.mes",
    "amd.queues",
    "amd.node",
    "amd.fw",
    "amd.idle",
    "amd.display",
    "amd.perms",
    "amd.igpu",
    "amd.gfxoverride",
    "amd.link",
    "amd.rccl",
    "nv.p2p",
    "nv.p2p.lie",
    "nv.xid",
    "nv.iommu",
    "nv.module",
    "pcie.slot",
    "pcie.width",
    "pcie.acs",
    "pcie.aer",
    "mem.shm",
    "mem.lock",
    "mem.ram",
    "cpu.gov",
    "numa",
    "env",
    "cpu.isa",
    "llamacpp.amx",
    "comm.shm",
    "comm.sockets",
    "comm.nccl",
    "comm.host",
]


def diagnose(name: str, folder: Path, split: SplitMode = SplitMode.ROW) -> Diagnosis:
    return examine(Root(unpack(name, folder)), list(CHECKS.values()), split)


def ids(diagnosis: Diagnosis, state: CheckState) -> list[str]:
    return [verdict.check.id for verdict in diagnosis.of(state)]


@pytest.fixture(scope="module")
def diagnoses(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Diagnosis]:
    """Of every rig, for a row split."""
    return {name: diagnose(name, tmp_path_factory.mktemp(name)) for name in RIGS}


@pytest.mark.parametrize("name", RIGS)
def test_a_rig_gives_exactly_these_findings_and_unknowns(name: str, diagnoses: dict[str, Diagnosis]) -> None:
    diagnosis = diagnoses[name]
    assert tuple(ids(diagnosis, CheckState.FINDING)) == RIGS[name].findings
    assert set(ids(diagnosis, CheckState.UNKNOWN)) == RIGS[name].unknown
    assert all(verdict.outcome.evidence and all(verdict.outcome.evidence) for verdict in diagnosis.verdicts)


def test_every_pitfall_has_its_check() -> None:
    assert sorted(CHECKS) == sorted(WANTED)


def test_every_check_is_seen_to_find_to_pass_and_not_to_know(diagnoses: dict[str, Diagnosis]) -> None:
    seen: dict[CheckState, set[str]] = {state: set() for state in CheckState}
    for diagnosis in diagnoses.values():
        for state in CheckState:
            seen[state].update(ids(diagnosis, state))
    tried = {"comm.shm", "comm.sockets", "comm.nccl", "comm.host"}  # in tests/unit/test_doctor_probe.py
    reported = {"amd.node", "amd.queues", "nv.iommu"}  # found in tests/unit/test_rig_reports.py
    assert set(CHECKS) - seen[CheckState.FINDING] == {"nv.p2p.lie"} | tried | reported  # the former in a test below
    assert (
        set(CHECKS) - seen[CheckState.PASS] == {"nv.p2p.lie", "amd.dkms.p2p", "llamacpp.amx", "amd.fw", "numa"} | tried
    )
    assert seen[CheckState.UNKNOWN] == set(CHECKS) - tried


@pytest.mark.parametrize("check", CHECKS.values(), ids=list(CHECKS))
def test_a_check_says_all_that_a_user_needs(check: Check) -> None:
    assert all((check.title, check.reads, check.healthy, check.symptom, check.fix.text, check.sources))
    assert all(source.startswith("https://") for source in check.sources)
    assert set(check.fix.commands) <= {"", *FAMILIES}
    assert set(FAMILIES) & set(check.fix.commands) in (set(), set(FAMILIES))  # for one distribution, for all


def test_findings_are_ranked_by_what_the_split_needs(tmp_path: Path) -> None:
    name = "dual-w7900-debian-no-p2p"
    concerned = {
        split: [v.check.id for v in diagnose(name, tmp_path / split, split).of(CheckState.FINDING) if v.concerns]
        for split in SplitMode
    }
    assert concerned == {
        SplitMode.ROW: ["amd.kcfg.p2p", "amd.p2p.links", "amd.iommu"],
        SplitMode.LAYER: ["amd.iommu"],
        SplitMode.NONE: [],
    }
    by_layer = diagnose(name, tmp_path / "again", SplitMode.LAYER)
    assert ids(by_layer, CheckState.FINDING) == ["amd.iommu", "amd.kcfg.p2p", "amd.p2p.links"]
    assert by_layer.exit_code == 1
    assert diagnose(name, tmp_path / "alone", SplitMode.NONE).exit_code == 0


def test_one_card_needs_no_peers(diagnoses: dict[str, Diagnosis]) -> None:
    verdicts = diagnoses["7900xtx-igpu-in-the-way"].verdicts
    assert {verdict.concerns for verdict in verdicts if verdict.check.need is not Need.ANY} == {False}
    assert {verdict.concerns for verdict in verdicts if verdict.check.need is Need.ANY} == {True}


def test_log_lines_carry_their_time_and_card(diagnoses: dict[str, Diagnosis]) -> None:
    (verdict,) = diagnoses["dual-7900xtx-mes-errors"].of(CheckState.FINDING)
    assert [hit.time for hit in verdict.outcome.hits][:2] == ["12034.818166 s", "12034.818171 s"]
    assert [hit.addresses for hit in verdict.outcome.hits][-2:] == [(), ("0000:23:00.0",)]
    assert verdict.outcome.evidence[0].startswith("the kernel's log since boot: 9 lines")


def test_errors_of_other_devices_are_no_fault_of_the_rig(diagnoses: dict[str, Diagnosis]) -> None:
    aer = next(v for v in diagnoses["dual-a6000-falling-off-the-bus"].verdicts if v.check.id == "pcie.aer")
    assert [hit.time for hit in aer.outcome.hits] == ["2024-08-01T11:40:10+00:00"] * 2
    assert all("0000:82:00.0" in hit.addresses for hit in aer.outcome.hits)


Change = Callable[[Path], None]


def write(path: str, text: str) -> Change:
    def change(folder: Path) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)

    return change


def replace(path: str, old: str, new: str) -> Change:
    def change(folder: Path) -> None:
        text = (folder / path).read_text()
        assert old in text
        (folder / path).write_text(text.replace(old, new))

    return change


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def remove(path: str) -> Change:
    return lambda folder: (folder / path).unlink()


CARD = "sys/bus/pci/devices/0000:03:00.0"
PORT = "sys/bus/pci/devices/0000:01:00.0"
HEALTHY, R9700, NVLINK = "dual-w7900-ubuntu-p2p", "dual-r9700-idle-burn", "dual-3090-nvlink"
UNLINKED = "dual-w7900-rebar-off"
CONFIG = "boot/config-6.8.0-45-generic"


@pytest.mark.parametrize(
    ("rig", "change", "check", "state"),
    [
        (UNLINKED, replace(CONFIG, "HSA_AMD_P2P=y", "HSA_AMD_P2P=m"), "amd.kcfg.p2p", CheckState.FINDING),
        (UNLINKED, replace(CONFIG, "CONFIG_DMABUF_MOVE_NOTIFY=y", ""), "amd.kcfg.p2p", CheckState.FINDING),
        (
            HEALTHY,
            replace(CONFIG, "HSA_AMD_P2P=y", "HSA_AMD_P2P=m"),
            "amd.kcfg.p2p",
            CheckState.PASS,
        ),  # links are the truth
        (HEALTHY, remove(CONFIG), "amd.kcfg.p2p", CheckState.UNKNOWN),
        (HEALTHY, write("proc/config.gz", "damaged"), "amd.kcfg.p2p", CheckState.PASS),
        (HEALTHY, write("sys/module/amdgpu/version", "6.16.13"), "amd.dkms.p2p", CheckState.PASS),
        (HEALTHY, write(f"{CARD}/iommu_group/type", "DMA"), "amd.iommu", CheckState.FINDING),
        (HEALTHY, write(f"{CARD}/mem_info_vis_vram_total", "none"), "amd.rebar", CheckState.UNKNOWN),
        (HEALTHY, write(f"{PORT}/current_link_width", "8"), "amd.link", CheckState.FINDING),
        (HEALTHY, write(f"{PORT}/current_link_width", "8"), "pcie.slot", CheckState.FINDING),
        (HEALTHY, write(f"{PORT}/current_link_speed", "2.5 GT/s PCIe"), "amd.link", CheckState.UNKNOWN),  # asleep?
        (HEALTHY, write(f"{PORT}/current_link_speed", "Unknown"), "amd.link", CheckState.UNKNOWN),
        (HEALTHY, write(f"{PORT}/aer_dev_correctable", "BadTLP 3\nTOTAL_ERR_COR 3"), "pcie.aer", CheckState.FINDING),
        (HEALTHY, write("opt/rocm/include/rccl/rccl.h", "no version"), "amd.rccl", CheckState.UNKNOWN),
        (HEALTHY, write("environ", "HSA_OVERRIDE_GFX_VERSION=11.0.0"), "amd.gfxoverride", CheckState.FINDING),
        (HEALTHY, remove("environ"), "env", CheckState.UNKNOWN),
        (HEALTHY, write("environ", "GGML_CUDA_P2P="), "env", CheckState.FINDING),
        (HEALTHY, write("etc/nccl.conf", "# nothing\n"), "env", CheckState.PASS),
        (HEALTHY, replace("proc/self/mounts", "inode64", "size=999999k"), "mem.shm", CheckState.PASS),
        (HEALTHY, replace("proc/self/mounts", "inode64", "size=900m"), "mem.shm", CheckState.FINDING),
        (HEALTHY, replace("proc/self/mounts", "/dev/shm", "/shm"), "mem.shm", CheckState.UNKNOWN),
        (HEALTHY, lambda folder: cut(folder / PORT / "config", 256), "pcie.acs", CheckState.PASS),  # no extended space
        (HEALTHY, lambda folder: cut(folder / PORT / "config", 64), "pcie.acs", CheckState.UNKNOWN),
        (HEALTHY, write("sys/fs/cgroup/memory.max", str(8 << 30)), "mem.ram", CheckState.FINDING),
        (HEALTHY, write("sys/devices/system/node/node1/cpulist", "24"), "numa", CheckState.PASS),
        (HEALTHY, remove("dev/kfd"), "amd.perms", CheckState.FINDING),
        (
            R9700,
            write("later/" + CARD + "/gpu_busy_percent", "0"),
            "amd.idle",
            CheckState.FINDING,
        ),  # the other burns on
        (
            R9700,
            write(f"{CARD}/fw_version/mes_fw_version", "0x0010308b"),
            "amd.fw",
            CheckState.FINDING,
        ),  # the other is old
        (NVLINK, remove("nvml.json"), "nv.p2p", CheckState.UNKNOWN),
        (NVLINK, remove("nvml.json"), "mem.ram", CheckState.UNKNOWN),
        (NVLINK, write("log/kernel", "NVRM: Xid (PCI:0000:41:00): 43, pid=1"), "nv.xid", CheckState.FINDING),
        ("cpu-only-server", replace("commands/llama-server", "12.2.0", "13.2.0"), "llamacpp.amx", CheckState.PASS),
        (
            "cpu-only-server",
            write("commands/llama-server", "built with clang version 11.0.1 for x"),
            "llamacpp.amx",
            CheckState.PASS,
        ),
        (
            "cpu-only-server",
            write("commands/llama-server", "built with GNU 12.2.0 for Linux"),
            "llamacpp.amx",
            CheckState.FINDING,
        ),
        ("cpu-only-server", write("commands/llama-server", "version 1"), "llamacpp.amx", CheckState.UNKNOWN),
    ],
)
def test_one_change_changes_the_answer(rig: str, change: Change, check: str, state: CheckState, tmp_path: Path) -> None:
    folder = unpack(rig, tmp_path)
    change(folder)
    machine = Machine(
        Root(folder), probe(Root(folder)), {check.id: check.log for check in CHECKS.values() if check.log}
    )
    assert CHECKS[check].examine(machine).state is state


def test_from_linux_7_2_on_an_option_is_not_asked_for(tmp_path: Path) -> None:
    folder = unpack(UNLINKED, tmp_path)
    for version, state in {
        "7.1.9-x": CheckState.FINDING,
        "7.2.0-x": CheckState.PASS,
        "10.0-x": CheckState.PASS,
    }.items():
        write("proc/sys/kernel/osrelease", version)(folder)
        write(f"boot/config-{version}", "CONFIG_PCI_P2PDMA=y\nCONFIG_HSA_AMD_P2P=y\n")(folder)
        assert CHECKS["amd.kcfg.p2p"].examine(Machine(Root(folder), probe(Root(folder)), {})).state is state


def with_firmware(folder: Path, version: str) -> Outcome:
    for card in ("0000:03:00.0", "0000:23:00.0"):
        for part in ("mes", "mes_kiq"):
            (folder / "sys/bus/pci/devices" / card / f"fw_version/{part}_fw_version").write_text(version)
    return CHECKS["amd.fw"].examine(Machine(Root(folder), probe(Root(folder)), {}))


def test_firmware_is_new_enough_from_8b_on(tmp_path: Path) -> None:
    folder = unpack(R9700, tmp_path)
    assert with_firmware(folder, "0x0000008a").state is CheckState.FINDING
    assert with_firmware(folder, "0x0000008b").state is CheckState.PASS
    assert with_firmware(folder, "0x00a0308b").state is CheckState.PASS  # the bits above are no part of the version


def copies(answers: Mapping[str, bool]) -> Callable[[], Mapping[str, bool]]:
    return lambda: answers


def dead() -> Mapping[str, bool]:
    raise Unreadable("copies between cards", "the child process did not end")


@pytest.mark.parametrize(
    ("tried", "state"),
    [
        (None, CheckState.UNKNOWN),
        (copies({"cuda:0 → cuda:1": True, "cuda:1 → cuda:0": True}), CheckState.PASS),
        (copies({"cuda:0 → cuda:1": True, "cuda:1 → cuda:0": False}), CheckState.FINDING),
        (dead, CheckState.UNKNOWN),
    ],
    ids=["not tried", "whole", "corrupted", "hangs"],
)
def test_copies_that_are_allowed_are_tried(
    tried: Callable[[], Mapping[str, bool]] | None, state: CheckState, tmp_path: Path
) -> None:
    root = Root(unpack(NVLINK, tmp_path))
    assert CHECKS["nv.p2p.lie"].examine(Machine(root, probe(root), {}, copies=tried)).state is state


@pytest.mark.parametrize(
    ("kernels", "state"),
    [
        (None, CheckState.PASS),
        (("amx", "avx512_bf16", "avx512", "torch"), CheckState.PASS),
        (("avx512_bf16", "avx512", "torch"), CheckState.FINDING),
    ],
)
def test_kernels_that_cannot_run_are_missed(kernels: tuple[str, ...] | None, state: CheckState, tmp_path: Path) -> None:
    root = Root(unpack("cpu-only-server", tmp_path))
    assert CHECKS["cpu.isa"].examine(Machine(root, probe(root), {}, kernels)).state is state


def test_the_impact_follows_what_was_found(tmp_path: Path) -> None:
    folder = unpack(NVLINK, tmp_path)
    write("log/kernel", "NVRM: Xid (PCI:0000:41:00): 31, pid=1\n")(folder)
    verdict = examine(Root(folder), [CHECKS["nv.xid"]], SplitMode.ROW).verdicts[0]
    assert verdict.impact is Impact.NOTE  # a fault of the program, not of the card
    write("log/kernel", "NVRM: Xid (PCI:0000:41:00): 79, pid=1\n")(folder)
    verdict = examine(Root(folder), [CHECKS["nv.xid"]], SplitMode.ROW).verdicts[0]
    assert verdict.impact is Impact.BREAKS
    assert "NVIDIA GeForce RTX 3090 (0000:41:00.0)" in " ".join(verdict.outcome.evidence)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda raw: b"",
    "cut": lambda raw: raw[: len(raw) // 2],
    "binary": lambda raw: bytes(range(256)),
    "negative": lambda raw: b"-1\n",
    "huge": lambda raw: b"9" * 5000,
    "words": lambda raw: b"no such thing\n" * 3,
    "twice": lambda raw: raw + raw,
}


@given(data=st.data())
@settings(max_examples=60)
def test_damaged_files_are_no_crash(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = unpack(data.draw(st.sampled_from(sorted(RIGS))), tmp_path_factory.mktemp("rig"))
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    for path in data.draw(st.lists(st.sampled_from(files), min_size=1, max_size=8, unique=True)):
        path.write_bytes(DAMAGES[data.draw(st.sampled_from(sorted(DAMAGES)))](path.read_bytes()))
    diagnosis = examine(Root(folder), list(CHECKS.values()), SplitMode.ROW)
    assert len(diagnosis.verdicts) == len(CHECKS)
    json.dumps(diagnosis.to_dict())


def test_a_module_that_gives_no_version_is_unknown(tmp_path: Path) -> None:
    folder = unpack("dual-4090-no-p2p", tmp_path)
    (folder / "proc/driver/nvidia/version").write_text("\n")
    diagnosis = examine(Root(folder), [CHECKS["nv.module"]], SplitMode.ROW)
    assert [verdict.check.id for verdict in diagnosis.of(CheckState.UNKNOWN)] == ["nv.module"]


def test_recorded_rigs_hold_no_address_of_a_person() -> None:
    text = "".join(body for rig in RIGS.values() for _, body in rig.sections)
    assert not re.search(r"[\w.]+@[\w.]+\.\w+|(?:[0-9a-f]{2}:){5}[0-9a-f]{2}", text)
