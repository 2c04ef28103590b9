"""The catalog of shapes against what is published: numbers of parameters, sizes of files, and configurations."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.dense_spec import dense_spec
from kit.gguf_builder import TinyModel
from kit.random_llama import RandomLlama

from rowspan.errors import CheckpointError, ModelNotFoundError, RowspanError, UnsupportedModelError, UsageError
from rowspan.model.families.registry import spec_of
from rowspan.model.hf_config import header_of_config
from rowspan.model.spec import ModelSpec, QkNorm
from rowspan.plan.rigs.listed_tensors import tensors_of
from rowspan.plan.rigs.model_shapes import KnownModel, find_model, known_models, unknown_model
from rowspan.plan.rigs.outline import outline_of_spec
from rowspan.plan.rigs.quantize import QUANTIZATIONS, quantization

# Of files on Hugging Face (TheBloke's, bartowski's), in GB of 10^9 bytes, header included.
PUBLISHED_FILES = [
    ("llama-2-7b", "Q4_0", 3.83),
    ("llama-2-7b", "Q4_K_M", 4.08),
    ("llama-2-7b", "Q5_K_M", 4.78),
    ("llama-2-7b", "Q6_K", 5.53),
    ("llama-2-13b", "Q4_K_M", 7.87),
    ("llama-2-70b", "Q4_0", 38.87),
    ("llama-2-70b", "Q4_K_M", 41.42),
    ("llama-3-8b", "Q3_K_M", 4.02),
    ("llama-3-8b", "Q4_K_S", 4.69),
    ("llama-3-8b", "Q4_K_M", 4.92),
    ("llama-3-8b", "Q8_0", 8.54),
    ("llama-3-70b", "Q4_K_M", 42.52),
    ("llama-3-70b", "Q5_K_M", 49.95),
    ("llama-3-70b", "Q8_0", 74.98),
    ("mixtral-8x7b", "Q8_0", 49.62),
    ("qwen2.5-32b", "Q4_K_M", 19.85),
    ("qwen2.5-72b", "Q4_K_M", 47.42),
    ("qwen3-32b", "Q4_K_M", 19.76),
    ("qwen3-30b-a3b", "Q4_K_M", 18.56),
    ("gemma-2-27b", "Q4_K_M", 16.65),
    ("qwen3-coder-30b-a3b", "Q4_K_M", 18.56),
    ("gemma-3-27b", "Q4_K_M", 16.55),
    ("seed-oss-36b", "Q4_K_M", 21.76),
    ("devstral-24b", "Q4_K_M", 14.33),
    ("deepseek-v3", "Q4_K_M", 404.43),
    ("deepseek-v3", "Q8_0", 713.29),
]


def known_spec(name: str) -> ModelSpec:
    known = find_model(name)
    assert known is not None
    return known.spec


@pytest.mark.parametrize("model", known_models(), ids=lambda model: model.name)
def test_tensors_add_up_to_the_published_parameters(model: KnownModel) -> None:
    counted = sum(tensor.elements for tensor in tensors_of(model.spec))
    # DeepSeek-V3's total counts a bias for every expert, which is not among the tensors planned with
    assert counted == pytest.approx(model.parameters, rel=1e-7)
    assert model.source


@pytest.mark.parametrize(("name", "scheme", "gigabytes"), PUBLISHED_FILES)
def test_quantized_files_have_the_published_size(name: str, scheme: str, gigabytes: float) -> None:
    assert outline_of_spec(known_spec(name), scheme).file_bytes / 1e9 == pytest.approx(gigabytes, rel=0.003)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("scheme", ["Q8_0", "Q4_K_M"])
def test_schemes_are_those_of_a_file_made_by_the_same_rules(scheme: str, tied: bool) -> None:
    """`kit.random_llama` states llama.cpp's mix on its own."""
    made = RandomLlama(
        scheme=scheme, n_layers=16, hidden_size=256, ffn_size=512, n_heads=4, n_kv_heads=2, vocab_size=64, tied=tied
    )
    spec = dense_spec(
        n_layers=16,
        hidden_size=256,
        n_heads=4,
        n_kv_heads=2,
        head_dim=64,
        ffn_size=512,
        vocab_size=64,
        tied_embeddings=tied,
    )
    theirs = {tensor.name: tensor.scheme for tensor in made.tensors()}
    outline = outline_of_spec(spec, scheme)
    ours = {
        tensor.name: outline.tensors[tensor.key].scheme
        for tensor in outline.listed
        if tensor.key is not None and tensor.key in outline.tensors
    }
    assert ours == theirs


def test_names_are_found_in_any_spelling() -> None:
    for name in ("llama-3-70b", "Llama3:70B", "llama_3_70b", "LLAMA-3 70b"):
        assert known_spec(name).name == "llama-3-70b"
    assert known_spec("deepseek-r1").name == "deepseek-v3"
    assert find_model("llama-3-71b") is None


@given(text=st.text(max_size=30))
def test_no_name_breaks_the_search(text: str) -> None:
    find_model(text)
    assert isinstance(unknown_model(text), ModelNotFoundError)


def test_an_unknown_name_suggests_the_nearest() -> None:
    assert "llama-3-70b" in unknown_model("lama-3-70b").fix


def test_names_of_the_catalog_are_unique() -> None:
    names = [name for model in known_models() for name in (model.name, *model.aliases)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", ["q8_0", "Q4_K_M", "f16"])
def test_quantizations_in_any_case(name: str) -> None:
    assert quantization(name) == name.upper()


def test_an_unknown_quantization_lists_the_known() -> None:
    with pytest.raises(UsageError, match="q9") as refusal:
        quantization("q9")
    assert all(name in refusal.value.fix for name in QUANTIZATIONS)


def test_what_is_approximate_says_so() -> None:
    assert outline_of_spec(known_spec("gemma-3-27b"), "Q4_K_M").notes
    assert not outline_of_spec(known_spec("gemma-3-27b"), "Q8_0").notes
    assert not outline_of_spec(known_spec("llama-3-8b"), "Q4_K_M").notes


CONFIGS = {
    "llama-3-8b": {
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
    },
    "qwen3-30b-a3b": {
        "model_type": "qwen3_moe",
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "moe_intermediate_size": 768,
        "num_hidden_layers": 48,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "vocab_size": 151936,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "max_position_embeddings": 40960,
    },
    "mixtral-8x7b": {
        "model_type": "mixtral",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 32000,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "max_position_embeddings": 32768,
    },
    "deepseek-v2-lite": {
        "model_type": "deepseek_v2",
        "hidden_size": 2048,
        "intermediate_size": 10944,
        "moe_intermediate_size": 1408,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "vocab_size": 102400,
        "n_routed_experts": 64,
        "n_shared_experts": 2,
        "num_experts_per_tok": 6,
        "first_k_dense_replace": 1,
        "q_lora_rank": None,
        "kv_lora_rank": 512,
        "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 128,
        "v_head_dim": 128,
        "max_position_embeddings": 163840,
    },
    "gemma-2-9b": {
        "model_type": "gemma2",
        "hidden_size": 3584,
        "intermediate_size": 14336,
        "num_hidden_layers": 42,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 256,
        "vocab_size": 256000,
        "sliding_window": 4096,
        "max_position_embeddings": 8192,
    },
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_gives_the_catalog_s_shape(name: str) -> None:
    found, known = spec_of(header_of_config(json.dumps(CONFIGS[name]), name)), known_spec(name)
    assert tensors_of(found) == tensors_of(known)
    assert [layer.mixer for layer in found.layers] == [layer.mixer for layer in known.layers]
    assert [layer.mlp for layer in found.layers] == [layer.mlp for layer in known.layers]
    assert found.context_length == known.context_length


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", CheckpointError),
        ("[]", CheckpointError),
        ("{}", UnsupportedModelError),
        ('{"model_type": "bert"}', UnsupportedModelError),
        ('{"model_type": "llama"}', CheckpointError),
        (json.dumps(CONFIGS["llama-3-8b"] | {"hidden_size": "4096"}), CheckpointError),
        (json.dumps(CONFIGS["llama-3-8b"] | {"num_attention_heads": 0}), CheckpointError),
        (json.dumps(CONFIGS["llama-3-8b"] | {"vocab_size": True}), CheckpointError),
    ],
)
def test_an_unusable_configuration_is_refused(text: str, error: type[RowspanError]) -> None:
    with pytest.raises(error) as refusal:
        header_of_config(text, "it")
    assert refusal.value.fix


def test_the_tiny_models_of_other_tests_have_the_tensors_that_are_listed() -> None:
    made = TinyModel(
        architecture="qwen3", n_layers=2, hidden_size=64, n_heads=4, n_kv_heads=2, ffn_size=128, tied=False
    )
    spec = replace(
        dense_spec(n_layers=2, n_heads=4, n_kv_heads=2, ffn_size=128, tied_embeddings=False, qk_norm=QkNorm.HEAD),
        architecture="qwen3",
    )
    theirs = {tensor.name for tensor in made.tensors()}
    assert {tensor.name for tensor in tensors_of(spec)} == theirs
