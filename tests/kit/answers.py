"""Answers to the last bit: which models, in which ways, on which instruction sets; and the file that they are kept in.

Only what users have is used of the engine, `rowspan.LLM` and its options, so that the record outlives what is inside.
It is made again, by a commit that means to change bits, with

    PYTHONPATH=src:tests python -m kit.answers tests/data/answers.json
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import platform
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from kit.gguf_builder import TinyModel
from kit.native_isas import EMULATED, NATIVE
from kit.random_llama import SHAPES, RandomLlama
from kit.requantize import requantize

from rowspan import LLM, hub
from rowspan.kernels.isa import TORCH, native_module

RECORD = Path(__file__).parent.parent / "data" / "answers.json"
N_TOKENS, N_LIKELIEST = 24, 3
PROMPTS = (
    "The capital of France is",
    # More than two cache blocks of 32 tokens: both vocabularies have a token for each digit.
    "Pi: 3.14159265358979323846264338327950288419716939937510582097494459230781640628",
    "# 返回列表的总和。\ndef total(values):\n    return",
)

RANDOM: Mapping[str, TinyModel | RandomLlama] = {
    "llama Q8_0": TinyModel(
        "llama", n_heads=9, n_kv_heads=3, hidden_size=288, ffn_size=384, n_layers=3, scheme="Q8_0"
    ),  # heads as SmolLM2's
    "llama rope_freqs Q4_0": TinyModel("llama", rope_freqs=True, tied=False, scheme="Q4_0"),
    "llama yarn Q4_1": TinyModel(
        "llama",
        rope_scaling={"type": "yarn", "factor": 4.0, "original_context_length": 32},
        context_length=128,
        scheme="Q4_1",
    ),
    "llama linear Q5_1": TinyModel("llama", rope_scaling={"type": "linear", "factor": 2.0}, scheme="Q5_1"),
    "llama bias F16": TinyModel("llama", bias=True, n_kv_heads=1, scheme="F16"),
    "llama BF16": TinyModel("llama", n_heads=9, n_kv_heads=3, hidden_size=288, ffn_size=768, scheme="BF16"),
    "llama Q4_K_M": RandomLlama("Q4_K_M", **{**SHAPES["tiny"], "n_layers": 3}),
    "mistral Q5_0": TinyModel("mistral", tied=False, head_dim=32, tokenizer="spm", scheme="Q5_0"),
    "mistral window F32": TinyModel("mistral", sliding_window=9),
    "qwen2 Q4_K": TinyModel(
        "qwen2",
        n_heads=8,
        n_kv_heads=4,
        hidden_size=512,
        ffn_size=768,
        n_layers=3,
        scheme="Q4_K",
        schemes={"ffn_down": "Q6_K"},
    ),
    "qwen3 Q8_0": TinyModel("qwen3", head_dim=32, scheme="Q8_0"),
    "qwen3 untied Q2_K": TinyModel(
        "qwen3",
        hidden_size=256,
        ffn_size=512,
        tied=False,
        scheme="Q2_K",
        schemes={"attn_v": "Q3_K", "ffn_down": "Q5_K", "output": "Q6_K"},
    ),
}
REAL: Mapping[str, str | None] = {"SmolLM2 Q4_1": None, "SmolLM2 Q8_0": "Q8_0"}  # scheme; None: the file as it is

RUNS: Mapping[str, Mapping[str, Any]] = {
    "none": {"split": "none"},
    "float32": {"split": "none", "dtype": "float32"},
    "f32 cache": {"split": "none", "cache_type_k": "f32", "cache_type_v": "f32"},
    "f16 cache": {"split": "none", "cache_type_k": "f16", "cache_type_v": "f16"},
    "bf16 cache": {"split": "none", "cache_type_k": "bf16", "cache_type_v": "bf16"},
    "q8_0 cache": {"split": "none", "cache_type_k": "q8_0", "cache_type_v": "q8_0"},
    "layer": {"split": "layer", "devices": "cpu:0,cpu:1"},
    "row": {"split": "row", "devices": "cpu:0,cpu:1"},
    "row 3:1:2": {"split": "row", "devices": "cpu:0,cpu:1,cpu:2", "tensor_split": (3.0, 1.0, 2.0)},
    "two stages of rows": {"split": "row", "devices": "cpu:0,cpu:1,cpu:2,cpu:3", "stages": 2},
}
"""What `LLM` is given beside a model and an instruction set."""


@dataclass(frozen=True)
class Case:
    """A model of `RANDOM` or `REAL`, run as one of `RUNS` by an instruction set's kernels."""

    model: str
    run: str
    isa: str
    heavy: bool = False

    def __str__(self) -> str:
        return f"{self.model}, {self.run}, {self.isa}"


def cases() -> Iterator[Case]:
    """All that is compared, for any machine; cases of one model follow each other, as its file takes time to make."""
    for model in RANDOM:
        for isa in ("avx512", "avx2"):
            yield Case(model, "none", isa)
        for isa in ("avx512_bf16", "avx512_bf16_emulated", "amx", "amx_emulated"):
            if model in ("llama Q8_0", "llama BF16", "qwen2 Q4_K"):
                yield Case(model, "none", isa)
            if model == "llama BF16":
                yield Case(model, "bf16 cache", isa)
        if model == "llama Q8_0":
            runs = ("float32", "f32 cache", "f16 cache", "bf16 cache", "q8_0 cache", "row")
            yield from (Case(model, run, isa) for run in runs for isa in ("avx512", "avx2"))
            yield Case(model, "two stages of rows", "avx512")
        if model in ("qwen2 Q4_K", "mistral window F32"):
            yield Case(model, "float32", "avx512")
        if model in ("llama Q8_0", "qwen2 Q4_K"):
            yield from (Case(model, run, "avx512") for run in ("layer", "row 3:1:2"))
        if model in ("llama Q4_K_M", "mistral Q5_0", "qwen2 Q4_K", "qwen3 Q8_0"):
            yield Case(model, "row", "avx512")
        if model == "qwen3 Q8_0":
            yield Case(model, "float32", TORCH)
    for model in REAL:
        for isa in ("avx512", "avx2", "avx512_bf16", "amx"):
            for run in ("none", "layer", "row"):
                light = isa == "avx512" and (run == "none" or (model, run) == ("SmolLM2 Q8_0", "row"))
                yield Case(model, run, isa, heavy=not light)


def write_model(name: str, folder: Path, smollm2: Callable[[], Path]) -> Path:
    """The model's file, written unless it is there already.

    Args:
        smollm2: SmolLM2-135M-Instruct, from which real models are made.
    """
    path = folder / f"{name}.gguf"
    if path.exists():
        return path
    if name in RANDOM:
        return RANDOM[name].write(path)
    scheme = REAL[name]
    return requantize(smollm2(), path, scheme) if scheme else smollm2()


@dataclass(frozen=True)
class Continuation:
    """What follows a prompt, greedily.

    logprobs: (tokens, 1 + `N_LIKELIEST`) float64: of the chosen token, and of the likeliest.
    """

    tokens: list[int]
    logprobs: np.ndarray

    def to_json(self) -> dict[str, Any]:
        return {"tokens": self.tokens, "logprobs": base64.b64encode(self.logprobs.astype("<f8").tobytes()).decode()}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Continuation:
        numbers = np.frombuffer(base64.b64decode(stored["logprobs"]), "<f8")
        return cls(stored["tokens"], numbers.reshape(-1, 1 + N_LIKELIEST))

    def difference(self, other: Continuation) -> str | None:
        """The first token with another id or other bits, in words; None if there is none."""
        if len(self.tokens) != len(other.tokens):
            return f"{len(self.tokens)} tokens, and {len(other.tokens)}"
        pairs = zip(self.tokens, self.logprobs, other.tokens, other.logprobs, strict=True)
        for place, (mine, numbers, theirs, other_numbers) in enumerate(pairs):
            if mine != theirs or numbers.tobytes() != other_numbers.tobytes():
                return f"at {place}: token {mine} {numbers.tolist()}, and {theirs} {other_numbers.tolist()}"
        return None


def answer(path: Path, case: Case) -> list[Continuation]:
    """What the engine says after each of the prompts."""
    options: dict[str, Any] = {**RUNS[case.run], "cpu_isa": case.isa, "context_size": 128, "parallel": 2}
    if case.isa == TORCH:
        options["threads"] = 1  # bits do not depend on it, and many threads wait for each other on a busy machine
    # Users cannot ask for emulated sets.
    with patch("rowspan.kernels.isa.available_isas", host_isas), LLM(str(path), **options) as llm:
        return [_continue(llm, prompt) for prompt in PROMPTS]


def _continue(llm: LLM, prompt: str) -> Continuation:
    said = llm.complete(prompt, temperature=0, max_tokens=N_TOKENS, ignore_eos=True, logprobs=N_LIKELIEST)
    logprobs = [[token.logprob, *(logprob for _, logprob in token.top)] for token in said.tokens]
    return Continuation([token.token for token in said.tokens], np.array(logprobs, "<f8"))


def host_isas() -> list[str]:
    """What this machine computes with: the best first, then emulated sets, then torch."""
    return [*NATIVE, *EMULATED, TORCH]


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def circumstances() -> dict[str, str]:
    """On what bits may depend beside the instruction set."""
    fields = dict(re.findall(r"^(vendor_id|cpu family|model|model name)\s*: (.*)$", _cpu_info(), re.MULTILINE))
    module = native_module()
    compiler = re.search(rb"(?:GCC: \(|clang version )[ -~]+", Path(module.__file__).read_bytes()) if module else None
    return {
        "processor": ", ".join(fields.values()) or platform.processor(),
        "compiler": compiler[0].decode() if compiler else "unknown",
        **{package: version(package) for package in ("torch", "numpy", "gguf")},
    }


def _cpu_info() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""


@dataclass(frozen=True)
class Record:
    """The file. Answers are kept once, by digest: most instruction sets and splits agree with another."""

    circumstances: Mapping[str, str]
    isas: Sequence[str]  # that the recording machine had
    models: Mapping[str, str]  # digest of each model's file
    cases: Mapping[str, str]  # digest of each case's answers
    answers: Mapping[str, list[dict[str, Any]]]

    @classmethod
    def read(cls, path: Path = RECORD) -> Record:
        return cls(**json.loads(path.read_text()))

    def write(self, path: Path) -> None:
        """An answer on each line, so that what has changed can be told from what has not."""
        answers = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in self.answers.items())
        head = json.dumps({key: value for key, value in vars(self).items() if key != "answers"}, indent=1)
        path.write_text(head.removesuffix("\n}") + ',\n "answers": {\n' + answers + "\n }\n}\n")

    def of(self, case: Case) -> list[Continuation]:
        return [Continuation.from_json(stored) for stored in self.answers[self.cases[str(case)]]]


def make_record(folder: Path) -> Record:
    """Answers of every case that this machine can run. Takes a few minutes."""
    models, digests, answers = {}, {}, {}
    for case in cases():
        if case.isa not in host_isas():
            continue
        path = write_model(case.model, folder, lambda: hub.resolve("smollm2:135m").path)
        models[case.model] = file_digest(path)
        stored = [continuation.to_json() for continuation in answer(path, case)]
        digest = hashlib.sha256(json.dumps(stored).encode()).hexdigest()[:12]
        digests[str(case)] = digest
        answers[digest] = stored
        print(case, digest, flush=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True, cwd=RECORD.parent)
    return Record({"commit": head.stdout.strip(), **circumstances()}, host_isas(), models, digests, answers)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Record this machine's answers.")
    parser.add_argument("path", type=Path, nargs="?", default=RECORD)
    with tempfile.TemporaryDirectory() as folder:
        make_record(Path(folder)).write(parser.parse_args().path)
