"""Other engines: what of a request's time counts, what is refused, which configurations a grid leaves out."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import psutil
import pytest
from kit import fake_llama_server
from kit.gguf_builder import TinyModel
from kit.http_server import eventually

from rowspan.backends.process.child_backend import ChildBackend
from rowspan.backends.process.programs import find_llamacpp_program
from rowspan.backends.protocol import BackendName, Model, ModelFormat, Piece, SamplingParams, Timings
from rowspan.bench.engines.hf_folder import read_folder
from rowspan.bench.engines.llama_bench import LlamaBenchRunner, options
from rowspan.bench.engines.served_runner import ServedRunner
from rowspan.bench.engines.steps import random_tokens
from rowspan.bench.grid import Grid, Workload, workloads
from rowspan.bench.job import Job
from rowspan.bench.run.plan_jobs import BenchRequest, plan_jobs
from rowspan.bench.run.rounds import Procedure, measure_jobs
from rowspan.config import BackendConfig
from rowspan.errors import CheckpointError, ContextOverflowError, EngineError, UnsupportedModelError, UsageError
from rowspan.plan.device import parse_devices
from rowspan.plan.split_mode import SplitMode
from rowspan.scheduler.request import FinishReason

VOCABULARY = 50
PROMPT_SECONDS, STEP_SECONDS = 0.01, 0.02  # a token, as the engine below says


@dataclass
class Engine:
    """Of a protocol's methods those that a benchmark calls. It says that it took what it should, and takes less."""

    generates: int = 0  # tokens more than asked for
    keeps: int = 0
    tells: bool = True
    pause: float = 0.002
    asked: list[tuple[list[int], SamplingParams]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    name: BackendName = BackendName.LLAMACPP

    def start(self, watch: object) -> None:
        self.calls.append("start")

    def stop(self) -> None:
        self.calls.append("stop")

    def processes(self) -> list[int]:
        return []

    async def sleep(self) -> None:
        self.calls.append("sleep")

    async def wake(self) -> None:
        self.calls.append("wake")
        await asyncio.sleep(0.02)

    async def stream(self, tokens: Sequence[int], params: SamplingParams) -> AsyncGenerator[Piece, None]:
        self.asked.append((list(tokens), params))
        count = params.max_tokens + self.generates
        for place in range(count - 1):
            await asyncio.sleep(self.pause)
            yield Piece("a", (), place + 1)
        timings = Timings(len(tokens) - self.keeps, PROMPT_SECONDS * len(tokens), STEP_SECONDS * (count - 1))
        yield Piece("a", (), count, FinishReason.LENGTH, self.keeps, timings if self.tells else None)


def runner(engine: Engine) -> ServedRunner:
    return ServedRunner(cast("ChildBackend", engine), VOCABULARY)


@pytest.mark.parametrize(
    ("workload", "seconds", "asked"),
    [
        (Workload(8, 0), 8 * PROMPT_SECONDS, [(8, 1)]),
        (Workload(0, 4), 4 * STEP_SECONDS, [(1, 5)]),
        (Workload(0, 4, n_depth=10), 4 * STEP_SECONDS, [(10, 5)]),
        (Workload(8, 0, n_depth=10), 8 * PROMPT_SECONDS, [(18, 1), (10, 1)]),
        (Workload(8, 4), 8 * PROMPT_SECONDS + 4 * STEP_SECONDS, [(8, 5)]),
    ],
)
def test_one_sequence_is_timed_by_the_engine(workload: Workload, seconds: float, asked: list[tuple[int, int]]) -> None:
    engine = Engine()
    served = runner(engine)
    served.prepare(workload, warm_up=False)
    sample = served.measure(workload)
    served.close()
    assert sample.ns == pytest.approx(seconds * 1e9)
    assert [(len(tokens), params.max_tokens) for tokens, params in engine.asked] == asked
    assert all(tokens == random_tokens(VOCABULARY, len(tokens)) for tokens, _ in engine.asked)
    assert all(params.ignore_eos and params.temperature == 0 for _, params in engine.asked)
    assert sample.client_ns is not None
    assert sample.accounted_ns is not None
    assert engine.calls == ["start", "stop"]


def test_without_an_engine_s_times_the_client_s_are_taken() -> None:
    served = runner(Engine(tells=False))
    sample = served.measure(Workload(0, 20))
    served.close()
    assert 20 * 0.0015e9 < sample.ns < 20 * 0.02e9


def test_several_sequences_have_tokens_of_their_own_and_are_timed_together() -> None:
    engine = Engine()
    served = runner(engine)
    sample = served.measure(Workload(0, 30, n_concurrent=3))
    served.close()
    assert [tokens for tokens, _ in engine.asked] == [random_tokens(VOCABULARY, 1, number) for number in range(3)]
    assert 30 * 0.0015e9 < sample.ns < 30 * 0.02e9, "a step gives each of them a token"


@pytest.mark.parametrize("engine", [Engine(generates=1), Engine(keeps=3)])
def test_other_work_than_asked_for_is_no_result(engine: Engine) -> None:
    served = runner(engine)
    with pytest.raises(EngineError, match="other work"):
        served.measure(Workload(8, 0))
    served.close()


def test_waking_is_timed() -> None:
    engine = Engine()
    served = runner(engine)
    assert 0.02 <= served.wake_seconds() < 1
    served.close()
    assert engine.calls == ["start", "sleep", "wake", "stop"]


def test_a_server_s_options_in_the_words_of_llama_bench() -> None:
    command = "--model m.gguf --parallel 4 --device CUDA0,CUDA1 --tensor-split 3,1 --ctx-size 99 --no-webui --threads 2"
    assert options(command.split()) == ["-m", "m.gguf", "-dev", "CUDA0/CUDA1", "-ts", "3/1", "-t", "2"]


def program(folder: Path, text: str, name: str = "llama-bench") -> str:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_llama_bench_is_asked_once_for_every_repetition(tmp_path: Path) -> None:
    call = program(tmp_path, f"""echo "$@" >> {tmp_path}/asked; echo '[{{"samples_ns": [5000000]}}]'""")
    own = LlamaBenchRunner([call, "-m", "x"])
    assert own.measure(Workload(8, 0, 16)).ns == 5_000_000
    assert own.measure(Workload(8, 4)).ns == 5_000_000
    assert (tmp_path / "asked").read_text().splitlines() == [
        "-m x -p 8 -n 0 -d 16 -r 1 -o json",
        "-m x -pg 8,4 -p 0 -n 0 -d 0 -r 1 -o json",
    ]


@pytest.mark.parametrize("text", ["echo no such model >&2; exit 3", "echo nonsense", "echo '[]'", "echo '[{}]'"])
def test_a_llama_bench_that_gives_nothing_is_explained(tmp_path: Path, text: str) -> None:
    with pytest.raises(EngineError, match="gave no result") as error:
        LlamaBenchRunner([program(tmp_path, text)]).measure(Workload(8, 0))
    assert "no such model" in error.value.why or "exit" not in text


def test_a_benchmark_that_is_killed_leaves_no_llama_bench(tmp_path: Path) -> None:
    call = program(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 60")
    code = (
        "from rowspan.bench.grid import Workload; from rowspan.bench.engines.llama_bench import LlamaBenchRunner; "
        f"LlamaBenchRunner([{call!r}]).measure(Workload(8, 0))"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as bench:
        assert eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().endswith("\n"))
        own = int((tmp_path / "pid").read_text())
        assert psutil.pid_exists(own)
        bench.kill()
    assert eventually(lambda: not psutil.pid_exists(own))


def request(tmp_path: Path, models: list[Model], backends: list[BackendName], **changes: Any) -> BenchRequest:
    grid = Grid([parse_devices("cpu:0")], [SplitMode.NONE], [0], [None], [None], [None], [None], [512], [1])
    nothing_installed = BackendConfig(llamacpp_folder=tmp_path / "none", vllm_python=tmp_path / "none/python")
    given = {"grid": grid, "work": workloads([8], [2], [], [0]), "backend_config": nothing_installed, **changes}
    return BenchRequest(models, {}, backends, **given)


def tiny(tmp_path: Path) -> Model:
    return Model("tiny", str(TinyModel(scheme="Q8_0").write(tmp_path / "m.gguf")), ModelFormat.GGUF)


def folder(tmp_path: Path, **config: Any) -> Path:
    import json

    from safetensors.numpy import save_file

    known = {
        "model_type": "llama",
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "dtype": "bfloat16",
    }
    known |= {"num_hidden_layers": 2, "intermediate_size": 128, "vocab_size": 320, "max_position_embeddings": 256}
    path = tmp_path / "hf"
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps({**known, "tie_word_embeddings": True, **config}))
    save_file({"a": np.zeros(4, np.float32)}, path / "model.safetensors")
    return path


def test_what_one_of_several_backends_cannot_do_is_left_out_and_told(tmp_path: Path) -> None:
    told: list[str] = []
    models = [tiny(tmp_path), Model("hf", str(folder(tmp_path)), ModelFormat.HF)]
    jobs = plan_jobs(request(tmp_path, models, list(BackendName)), told.append)
    assert [job.fields["engine"] for job in jobs] == ["native"]
    assert [text.partition(",")[0] for text in told] == ["llamacpp", "vllm"]
    assert "llama-server" in told[0], "how to get it is said"


def programs(tmp_path: Path) -> BackendConfig:
    (folder := tmp_path / "bin").mkdir()
    program(folder, f'exec {shlex.join(fake_llama_server.COMMAND)} "$@"', "llama-server")
    return BackendConfig(llamacpp_folder=folder, log_folder=tmp_path)


def strange(tmp_path: Path) -> Model:
    """A file whose architecture Rowspan does not know."""
    data = TinyModel(scheme="Q8_0").to_bytes().replace(b"llama", b"zzama")
    (path := tmp_path / "strange.gguf").write_bytes(data)
    return Model("strange", str(path), ModelFormat.GGUF)


def test_layers_on_cards_reach_llama_server(tmp_path: Path) -> None:
    config, devices = programs(tmp_path), [parse_devices("cuda:0,cuda:1")]
    grid = Grid(devices, [SplitMode.LAYER], [0], [None], [None], [None], [None], [512], [1], [None, 10])
    asked = request(tmp_path, [tiny(tmp_path)], [BackendName.LLAMACPP], backend_config=config, grid=grid)
    plain, partly = plan_jobs(asked, print)
    assert "--n-gpu-layers" not in plain.fields["engine_flags"]
    assert "--n-gpu-layers 10" in partly.fields["engine_flags"]
    assert partly.fields["n_gpu_layers"] == 10


def test_a_model_that_only_another_engine_knows_is_measured_there(tmp_path: Path) -> None:
    told: list[str] = []
    config = programs(tmp_path)
    models = [tiny(tmp_path), strange(tmp_path)]
    both = [BackendName.NATIVE, BackendName.LLAMACPP]
    jobs = plan_jobs(request(tmp_path, models, both, backend_config=config), told.append)
    found = [(job.fields["engine"], Path(job.fields["model_filename"]).stem) for job in jobs]
    assert found == [("native", "m"), ("llamacpp", "m"), ("llamacpp", "strange")]
    assert jobs[2].fields["model_type"].startswith("zzama ")
    assert jobs[2].fields["model_type"].endswith(" Q8_0")
    assert jobs[2].fields["model_n_params"] == jobs[0].fields["model_n_params"]
    assert len(told) == 1
    assert told[0].startswith("native, strange: ")
    assert "zzama" in told[0]
    alone = plan_jobs(request(tmp_path, models[1:], both[1:], backend_config=config), told.append)
    assert [job.fields["engine"] for job in alone] == ["llamacpp"]
    with pytest.raises(UnsupportedModelError, match="zzama"):
        plan_jobs(request(tmp_path, models[1:], both[:1]), told.append)


def test_a_file_that_cannot_be_read_ends_no_run_of_several(tmp_path: Path) -> None:
    whole = tiny(tmp_path)
    (cut := tmp_path / "cut.gguf").write_bytes(Path(whole.location).read_bytes()[:3000])
    (page := tmp_path / "page.gguf").write_bytes(b"<html></html>")
    damaged = [Model(path.stem, str(path), ModelFormat.GGUF) for path in (cut, page)]
    told: list[str] = []
    jobs = plan_jobs(request(tmp_path, [*damaged, whole], [BackendName.NATIVE]), told.append)
    assert len(jobs) == 1
    assert [text.partition(":")[0] for text in told] == ["cut", "page"]
    with pytest.raises(CheckpointError):
        plan_jobs(request(tmp_path, damaged, [BackendName.NATIVE]), told.append)


def test_batches_are_of_several_steps_only_where_the_engine_has_such(tmp_path: Path) -> None:
    """And no step is larger than its batch, as in llama.cpp."""
    (programs := tmp_path / "bin").mkdir()
    for name in ("llama-server", "llama-bench"):
        program(programs, f'exec {shlex.join(fake_llama_server.COMMAND)} "$@"', name)
    told: list[str] = []
    config = BackendConfig(llamacpp_folder=programs, log_folder=tmp_path)
    backends = [BackendName.NATIVE, BackendName.LLAMACPP]
    asked = request(tmp_path, [tiny(tmp_path)], backends, backend_config=config, batch_sizes=[256, 1024, 2048])
    jobs = plan_jobs(asked, told.append)
    assert [(job.fields["engine"], job.fields["n_batch"], job.fields["n_ubatch"]) for job in jobs] == [
        ("native", 256, 256),
        ("native", 512, 512),
        *((engine, 256, 256) for engine in ("llamacpp", "llama-bench")),
        *((engine, batch, None) for batch in (1024, 2048) for engine in ("llamacpp", "llama-bench")),
    ]
    assert told == ["native, -b 2048 -ub 512: its batches are steps, so that is in already"]
    assert "--batch-size 1024" in jobs[4].fields["engine_flags"]
    own = shlex.split(jobs[3].fields["engine_flags"])
    assert (own.count("-b"), own[own.index("-b") + 1], own[own.index("-ub") + 1]) == (1, "256", "256")


def test_what_the_only_backend_cannot_do_is_an_error(tmp_path: Path) -> None:
    hf = Model("hf", str(folder(tmp_path)), ModelFormat.HF)
    with pytest.raises(UsageError, match="native cannot read"):
        plan_jobs(request(tmp_path, [hf], [BackendName.NATIVE]), print)
    with pytest.raises(UsageError, match="no model that vllm reads"):
        plan_jobs(request(tmp_path, [tiny(tmp_path)], list(BackendName)), print)
    with pytest.raises(UsageError, match="nothing to measure"):
        plan_jobs(request(tmp_path, [hf], [BackendName.NATIVE], work=[]), print)
    with pytest.raises(ContextOverflowError):
        plan_jobs(request(tmp_path, [tiny(tmp_path)], [BackendName.NATIVE], work=[Workload(300, 0)]), print)
    missing = Model("x/y", "x/y", ModelFormat.HF)
    with pytest.raises(UsageError, match="not on this machine"):
        plan_jobs(request(tmp_path, [missing], [BackendName.VLLM]), print)


def test_facts_of_a_hugging_face_folder(tmp_path: Path) -> None:
    facts, demand, vocabulary = read_folder(folder(tmp_path))
    assert (facts.type, vocabulary) == ("llama 95K BF16", 320)
    assert demand is not None
    layers = 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 128 * 64)
    assert (demand.layer_weights, demand.head_weights) == (layers, 320 * 64)
    assert demand.cache_values == 2 * 2 * 32
    assert demand.weight_bytes >= 2 * (layers + 320 * 64)
    quantized, nothing, _ = read_folder(folder(tmp_path, quantization_config={"quant_method": "gptq"}))
    assert quantized.type.endswith("GPTQ")
    assert nothing is None


def test_a_folder_that_is_no_model_is_explained(tmp_path: Path) -> None:
    path = folder(tmp_path)
    (path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no model"):
        read_folder(path)
    with pytest.raises(CheckpointError, match="no model"):
        read_folder(tmp_path / "none")


@pytest.mark.skipif(find_llamacpp_program("llama-server", BackendConfig()) is None, reason="llama-server: not in PATH")
def test_a_real_llama_server_and_llama_bench(tmp_path: Path) -> None:
    """Three engines, the same work; figures are not looked at, only that all of it is there."""
    work = workloads([16], [4], [], [0, 8], [1, 2])
    asked = request(tmp_path, [tiny(tmp_path)], [BackendName.NATIVE, BackendName.LLAMACPP], work=work)
    config = BackendConfig(log_folder=tmp_path / "logs")
    jobs: list[Job] = plan_jobs(SimpleNamespace(**{**vars(asked), "backend_config": config}), print)  # type: ignore[arg-type]
    rows = list(measure_jobs(jobs, work, Procedure(2), lambda progress: None))
    engines = {row["engine"] for row in rows}
    assert {"native", "llamacpp"} <= engines
    served = [row for row in rows if row["engine"] == "llamacpp"]
    assert len(served) == len(work)
    assert all(0 < row["client_share"] <= 1.05 for row in served)
    assert all(row["peak_memory_bytes"] > 0 and row["load_seconds"] > 0 for row in served)
    if shutil.which("llama-bench"):
        assert sum(row["engine"] == "llama-bench" for row in rows) == len(work) / 2
    assert os.listdir(tmp_path / "logs")
