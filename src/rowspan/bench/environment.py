"""What a result depends on besides the model: processor, memory, cards. Cheap looks only; no torch."""

from __future__ import annotations

import contextlib
import csv
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

# What /proc/cpuinfo calls the instruction sets that matter to matrix products.
ISA_FLAGS = (
    *("avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)
AMD_VENDOR = "0x1002"
NVIDIA_SMI = ("nvidia-smi", "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits")
NVIDIA_SMI_SECONDS = 10.0


@dataclass(frozen=True)
class Cpu:
    """model: the processor's name. cores: those this process may use. flags: instruction sets, of `ISA_FLAGS`."""

    model: str
    cores: int
    flags: tuple[str, ...]


@dataclass(frozen=True)
class Memory:
    """Bytes of RAM."""

    total: int
    free: int  # what could be had without swapping


@dataclass(frozen=True)
class Card:
    """A graphics card as its driver presents it. Bytes of its memory; None: the driver does not say."""

    name: str
    memory_total: int | None
    memory_free: int | None


def probe_cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> Cpu:
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    name = re.search(r"^(?:model name|Hardware)\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    held = set(flags[1].split()) if flags else set()
    return Cpu(
        model=name[1].strip() if name else os.uname().machine,
        cores=len(os.sched_getaffinity(0)),
        flags=tuple(flag for flag in ISA_FLAGS if flag in held),
    )


def probe_memory() -> Memory:
    memory = psutil.virtual_memory()
    return Memory(memory.total, memory.available)


def probe_cards(drm: Path = Path("/sys/class/drm")) -> list[Card]:
    """NVIDIA's cards by nvidia-smi, AMD's by sysfs."""
    return [*_nvidia_cards(), *_amd_cards(drm)]


def peak_child_memory() -> int:
    """Sum of the most resident bytes that each living child process has had."""
    total = 0
    for child in psutil.Process().children():
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{child.pid}/status").read_text()
            peak = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
            total += int(peak[1]) * 1024 if peak else 0
    return total


def _nvidia_cards() -> list[Card]:
    if shutil.which(NVIDIA_SMI[0]) is None:
        return []
    try:
        answer = subprocess.run(NVIDIA_SMI, capture_output=True, text=True, timeout=NVIDIA_SMI_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return []  # the tool without a driver
    rows = csv.reader(answer.stdout.splitlines(), skipinitialspace=True)
    return [Card(row[0], _mebibytes(row[1]), _mebibytes(row[2])) for row in rows if len(row) == 3]


def _mebibytes(text: str) -> int | None:
    return int(text) << 20 if text.strip().isdigit() else None


def _amd_cards(drm: Path) -> list[Card]:
    cards = []
    for vendor in sorted(drm.glob("card[0-9]*/device/vendor")):
        if vendor.read_text().strip() == AMD_VENDOR:
            folder = vendor.parent
            total, used = _number(folder / "mem_info_vram_total"), _number(folder / "mem_info_vram_used")
            free = total - used if total is not None and used is not None else None
            cards.append(Card(_amd_name(folder), total, free))
    return cards


def _amd_name(folder: Path) -> str:
    with contextlib.suppress(OSError):
        name = (folder / "product_name").read_text().strip()
        if name:
            return name
    device = folder / "device"
    return f"AMD {device.read_text().strip()}" if device.exists() else "AMD"


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
