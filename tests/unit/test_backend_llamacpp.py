"""llama-server: what it is found to be able to do, and what it is told."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from kit import fake_llama_server
from kit.backends import fake_backend, setup_for
from kit.gguf_builder import TinyModel
from kit.vocabulary import CHATML

from rowspan.backends.llamacpp import llamacpp_flags
from rowspan.backends.llamacpp.llamacpp_backend import LlamaCpp, LlamaCppReader
from rowspan.backends.llamacpp.llamacpp_probe import (
    Features,
    ListedCard,
    cards_from,
    features_from,
    probe,
    version_from,
)
from rowspan.backends.llamacpp.xllamacpp_server import main as xllamacpp_server
from rowspan.backends.process.child import ChildError
from rowspan.backends.process.programs import find_llama_server
from rowspan.backends.protocol import (
    Dry,
    FinishReason,
    Grammar,
    GrammarKind,
    LoadWatch,
    MissingBackendError,
    ModelFormat,
    SamplingParams,
    Timings,
)
from rowspan.config import BackendConfig
from rowspan.errors import UsageError
from rowspan.plan.device import parse_devices
from rowspan.plan.split_mode import SplitMode

OLD_HELP = """usage: llama-server [options]

-ngl,  --gpu-layers, --n-gpu-layers N   number of layers to store in VRAM
                                        (env: LLAMA_ARG_N_GPU_LAYERS)
-sm,   --split-mode {none,layer,row}    how to split the model across multiple GPUs, one of:
                                        - none: use one GPU only
                                        - layer (default): split layers and KV across GPUs
                                        - row: split rows across GPUs
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TinyModel(context_length=2048).write(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="module")
def features() -> Features:
    return probe(fake_llama_server.COMMAND)


def flags(path: Path, features: Features, **options: Any) -> dict[str, str]:
    """As a table of flags; those without a value have an empty one."""
    words = llamacpp_flags.flags(setup_for(path, path.parent, **options), features, None)
    pairs = zip(words, [*words[1:], ""], strict=True)
    return {word: "" if value.startswith("--") else value for word, value in pairs if word.startswith("--")}


def test_a_program_is_asked_what_it_can_do(features: Features) -> None:
    assert features.version == "llama.cpp 1 (fake)"
    assert {"-c", "--ctx-size", "-ub", "--no-kv-unified", "--fit", "--device"} <= features.flags
    assert features.split_modes == ("none", "layer", "row", "tensor")
    assert features.cache_types == ("f32", "f16", "q8_0", "q4_0")
    assert features.auto_layers
    assert [card.name for card in features.cards] == ["CUDA0", "CUDA1"]
    assert features.cards[1].free == 20000 << 20


def test_older_and_other_programs() -> None:
    old = features_from(OLD_HELP, version_from("ggml_cuda_init: found 1 device\nversion: 3500 (abc)\nbuilt with gcc"))
    assert old.version == "llama.cpp 3500 (abc)"
    assert old.split_modes == ("none", "layer", "row")
    assert not old.auto_layers
    assert "--device" not in old.flags
    assert cards_from("Available devices:\n") == ()
    assert cards_from("Available devices:\n  ROCm0: AMD Radeon PRO W7900 Dual Slot (49136 MiB, 49000 MiB free)\n") == (
        ListedCard("ROCm0", "AMD Radeon PRO W7900 Dual Slot", 49000 << 20),
    )


def test_our_server_of_xllamacpp_is_probed_alike(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        xllamacpp_server(["--help"])
    found = features_from(capsys.readouterr().out, "")
    assert found.split_modes == ("none", "layer", "row", "tensor")
    assert "q8_0" in found.cache_types
    assert found.auto_layers
    assert {"--model", "--no-kv-unified", "--n-gpu-layers", "--tensor-split", "--threads"} <= found.flags
    assert "--device" not in found.flags


@pytest.mark.parametrize(
    ("listed", "deprecated", "card", "name"),
    [
        (("none", "layer", "row"), (), "CUDA0", "row"),
        (("none", "layer", "row", "tensor"), (), "CUDA0", "tensor"),
        (("none", "layer", "row", "tensor"), (), "SYCL0", "row"),
        (("none", "layer", "row", "tensor"), ("row",), "SYCL0", "tensor"),
        (("none", "layer", "row", "tensor"), ("tensor",), "ROCm0", "row"),
        (("none", "layer", "tensor"), (), "SYCL0", "tensor"),
    ],
)
def test_row_is_row_or_tensor_by_what_is_listed(
    listed: tuple[str, ...], deprecated: tuple[str, ...], card: str, name: str
) -> None:
    cards = (ListedCard(card, "", None),)
    features = Features("", frozenset(), listed, frozenset(deprecated), (), False, cards)
    assert llamacpp_flags.split_name(SplitMode.ROW, features) == name


def test_a_deprecated_split_is_seen_in_the_help() -> None:
    text = OLD_HELP.replace("- row: split rows", "- row: DEPRECATED, split rows")
    assert features_from(text, "").deprecated_splits == {"row"}


def test_on_the_processor(model: Path, features: Features) -> None:
    options = {"context_size": 512, "parallel": 4, "threads": 3, "cache_type_k": "q4_0", "token_budget": 4096}
    found = flags(model, features, devices=parse_devices("cpu:0"), **options)
    assert found["--ctx-size"] == "2048", "llama.cpp counts all slots together"
    assert found["--parallel"] == "4"
    assert found["--threads"] == "3"
    assert found["--device"] == "none"
    assert found["--n-gpu-layers"] == "0"
    assert found["--cache-type-k"] == "q4_0"
    assert (found["--ubatch-size"], found["--batch-size"]) == ("4096", "4096")
    assert "--cache-type-v" not in found
    assert "--split-mode" not in found


def test_on_cards(model: Path, features: Features) -> None:
    options = {"devices": parse_devices("cuda:1,cuda:0"), "context_size": 512, "tensor_split": (3.0, 1.0)}
    by_layer = flags(model, features, split_mode=SplitMode.LAYER, main_gpu=1, **options)
    assert by_layer["--device"] == "CUDA1,CUDA0"
    assert by_layer["--split-mode"] == "layer"
    assert by_layer["--tensor-split"] == "3,1"
    assert by_layer["--main-gpu"] == "1"
    assert "--n-gpu-layers" not in by_layer, "it finds out itself what fits"
    some = flags(model, features, split_mode=SplitMode.LAYER, gpu_layers=10, **options)
    assert some["--n-gpu-layers"] == "10"
    old = features_from(OLD_HELP, "", features.cards)
    assert flags(model, old, devices=parse_devices("cuda:0,cuda:1"))["--n-gpu-layers"] == "999"


def test_all_cards_compute_unless_some_are_named(model: Path, features: Features) -> None:
    """llama-server takes all of them by itself, but for integrated graphics beside cards."""
    found = flags(model, features, context_size=512)
    assert found["--split-mode"] == "layer"
    assert "--device" not in found
    assert found.get("--n-gpu-layers") != "0"
    by_row = flags(model, features, split_mode=SplitMode.ROW)
    assert (by_row["--split-mode"], by_row["--n-gpu-layers"], by_row["--flash-attn"]) == ("tensor", "999", "on")
    alone = flags(model, replace(features, cards=()), context_size=512)
    assert alone["--n-gpu-layers"] == "0", "there is no card"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "CUDA0 (Some Card) and CUDA1 (Some Card), split by layer"),
        ({"split_mode": SplitMode.ROW}, "CUDA0 (Some Card) and CUDA1 (Some Card), split by tensor"),
        ({"split_mode": SplitMode.NONE, "main_gpu": 1}, "CUDA1 (Some Card)"),
        ({"devices": parse_devices("cuda:1")}, "CUDA1 (Some Card)"),
        ({"devices": parse_devices("cpu:0")}, "the processor"),
    ],
)
def test_it_says_which_cards_compute(model: Path, features: Features, options: dict[str, Any], words: str) -> None:
    dialect = LlamaCpp(setup_for(model, model.parent, **options), fake_llama_server.COMMAND, features)
    assert dialect.placement == words


def test_a_split_that_it_cannot_do_says_what_to_do(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_DIE", "load")
    for said, fix in (
        ("device CUDA0 does not support split buffers", "-sm layer"),
        ("LLAMA_SPLIT_MODE_TENSOR not implemented for architecture 'grok'", "-sm layer"),
        ("out of memory", ""),
    ):
        monkeypatch.setenv("FAKE_LAST_WORDS", said)
        with pytest.raises(ChildError) as died:
            fake_backend(setup_for(model, tmp_path)).start(LoadWatch())
        assert said in died.value.why
        assert fix in died.value.fix


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "--dtype"),
        ({"gpu_memory_utilization": 0.5}, "--gpu-memory-utilization"),
        ({"stages": 2}, "--stages"),
        ({"main_gpu": 2}, "--main-gpu 2 is none"),
        ({"tensor_split": (1.0, 1.0, 1.0)}, "3 shares for 2 cards"),
        ({"gpu_layers": 3, "devices": parse_devices("cpu:0")}, "--n-gpu-layers"),
        ({"tensor_split": (1.0,), "devices": parse_devices("cpu:0")}, "--tensor-split"),
        ({"main_gpu": 0, "devices": parse_devices("cpu:0")}, "--main-gpu"),
        ({"cache_type_v": "i16"}, "--cache-type-v i16 .* f32, f16, q8_0, q4_0"),
        ({"devices": parse_devices("cpu:0,cpu:1")}, "several CPUs"),
        ({"devices": parse_devices("cpu:0,cuda:0")}, "CPUs beside cards"),
        ({"devices": parse_devices("cuda:2")}, "does not see the card cuda:2.*CUDA1"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(
    model: Path, features: Features, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        flags(model, features, **options)


def test_a_context_of_its_own_choice(model: Path, features: Features) -> None:
    """The model's for every slot, while memory lasts."""
    dialect = LlamaCpp(setup_for(model, model.parent, parallel=4), fake_llama_server.COMMAND, features)
    command = list(dialect.launch(1, "secret").command)
    assert command[command.index("--ctx-size") + 1] == str(4 * 2048)
    assert "--no-kv-unified" in command
    assert "secret" not in command


def test_a_folder_is_not_for_it(tmp_path: Path, features: Features) -> None:
    setup = setup_for(tmp_path, tmp_path, format=ModelFormat.HF)
    with pytest.raises(UsageError, match=r"Hugging Face folder.*--backend vllm"):
        LlamaCpp(setup, fake_llama_server.COMMAND, features)


def test_what_is_asked(model: Path, features: Features) -> None:
    setup = setup_for(model, model.parent, prefix_reuse=False)
    dialect = LlamaCpp(setup, fake_llama_server.COMMAND, features)
    params = SamplingParams(
        max_tokens=7, temperature=0.5, top_k=3, seed=2**40 + 5, logit_bias={4: -1.5}, ignore_eos=True, logprobs=0
    )
    path, body = dialect.ask([5, 6, 7], params, ["\n"])
    asked = orjson.loads(body)
    assert path == "/completion"
    assert asked["prompt"] == [5, 6, 7]
    assert (asked["n_predict"], asked["ignore_eos"], asked["cache_prompt"]) == (7, True, False)
    assert (asked["temperature"], asked["top_k"], asked["top_p"], asked["min_p"]) == (0.5, 3, 1.0, 0.0)
    assert asked["logit_bias"] == [[4, -1.5]]
    assert 0 <= asked["seed"] < 2**32 - 1
    assert asked["n_probs"] == 1, "0 would be none, of the chosen token neither"
    assert asked["stop"] == ["\n"]
    greedy = orjson.loads(dialect.ask([5], SamplingParams(temperature=0.0, top_k=40), [])[1])
    assert greedy["top_k"] == 1, "the others would only take time"
    rare = SamplingParams(
        typical_p=0.9, top_n_sigma=1.5, xtc_probability=0.5, dynatemp_range=0.25, dry=Dry(0.8, breaking_texts=("x",))
    )
    asked = orjson.loads(dialect.ask([5], rare, [])[1])
    assert (asked["dynatemp_range"], asked["dynatemp_exponent"]) == (0.25, 1.0)
    assert (asked["typical_p"], asked["top_n_sigma"], asked["xtc_probability"]) == (0.9, 1.5, 0.5)
    assert (asked["dry_multiplier"], asked["dry_base"], asked["dry_sequence_breakers"]) == (0.8, 1.75, ["x"])
    assert greedy["top_n_sigma"] == -1
    assert "dry_multiplier" not in greedy


@pytest.mark.parametrize(
    ("grammar", "fields"),
    [
        (Grammar(GrammarKind.JSON_SCHEMA, '{"type": "object"}'), {"json_schema": {"type": "object"}}),
        (Grammar(GrammarKind.GRAMMAR, 'root ::= "a"'), {"grammar": 'root ::= "a"'}),
    ],
)
def test_grammars_and_markers_are_passed_on(
    model: Path, features: Features, grammar: Grammar, fields: dict[str, Any]
) -> None:
    dialect = LlamaCpp(setup_for(model, model.parent), fake_llama_server.COMMAND, features)
    asked = orjson.loads(dialect.ask([5], SamplingParams(grammar=grammar), [], ["<tool_call>"])[1])
    assert fields.items() <= asked.items()
    assert asked["preserved_tokens"] == ["<tool_call>"]
    assert grammar.kind in dialect.capabilities.grammars
    assert GrammarKind.LARK not in dialect.capabilities.grammars
    assert dialect.chat_template == CHATML


def event(**fields: Any) -> bytes:
    return orjson.dumps({"content": "", "tokens": [], "stop": False, "tokens_predicted": 1, **fields})


def test_what_it_answers() -> None:
    reader = LlamaCppReader(1, strip_space=True)
    other = {"id": 8, "bytes": [66], "logprob": -2.0}
    chosen = {"id": 7, "bytes": [32, 65], "logprob": -0.5, "top_logprobs": [{**other}, {**other, "id": 9}]}
    piece = reader.read(event(content=" A", tokens=[7], completion_probabilities=[chosen]))
    assert piece is not None
    assert piece.text == "A", "SentencePiece's space"
    assert [(token.token, token.raw, token.logprob) for token in piece.tokens] == [(7, b" A", -0.5)]
    assert piece.tokens[0].top == ((b"B", -2.0),)
    timings = {"cache_n": 3, "prompt_n": 5, "prompt_ms": 20.0, "predicted_ms": 100.0}
    last = reader.read(event(stop=True, stop_type="eos", tokens_predicted=2, timings=timings))
    assert last is not None
    assert (last.finish, last.generated, last.cached) == (FinishReason.STOP, 2, 3)
    assert last.timings == Timings(5, 0.02, 0.1)
    with pytest.raises(ChildError, match="out of memory"):
        reader.read(b'{"error": {"message": "out of memory"}}')
    for nonsense in (b"5", b"[1]", b"{}", b"no json"):
        with pytest.raises((ValueError, KeyError, TypeError, IndexError)):
            reader.read(nonsense)


def test_finding_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    config = BackendConfig(llamacpp_folder=tmp_path)
    with pytest.raises(MissingBackendError, match="ROWSPAN_LLAMACPP_DIR"):
        find_llama_server(config)
    program = tmp_path / "build/bin/llama-server"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\nexit 4\n")
    program.chmod(0o755)
    assert find_llama_server(config) == (str(program),)
    with pytest.raises(MissingBackendError, match="fails"):
        probe([str(program)])
    monkeypatch.setenv("PATH", os.pathsep.join([str(program.parent), "/usr/bin"]))
    assert find_llama_server(BackendConfig()) == (str(program),)


def test_where_there_is_none_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingBackendError) as missing:
        find_llama_server(BackendConfig())
    assert "pip install xllamacpp" in missing.value.fix
    assert "ROWSPAN_LLAMACPP_DIR" in missing.value.fix
