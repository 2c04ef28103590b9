"""Compose files: valid by a real compose tool, with the devices that a machine's cards need."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import yaml
from kit.command_line import Finished, run_as_process, run_here
from kit.recorded_rig import unpack

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    file = tmp_path / "costs $5.gguf"
    file.touch()
    return file


def compose(*arguments: str | Path, run: Callable[..., Finished] = run_here) -> Finished:
    with chdir(REPOSITORY):
        return run("compose", *arguments)


def written(*arguments: str | Path) -> Any:
    done = compose(*arguments, "-o", "-")
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


def rig(name: str, tmp_path: Path) -> Path:
    return unpack(name, tmp_path / name)


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("dual-w7900-ubuntu-p2p", "native"),
        ("dual-w7900-ubuntu-p2p", "llamacpp"),
        ("dual-w7900-ubuntu-p2p", "vllm"),
        ("dual-4090-no-p2p", "llamacpp"),
        ("dual-4090-no-p2p", "vllm"),
        ("cpu-only-server", "llamacpp"),
    ],
)
def test_a_real_tool_accepts_it(name: str, backend: str, model: Path, tmp_path: Path) -> None:
    tool = shutil.which("docker-compose")
    if tool is None:
        pytest.skip("docker-compose: not installed")
    served = tmp_path if backend == "vllm" else model
    file = tmp_path / "compose.yaml"
    done = compose(served, "--backend", backend, "--root", rig(name, tmp_path), "-o", file)
    assert done.returncode == 0, done.stderr
    check = [tool, "-f", str(file), "config"]
    missing = subprocess.run(check, capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"]})
    assert "ROWSPAN_API_KEY" in missing.stderr, "without a key it does not start"
    environment = {"PATH": os.environ["PATH"], "ROWSPAN_API_KEY": "secret"}
    accepted = subprocess.run(check, capture_output=True, text=True, check=False, env=environment)
    assert accepted.returncode == 0, accepted.stderr
    service = yaml.safe_load(accepted.stdout)["services"]["rowspan"]
    assert service["environment"]["ROWSPAN_API_KEY"] == "secret"


def test_amd_cards(model: Path, tmp_path: Path) -> None:
    found = written(model, "--backend", "llamacpp", "--root", rig("7900xtx-igpu-in-the-way", tmp_path))
    service = found["services"]["rowspan"]
    assert service["devices"][0] == "/dev/kfd"
    assert len(service["devices"]) == 2, "one card's render node, and not the integrated graphics'"
    assert service["devices"][1].startswith("/dev/dri/render")
    assert len(service["group_add"]) == 2
    assert service["ipc"] == "host"
    assert "seccomp=unconfined" in service["security_opt"]
    assert service["build"]["args"]["CMAKE_ARGS"] == "-DGGML_HIP=ON -DGGML_NATIVE=OFF -DGPU_TARGETS=gfx1100"
    assert service["ulimits"] == {"memlock": -1}
    assert service["command"][-2:] == ["--devices", "cuda:0"]
    native = written(model, "--root", tmp_path / "7900xtx-igpu-in-the-way")["services"]["rowspan"]
    assert native["build"]["args"]["BASE"].startswith("rocm/pytorch:"), "the package index's torch knows no AMD card"
    assert native["build"]["args"]["INHERIT"]


def test_nvidia_cards(model: Path, tmp_path: Path) -> None:
    found = written(model, "--backend", "llamacpp", "--root", rig("dual-4090-no-p2p", tmp_path))
    service = found["services"]["rowspan"]
    (reserved,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert reserved == {"driver": "nvidia", "count": 2, "capabilities": ["gpu"]}
    cmake = service["build"]["args"]["CMAKE_ARGS"]
    assert cmake == "-DGGML_CUDA=ON -DGGML_NATIVE=OFF -DCMAKE_CUDA_ARCHITECTURES=89", "a build sees no card to ask"
    assert service["devices"] == ["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia0", "/dev/nvidia1"]
    assert service["ulimits"] == {"memlock": -1}
    assert service["command"][-2:] == ["--devices", "cuda:0,cuda:1"]
    named = ("--root", tmp_path / "dual-4090-no-p2p", "--serve-args", "--devices cuda:1")
    command = written(model, *named)["services"]["rowspan"]["command"]
    assert command.count("--devices") == 1
    assert command[-1] == "cuda:1"


def test_a_process_of_its_own_writes_the_same(model: Path, tmp_path: Path) -> None:
    asked = (model, "--root", rig("dual-4090-no-p2p", tmp_path), "-o", "-")
    done = compose(*asked, run=run_as_process)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == compose(*asked).stdout


def test_the_api_is_for_this_machine_and_the_page_only(model: Path, tmp_path: Path) -> None:
    found = written(model, "--root", rig("cpu-only-server", tmp_path), "--web-port", "4000", "--image", "mine:1")
    service, page = found["services"]["rowspan"], found["services"]["open-webui"]
    assert service["ports"] == ["127.0.0.1:8000:8000"]
    assert page["ports"] == ["127.0.0.1:4000:8080"]
    open_to_all = written(model, "--root", tmp_path / "cpu-only-server", "--web-host", "0.0.0.0")
    assert open_to_all["services"]["open-webui"]["ports"] == ["0.0.0.0:3000:8080"]
    assert page["depends_on"] == {"rowspan": {"condition": "service_healthy"}}
    assert "/health" in service["healthcheck"]["test"][-1]
    assert page["logging"]["options"]["max-size"] == service["logging"]["options"]["max-size"] == "10m"
    assert page["environment"]["OPENAI_API_KEYS"] == service["environment"]["ROWSPAN_API_KEY"]
    assert json.loads(page["environment"]["DEFAULT_MODEL_PARAMS"]) == {"function_calling": "legacy"}, (
        "it sends no tools"
    )
    assert service["image"] == "mine:1"
    assert "build" not in service
    assert service["command"][1] == "/models/costs $$5.gguf", "a dollar sign would begin a variable"


@pytest.mark.parametrize("name", ["dual-w7900-ubuntu-p2p", "dual-4090-no-p2p", "cpu-only-server"])
@pytest.mark.parametrize("backend", ["native", "llamacpp", "vllm"])
def test_images_have_versions_and_can_be_chosen(name: str, backend: str, model: Path, tmp_path: Path) -> None:
    if (name, backend) == ("cpu-only-server", "vllm"):
        return  # refused, see below
    asked = (tmp_path if backend == "vllm" else model, "--backend", backend, "--root", rig(name, tmp_path))
    services = written(*asked)["services"]
    for image in (services["rowspan"]["build"]["args"]["BASE"], services["open-webui"]["image"]):
        assert any(digit.isdigit() for digit in image.partition(":")[2]), image
    chosen = written(*asked, "--base", "mine:2", "--web-ui-image", "page:3")["services"]
    assert chosen["rowspan"]["build"]["args"]["BASE"] == "mine:2"
    assert chosen["open-webui"]["image"] == "page:3"


def test_links_are_followed(tmp_path: Path) -> None:
    folder, blob = tmp_path / "snapshot", tmp_path / "blobs" / "abc"
    folder.mkdir()
    blob.parent.mkdir()
    blob.touch()
    (folder / "model.gguf").symlink_to(blob)
    service = written(folder / "model.gguf", "--root", rig("cpu-only-server", tmp_path))["services"]["rowspan"]
    assert service["volumes"][0] == f"{blob}:/models/model.gguf:ro"


def test_what_it_refuses(model: Path, tmp_path: Path) -> None:
    cards = rig("cpu-only-server", tmp_path)
    file = tmp_path / "compose.yaml"
    file.write_text("mine")
    for arguments, words in (
        ((tmp_path / "no.gguf",), "There is no"),
        ((model, "--backend", "vllm"), "does not read"),
        ((tmp_path, "--backend", "vllm", "--root", cards), "vLLM without cards"),
        ((model, "--backend", "gguf"), "not known"),
        ((model, "--source", tmp_path), "--source"),
        ((model, "--serve-args", '"-sm'), "--serve-args"),
        ((model, "--root", cards, "-o", file), "there already"),
        ((model, "--image", "mine:1", "--base", "mine:2"), "--base"),
    ):
        done = compose(*arguments)
        assert done.returncode == 2, done.stderr
        assert words in done.stderr.replace("\n", " ")
        assert "Traceback" not in done.stderr
    assert file.read_text() == "mine"


def test_the_systemd_unit(tmp_path: Path) -> None:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd-analyze: not installed")
    unit = (REPOSITORY / "contrib" / "rowspan.service").read_text()
    file = tmp_path / "rowspan.service"
    file.write_text(unit.replace("/opt/rowspan/bin/rowspan", "/bin/true"))
    done = subprocess.run([tool, "verify", str(file)], capture_output=True, text=True, check=False)
    ours = [line for line in done.stderr.splitlines() if "rowspan" in line]
    assert not ours
