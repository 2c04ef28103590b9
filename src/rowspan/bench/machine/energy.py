"""Measures joules, if the machine counts them. Meters are added up; a machine without a meter has no figure, not 0.

- Processors: RAPL's package counters (https://docs.kernel.org/power/powercap/powercap.html); since kernel 5.10 for root
    only, unless their files are made readable.
- NVIDIA's cards: nvmlDeviceGetTotalEnergyConsumption (Volta and later), by the package nvidia-ml-py.
- AMD's cards: amdsmi_get_energy_count, by the package amdsmi of ROCm.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from rowspan.rig.probe.cards import Card
from rowspan.rig.probe.reader import Reader
from rowspan.rig.root import Root

PACKAGES = "/sys/class/powercap/intel-rapl:[0-9]*"  # AMD's processors, too, are called intel-rapl
IDLE_SECONDS = 3.0


@dataclass(frozen=True)
class Meter:
    """One energy counter.

    read: returns joules since a fixed moment.
    wraps_at: joules after which the counter begins again at 0.
    """

    name: str
    read: Callable[[], float]
    wraps_at: float | None = None


@dataclass(frozen=True)
class Reading:
    """All counters at one moment."""

    seconds: float
    joules: tuple[float, ...]


class Energy:
    """All energy meters of a machine."""

    def __init__(self, meters: Sequence[Meter]) -> None:
        self._meters = tuple(meters)

    @property
    def names(self) -> str | None:
        """Names of the meters in one text; None without a meter."""
        return ", ".join(meter.name for meter in self._meters) or None

    def read(self) -> Reading:
        return Reading(time.monotonic(), tuple(meter.read() for meter in self._meters))

    def joules(self, start: Reading, stop: Reading) -> float | None:
        """Joules between two readings, over all meters; None without a meter. A counter that wrapped is taken to have
        done so once.
        """
        if not self._meters:
            return None
        total = 0.0
        for meter, before, after in zip(self._meters, start.joules, stop.joules, strict=True):
            total += after - before + (meter.wraps_at or 0.0 if after < before else 0.0)
        return total

    def watts(self, seconds: float = IDLE_SECONDS) -> float | None:
        """Mean power over the next `seconds`; None, at once, without a meter."""
        if not self._meters:
            return None
        start = self.read()
        time.sleep(seconds)
        stop = self.read()
        joules = self.joules(start, stop)
        return None if joules is None else joules / (stop.seconds - start.seconds)


def meters(root: Root, cards: Sequence[Card]) -> Energy:
    """The meters that can be read now."""
    found = _packages(Reader(root))
    if any(card.vendor == "NVIDIA" for card in cards):
        found += _nvidia()
    if any(card.vendor == "AMD" and not card.integrated for card in cards):
        found += _amd()
    return Energy(found)


def _packages(reader: Reader) -> list[Meter]:
    found = []
    for folder in reader.root.glob(PACKAGES):
        name = reader.text(f"{folder}/name") or ""
        if not name.startswith("package") or reader.number(f"{folder}/energy_uj") is None:
            continue
        wraps = reader.number(f"{folder}/max_energy_range_uj")
        found.append(
            Meter(name, _microjoules(reader.root, f"{folder}/energy_uj"), None if wraps is None else wraps / 1e6)
        )
    return found


def _microjoules(root: Root, path: str) -> Callable[[], float]:
    return lambda: root.number(path) / 1e6


def _nvidia() -> list[Meter]:
    found: list[Meter] = []
    with contextlib.suppress(ImportError):
        import pynvml

        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlInit()  # until the process ends: the counters are read all along
            for index in range(pynvml.nvmlDeviceGetCount()):
                handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                _millijoules(pynvml, handle)
                found.append(Meter(f"card {index}", partial(_millijoules, pynvml, handle)))
    return found


def _millijoules(pynvml: Any, handle: Any) -> float:
    return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3)


def _amd() -> list[Meter]:
    found: list[Meter] = []
    with contextlib.suppress(ImportError, OSError):
        import amdsmi

        def joules(handle: object) -> float:
            count = amdsmi.amdsmi_get_energy_count(handle)
            return float(count["energy_accumulator"] * count["counter_resolution"] / 1e6)  # microjoules a count

        with contextlib.suppress(amdsmi.AmdSmiException):
            amdsmi.amdsmi_init()
            for index, handle in enumerate(amdsmi.amdsmi_get_processor_handles()):
                joules(handle)
                found.append(Meter(f"card {index}", partial(joules, handle)))
    return found
