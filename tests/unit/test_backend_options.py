"""Every option that says how to run a model, given to every backend: honoured, or refused by its name."""

from __future__ import annotations

import json
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import pytest
from kit import fake_llama_server
from kit.command_line import run_here
from kit.gguf_builder import TinyModel

from rowspan.backends.llamacpp.llamacpp_backend import LlamaCpp
from rowspan.backends.llamacpp.llamacpp_probe import Features, probe
from rowspan.backends.protocol import Model, ModelFormat, SamplingParams, Setup
from rowspan.backends.vllm.vllm_backend import Vllm
from rowspan.backends.vllm.vllm_probe import VllmFeatures
from rowspan.cli.engine_options import EngineOptions
from rowspan.config import BackendConfig
from rowspan.errors import UsageError

CARDS = {"devices": "cuda:0,cuda:1"}
# A value of each option that differs from its default, with the others that are given beside it.
VALUES: dict[str, list[tuple[Any, dict[str, Any]]]] = {
    "devices": [("cuda:1,cuda:0", {})],
    "split_mode": [("row", CARDS), ("none", CARDS)],
    "tensor_split": [("3,1", CARDS)],
    "main_gpu": [(1, CARDS), (1, {**CARDS, "split_mode": "none"}), (1, {**CARDS, "split_mode": "row"})],
    "stages": [(2, CARDS), (2, {**CARDS, "split_mode": "row"}), (2, {**CARDS, "split_mode": "none"})],
    "gpu_layers": [(3, CARDS), (3, {})],
    "context_size": [(777, CARDS), (777, {})],
    "parallel": [(3, CARDS), (3, {})],
    "token_budget": [(64, CARDS), (64, {})],
    "cache_type_k": [("q8_0", CARDS), ("q8_0", {})],
    "cache_type_v": [("q8_0", CARDS), ("q8_0", {})],
    "gpu_memory_utilization": [(0.5, CARDS), (0.5, {})],
    "dtype": [("float16", CARDS), ("float16", {})],
    "threads": [(1, CARDS), (1, {})],
    "pooling": [("mean", CARDS), ("mean", {})],
    "spec": [("ngram", CARDS), ("ngram", {})],
    "spec_max": [(4, {**CARDS, "spec": "ngram"})],
    "no_prefix_reuse": [(True, CARDS), (True, {})],
}
CASES = [(option, value, beside) for option, values in VALUES.items() for value, beside in values]
NAMES = {
    "gpu_layers": "--n-gpu-layers",
    "context_size": "--ctx-size",
    "token_budget": "--ubatch-size",
    "spec_max": "--spec",
}
VLLM = VllmFeatures("0.32.0", frozenset({"generation_config"}))


def setup(path: Path, **typed: Any) -> Setup:
    options = EngineOptions(**typed)
    config = options.check(native=False)(path)
    format = ModelFormat.GGUF if path.is_file() else ModelFormat.HF
    return Setup(Model("m", str(path), format), config, options.given(), BackendConfig(log_folder=path.parent))


@cache
def features() -> Features:
    return probe(fake_llama_server.COMMAND)


def told(backend: str, folder: Path, typed: dict[str, Any]) -> Any:
    """All that the other program is told: its command, its environment, and what a request says."""
    if backend == "vllm":
        launch = Vllm(setup(folder, **typed), "python", VLLM).launch(1, "")
        return launch.command, launch.environment
    dialect = LlamaCpp(setup(folder / "tiny.gguf", **typed), fake_llama_server.COMMAND, features())
    return dialect.launch(1, "").command, orjson.loads(dialect.ask([1], SamplingParams(seed=1), [])[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    TinyModel(context_length=2048).write(folder / "tiny.gguf")
    return folder


def test_all_options_are_tried() -> None:
    assert set(VALUES) == {field.name for field in fields(EngineOptions)}


@pytest.mark.parametrize("backend", ["llamacpp", "vllm"])
@pytest.mark.parametrize(("option", "value", "beside"), CASES)
def test_an_option_is_honoured_or_refused(
    backend: str, option: str, value: Any, beside: dict[str, Any], folder: Path
) -> None:
    refusals = []
    try:
        given = told(backend, folder, {**beside, option: value})
    except UsageError as error:
        refusals.append(error.what)
    if refusals:
        assert NAMES.get(option, f"--{option.replace('_', '-')}") in refusals[0]
    else:
        assert given != told(backend, folder, beside)


@pytest.mark.parametrize("option", sorted(VALUES))
def test_a_plan_of_cards_honours_an_option_or_refuses_it(option: str) -> None:
    name = NAMES.get(option, f"--{option.replace('_', '-')}")
    value = VALUES[option][0][0]
    asked = ("plan", "llama-3-70b:q4_k_m", "--gpus", "2xRTX 3090", "--json")
    given = run_here(*asked, name, *([] if value is True else [str(value)]))
    if given.returncode:
        assert name in given.stderr
    else:
        assert json.loads(given.stdout) != json.loads(run_here(*asked).stdout)
