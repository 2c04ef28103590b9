"""What is in a machine: recorded ones, this one, and NVIDIA's library as its package presents it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from kit.recorded_rig import unpack

from rowspan.rig.probe import nvml
from rowspan.rig.probe.cards import Peer
from rowspan.rig.probe.cpu import probe_cpu, probe_memory
from rowspan.rig.probe.nvml import NvmlCard, NvmlPeer
from rowspan.rig.probe.pci import Lanes
from rowspan.rig.probe.rig import Rig, probe
from rowspan.rig.probe.sample import LinkSample, sample_links
from rowspan.rig.root import Root, Unreadable

MEBI = 1 << 20


def rig(name: str, folder: Path) -> Rig:
    return probe(Root(unpack(name, folder)))


def test_an_amd_card_with_all_that_its_driver_tells(tmp_path: Path) -> None:
    found = rig("dual-r9700-idle-burn", tmp_path)
    card = found.cards[0]
    assert (card.vendor, card.arch, card.address, card.integrated) == ("AMD", "gfx1201", "0000:03:00.0", False)
    assert card.name == "AMD gfx1201 [1002:7551]"  # no name on the card, and no list of names on this machine
    assert (card.memory_total, card.memory_visible, card.memory_free) == (32624 * MEBI, 32624 * MEBI, 32597 * MEBI)
    assert (card.driver, card.render_node) == ("amdgpu (in-tree)", "/dev/dri/renderD128")
    assert dict(card.firmware) == {"mes": "0x00000083", "mes_kiq": "0x00000083", "vbios": "113-D7070100-100"}
    assert (card.busy, card.watts, card.watts_limit, card.celsius) == (100, 112.0, 300.0, 34.0)
    assert (card.displays, card.numa_node, card.lanes) == ((), -1, Lanes.CPU)
    assert found.unread == ()


def test_the_link_is_that_of_the_cards_own_upstream_port(tmp_path: Path) -> None:
    narrow = rig("dual-w7900-neglected-server", tmp_path).cards[1].link
    assert narrow is not None
    assert (narrow.port, narrow.width) == ("0000:21:00.0", 4)  # the GPU's own function claims x16
    assert (narrow.max_width, narrow.slot_width, narrow.best_width) == (16, 8, 8)
    assert (narrow.speed, narrow.best_speed) == (16.0, 16.0)


def test_lanes_of_processor_and_chipset(tmp_path: Path) -> None:
    assert [card.lanes for card in rig("three-unequal-cards", tmp_path).cards] == [Lanes.CPU, Lanes.CPU, Lanes.CHIPSET]


def test_names_come_from_the_card_or_from_the_systems_list(tmp_path: Path) -> None:
    assert rig("dual-w7900-ubuntu-p2p", tmp_path / "a").cards[0].name == "AMD Radeon PRO W7900"
    names = {card.name for card in rig("dual-7900xtx-mes-errors", tmp_path / "b").cards}
    assert names == {"AMD Navi 31 [Radeon RX 7900 XT/7900 XTX/7900 GRE/7900M] [1002:744c]"}


def test_graphics_of_the_processor_are_told_from_cards(tmp_path: Path) -> None:
    found = rig("7900xtx-igpu-in-the-way", tmp_path)
    assert [(card.arch, card.integrated) for card in found.cards] == [("gfx1100", False), ("gfx1036", True)]
    assert [card.arch for card in found.compute_cards] == ["gfx1100"]
    assert found.cards[1].displays == ("HDMI-A-1",)


def test_peers_of_each_kind(tmp_path: Path) -> None:
    first, second = "0000:03:00.0", "0000:23:00.0"
    expected = {
        "dual-w7900-ubuntu-p2p": (True, "PCIe"),
        "dual-w7900-debian-no-p2p": (False, ""),
        "container-nothing-mounted": (None, ""),
    }
    for name, (direct, how) in expected.items():
        peers = rig(name, tmp_path / name).peers
        assert peers == (Peer(first, second, direct, how), Peer(second, first, direct, how))
    assert {(peer.direct, peer.how) for peer in rig("dual-3090-nvlink", tmp_path / "n").peers} == {(True, "NVLink")}
    assert {(peer.direct, peer.how) for peer in rig("dual-4090-no-p2p", tmp_path / "c").peers} == {(False, "CNS")}


def test_what_may_not_be_read_is_listed(tmp_path: Path) -> None:
    assert rig("sandbox-without-sys", tmp_path / "a").unread == ("/sys/bus/pci/devices: missing",)
    found = rig("container-nothing-mounted", tmp_path / "b")
    assert found.unread == ("/sys/class/kfd/kfd/topology/nodes/0/properties: not permitted",)
    assert [card.arch for card in found.cards] == [None, None]


def test_without_nvidias_library_there_is_still_the_driver(tmp_path: Path) -> None:
    folder = unpack("dual-3090-nvlink", tmp_path)
    (folder / "nvml.json").unlink()
    information = folder / "proc/driver/nvidia/gpus/0000:41:00.0/information"
    information.parent.mkdir(parents=True)
    information.write_text("Model: \t\t NVIDIA GeForce RTX 3090\nIRQ:   \t\t 136\n")
    found = probe(Root(folder))
    assert [card.name for card in found.cards] == ["NVIDIA GeForce RTX 3090", "NVIDIA card [10de:2204]"]
    assert {card.driver for card in found.cards} == {"nvidia 550.107.02 (proprietary)"}
    assert {peer.direct for peer in found.peers} == {None}
    assert "/nvml.json: missing" in found.unread


def test_the_processor(tmp_path: Path) -> None:
    cpu = rig("cpu-only-server", tmp_path).cpu
    assert (cpu.model, cpu.cores, cpu.sockets, cpu.numa_nodes) == ("Intel(R) Xeon(R) Gold 6454S", 128, 2, 2)
    assert {"avx512_vnni", "amx_int8"} <= set(cpu.flags)


def test_this_machine() -> None:
    cpu, memory = probe_cpu(), probe_memory()
    assert cpu.model
    assert cpu.cores == len(os.sched_getaffinity(0))
    assert 0 < memory.free <= memory.total
    assert probe(Root()).system.kernel == os.uname().release


def test_a_containers_limit_is_the_memory_it_has(tmp_path: Path) -> None:
    folder = unpack("cpu-only-server", tmp_path)
    limits = folder / "sys/fs/cgroup"
    limits.mkdir(parents=True)
    (limits / "memory.max").write_text("max")
    assert probe_memory(Root(folder)).total == 512 << 30
    (limits / "memory.max").write_text(str(8 << 30))
    (limits / "memory.current").write_text(str(3 << 30))
    assert probe_memory(Root(folder)).total == 8 << 30
    assert probe_memory(Root(folder)).free == 5 << 30


def test_a_machine_of_damaged_files_is_no_crash(tmp_path: Path) -> None:
    folder = unpack("dual-w7900-ubuntu-p2p", tmp_path)
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and path.name not in ("vendor", "class"):
            path.write_bytes(b"\xff\x00 damaged: \n" * 3)
    found = probe(Root(folder))
    assert [card.memory_total for card in found.cards] == [None, None]


def test_links_are_watched_over_time(tmp_path: Path) -> None:
    folder = unpack("dual-4090-no-p2p", tmp_path)
    later = folder / "later/sys/bus/pci/devices/0000:41:00.0"
    later.mkdir(parents=True)
    (later / "current_link_speed").write_text("16.0 GT/s PCIe\n")
    (folder / "later/nvml.json").write_text((folder / "nvml.json").read_text().replace('"busy": 0', '"busy": 97'))
    root = Root(folder)
    assert sample_links(root, probe(root).cards, 30.0) == [
        LinkSample("0000:41:00.0", 2.5, 16.0, 16, 97),
        LinkSample("0000:61:00.0", 2.5, 2.5, 16, 97),
    ]


class NvmlError(Exception):
    pass


def fake_pynvml(**changes: Any) -> ModuleType:
    """The package nvidia-ml-py, with two cards; it has no idea of the second's power."""

    def power(handle: int) -> int:
        if handle == 1:
            raise NvmlError("Not Supported")
        return 22_500

    functions: dict[str, Any] = {
        "NVMLError": NvmlError,
        "NVML_TEMPERATURE_GPU": 0,
        "NVML_CLOCK_SM": 1,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlSystemGetDriverVersion": lambda: b"550.107.02",
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetName": lambda handle: "NVIDIA GeForce RTX 3090",
        "nvmlDeviceGetPciInfo": lambda handle: SimpleNamespace(busId=f"00000000:{'C1' if handle else '41'}:00.0"),
        "nvmlDeviceGetCudaComputeCapability": lambda handle: (8, 6),
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(total=24 << 30, used=1 << 30),
        "nvmlDeviceGetBAR1MemoryInfo": lambda handle: SimpleNamespace(bar1Total=32 << 30),
        "nvmlDeviceGetPowerUsage": power,
        "nvmlDeviceGetEnforcedPowerLimit": lambda handle: 350_000,
        "nvmlDeviceGetUtilizationRates": lambda handle: SimpleNamespace(gpu=3),
        "nvmlDeviceGetVbiosVersion": lambda handle: "94.02",
        "nvmlDeviceGetDisplayActive": lambda handle: 0,
        "nvmlDeviceGetTemperature": lambda handle, sensor: 33,
        "nvmlDeviceGetClockInfo": lambda handle, clock: 1695,
        "nvmlDeviceGetP2PStatus": lambda one, other, what: {0: 0, 1: 1, 2: 5}[what],
        **changes,
    }
    module = ModuleType("pynvml")
    vars(module).update(functions)
    return module


def test_nvidias_library_is_asked_for_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_pynvml())
    answers = nvml.ask(Root())
    assert answers.cards[0] == NvmlCard(
        *(
            "0000:41:00.0",
            "NVIDIA GeForce RTX 3090",
            "8.6",
            24 << 30,
            1 << 30,
            32 << 30,
            22.5,
            350.0,
            33,
            3,
            "94.02",
            False,
            1695,
        )
    )
    assert answers.cards[1].watts is None
    assert answers.peers == (
        NvmlPeer("0000:41:00.0", "0000:c1:00.0", "OK", "CNS", "NS"),
        NvmlPeer("0000:c1:00.0", "0000:41:00.0", "OK", "CNS", "NS"),
    )


def test_a_driver_that_does_not_answer_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise NvmlError("Driver/library version mismatch")

    monkeypatch.setitem(sys.modules, "pynvml", fake_pynvml(nvmlInit=fail))
    with pytest.raises(Unreadable, match="NVML: Driver/library version mismatch"):
        nvml.ask(Root())
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(Unreadable) as missing:
        nvml.ask(Root())
    assert missing.value.fix == "pip install nvidia-ml-py"


def test_without_the_compute_driver_a_processors_graphics_are_still_known(tmp_path: Path) -> None:
    folder = unpack("7900xtx-igpu-in-the-way", tmp_path)
    (folder / "not-permitted").write_text("/sys/class/kfd/*")
    found = probe(Root(folder))
    assert [(card.arch, card.integrated) for card in found.cards] == [(None, False), (None, True)]
