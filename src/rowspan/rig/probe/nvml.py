"""Asks NVIDIA's driver through its management library (NVML), by the package nvidia-ml-py, which may be absent.

A recorded machine holds the answers as `nvml.json`, with the field names of the classes below.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rowspan.rig.root import Root, Unreadable

RECORDED = "/nvml.json"
ASK = "NVML"

# nvmlGpuP2PStatus_t, by the letters that `nvidia-smi topo -p2p r` prints.
P2P_STATUS = {0: "OK", 1: "CNS", 2: "GNS", 3: "TNS", 4: "DR", 5: "NS"}
P2P_READ, P2P_WRITE, P2P_NVLINK = 0, 1, 2  # nvmlGpuP2PCapsIndex_t


@dataclass(frozen=True)
class NvmlCard:
    """One card's answers in bytes, watts, degrees Celsius, percent, and MHz of the compute clock. None: the card does
    not tell this value.
    """

    address: str
    name: str
    compute: str | None = None  # "8.9"
    memory_total: int | None = None
    memory_used: int | None = None
    bar1_total: int | None = None
    watts: float | None = None
    watts_limit: float | None = None
    celsius: int | None = None
    busy: int | None = None
    vbios: str | None = None
    display: bool | None = None
    mhz: int | None = None


@dataclass(frozen=True)
class NvmlPeer:
    """NVML's status for one card's access to another's memory: a value of `P2P_STATUS`, or "U" for unknown."""

    source: str
    target: str
    read: str
    write: str
    nvlink: str = "NS"


@dataclass(frozen=True)
class Nvml:
    driver: str
    cards: tuple[NvmlCard, ...]
    peers: tuple[NvmlPeer, ...]


def ask(root: Root) -> Nvml:
    """Ask for everything at once.

    Raises:
        Unreadable: the package is absent, or the driver does not answer.
    """
    if not root.recorded:
        return _ask_driver()
    try:
        held = json.loads(root.text(RECORDED))
        cards = tuple(NvmlCard(**card) for card in held["cards"])
        return Nvml(held["driver"], cards, tuple(NvmlPeer(**peer) for peer in held["peers"]))
    except (ValueError, TypeError, KeyError) as error:
        raise Unreadable(RECORDED, f"damaged: {error!r}") from None


def _ask_driver() -> Nvml:
    try:
        import pynvml
    except ModuleNotFoundError:
        raise Unreadable(ASK, "the package nvidia-ml-py is missing", "pip install nvidia-ml-py") from None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise Unreadable(ASK, str(error), "Check that `nvidia-smi` answers.") from None
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        cards = [_card(pynvml, handle) for handle in handles]
        peers = [
            NvmlPeer(
                cards[one].address,
                cards[other].address,
                *(_status(pynvml, handles[one], handles[other], what) for what in (P2P_READ, P2P_WRITE, P2P_NVLINK)),
            )
            for one in range(len(cards))
            for other in range(len(cards))
            if one != other
        ]
        return Nvml(_text(pynvml.nvmlSystemGetDriverVersion()), tuple(cards), tuple(peers))
    except pynvml.NVMLError as error:
        raise Unreadable(ASK, str(error)) from None
    finally:
        pynvml.nvmlShutdown()


def _card(pynvml: Any, handle: Any) -> NvmlCard:
    def get(ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except pynvml.NVMLError:
            return None

    compute = get(lambda: pynvml.nvmlDeviceGetCudaComputeCapability(handle))
    memory = get(lambda: pynvml.nvmlDeviceGetMemoryInfo(handle))
    bar1 = get(lambda: pynvml.nvmlDeviceGetBAR1MemoryInfo(handle))
    watts = get(lambda: pynvml.nvmlDeviceGetPowerUsage(handle))  # in milliwatts, like the limit
    limit = get(lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(handle))
    rates = get(lambda: pynvml.nvmlDeviceGetUtilizationRates(handle))
    vbios = get(lambda: pynvml.nvmlDeviceGetVbiosVersion(handle))
    display = get(lambda: pynvml.nvmlDeviceGetDisplayActive(handle))
    return NvmlCard(
        address=_address(_text(pynvml.nvmlDeviceGetPciInfo(handle).busId)),
        name=_text(pynvml.nvmlDeviceGetName(handle)),
        compute=f"{compute[0]}.{compute[1]}" if compute else None,
        memory_total=memory.total if memory else None,
        memory_used=memory.used if memory else None,
        bar1_total=bar1.bar1Total if bar1 else None,
        watts=None if watts is None else watts / 1000,
        watts_limit=None if limit is None else limit / 1000,
        celsius=get(lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)),
        busy=rates.gpu if rates else None,
        vbios=_text(vbios) if vbios else None,
        display=None if display is None else bool(display),
        mhz=get(lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)),
    )


def _status(pynvml: Any, one: Any, other: Any, what: int) -> str:
    try:
        return P2P_STATUS.get(pynvml.nvmlDeviceGetP2PStatus(one, other, what), "U")
    except pynvml.NVMLError:
        return "U"


def _address(bus_id: str) -> str:
    """Convert NVML's "00000000:C1:00.0" into the form of address that Linux uses."""
    domain, rest = bus_id.lower().split(":", 1)
    return f"{int(domain, 16):04x}:{rest}"


def _text(answer: bytes | str) -> str:
    return answer.decode() if isinstance(answer, bytes) else answer
