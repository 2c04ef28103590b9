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
    assert service["build"]["args"]["CMAKE_ARGS"] == "-DGGML_HIP=ON"


def test_nvidia_cards(model: Path, tmp_path: Path) -> None:
    found = written(model, "--backend", "llamacpp", "--root", rig("dual-4090-no-p2p", tmp_path))
    service = found["services"]["rowspan"]
    (reserved,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert reserved == {"driver": "nvidia", "count": 2, "capabilities": ["gpu"]}
    assert service["build"]["args"]["CMAKE_ARGS"] == "-DGGML_CUDA=ON"
    assert "devices" not in service


def test_a_process_of_its_own_writes_the_same(model: Path, tmp_path: Path) -> None:
    asked = (model, "--root", rig("dual-4090-no-p2p", tmp_path), "-o", "-")
    done = compose(*asked, run=run_as_process)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == compose(*asked).stdout


def test_the_api_is_for_this_machine_and_the_page_only(model: Path, tmp_path: Path) -> None:
    found = written(model, "--root", rig("cpu-only-server", tmp_path), "--web-port", "4000", "--image", "mine:1")
    service, page = found["services"]["rowspan"], found["services"]["open-webui"]
    assert service["ports"] == ["127.0.0.1:8000:8000"]
    assert page["ports"] == ["4000:8080"]
    assert page["environment"]["OPENAI_API_KEYS"] == service["environment"]["ROWSPAN_API_KEY"]
    assert json.loads(page["environment"]["DEFAULT_MODEL_PARAMS"]) == {"function_calling": "legacy"}, (
        "it sends no tools"
    )
    assert service["image"] == "mine:1"
    assert "build" not in service
    assert service["command"][1] == "/models/costs $$5.gguf", "a dollar sign would begin a variable"


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
