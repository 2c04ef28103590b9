"""vLLM: what it is told, and how its answers are read. (Tests do not start it: that takes minutes.)"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import orjson
import pytest
from kit.backends import setup_for

from rowspan.backends.process.child import ChildError
from rowspan.backends.process.dialect import template_request
from rowspan.backends.process.programs import find_vllm_python
from rowspan.backends.protocol import (
    FinishReason,
    Grammar,
    GrammarKind,
    MissingBackendError,
    ModelFormat,
    Piece,
    SamplingParams,
    Timings,
)
from rowspan.backends.vllm.vllm_backend import Vllm, VllmReader
from rowspan.backends.vllm.vllm_flags import launch
from rowspan.backends.vllm.vllm_probe import VllmFeatures, probe
from rowspan.config import BackendConfig
from rowspan.errors import UsageError
from rowspan.plan.device import parse_devices
from rowspan.plan.split_mode import SplitMode

NEW = VllmFeatures("0.32.0", frozenset({"enable_sleep_mode", "enable_per_request_metrics", "generation_config"}))
OLD = VllmFeatures("0.6", frozenset({"model"}))


def flags(features: VllmFeatures = NEW, **options: Any) -> tuple[list[str], dict[str, str]]:
    setup = setup_for(Path("/models/m"), Path(), format=ModelFormat.HF, **options)
    found = launch(setup, "python", features)
    return list(found.command), dict(found.environment)


def test_splits_are_parallel_sizes() -> None:
    two: dict[str, Any] = {"devices": parse_devices("cuda:0,cuda:3")}
    row, environment = flags(split_mode=SplitMode.ROW, **two)
    assert row[row.index("--tensor-parallel-size") + 1] == "2"
    assert environment["CUDA_VISIBLE_DEVICES"] == environment["HIP_VISIBLE_DEVICES"] == "0,3"
    layer, _ = flags(split_mode=SplitMode.LAYER, **two)
    assert layer[layer.index("--pipeline-parallel-size") + 1] == "2"
    both, _ = flags(split_mode=SplitMode.ROW, stages=2, devices=parse_devices("cuda:0,cuda:1,cuda:2,cuda:3"))
    assert both[both.index("--tensor-parallel-size") + 1] == both[both.index("--pipeline-parallel-size") + 1] == "2"
    none, environment = flags(split_mode=SplitMode.NONE, main_gpu=1, **two)
    assert not [word for word in none if "parallel-size" in word]
    assert environment["CUDA_VISIBLE_DEVICES"] == "3"


def test_options_in_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    words, environment = flags(
        context_size=4096, parallel=8, token_budget=1024, dtype="bfloat16", prefix_reuse=False, threads=1
    )
    for flag, value in (
        ("--max-model-len", "4096"),
        ("--max-num-seqs", "8"),
        ("--max-num-batched-tokens", "1024"),
        ("--dtype", "bfloat16"),
    ):
        assert words[words.index(flag) + 1] == value
    assert "--no-enable-prefix-caching" in words
    assert environment["VLLM_CPU_OMP_THREADS_BIND"].isdigit(), "one thread, on one core"
    assert int(environment["VLLM_CPU_KVCACHE_SPACE"]) >= 1
    kept = Path(environment["TORCHINDUCTOR_CACHE_DIR"])
    assert kept.parent == Path(tempfile.gettempdir()), "not in the temporary folder that goes with it"
    assert "--enable-sleep-mode" not in words, "there is none on processors"
    assert "--max-num-batched-tokens" not in flags()[0], "vLLM's own default, unless the user says otherwise"


def test_only_flags_that_its_version_knows() -> None:
    card = parse_devices("cuda:0")
    words, environment = flags(devices=card)
    assert {"--enable-sleep-mode", "--enable-per-request-metrics"} <= set(words)
    assert environment["VLLM_SERVER_DEV_MODE"] == "1"
    words, environment = flags(OLD, devices=card)
    assert not {"--enable-sleep-mode", "--enable-per-request-metrics", "--generation-config"} & set(words)
    assert "VLLM_SERVER_DEV_MODE" not in environment


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tensor_split": (3.0, 1.0)}, "--tensor-split"),
        ({"cache_type_k": "q8_0"}, "--cache-type-k"),
        ({"dtype": "int8"}, "--dtype int8"),
        ({"threads": 2, "devices": parse_devices("cuda:0")}, "--threads"),
        ({"devices": parse_devices("cpu:0,cuda:0")}, "CPUs beside cards"),
        ({"main_gpu": 2, "devices": parse_devices("cuda:0,cuda:1")}, "--main-gpu"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        flags(**options)


def test_a_gguf_file_is_not_for_it() -> None:
    with pytest.raises(UsageError, match=r"GGUF file, which vLLM does not read.*native or llamacpp"):
        Vllm(setup_for(Path("/models/m.gguf"), Path()), "python", NEW)


def test_what_is_asked() -> None:
    dialect = Vllm(setup_for(Path("/models/m"), Path(), format=ModelFormat.HF), "python", NEW)
    params = SamplingParams(max_tokens=3, seed=-5, logit_bias={7: 2.0}, stop_tokens=frozenset({9}), logprobs=2)
    path, body = dialect.ask([1, 2], params, ["x"])
    asked = orjson.loads(body)
    assert path == "/v1/completions"
    assert (asked["prompt"], asked["max_tokens"], asked["seed"], asked["stop"]) == ([1, 2], 3, -5, ["x"])
    assert (asked["logit_bias"], asked["stop_token_ids"], asked["logprobs"]) == ({"7": 2.0}, [9], 2)
    launched = dialect.launch(1234, "secret")
    assert "secret" not in launched.command
    assert launched.environment["VLLM_API_KEY"] == "secret"


@pytest.mark.parametrize(
    ("grammar", "field"),
    [
        (Grammar(GrammarKind.JSON_SCHEMA, '{"type": "object"}'), {"json": {"type": "object"}}),
        (Grammar(GrammarKind.CHOICE, '["a", "b"]'), {"choice": ["a", "b"]}),
        (Grammar(GrammarKind.REGEX, "a+"), {"regex": "a+"}),
        (Grammar(GrammarKind.GRAMMAR, 'root ::= "a"'), {"grammar": 'root ::= "a"'}),
    ],
)
def test_grammars_and_markers_are_passed_on(grammar: Grammar, field: dict[str, Any]) -> None:
    dialect = Vllm(setup_for(Path("/models/m"), Path(), format=ModelFormat.HF), "python", NEW)
    asked = orjson.loads(dialect.ask([1], SamplingParams(grammar=grammar), [], ["<think>"])[1])
    assert asked["structured_outputs"] == field
    assert asked["skip_special_tokens"] is False
    assert grammar.kind in dialect.capabilities.grammars


def test_what_an_answer_shows_is_passed_on() -> None:
    dialect = Vllm(setup_for(Path("/models/m"), Path(), format=ModelFormat.HF), "python", NEW)
    params = SamplingParams(include_stop_str_in_output=True, skip_special_tokens=False, priority=-3)
    asked = orjson.loads(dialect.ask([1], params, [])[1])
    assert (asked["include_stop_str_in_output"], asked["skip_special_tokens"], asked["priority"]) == (True, False, -3)
    assert {"dry", "typical_p"} < set(dialect.capabilities.refused)


def test_what_the_template_gets() -> None:
    options = {"tools": [{}], "enable_thinking": False, "add_generation_prompt": None}
    asked = template_request([{"role": "user"}], options, own=("tools", "add_generation_prompt"))
    assert asked == {
        "messages": [{"role": "user"}],
        "tools": [{}],
        "chat_template_kwargs": {"enable_thinking": False},
    }


def choice(text: str, token_ids: list[int], finish: str | None = None, **more: Any) -> bytes:
    fields = {"text": text, "token_ids": token_ids, "logprobs": None, "finish_reason": finish, **more}
    return orjson.dumps({"choices": [fields]})


def read(reader: VllmReader, *events: bytes) -> list[Piece]:
    return [piece for event in events if (piece := reader.read(event)) is not None]


def test_what_it_answers() -> None:
    usage = {"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 4}}
    metrics = {"time_to_first_token_ms": 100.0, "generation_time_ms": 50.0}
    end = orjson.dumps({"choices": [], "usage": usage, "metrics": metrics})
    first, last = read(
        VllmReader(None), choice("a", [5]), choice("b", [6, 2], "stop", stop_reason=None), end, b"[DONE]"
    )[:2]
    assert (first.text, first.generated, first.finish) == ("a", 1, None)
    assert (last.text, last.generated, last.finish, last.cached) == ("b", 3, FinishReason.STOP, 4)
    assert [token.token for token in last.tokens] == [6], "the end token is counted, and none of the answer"
    assert last.timings == Timings(5, 0.1, 0.05)


def test_log_probabilities() -> None:
    logprobs = {
        "tokens": [" A", "é"],
        "token_logprobs": [-0.5, -1.0],
        "top_logprobs": [{" A": -0.5, "B": -0.7, "C": -0.6}, None],
    }
    (piece,) = read(VllmReader(2), choice(" Aé", [3, 4], None, logprobs=logprobs))
    assert [(token.raw, token.logprob) for token in piece.tokens] == [(b" A", -0.5), ("é".encode(), -1.0)]
    assert piece.tokens[0].top == ((b" A", -0.5), (b"C", -0.6))


def test_nonsense_and_errors() -> None:
    with pytest.raises(ChildError, match="engine died"):
        VllmReader(None).read(b'{"error": {"message": "engine died"}}')
    for nonsense in (b"5", b"{}", b'{"choices": [1, 2]}', b"no json"):
        with pytest.raises((ValueError, KeyError, TypeError, IndexError)):
            VllmReader(None).read(nonsense)
    assert VllmReader(None).read(b"[DONE]") is None, "an answer without a reason for its end"


def test_where_there_is_none_it_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(MissingBackendError, match=r"ROWSPAN_VLLM_PYTHON=.*is no program"):
        find_vllm_python(BackendConfig(vllm_python=tmp_path / "python"))
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o755)
    python = find_vllm_python(BackendConfig(vllm_python=bare))
    with pytest.raises(MissingBackendError, match=r"has no vLLM.*pip install vllm"):
        probe(python)
